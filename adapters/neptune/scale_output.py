"""Writing a run log as neptune-scale does, which `neptune sync` uploads to a 3.x installation.

Form: `neptune_scale/sync/operations_repository.py` (tables, version 5), `sync/metadata_splitter.py`
(messages). The log is written aside and moved into place when it is complete.
"""

from __future__ import annotations

import hashlib
import mimetypes
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa

from ...errors import Rejected
from ...model import Run
from . import local
from .records import Attribute
from .scale_logs import NAME
from .scale_replay import CREATE, SNAPSHOT, VERSIONS
from .writer import Output

OPERATION_BYTES = 2 * 2**20
"""`neptune_scale.sync.parameters.MAX_SINGLE_OPERATION_SIZE_BYTES`."""
MAX_STEP = 10**12
"""`neptune_scale.sync.parameters.MAX_STEP_VALUE`."""
BIN_EDGES = 513
"""`neptune_scale.sync.parameters.MAX_HISTOGRAM_BIN_EDGES`."""
FILES = "files"

_TABLES = """
CREATE TABLE run_operations (sequence_id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp INTEGER NOT NULL,
    operation_type INTEGER NOT NULL, operation BLOB NOT NULL, operation_size_bytes INTEGER NOT NULL);
CREATE INDEX idx_run_operations_sequence_size ON run_operations (sequence_id, operation_size_bytes);
CREATE TABLE metadata (id INTEGER PRIMARY KEY AUTOINCREMENT, version TEXT NOT NULL, project TEXT NOT NULL,
    run_id TEXT NOT NULL);
CREATE TABLE run_operation_submission (sequence_id INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL,
    request_id TEXT NOT NULL);
CREATE TABLE file_upload_requests (id INTEGER PRIMARY KEY AUTOINCREMENT, source_path TEXT NOT NULL,
    destination TEXT NOT NULL, mime_type TEXT NOT NULL, size_bytes INTEGER NOT NULL, is_temporary INTEGER NOT NULL);
CREATE TABLE operation_errors (error_id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp INTEGER NOT NULL,
    error_type TEXT NOT NULL, error_details TEXT NOT NULL, error_body TEXT NOT NULL, sequence_id INTEGER);
"""


class Folder(Protocol):
    """Where a log is written (`path`), and what becomes of it (`local.Staged`, or sending it)."""

    @property
    def path(self) -> Path: ...

    @property
    def final(self) -> Path: ...

    def publish(self, mark: str | None) -> None: ...

    def remove(self) -> None: ...


