"""The framing of W&B's transaction log (`run-<id>.wandb`): records in, records out.

A file is a 7-byte header (`b":W&B"`, magic 0xBEE1, version 0) and then LevelDB-style blocks of
32,768 bytes counted from the start of the file. A record is one chunk, or a first, middle… last
sequence; a chunk is `<IHB` (CRC-32 over type and payload, length, type) and its payload. The tail
of a block too short for a chunk header is zero. Source: `core/pkg/leveldb` and
`core/internal/transactionlog` of github.com/wandb/wandb.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ...errors import Corrupt, SchemaVersionError

BLOCK = 32_768
MAGIC = 0xBEE1
VERSION = 0
_FILE_HEADER = struct.Struct("<4sHB")
_CHUNK_HEADER = struct.Struct("<IHB")
_HEADER_SIZE = _CHUNK_HEADER.size
_ROOM = BLOCK - _HEADER_SIZE
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_TYPE_CRC = {kind: zlib.crc32(bytes([kind])) for kind in (_FULL, _FIRST, _MIDDLE, _LAST)}
_WRITE_SIZE = 1 << 20


class LogWriter:
    """Appends records to an open binary file, from its header on. Buffers about 1 MB."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._buffer = bytearray(_FILE_HEADER.pack(b":W&B", MAGIC, VERSION))
        self._in_block = len(self._buffer)

    def append(self, record: bytes) -> None:
        """One serialised `wandb_internal_pb2.Record`."""
        buffer, position, size = self._buffer, self._in_block, len(record)
        if position + _HEADER_SIZE + size <= BLOCK:
            buffer += _CHUNK_HEADER.pack(zlib.crc32(record, _TYPE_CRC[_FULL]), size, _FULL)
            buffer += record
            self._in_block = position + _HEADER_SIZE + size
        else:
            self._append_split(record)
        if len(buffer) >= _WRITE_SIZE:
            self.flush()

    def _append_split(self, record: bytes) -> None:
        view, start, first = memoryview(record), 0, True
        while True:
            room = BLOCK - self._in_block - _HEADER_SIZE
            if room < 0:
                self._buffer += bytes(BLOCK - self._in_block)
                self._in_block, room = 0, _ROOM
            part = view[start : start + room]
            start += len(part)
            last = start == len(record)
            kind = (_FULL if last else _FIRST) if first else (_LAST if last else _MIDDLE)
            self._buffer += _CHUNK_HEADER.pack(zlib.crc32(part, _TYPE_CRC[kind]), len(part), kind)
            self._buffer += part
            self._in_block += _HEADER_SIZE + len(part)
            first = False
            if last:
                return

    def flush(self) -> None:
        self._stream.write(self._buffer)
        self._buffer.clear()


@dataclass(slots=True)
class LogReader:
    """The intact records of a log, in order. `damage` says, after reading, what was not intact."""

    path: Path
    damage: list[str] = field(default_factory=list)

    def records(self) -> Iterator[bytes]:
        """Serialised records. A damaged block is left out and reading goes on at the next one.

        Raises `Corrupt` where the file is no transaction log, `SchemaVersionError` where it is of
        another version.
        """
        with self.path.open("rb") as stream:
            self._check_header(stream)
            yield from self._chunks(stream)

    def _check_header(self, stream: BinaryIO) -> None:
        header = stream.read(_FILE_HEADER.size)
        if len(header) < _FILE_HEADER.size:
            raise Corrupt(
                f"{self.path} is cut off within its first bytes: it holds no record",
                hint="the run crashed before anything was logged; leave its folder out",
            )
        ident, magic, version = _FILE_HEADER.unpack(header)
        if ident != b":W&B" or magic != MAGIC:
            raise Corrupt(f"{self.path} is not a W&B transaction log", hint="restore it from a backup")
        if version != VERSION:
            raise SchemaVersionError(
                f"{self.path} is a transaction log of version {version}; version {VERSION} is known",
                hint="upgrade outgrow",
            )

    def _chunks(self, stream: BinaryIO) -> Iterator[bytes]:
        parts: list[bytes] = []
        position = _FILE_HEADER.size
        block = bytes(position) + stream.read(BLOCK - position)
        offset = 0
        while len(block) > position:
            if len(block) - position < _HEADER_SIZE:
                if len(block) < BLOCK:
                    self._damaged(offset + position, "cut off within a chunk header")
                    return
                offset, position, block = offset + BLOCK, 0, stream.read(BLOCK)
                continue
            checksum, size, kind = _CHUNK_HEADER.unpack_from(block, position)
            start = position + _HEADER_SIZE
            payload = block[start : start + size]
            if checksum == size == kind == 0 and not any(block[position:]):
                offset, position, block = offset + BLOCK, 0, stream.read(BLOCK)  # preallocated tail
                continue
            if len(payload) < size and len(block) < BLOCK:
                self._damaged(offset + position, "cut off within a record")
                return
            if (
                kind not in _TYPE_CRC
                or len(payload) < size
                or zlib.crc32(payload, _TYPE_CRC[kind]) != checksum
            ):
                self._damaged(
                    offset + position, "a checksum does not match; the rest of its block is left out"
                )
                parts = []
                offset, position, block = offset + BLOCK, 0, stream.read(BLOCK)
                continue
            position = start + size
            if kind == _FULL:
                parts = []
                yield payload
            elif kind == _FIRST:
                parts = [payload]
            elif parts:  # a middle or last chunk whose beginning was damaged is left out
                parts.append(payload)
                if kind == _LAST:
                    yield b"".join(parts)
                    parts = []
            if position == BLOCK:
                offset, position, block = offset + BLOCK, 0, stream.read(BLOCK)
        if parts:
            self._damaged(offset + position, "cut off within a record")

    def _damaged(self, offset: int, what: str) -> None:
        self.damage.append(f"{self.path}: at byte {offset}: {what}")
