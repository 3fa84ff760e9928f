"""Writing into an archive. What was finished appears with `flush`, all at once: one segment."""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from ...errors import Corrupt, Vanished
from ...locations import Location
from ...model import (
    Artifact,
    EvaluationDataset,
    Experiment,
    File,
    ModelVersion,
    Origin,
    RegisteredModel,
    Run,
    Trace,
)
from ..base import Capabilities, Copy, RunWriter, Sink, Throughput
from ..paths import checked
from . import records
from .bulk import BulkFile
from .capabilities import CAPABILITIES
from .index import Index
from .manifest import FOLDER, LISTED_RUNS, Part, Segment, check_target, dump, ensure_root, new_name, now
from .registry import merge
from .source import blob_name
from .storage import storage, writing
from .tables import BULK_TABLES, RECORD_TABLES, Row, sha256_of, table_of, write_table
from .writer import ArchiveWriter, Finished

_BLOCK = 2**20
SMALL_FILE = 16_384
"""Bytes up to which a file lies in the table `small_files`, with many others."""
_AUTO_FLUSH_RUNS = 2_000
_AUTO_FLUSH_BYTES = 64 * 2**20
"""Finished runs, and bytes of small files, after which a flush happens by itself, to bound memory."""
_STALE_SECONDS = 1.0


@dataclass(slots=True)
class _Pending:
    """What the next segment will hold."""

    experiments: dict[str, tuple[Experiment, str]] = field(default_factory=dict)
    runs: dict[str, Finished] = field(default_factory=dict)
    artifacts: dict[str, tuple[Artifact, list[File]]] = field(default_factory=dict)
    models: dict[tuple[str, str], RegisteredModel] = field(default_factory=dict)
    versions: dict[tuple[str, str, str], ModelVersion] = field(default_factory=dict)
    traces: dict[str, tuple[Trace, str]] = field(default_factory=dict)
    datasets: dict[str, EvaluationDataset] = field(default_factory=dict)
    small_files: dict[str, bytes] = field(default_factory=dict)
    small_bytes: int = 0
    shared: dict[str, BulkFile] = field(default_factory=dict)
    own: list[BulkFile] = field(default_factory=list)
    name: str = ""
    """The segment's, from the first attempt to commit it on."""
    parts: dict[str, Part] = field(default_factory=dict)
    """Tables that are in their place already, by path."""

    def __bool__(self) -> bool:
        return any(
            (self.experiments, self.runs, self.artifacts, self.models, self.versions, self.traces, self.datasets)
        )  # fmt: skip

    def listed_runs(self) -> list[list[str | None]] | None:
        """As `Segment.runs`, in the order of `rows`."""
        if len(self.runs) > LISTED_RUNS:
            return None
        return [
            [run_id, done.run.experiment, done.mark, records.url_of(done.run)]
            for run_id, done in self.runs.items()
        ]

    def rows(self, experiment_names: Mapping[str, str]) -> dict[str, list[Row]]:
        """The rows of the record tables; those of one run or artifact lie together."""
        rows: dict[str, list[Row]] = {name: [] for name in RECORD_TABLES}
        rows["experiments"] = [records.experiment_row(*pair) for pair in self.experiments.values()]
        for run_id, done in self.runs.items():
            parts = [piece.row() for piece in done.pieces]
            name = experiment_names.get(done.run.experiment)
            rows["runs"].append(records.run_row(done.run, name, done.mark, done.stats, parts))
            rows["params"] += records.param_rows(done.run)
            rows["metrics"] += records.metric_rows(done.run, done.points_by_key)
            rows["tags"] += records.tag_rows(done.run)
            rows["run_files"] += [records.run_file_row(run_id, file) for file in done.files]
        for artifact_id, (artifact, files) in self.artifacts.items():
            rows["artifacts"].append(records.artifact_row(artifact, files))
            rows["artifact_files"] += [records.artifact_file_row(artifact_id, file) for file in files]
        rows["small_files"] = [(sha256, len(data), data) for sha256, data in self.small_files.items()]
        rows["models"] = [records.model_row(model) for model in self.models.values()]
        rows["model_versions"] = [
            records.model_version_row(kind, version) for (kind, _, _), version in self.versions.items()
        ]
        rows["traces"] = [records.trace_row(*pair) for pair in self.traces.values()]
        rows["evaluation_datasets"] = [records.evaluation_dataset_row(d) for d in self.datasets.values()]
        return rows


