"""What a neptune-scale log amounts to: attributes, files and counts; its rows, some thousands at a time."""

from __future__ import annotations

import contextlib
import math
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...errors import Corrupt, SchemaVersionError, Vanished
from ...model import File
from .records import Attribute, Attributes, key_of

VERSIONS = ("v5",)
"""`neptune_scale.sync.operations_repository.BACKWARD_COMPATIBLE_DB_VERSIONS`."""
SNAPSHOT, CREATE = 0, 1
ROWS = 65_536
"""Series values held at a time."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database, read so that nothing beside it is made or changed.

    A log with a write-ahead log is copied first: SQLite would replay it in place.
    """
    if not path.is_file():
        raise Vanished(f"{path} is gone since it was listed", hint="run the command again")
    journal = path.with_name(path.name + "-wal")
    with tempfile.TemporaryDirectory(prefix="outgrow-") as scratch:
        here = path
        if journal.is_file() and journal.stat().st_size:
            here = Path(scratch) / path.name
            shutil.copyfile(path, here)
            shutil.copyfile(journal, here.with_name(journal.name))
            uri = f"file:{quote(str(here))}"
        else:
            uri = f"file:{quote(str(here.absolute()))}?mode=ro&immutable=1"
        try:
            with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
                yield connection
        except sqlite3.DatabaseError as error:
            raise Corrupt(
                f"{path.parent.name}/{path.name} cannot be read: {error}",
                hint="restore it from a backup, or leave its run out with --where",
            ) from error


def metadata_of(path: Path) -> tuple[str, str]:
    """(project, run id). Raises `SchemaVersionError` for a form that is not known, `Corrupt`."""
    with opened(path) as connection:
        row = connection.execute("SELECT version, project, run_id FROM metadata").fetchone()
    if row is None:
        raise Corrupt(f"{path.parent.name} does not say which run it is", hint="its run was never begun")
    if row[0] not in VERSIONS:
        raise SchemaVersionError(
            f"{path.parent.name} is of the form {row[0]!r}, which is not known",
            hint=f"known: {', '.join(VERSIONS)} (neptune-scale 0.30)",
        )
    return str(row[1]), str(row[2])


@dataclass(slots=True)
class Rows:
    """Series values of one kind, as columns. Steps are millionths, times microseconds; either may be None."""

    paths: list[str] = field(default_factory=list)
    steps: list[int | None] = field(default_factory=list)
    times: list[int | None] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Log:
    path: Path

    def snapshots(self) -> Iterator[Any]:
        """The run's updates in order, as protobuf messages."""
        from google.protobuf.message import DecodeError
        from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import UpdateRunSnapshot

        query = "SELECT operation FROM run_operations WHERE operation_type = ? ORDER BY sequence_id"
        with opened(self.path) as connection:
            for (blob,) in connection.execute(query, (SNAPSHOT,)):
                try:
                    yield UpdateRunSnapshot.FromString(blob)
                except DecodeError as error:
                    raise Corrupt(f"an operation of {self.path.parent.name} is damaged") from error

    def rows(self, kind: str) -> Iterator[Rows]:
        """The series values of one protobuf kind (`float64`, `string`, `histogram`), in order."""
        rows = Rows()
        for snapshot in self.snapshots():
            if not snapshot.append or snapshot.preview.is_preview:
                continue
            step, time = step_of(snapshot), time_of(snapshot)
            for path, value in snapshot.append.items():
                if value.WhichOneof("value") == kind:
                    rows.paths.append(path)
                    rows.steps.append(step)
                    rows.times.append(time)
                    rows.values.append(getattr(value, kind))
            if len(rows.paths) >= ROWS:
                yield rows
                rows = Rows()
        if rows.paths:
            yield rows


def step_of(snapshot: Any) -> int | None:
    return snapshot.step.whole * 1_000_000 + snapshot.step.micro if snapshot.HasField("step") else None


def time_of(snapshot: Any) -> int | None:
    if not snapshot.HasField("timestamp"):
        return None
    return int(snapshot.timestamp.seconds) * 1_000_000 + _micros(snapshot.timestamp)


def _micros(timestamp: Any) -> int:
    """The client makes nanoseconds from a float, a trace too low: the nearest microsecond is meant."""
    return (int(timestamp.nanos) + 500) // 1_000


def _datetime(timestamp: Any) -> datetime:
    return datetime.fromtimestamp(timestamp.seconds, UTC) + timedelta(microseconds=_micros(timestamp))


@dataclass(slots=True)
class ScaleReplay:
    attributes: Attributes = field(default_factory=dict)
    files: list[tuple[File, Path | None]] = field(default_factory=list)
    fork: tuple[str, float] | None = None
    last: dict[str, tuple[int, float]] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    texts: int = 0
    histograms: int = 0
    fractional: int = 0
    nonfinite: int = 0
    problems: list[str] = field(default_factory=list)


