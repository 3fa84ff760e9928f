"""Writing a queue as the 2.x client does, which `neptune sync` (or Minfx's) uploads.

Form: `neptune/core/components/queue/disk_queue.py`, `neptune/internal/operation.py`. The queue is
written beside its place and moved there when it is complete, so that a sync never sees half a run.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import Rejected
from . import local
from .queue_files import UPLOADS
from .records import Attribute
from .writer import Output

VALUES = 100
"""Values of one operation, as the client's own `extend` writes them."""
FILE_BYTES = 64 * 2**20
"""Size at which a new data file is begun."""

_ASSIGN = {"float": "AssignFloat", "int": "AssignInt", "bool": "AssignBool", "string": "AssignString"}


def _seconds(micros: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Seconds as the client writes them. It later cuts them to whole milliseconds (`int(ts * 1000)`),
    so a time that a double holds a trace too low is raised by that trace."""
    seconds: npt.NDArray[np.float64] = micros / 1e6
    low = np.floor(seconds * 1000) < micros // 1000
    return np.where(low, np.nextafter(seconds, np.inf), seconds)


def _milliseconds(time: datetime) -> float:
    """As `_seconds`, for a date: the client divides by 1000, and cuts to whole milliseconds."""
    millis = round(time.timestamp() * 1000)
    there = datetime.fromtimestamp(millis / 1000).timestamp()  # noqa: DTZ006 - as the client does
    return millis if int(1000 * there) == millis else millis + 0.2


class Staging(Protocol):
    """A folder that a run is written in, and what becomes of it."""

    @property
    def path(self) -> Path: ...

    def publish(self, mark: str | None) -> None: ...

    def remove(self) -> None: ...


class QueueOutput(Output):
    def __init__(self, place: Staging, container: str) -> None:
        self.place = place
        self._version = 0
        self._stream: Any = None
        self._size = 0
        self._now = json.dumps(time.time())
        (place.path / UPLOADS).mkdir(parents=True, exist_ok=True)
        metadata = {
            "mode": "offline",
            "containerId": container,
            "containerType": "run",
            "structureVersion": 3,
            "createdAt": datetime.now(UTC).isoformat(),
        }
        (place.path / "metadata.json").write_text(json.dumps(metadata, indent=2))

    def _write(self, operation: bytes) -> None:
        """One operation, as JSON."""
        self._version += 1
        line = b'{"obj": %b, "version": %d, "at": %b}\n' % (operation, self._version, self._now.encode())
        with local.disk_errors(self.place.path):
            if self._stream is None or self._size + len(line) > FILE_BYTES:
                self._close_file()
                self._stream = (self.place.path / f"data-{self._version}.log").open("wb", buffering=2**20)
                self._size = 0
            self._stream.write(line)
        self._size += len(line)

    def _close_file(self) -> None:
        if self._stream is not None:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._stream = None

    def _operation(self, kind: str, path: str, **details: Any) -> None:
        operation = {"type": kind, "path": path.split("/")} | details
        self._write(json.dumps(operation, allow_nan=False).encode())

    def assign(self, path: str, attribute: Attribute) -> None:
        if attribute.type == "datetime":
            self._operation("AssignDatetime", path, value=_milliseconds(attribute.value))
        elif attribute.type == "string_set":
            self.add_words(path, attribute.value)
        else:
            self._operation(_ASSIGN[attribute.type], path, value=attribute.value)

    def add_words(self, path: str, words: Sequence[str]) -> None:
        self._operation("AddStrings", path, values=list(words))

    def floats(self, batch: pa.RecordBatch) -> None:
        values = batch.column("value")
        if not pc.all(pc.is_finite(values)).as_py():
            raise Rejected("the 2.x queue holds no NaN and no infinity")
        self._series("LogFloats", batch, pc.cast(values, pa.string()))

    def strings(self, batch: pa.RecordBatch) -> None:
        texts = [json.dumps(text) for text in batch.column("text").to_pylist()]
        self._series("LogStrings", batch, pa.array(texts, pa.string()))

    def _series(self, kind: str, batch: pa.RecordBatch, values: pa.Array) -> None:
        """One operation for every `VALUES` values of a path, built as columns of text."""
        micros = batch.column("time").cast(pa.int64()).to_numpy(zero_copy_only=False)
        rows = pc.binary_join_element_wise(
            '{"value": ',
            values,
            ', "step": ',
            pc.cast(pc.cast(batch.column("step"), pa.float64()), pa.string()),
            ', "ts": ',
            pc.cast(pa.array(_seconds(micros)), pa.string()),
            "}",
            "",
        )
        column = batch.column("key")
        codes = column.indices.to_numpy(zero_copy_only=False)
        order = np.argsort(codes, kind="stable")
        ordered = codes[order]
        # An operation ends where the path changes, and after VALUES values of it.
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        within = np.arange(len(ordered)) - np.repeat(starts, np.diff(np.r_[starts, len(ordered)]))
        cuts = np.flatnonzero(within % VALUES == 0)
        offsets = pa.array(np.r_[cuts, len(ordered)].astype(np.int32))
        joined = pc.binary_join(pa.ListArray.from_arrays(offsets, rows.take(pa.array(order))), ", ")
        words = column.dictionary.to_pylist()
        for code, text in zip(ordered[cuts], joined.to_pylist(), strict=True):
            path = json.dumps(str(words[code]).split("/"))
            self._write(f'{{"type": "{kind}", "path": {path}, "values": [{text}]}}'.encode())

    def upload(self, path: str, suffix: str, stream: BinaryIO) -> None:
        name = hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        local.save(stream, self.place.path / UPLOADS / name)
        self._operation(
            "UploadFile", path, ext=suffix.removeprefix("."), file_path=None, tmp_file_name=name, clean_after_upload=False
        )  # fmt: skip

    def close(self, mark: str | None) -> None:
        with local.disk_errors(self.place.path):
            self._close_file()
            (self.place.path / "last_put_version").write_text(str(self._version))
            (self.place.path / "last_ack_version").write_text("0")
        self.place.publish(mark)

    def discard(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self.place.remove()
