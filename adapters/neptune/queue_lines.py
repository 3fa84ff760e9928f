"""The operations queue of the 2.x client, read as columns.

`data-<version>.log` holds one JSON object a line:
`{"obj": {"type": "LogFloats", "path": [...], "values": [{"value", "step", "ts"}]}, "version", "at"}`
(source: `neptune/core/components/queue/disk_queue.py`, `neptune/internal/operation.py`). It is read
as plain text: the client's own `DiskQueue` deletes an empty queue when it is closed.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from ...errors import Corrupt

CHUNK_BYTES = 8 * 2**20
"""Bytes of lines that are parsed at a time."""

_FILE = re.compile(r"data-(\d+)\.log")
_VALUE = {"LogFloats": pa.float64(), "LogStrings": pa.string()}


class _Operation(msgspec.Struct):
    type: str
    path: list[str]


class _Head(msgspec.Struct):
    obj: _Operation
    version: int
    at: float | None = None


_HEAD = msgspec.json.Decoder(_Head)


@dataclass(frozen=True, slots=True)
class Line:
    """One operation: its kind and path are parsed, its values are not."""

    kind: str
    path: str
    version: int
    at: float | None
    raw: bytes
    file: Path
    offset: int
    """Where it begins in its file, in bytes."""

    def operation(self) -> dict[str, Any]:
        operation: dict[str, Any] = json.loads(self.raw)["obj"]
        return operation


def files_of(folder: Path) -> list[Path]:
    """The queue's files in order of their versions."""
    found = ((_FILE.fullmatch(path.name), path) for path in folder.iterdir())
    return [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]


def lines(folder: Path, damage: list[str] | None = None) -> Iterator[Line]:
    """Every operation in order. A cut last line is left out and told in `damage`.

    Raises `Corrupt` for a line in the middle that is no operation.
    """
    files = files_of(folder)
    for path in files:
        with path.open("rb") as stream:
            offset = 0
            for raw in stream:
                start, offset = offset, offset + len(raw)
                if not raw.strip():
                    continue
                try:
                    head = _decode(raw)
                except (ValueError, KeyError, TypeError) as error:
                    if path == files[-1] and not raw.endswith(b"\n"):
                        if damage is not None:
                            damage.append(f"{path.name} ends within an operation: the last one is lost")
                        return
                    raise Corrupt(
                        f"{path.parent.name}/{path.name} is damaged at byte {start}",
                        hint="restore it from a backup, or leave its run out with --where",
                    ) from error
                path_text = "/".join(part for part in head.obj.path if part)
                yield Line(head.obj.type, path_text, head.version, head.at, raw, path, start)


def _decode(raw: bytes) -> _Head:
    try:
        return _HEAD.decode(raw)
    except msgspec.DecodeError:
        return msgspec.convert(json.loads(raw), _Head)  # Python's JSON also has NaN and Infinity


@dataclass(slots=True)
class Columns:
    """Rows of one kind of series, in the queue's order."""

    key: pa.DictionaryArray
    version: npt.NDArray[np.int64]
    step: pa.Array
    """float64; null: the client left it to the server to count."""
    time: npt.NDArray[np.int64]
    """Microseconds since 1970."""
    value: pa.Array


def columns(lines_of_kind: Iterator[Line], kind: str) -> Iterator[Columns]:
    """`LogFloats` or `LogStrings` operations as columns, some megabytes at a time."""
    held: list[Line] = []
    size = 0
    for line in lines_of_kind:
        held.append(line)
        size += len(line.raw)
        if size >= CHUNK_BYTES:
            yield _parse(held, kind)
            held, size = [], 0
    if held:
        yield _parse(held, kind)


def _parse(held: list[Line], kind: str) -> Columns:
    point = pa.struct([("value", _VALUE[kind]), ("step", pa.float64()), ("ts", pa.float64())])
    schema = pa.schema([("obj", pa.struct([("values", pa.list_(point))]))])
    data = b"".join(line.raw if line.raw.endswith(b"\n") else line.raw + b"\n" for line in held)
    try:
        table = pa_json.read_json(
            io.BytesIO(data),
            read_options=pa_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        values = pc.struct_field(table["obj"].combine_chunks(), "values")
    except pa.ArrowInvalid:
        values = pa.array([line.operation()["values"] for line in held], pa.list_(point))
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    lengths = pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False)
    flat = values.flatten()
    paths = pa.array([line.path for line in held], pa.string()).dictionary_encode()
    key = pa.DictionaryArray.from_arrays(
        pa.array(np.repeat(paths.indices.to_numpy(zero_copy_only=False), lengths)), paths.dictionary
    )
    seconds = flat.field("ts").fill_null(0.0).to_numpy(zero_copy_only=False)
    return Columns(
        key=key,
        version=np.repeat(np.array([line.version for line in held], np.int64), lengths),
        step=flat.field("step"),
        time=np.rint(seconds * 1e6).astype(np.int64),
        value=flat.field("value"),
    )


class Steps:
    """Numbers the points that were logged without a step, as the server does: one after the last."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}

    def filled(self, key: pa.DictionaryArray, step: pa.Array) -> npt.NDArray[np.float64]:
        values = step.fill_null(np.nan).to_numpy(zero_copy_only=False).copy()
        words = key.dictionary.to_pylist()
        codes = key.indices.to_numpy(zero_copy_only=False)
        for code in np.unique(codes):
            rows = np.flatnonzero(codes == code)
            last = self._next.get(words[code], 0.0) - 1.0
            known = values[rows]
            if np.isnan(known).any():
                for place, row in enumerate(rows):
                    last = last + 1.0 if np.isnan(known[place]) else float(known[place])
                    values[row] = last
            else:
                last = float(known[-1])
            self._next[words[code]] = last + 1.0
        result: npt.NDArray[np.float64] = values
        return result