def replay(logs: list[Log]) -> ScaleReplay:
    """Raises `Corrupt` for a damaged log."""
    result = ScaleReplay()
    latest: int | None = None
    previews = 0
    for log in logs:
        uploads = _surroundings(log, result)
        for snapshot in log.snapshots():
            step, time = step_of(snapshot), time_of(snapshot)
            latest = time if latest is None or (time is not None and time > latest) else latest
            for path, value in snapshot.assign.items():
                _assign(result, path, value, uploads)
            for path, change in snapshot.modify_sets.items():
                _modify(result, path, change.string.values)
            if snapshot.preview.is_preview:
                previews += 1
                continue
            for path, value in snapshot.append.items():
                _append(result, path, value, step, time, uploads)
    if latest is not None:
        ended = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=latest)
        result.attributes.setdefault("sys/ping_time", Attribute("datetime", ended))
    if previews:
        result.problems.append(f"{previews} previews of metrics are not read: they are no points")
    return result


def _surroundings(log: Log, result: ScaleReplay) -> dict[str, Path]:
    """The run's creation, what was uploaded already, errors; destination → local file of its uploads."""
    from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import Run as CreateRun

    with opened(log.path) as connection:
        native = connection.execute("SELECT run_id FROM metadata").fetchone()[0]
        result.attributes.setdefault("sys/custom_run_id", Attribute("string", native))
        first = connection.execute("SELECT MIN(sequence_id) FROM run_operations").fetchone()[0]
        if first is not None and first > 1:
            result.problems.append(
                f"operations 1 to {first - 1} of {log.path.parent.name} were uploaded and removed from the log"
            )
        for (blob,) in connection.execute("SELECT operation FROM run_operations WHERE operation_type = 1"):
            create = CreateRun.FromString(blob)
            if create.HasField("creation_time"):
                created = Attribute("datetime", _datetime(create.creation_time))
                result.attributes.setdefault("sys/creation_time", created)
            if create.experiment_id:
                result.attributes["sys/name"] = Attribute("string", create.experiment_id)
            if create.HasField("fork_point"):
                step = create.fork_point.step.whole + create.fork_point.step.micro / 1e6
                result.fork = (create.fork_point.parent_run_id, step)
                result.attributes["sys/forking/parent"] = Attribute("string", create.fork_point.parent_run_id)
                result.attributes["sys/forking/step"] = Attribute("float", step)
        errors = connection.execute("SELECT error_type, COUNT(*) FROM operation_errors GROUP BY error_type")
        for kind, count in errors.fetchall():
            result.problems.append(f"the server refused {count} operations ({kind})")
        requests = connection.execute("SELECT destination, source_path FROM file_upload_requests").fetchall()
    return {str(destination): Path(source) for destination, source in requests}


def _assign(result: ScaleReplay, path: str, value: Any, uploads: dict[str, Path]) -> None:
    kinds = {"float64": "float", "int64": "int", "bool": "bool", "string": "string"}
    kind = value.WhichOneof("value")
    if kind in kinds:
        result.attributes[path] = Attribute(kinds[kind], getattr(value, kind))
    elif kind == "timestamp":
        result.attributes[path] = Attribute("datetime", _datetime(value.timestamp))
    elif kind == "string_set":
        result.attributes[path] = Attribute("string_set", list(value.string_set.values))
    elif kind == "file_ref":
        result.files = [entry for entry in result.files if entry[0].metadata.get("attribute") != path]
        key = key_of("files", path)
        suffix = Path(value.file_ref.path).suffix
        result.files.append(_file(key if key.endswith(suffix) else key + suffix, path, value, uploads))


def _file(
    name: str, path: str, value: Any, uploads: dict[str, Path], **more: Any
) -> tuple[File, Path | None]:
    reference = value.file_ref
    file = File(
        path=name,
        size=int(reference.size_bytes),
        media_type=reference.mime_type or None,
        metadata={"attribute": path},
        **more,
    )
    return file, uploads.get(reference.path)


def _append(
    result: ScaleReplay, path: str, value: Any, step: int | None, time: int | None, uploads: dict[str, Path]
) -> None:
    match value.WhichOneof("value"):
        case "float64":
            result.lengths[path] = result.lengths.get(path, 0) + 1
            result.nonfinite += not math.isfinite(value.float64)
            if step is not None:
                result.fractional += bool(step % 1_000_000)
                if path not in result.last or step >= result.last[path][0]:
                    result.last[path] = (step, value.float64)
        case "string":
            result.texts += 1
        case "histogram":
            result.histograms += 1
        case "file_ref":
            key, suffix = key_of("files", path), Path(value.file_ref.path).suffix
            number = 0.0 if step is None else step / 1e6
            name = f"{key}/{int(number) if number.is_integer() else number}{suffix}"
            created = None if time is None else datetime.fromtimestamp(0, UTC) + timedelta(microseconds=time)
            more = {"key": key, "step": number, "created_at": created}
            result.files.append(_file(name, path, value, uploads, **more))


def _modify(result: ScaleReplay, path: str, changes: Any) -> None:
    held = result.attributes.get(path)
    words = set(held.value) if held is not None else set()
    for word, operation in changes.items():
        words = words | {word} if operation == 1 else words - {word}
    result.attributes[path] = Attribute("string_set", sorted(words))
