"""Reading local run folders (`offline-run-*`, `run-*`). Nothing in them is touched."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from wandb.proto import wandb_internal_pb2 as pb

from ...errors import Corrupt, LocationError, Vanished
from ...filters import Filter
from ...locations import Location
from ...model import (
    Artifact,
    ArtifactUse,
    Experiment,
    File,
    RegisteredModel,
    Run,
    from_builtins,
    from_json,
)
from ..base import Throughput
from .artifacts import DATASET_KEY, artifact_id, restored
from .history import Frame
from .layout import STAGING, TEXTS_FILE, escape_path
from .reading import HistorySource
from .records import NativeRun, record_of, to_run
from .run_log import RunFacts, RunLog
from .sink import PROJECTS, REGISTRY


class FolderSource(HistorySource):
    """A folder of run folders, a `wandb` folder's parent, or one run folder."""

    throughput = Throughput(path="local transaction logs", points_per_second=200_000)

    def __init__(self, location: Location, root: Path) -> None:
        if not root.is_dir():
            raise LocationError(
                f"{location.public} is not a folder", hint="wandb:ENTITY/PROJECT names a project on a server"
            )
        super().__init__()
        self.location = location
        self.root = root
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[tuple[int, int], RunFacts | Corrupt]] = {}
        self._logs_of: dict[str, list[RunLog]] = {}

    # --- finding runs ---

    def _logs(self) -> Iterator[RunLog]:
        """Every log once, though `latest-run` and others may be links to it."""
        seen: set[Path] = set()
        for pattern in ("*.wandb", "*/*.wandb", "wandb/*/*.wandb"):
            for path in sorted(self.root.glob(pattern)):
                real = path.resolve()
                if real not in seen and not real.parent.name.startswith("."):
                    seen.add(real)
                    yield RunLog(real)

    def _facts(self, log: RunLog) -> RunFacts:
        """Raises `Corrupt`, or `Vanished`."""
        try:
            status = log.path.stat()
        except FileNotFoundError as error:
            raise Vanished(f"{log.path} is gone since it was listed") from error
        stamp = (status.st_size, status.st_mtime_ns)
        with self._lock:
            known = self._known.get(log.path)
        if known is None or known[0] != stamp:
            try:
                found: RunFacts | Corrupt = log.facts()
            except Corrupt as error:
                found = error
            known = (stamp, found)
            with self._lock:
                self._known[log.path] = known
        if isinstance(known[1], Corrupt):
            raise known[1]
        return known[1]

    def _runs(self) -> dict[str, list[RunLog]]:
        """Run path → its logs, oldest first: a resumed run has several."""
        found: dict[str, list[tuple[float, str, RunLog]]] = {}
        for log in self._logs():
            try:
                native = self._facts(log).native
            except (Corrupt, Vanished):
                continue  # told by `problems`
            started = native.started_at.timestamp() if native.started_at else 0.0
            found.setdefault(native.path, []).append((started, str(log.path), log))
        self._logs_of = {path: [log for _, _, log in sorted(logs)] for path, logs in found.items()}
        return self._logs_of

    def _logs_for(self, run: Run) -> list[RunLog]:
        logs = self._logs_of.get(run.id) or self._runs().get(run.id)
        if not logs:
            raise Vanished(f"run {run.id} is no longer in {self.root}")
        return logs

    def native(self, logs: list[RunLog]) -> NativeRun:
        """The run's facts; what a later log tells wins."""
        natives = [self._facts(log).native for log in logs]
        native = natives[-1]
        for earlier in natives[-2::-1]:
            native.config = earlier.config | native.config
            native.summary = earlier.summary | native.summary
            native.metrics = native.metrics or earlier.metrics
            native.created_at = native.started_at = earlier.started_at or native.started_at
        return native

    # --- the contract ---

    def experiments(self) -> Iterator[Experiment]:
        projects = {path.rpartition("/")[0] for path in self._runs()}
        for path in sorted(self.root.glob(f"{PROJECTS}/*.json")):
            experiment = from_json(path.read_text(encoding="utf-8"), Experiment)
            projects.discard(experiment.id)
            yield experiment
        for project in sorted(projects):
            yield Experiment(id=project, name=project.rpartition("/")[2])

    def runs(self, experiment: Experiment, where: Filter | None = None) -> Iterator[Run]:
        for path, logs in sorted(self._runs().items()):
            if path.rpartition("/")[0] == experiment.id:
                yield self._run(logs, experiment.id)

    def _run(self, logs: list[RunLog], experiment: str) -> Run:
        native = self.native(logs)
        uses = self._uses(native, logs)
        return replace(to_run(native, experiment), artifacts=uses)

    def _uses(self, native: NativeRun, logs: list[RunLog]) -> list[ArtifactUse]:
        kept = record_of(native.section).get("uses")
        if isinstance(kept, list):
            return [from_builtins(use, ArtifactUse) for use in kept]
        uses: dict[ArtifactUse, None] = {}
        for _, record in self._artifact_records(logs):
            role = "input" if record.use_after_commit else "output"
            uses[ArtifactUse(artifact=_id(record), role=cast(Any, role))] = None
        return list(uses)

    def _artifact_records(self, logs: list[RunLog]) -> Iterator[tuple[RunLog, pb.ArtifactRecord]]:
        for log in logs:
            for record in self._facts(log).artifacts:
                if DATASET_KEY not in _json(record.metadata):
                    yield log, record

    def _record(self, run: Run) -> dict[str, Any]:
        return record_of(self.native(self._logs_for(run)).section)

    def _frames(self, run: Run, text_keys: frozenset[str]) -> Iterator[Frame]:
        for log in self._logs_for(run):
            yield from log.history()

    def _system(self, run: Run) -> Iterator[tuple[str, int | None, float]]:
        for log in self._logs_for(run):
            for time, values in log.stats():
                for name, value in values:
                    yield name, time, value

    def _console(self, run: Run) -> Iterator[tuple[str, int | None, str]]:
        for log in self._logs_for(run):
            for stream, time, text in log.console():
                yield stream, time or None, text

    def _side_texts(self, run: Run) -> Iterator[BinaryIO]:
        for log in self._logs_for(run):
            side = log.folder / "files" / TEXTS_FILE
            if side.is_file():
                yield side.open("rb")

    def _stored_files(self, run: Run) -> Iterator[tuple[str, int]]:
        for path in self._file_paths(run):
            yield path, self._file(run, path).stat().st_size

    def _file_paths(self, run: Run) -> list[str]:
        paths: dict[str, None] = {}
        for log in self._logs_for(run):
            folder = log.folder / "files"
            saved = set(self._facts(log).saved_files)
            for path in sorted(folder.rglob("*")):
                relative = path.relative_to(folder).as_posix()
                linked = path.is_symlink() and relative not in saved  # `run.save` links what it saves
                if path.is_file() and not linked:
                    paths[relative] = None
        return list(paths)

    def _file(self, run: Run, path: str) -> Path:
        for log in reversed(self._logs_for(run)):
            if (found := log.folder / "files" / path).is_file():
                return found
        raise Vanished(f"{path} of run {run.id} is gone since it was listed")

    def artifacts(self, run: Run) -> Iterator[Artifact]:
        by_id = {_id(record): record for _, record in self._artifact_records(self._logs_for(run))}
        for use in run.artifacts:
            if use.artifact in by_id:
                yield _artifact(by_id[use.artifact], run)

    def artifact_files(self, artifact: Artifact) -> Iterator[File]:
        log, record = self._artifact(artifact.id)
        for entry in record.manifest.contents:
            if entry.ref or self._bytes_of(log, entry) is not None:
                yield File(
                    path=entry.path,
                    size=None if entry.ref and not entry.size else entry.size,
                    artifact=artifact.id,
                    reference=entry.ref or None,
                )

    def _artifact(self, target: str) -> tuple[RunLog, pb.ArtifactRecord]:
        for logs in list(self._logs_of.values() or self._runs().values()):
            for log, record in self._artifact_records(logs):
                if _id(record) == target:
                    return log, record
        raise Vanished(f"artifact {target} is no longer in {self.root}")

    def _bytes_of(self, log: RunLog, entry: pb.ArtifactManifestEntry) -> Path | None:
        """Where the staged bytes are: as the log says, or in the run folder if it has been moved."""
        told = Path(entry.local_path)
        moved = log.folder / STAGING / Path(*told.parts[-1 - len(Path(entry.path).parts) :])
        return next((path for path in (moved, told) if entry.local_path and path.is_file()), None)

    def open(self, run: Run, file: File) -> BinaryIO:
        if file.artifact is None:
            return self._file(run, escape_path(file.path) if run.origin else file.path).open("rb")
        log, record = self._artifact(file.artifact)
        for entry in record.manifest.contents:
            if entry.path == file.path and (path := self._bytes_of(log, entry)) is not None:
                return path.open("rb")
        raise Vanished(f"the bytes of {file.path} of artifact {file.artifact} are not here")

    def registry(self) -> Iterator[RegisteredModel]:
        for path in sorted(self.root.glob(f"{REGISTRY}/*.json")):
            yield from_json(path.read_text(encoding="utf-8"), RegisteredModel)

    def problems(self) -> Iterator[str]:
        for log in self._logs():
            try:
                facts = self._facts(log)
            except (Corrupt, Vanished) as error:
                yield error.message
                continue
            yield from facts.problems
            for record in facts.artifacts:
                missing = [e for e in record.manifest.contents if not e.ref and not self._bytes_of(log, e)]
                if missing:
                    yield f"{log.path}: {len(missing)} file(s) of artifact {record.name} are not staged here"


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _id(record: pb.ArtifactRecord) -> str:
    return artifact_id(record.entity, record.project, record.name, record.digest)


def _artifact(record: pb.ArtifactRecord, run: Run) -> Artifact:
    return restored(
        Artifact(
            id=_id(record),
            name=record.name,
            type=record.type,
            aliases=list(record.aliases),
            tags=dict.fromkeys(record.tags, ""),
            metadata=_json(record.metadata),
            description=record.description or None,
            digest=record.digest,
            created_by=None if record.user_created else run.id,
            created_at=None,
        )
    )