class ScaleOutput(Output):
    def __init__(self, place: Folder, project: str, native: str, run: Run | None) -> None:
        """`run` is None for one that is there already: it is not created."""
        from neptune_api.proto.neptune_pb.ingest.v1 import common_pb2

        self.place, self._native, self._proto = place, native, common_pb2
        self._now = int(time.time() * 1000)
        self._pending: Any = None
        self._pending_size = 0
        with local.disk_errors(place.path):
            (place.path / FILES).mkdir()
        self._database = sqlite3.connect(place.path / NAME, isolation_level=None)
        self._database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN;" + _TABLES)
        self._database.execute(
            "INSERT INTO metadata (version, project, run_id) VALUES (?, ?, ?)",
            (VERSIONS[-1], project, native),
        )
        if run is None:
            return
        create = common_pb2.Run(family=native, inherit_configs=False)
        if run.name:
            create.experiment_id = run.name
        began = run.started_at or run.created_at
        if began is not None:
            create.creation_time.CopyFrom(self._timestamp(began))
        if run.fork is not None:
            create.fork_point.parent_project = project
            create.fork_point.parent_run_id = run.fork.run.rpartition("/")[2]
            create.fork_point.step.CopyFrom(self._step(round(run.fork.step * 1e6)))
        self._insert([create], CREATE)

    def _insert(self, messages: Iterable[Any], kind: int = SNAPSHOT) -> None:
        def rows() -> Iterator[tuple[int, int, bytes, int]]:
            for message in messages:
                blob = message.SerializeToString()
                if len(blob) > OPERATION_BYTES:
                    raise Rejected(f"one value of {self._native} is larger than {OPERATION_BYTES} bytes")
                yield self._now, kind, blob, len(blob)

        query = "INSERT INTO run_operations (timestamp, operation_type, operation, operation_size_bytes) VALUES (?, ?, ?, ?)"
        try:
            self._database.executemany(query, rows())
        except sqlite3.OperationalError as error:
            raise local.full(self.place.path, error) from error

    @staticmethod
    def _seconds(micros: int) -> tuple[int, int]:
        return micros // 1_000_000, micros % 1_000_000 * 1_000

    def _timestamp(self, time: datetime) -> Any:
        from google.protobuf.timestamp_pb2 import Timestamp

        return Timestamp(seconds=int(time.timestamp() // 1), nanos=time.microsecond * 1_000)

    def _step(self, micro: int) -> Any:
        return self._proto.Step(whole=micro // 1_000_000, micro=micro % 1_000_000)

    def assign(self, path: str, attribute: Attribute) -> None:
        value = self._proto.Value()
        match attribute.type:
            case "float":
                value.float64 = attribute.value
            case "int":
                value.int64 = attribute.value
            case "bool":
                value.bool = attribute.value
            case "datetime":
                value.timestamp.CopyFrom(self._timestamp(attribute.value))
            case "string_set":
                value.string_set.values.extend(attribute.value)
            case _:
                value.string = attribute.value
        size = value.ByteSize() + len(path.encode()) + 16
        if self._pending is None or self._pending_size + size > OPERATION_BYTES // 2:
            self._flush()
            self._pending = self._proto.UpdateRunSnapshot()
        self._pending.assign[path].CopyFrom(value)
        self._pending_size += size

    def _flush(self) -> None:
        if self._pending is not None:
            self._insert([self._pending])
        self._pending, self._pending_size = None, 0

    def add_words(self, path: str, words: Sequence[str]) -> None:
        self._flush()
        update = self._proto.UpdateRunSnapshot()
        for word in words:
            update.modify_sets[path].string.values[word] = self._proto.SET_OPERATION.ADD
        self._insert([update])

    def _snapshots(self, batch: pa.RecordBatch) -> Iterator[tuple[Any, list[tuple[str, int]]]]:
        """(an update with its step and time, [(path, row)]), rows of one step and time together."""
        steps = batch.column("step").to_numpy(zero_copy_only=False)
        if len(steps) and float(steps.max()) >= MAX_STEP:
            raise Rejected(f"Neptune takes steps below {MAX_STEP:,}")
        micro = (
            steps * 1_000_000
            if np.issubdtype(steps.dtype, np.integer)
            else np.rint(steps * 1e6).astype(np.int64)
        )
        times = batch.column("time").cast(pa.int64()).to_numpy(zero_copy_only=False)
        column = batch.column("key")
        words = column.dictionary.to_pylist()
        codes = column.indices.to_numpy(zero_copy_only=False)
        order = np.lexsort((times, micro)).tolist()
        micro_list, time_list, code_list = micro.tolist(), times.tolist(), codes.tolist()
        held: list[tuple[str, int]] = []
        paths: set[int] = set()
        before: tuple[int, int] | None = None
        for row in order:
            now = (micro_list[row], time_list[row])
            if held and (now != before or code_list[row] in paths or len(held) >= 1_000):
                yield self._update(before), held
                held, paths = [], set()
            before = now
            held.append((words[code_list[row]], row))
            paths.add(code_list[row])
        if held:
            yield self._update(before), held

    def _update(self, at: tuple[int, int] | None) -> Any:
        assert at is not None
        update = self._proto.UpdateRunSnapshot()
        update.step.whole, update.step.micro = divmod(at[0], 1_000_000)
        update.timestamp.seconds, update.timestamp.nanos = self._seconds(at[1])
        return update

    def floats(self, batch: pa.RecordBatch) -> None:
        self._flush()
        values = batch.column("value").to_pylist()

        def updates() -> Iterator[Any]:
            for update, rows in self._snapshots(batch):
                append = update.append
                for path, row in rows:
                    append[path].float64 = values[row]
                yield update

        self._insert(updates())

    def strings(self, batch: pa.RecordBatch) -> None:
        self._flush()
        values = batch.column("text").to_pylist()

        def updates() -> Iterator[Any]:
            for update, rows in self._snapshots(batch):
                for path, row in rows:
                    if update.append and update.ByteSize() + 4 * len(values[row]) > OPERATION_BYTES:
                        yield update
                        update.append.clear()
                    update.append[path].string = values[row]
                yield update

        self._insert(updates())

    def histograms(self, batch: pa.RecordBatch) -> None:
        self._flush()
        edges, counts = batch.column("edges").to_pylist(), batch.column("counts").to_pylist()

        def updates() -> Iterator[Any]:
            for update, rows in self._snapshots(batch):
                for path, row in rows:
                    if len(edges[row]) > BIN_EDGES:
                        raise Rejected(f"{path}: Neptune takes histograms of {BIN_EDGES} edges at most")
                    histogram = update.append[path].histogram
                    histogram.bin_edges.extend(edges[row])
                    if all(float(count).is_integer() and abs(count) < 2**63 for count in counts[row]):
                        histogram.counts.values.extend(int(count) for count in counts[row])
                    else:
                        histogram.densities.values.extend(counts[row])
                yield update

        self._insert(updates())

    def upload(self, path: str, suffix: str, stream: BinaryIO) -> None:
        name = hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        size = local.save(stream, self.place.path / FILES / name)
        suffix = suffix if re.fullmatch(r"\.[A-Za-z0-9_-]{1,16}", suffix) else ""
        destination = f"{self._native}/{name}/none/file{suffix}"
        mime = mimetypes.guess_type("file" + suffix)[0] or "application/octet-stream"
        self._flush()
        update = self._proto.UpdateRunSnapshot()
        reference = update.assign[path].file_ref
        reference.path, reference.size_bytes, reference.mime_type = destination, size, mime
        self._insert([update])
        source = (self.place.final / FILES / name).absolute()
        self._database.execute(
            "INSERT INTO file_upload_requests (source_path, destination, mime_type, size_bytes, is_temporary)"
            " VALUES (?, ?, ?, ?, 1)",
            (str(source), destination, mime, size),
        )

    def close(self, mark: str | None) -> None:
        self.end()
        self.place.publish(mark)

    def end(self) -> None:
        """Everything is in the log, durably."""
        self._flush()
        try:
            self._database.execute("COMMIT")
            self._database.close()
        except sqlite3.OperationalError as error:
            raise local.full(self.place.path, error) from error
        with local.disk_errors(self.place.path):
            _sync(self.place.path / NAME)

    def discard(self) -> None:
        self._database.close()
        self.place.remove()


def _sync(path: Path) -> None:
    import os

    with path.open("rb") as stream:
        os.fsync(stream.fileno())