class ArchiveSink(Sink):
    """Several sinks, also of several processes, may write to one archive at once."""

    throughput = Throughput(
        path="Parquet", points_per_second=4e6, files_per_second=500, bytes_per_second=150e6,
        runs_per_second=1_000,
    )  # fmt: skip

    def __init__(self, location: Location) -> None:
        self.location = location
        self._storage = storage(location)
        self._storage.on_dead = self._remove_orphans
        self.where = self._storage.url
        check_target(self._storage)
        self._index = Index(self._storage)
        self._refreshed_at = 0.0
        self._rooted = False
        self._lock = threading.RLock()
        self._commit_lock = threading.Lock()
        self._pending = _Pending()
        self._queue: list[_Pending] = []
        """Swapped-out pendings that a failed commit left; the next flush tries them again."""
        self._experiment_names: dict[str, str] = {}
        self._stored_experiments: set[str] | None = None
        self._blobs: set[str] = set()
        self._models: dict[tuple[str, str], RegisteredModel] | None = None
        self._trace_origins: dict[str, str] | None = None

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def _ensure_root(self) -> None:
        with self._lock:
            if not self._rooted:
                ensure_root(self._storage)
                self._rooted = True

    def scratch(self) -> Path:
        return self._storage.scratch()

    def _fresh(self, *, at_once: bool = False) -> Index:
        """The index, no older than a second."""
        with self._lock:
            if at_once or time.monotonic() - self._refreshed_at > _STALE_SECONDS:
                self._index.refresh()
                self._refreshed_at = time.monotonic()
            return self._index

    def copies(self) -> Iterator[Copy]:
        for identity, place in list(self._fresh(at_once=True).runs.items()):
            yield Copy(identity=identity, run_id=identity, mark=place.mark, url=place.url)

    def copy_of(self, identity: str) -> Copy | None:
        place = self._fresh().runs.get(identity)
        if place is None:
            return None
        return Copy(identity=identity, run_id=identity, mark=place.mark, url=place.url)

    def experiment(self, experiment: Experiment) -> str:
        here = records.experiment_id(experiment)
        with self._lock:
            if self._stored_experiments is None:
                known = self._fresh().latest("experiments", ("id",), Experiment, first=True)
                self._stored_experiments = set(known)
                self._experiment_names |= {id_: e.name for id_, e in known.items()}
            if here not in self._stored_experiments:
                self._pending.experiments[here] = (replace(experiment, id=here), experiment.id)
                self._stored_experiments.add(here)
                self._experiment_names[here] = experiment.name
        return here

    def begin(self, run: Run, origin: Origin, existing: Copy | None = None) -> RunWriter:
        self._ensure_root()
        with self._lock:
            waiting = origin.identity in self._pending.runs
        if waiting:
            self.flush()
        index = self._fresh(at_once=waiting)
        present = origin.identity in index.runs
        if existing is not None and not present:
            raise Vanished(
                f"run {existing.run_id!r} is no longer in {self.location}", hint="repeat the command"
            )
        return ArchiveWriter(self, run, origin, index if present else None)

    def keep(self, file: File, stream: BinaryIO | None) -> File:
        """Store a file's bytes once, under their SHA-256. Raises `Corrupt` where they are not what they should be."""
        checked(file.path)
        if stream is None:
            return file
        start = read_fully(stream, SMALL_FILE + 1)
        if len(start) <= SMALL_FILE:
            digest, size = hashlib.sha256(start).hexdigest(), len(start)
            _check_digest(file, digest)
            self._stage_small(digest, start)
        else:
            digest, size = self._keep_big(file, start, stream)
        return replace(file, size=size, sha256=digest)

    def _stage_small(self, digest: str, data: bytes) -> None:
        with self._lock:
            if digest not in self._blobs and digest not in self._fresh().small_files():
                self._pending.small_files[digest] = data
                self._pending.small_bytes += len(data)
            self._blobs.add(digest)

    def _keep_big(self, file: File, start: bytes, stream: BinaryIO) -> tuple[str, int]:
        local = self._storage.scratch() / uuid.uuid4().hex
        sha, size = hashlib.sha256(), 0
        try:
            with writing(self.where), local.open("wb") as out:
                block = start
                while block:
                    sha.update(block)
                    out.write(block)
                    size += len(block)
                    block = stream.read(_BLOCK)
            digest = sha.hexdigest()
            _check_digest(file, digest)
            self._put_blob(digest, size, local)
        finally:
            local.unlink(missing_ok=True)
        return digest, size

    def _put_blob(self, digest: str, size: int, local: Path) -> None:
        if digest in self._blobs:
            return
        name = blob_name(digest)
        try:
            present = self._storage.size(name) == size
        except FileNotFoundError:
            present = False
        if not present:
            self._storage.put(name, local)
        self._blobs.add(digest)

    def has_artifact(self, artifact_id: str) -> bool:
        with self._lock:
            return artifact_id in self._pending.artifacts or artifact_id in self._fresh().places("artifacts")

    def stage_artifact(self, artifact: Artifact, files: list[File]) -> None:
        """An artifact version for the next segment, unless the archive has exactly this one."""
        with self._lock:
            if (place := self._fresh().places("artifacts").get(artifact.id)) is not None:
                held = self._index.files("artifact_files", "artifact", artifact.id, place.segment)
                if held == files and self._index.cell(place, "record") == records.text(artifact):
                    self._pending.artifacts.pop(artifact.id, None)
                    return
            self._pending.artifacts[artifact.id] = (artifact, files)

    def adopt(self, files: list[BulkFile]) -> None:
        """Closed files of one run's own, for the next segment."""
        self._pending.own += files

    def stage_run(self, place: Callable[[dict[str, BulkFile]], Finished]) -> None:
        with self._lock:
            done = place(self._pending.shared)
            self._pending.runs[done.run.id] = done
            full = (
                len(self._pending.runs) >= _AUTO_FLUSH_RUNS or self._pending.small_bytes > _AUTO_FLUSH_BYTES
            )
        if full:
            self.flush()

    def register(self, model: RegisteredModel) -> Mapping[str, str]:
        self._ensure_root()
        with self._lock:
            if self._models is None:
                self._models = self._fresh().models()
            slot = (model.kind, model.name)
            merged = merge(self._models.get(slot), model)
            self._models[slot] = merged.model
            if merged.changed:
                self._pending.models[slot] = merged.model
            for version in merged.versions:
                self._pending.versions[(*slot, version.version)] = version
            return merged.numbers

    def trace(self, trace: Trace, origin: Origin) -> str:
        with self._lock:
            if self._trace_origins is None:
                self._trace_origins = self._fresh().origins("traces")
            here = trace.id
            if self._trace_origins.get(here, origin.identity) != origin.identity:
                here = f"{origin.platform}:{trace.id}"  # another platform's trace has that id
            if here not in self._trace_origins:
                self._pending.traces[here] = (replace(trace, id=here), origin.identity)
                self._trace_origins[here] = origin.identity
        return here

    def evaluation_dataset(self, dataset: EvaluationDataset) -> str:
        with self._lock:
            known = self._fresh().latest("evaluation_datasets", ("id",), EvaluationDataset)
            if known.get(dataset.id) != dataset:
                self._pending.datasets[dataset.id] = dataset
        return dataset.id

    def flush(self) -> None:
        """Commit what is finished as one segment. After an error the next flush tries again."""
        with self._commit_lock:
            with self._lock:
                if self._pending:
                    self._queue.append(self._pending)
                    self._pending = _Pending()
            while self._queue:
                self._commit(self._queue[0])
                self._queue.pop(0)
                self._refreshed_at = 0.0

    def _commit(self, pending: _Pending) -> None:
        self._ensure_root()
        index = self._fresh(at_once=True)
        if not pending.name:
            pending.name = new_name(index.segments.next_sequence(), self._storage.token)
        for file in pending.shared.values():
            if not file.path:
                file.close()
        for number, file in enumerate([*pending.shared.values(), *pending.own]):
            path = f"{file.table}/{pending.name}-{number}.parquet"
            if path not in pending.parts:
                self._put_table(pending, file.table, path, file.rows, file.local)
                file.path = path
        for table, rows in pending.rows(self._experiment_names).items():
            path = f"{table}/{pending.name}.parquet"
            if rows and path not in pending.parts:
                local = self.scratch() / uuid.uuid4().hex
                write_table(table_of(table, rows, pending.name), local, self.where)
                self._put_table(pending, table, path, len(rows), local)
        self._storage.settle()
        segment = Segment(
            pending.name,
            list(pending.parts.values()),
            after=index.segments.heads(),
            created_at=now(),
            runs=pending.listed_runs(),
        )
        self._storage.put_bytes(f"{FOLDER}/{pending.name}.json", dump(segment))

    def _put_table(self, pending: _Pending, table: str, path: str, rows: int, local: Path) -> None:
        part = Part(table, path, rows, local.stat().st_size, sha256_of(local))
        self._storage.put(path, local)
        pending.parts[path] = part

    def _remove_orphans(self, token: str) -> None:
        """Remove the tables of a killed writer that never got a manifest."""
        self._index.refresh()
        for table in (*RECORD_TABLES, *BULK_TABLES):
            for name in self._storage.names(table):
                if f"-{token}" in name and f"{table}/{name}" not in self._index.parts:
                    self._storage.remove(f"{table}/{name}")

    def close(self) -> None:
        """Flushes what is finished, then removes the writer's temporary files."""
        try:
            self.flush()
        finally:
            self._storage.close()


def read_fully(stream: BinaryIO, size: int) -> bytes:
    """`size` bytes, or all that there are."""
    blocks = []
    while size and (block := stream.read(size)):
        blocks.append(block)
        size -= len(block)
    return b"".join(blocks)


def _check_digest(file: File, digest: str) -> None:
    if file.sha256 is not None and file.sha256 != digest:
        raise Corrupt(
            f"the bytes of {file.path!r} have SHA-256 {digest}, not the {file.sha256} they should have",
            hint="copy the run again; if it stays, the file is damaged in the source",
        )
