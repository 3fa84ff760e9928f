"""Writing local run folders: `wandb:DIR`, for later upload by outgrow or by `wandb sync`."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

from ...errors import Corrupt, LocationError, Vanished
from ...locations import Location
from ...model import Experiment, Origin, RegisteredModel, Run, from_json, to_json
from ..base import NATIVE_MARK, Capabilities, Copy, RunWriter, Sink, Source, Throughput
from ..merge import losing_aliases
from .capabilities import LOCAL
from .folder import FolderWriter, Target, disk_errors
from .layout import SIDECAR
from .place import run_id_for
from .run_folders import RunFolders
from .run_log import RunLog

PROJECTS = "outgrow-projects"
"""Folder with one JSON record per experiment, for what a run folder cannot tell of its project."""
REGISTRY = "outgrow-registry"
"""Folder with one JSON record per registered model."""


class FolderSink(Sink):
    """A folder of run folders. An experiment becomes the project of its runs' records."""

    throughput = Throughput(path="local transaction logs", points_per_second=800_000, runs_per_second=300)

    def __init__(self, location: Location, root: Path) -> None:
        if root.exists() and not root.is_dir():
            raise LocationError(f"{location.public} is not a folder", hint="name a folder, or a new path")
        self.location = location
        self.root = root
        self.folders = RunFolders(root)
        self._lock = threading.Lock()

    @property
    def capabilities(self) -> Capabilities:
        return LOCAL

    def copies(self) -> Iterator[Copy]:
        for path in sorted(self.root.glob(f"offline-run-*/{SIDECAR}")):
            if (copy := _copy(path)) is not None:
                yield copy

    def copy_of(self, identity: str) -> Copy | None:
        platform, _, run_id = identity.partition(":")
        for folder in self.folders.of(run_id_for(Origin(platform=platform, run_id=run_id))):
            copy = _copy(folder / SIDECAR)
            if copy is not None and copy.identity == identity:
                return copy
        return None

    def native(self, run_id: str) -> Copy | None:
        for path in self._logs.get(f"run-{run_id.rpartition('/')[2]}.wandb", ()):
            try:
                native = RunLog(path).facts().native
            except Corrupt:
                continue  # a damaged log is no copy of anything
            if native.path == run_id and not native.section:
                return Copy(identity=f"wandb:{run_id}", run_id=run_id, mark=NATIVE_MARK)
        return None

    @cached_property
    def _logs(self) -> dict[str, list[Path]]:
        """The logs that were here first, by name."""
        found: dict[str, list[Path]] = {}
        for path in sorted(self.root.glob("*run-*/*.wandb")):
            found.setdefault(path.name, []).append(path)
        return found

    def experiment(self, experiment: Experiment) -> str:
        path = self.root / PROJECTS / f"{_name_hash(experiment.name)}.json"
        with self._lock, disk_errors(str(path)):
            if not path.exists():
                _write(path, to_json(replace(experiment, id=experiment.name)))
        return experiment.name

    def begin(self, run: Run, origin: Origin, existing: Copy | None = None) -> RunWriter:
        entity = self.location.options.get("entity", "")
        target = Target(entity, run.experiment, run_id_for(origin))
        before = self._before(existing) if existing is not None else None
        writer = FolderWriter(target, run, origin, self.folders)
        if before is not None:
            carry(writer, *before)
        return writer

    def _before(self, existing: Copy) -> tuple[Source, Run]:
        """The folder that is here already, read: its content goes into the new one."""
        from .source import FolderSource

        short = existing.run_id.rpartition("/")[2]
        for folder in self.folders.of(short):
            source = FolderSource(self.location, folder)
            for experiment in source.experiments():
                for run in source.runs(experiment):
                    return source, run
        raise Vanished(f"run {existing.run_id} is no longer in {self.root}", hint="copy again")

    def register(self, model: RegisteredModel) -> Mapping[str, str]:
        path = self.root / REGISTRY / f"{model.kind}-{_name_hash(model.name)}.json"
        with self._lock, disk_errors(str(path)):
            versions = {}
            if path.exists():
                here = from_json(path.read_text(encoding="utf-8"), RegisteredModel)
                versions = {v.version: v for v in here.versions}
            coming = {v.version: v for v in model.versions}
            staying = [v for number, v in versions.items() if number not in coming]
            versions |= {v.version: v for v in losing_aliases(staying, model.versions)} | coming
            _write(path, to_json(replace(model, versions=list(versions.values()))))
        return {v.origin_version: v.version for v in model.versions}


def carry(writer: FolderWriter, source: Source, run: Run) -> None:
    """Give a writer what an earlier copy of its run holds, so that sending it again adds nothing."""
    for batch in source.points(run):
        writer.points(batch)
    for batch in source.texts(run):
        writer.texts(batch)
    for batch in source.histograms(run):
        writer.histograms(batch)
    writer.already("points", source.points(run))
    writer.already("texts", source.texts(run))
    writer.already("side", source.texts(run))
    writer.already("histograms", source.histograms(run))
    writer.params(run.params)
    writer.tags(run.tags, run.labels)
    writer.datasets(run.datasets)
    for file in source.files(run):
        if file.reference is not None:
            writer.file(file, None)
            continue
        with source.open(run, file) as stream:
            writer.file(file, stream)
    uses = {use.artifact: use for use in run.artifacts}
    for artifact in source.artifacts(run):
        opened = (
            (file, None if file.reference else source.open(run, file))
            for file in source.artifact_files(artifact)
        )
        writer.artifact(artifact, uses[artifact.id], opened)


def _copy(path: Path) -> Copy | None:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Copy(identity=told["identity"], run_id=told["run_id"], mark=told["mark"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{path} cannot be read", hint="remove that run folder and copy again") from error


def _name_hash(name: str) -> str:
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)
