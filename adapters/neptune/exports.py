"""Reading a directory of the vendor's exporter (2.x and 3.x), complete with its model registry.

A run's id is `WORKSPACE/PROJECT/RUN`. Model versions (2.x) are given as runs too, with `job_type`
`model_version`, so that their series and typed attributes travel; their files are one artifact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from ...errors import Corrupt, OutgrowError, Vanished
from ...filters import Filter
from ...locations import Location
from ...model import Artifact, ArtifactUse, Experiment, File, RegisteredModel, Run, Status, Value
from ..base import RunStats, Source, Throughput
from . import export_files, export_registry, export_rows, lineage
from .export_layout import Entity, Layout, Scope
from .records import key_of, references, run_of

_SCOPES: tuple[Scope, ...] = ("run", "model", "model_version")


class ExportSource(Source):
    """`forks="complete"` gives a forked run its inherited points too; else only its own."""

    throughput = Throughput(
        path="Neptune export (Parquet)", points_per_second=2_000_000, files_per_second=2_000
    )

    def __init__(
        self, location: Location, root: Path, *, forks: str = "own", files: Path | None = None
    ) -> None:
        self.location = location
        self.layout = Layout(root, files)
        self.forks = forks
        self._known: dict[str, tuple[str, Entity, str]] = {}
        self._stats: dict[str, RunStats] = {}
        self._broken: dict[str, OutgrowError] = {}

    def experiments(self) -> Iterator[Experiment]:
        for folder in self.layout.projects():
            name = self._project(folder)
            if name is not None:
                yield Experiment(id=name, name=name)

    def _project(self, folder: str) -> str | None:
        """The project's true name; its folder's name where no part is readable; None for an empty folder."""
        found = None
        for scope in _SCOPES:
            for entity in self.layout.entities(folder, scope):
                found = folder
                try:
                    identity = export_rows.identity(entity)
                except OutgrowError:
                    continue  # told by problems(), and by the run itself
                if identity is not None:
                    return identity[0]
        return found

    def runs(self, experiment: Experiment, where: Filter | None = None) -> Iterator[Run]:
        for folder in self.layout.projects():
            if self._project(folder) == experiment.id:
                for scope in _SCOPES:
                    for entity in self.layout.entities(folder, scope):
                        if (run := self._run(folder, entity, experiment.id)) is not None:
                            yield run

    def _run(self, folder: str, entity: Entity, project: str) -> Run | None:
        """The run, or a bare one whose bulk then raises, where a part is damaged."""
        native = entity.stem
        try:
            identity = export_rows.identity(entity)
            if identity is None:
                return None
            native = identity[1]
            found = export_rows.scan(entity, native)
        except (Corrupt, Vanished) as error:
            id = f"{project}/{native}"
            self._known[id] = (folder, entity, native)
            self._broken[id] = error
            return Run(id=id, experiment=project, name=native, status=Status.FINISHED)
        id = f"{project}/{native}"
        self._known[id] = (folder, entity, native)
        self._broken.pop(id, None)
        self._stats[id] = _stats(found)
        run = run_of(found.attributes, id=id, experiment=project, native_id=native)
        summary = {key_of("metrics", key): value for key, (_, value) in found.last.items()}
        run = replace(run, summary=dict(summary))
        if found.densities and run.origin is None:
            told: list[Value] = [*sorted(key_of("histograms", path) for path in found.densities)]
            own = run.extra["neptune"] | {"histogram_densities": told}
            run = replace(run, extra=run.extra | {"neptune": own})
        if entity.scope != "run":
            if entity.scope == "model" and not (run.params or found.lengths or found.texts or found.files):
                return None
            run = replace(run, job_type=entity.scope, status=Status.FINISHED)
            if found.files:
                run = replace(run, artifacts=[ArtifactUse(artifact=f"{id}:files", role="output")])
        elif self.forks == "complete":
            run = replace(run, fork=None)
        return run

    def _entity(self, run: Run) -> tuple[str, Entity, str]:
        """(folder, part files, native id). Raises `Vanished`, or what was wrong with the run when listed."""
        if run.id not in self._known:
            for experiment in self.experiments():
                if run.id.startswith(f"{experiment.id}/"):
                    for _ in self.runs(experiment):
                        if run.id in self._known:
                            break
        if run.id not in self._known:
            raise Vanished(f"the run {run.id} is not in {self.location}", hint="run the command again")
        if run.id in self._broken:
            raise self._broken[run.id]
        return self._known[run.id]

    def points(self, run: Run) -> Iterator[pa.RecordBatch]:
        folder, entity, native = self._entity(run)
        whole = not self.stats(run).fractional_steps
        ancestors = self._ancestors(folder, entity, native)
        if any(self._fractional(parent, parent_id) for parent, parent_id, _ in ancestors):
            whole = False
        for parent, parent_id, until in ancestors:
            yield from lineage.until(
                export_rows.points(parent, parent_id, _Names("metrics"), whole=whole), until
            )
        yield from export_rows.points(entity, native, _Names("metrics"), whole=whole)

    def texts(self, run: Run) -> Iterator[pa.RecordBatch]:
        folder, entity, native = self._entity(run)
        for parent, parent_id, until in self._ancestors(folder, entity, native):
            yield from lineage.until(export_rows.texts(parent, parent_id, _Names("texts")), until)
        yield from export_rows.texts(entity, native, _Names("texts"))

    def histograms(self, run: Run) -> Iterator[pa.RecordBatch]:
        folder, entity, native = self._entity(run)
        for parent, parent_id, until in self._ancestors(folder, entity, native):
            yield from lineage.until(export_rows.histograms(parent, parent_id, _Names("histograms")), until)
        yield from export_rows.histograms(entity, native, _Names("histograms"))

    def _fractional(self, entity: Entity, native: str) -> bool:
        return bool(export_rows.scan(entity, native).fractional)

    def _ancestors(self, folder: str, entity: Entity, native: str) -> list[tuple[Entity, str, float]]:
        """(parent, its id, last inherited step), the eldest first; empty unless forks are to be complete."""
        if self.forks != "complete" or entity.scope != "run":
            return []

        def parent_of(one: tuple[Entity, str]) -> tuple[tuple[Entity, str], str, float] | None:
            fork = run_of(export_rows.scan(*one).attributes, id=one[1], experiment="", native_id=one[1]).fork
            found = self.layout.find(folder, fork.run) if fork else None
            return ((found, fork.run), fork.run, fork.step) if fork and found else None

        return [
            (one[0], name, step) for one, name, step in lineage.chain((entity, native), native, parent_of)
        ]

    def files(self, run: Run) -> Iterator[File]:
        _, entity, native = self._entity(run)
        if entity.scope == "run":
            yield from export_files.files(entity, native)
            if run.origin is not None:
                yield from references(export_rows.scan(entity, native).attributes)

    def artifacts(self, run: Run) -> Iterator[Artifact]:
        native = self._entity(run)[2]
        for use in run.artifacts:
            yield Artifact(
                id=use.artifact, name=native, type="model", created_by=run.id, created_at=run.started_at
            )

    def artifact_files(self, artifact: Artifact) -> Iterator[File]:
        run = Run(id=artifact.id.removesuffix(":files"), experiment="")
        _, entity, native = self._entity(run)
        for file in export_files.files(entity, native):
            yield replace(file, artifact=artifact.id)

    def open(self, run: Run, file: File) -> BinaryIO:
        if file.artifact is not None:
            run = Run(id=file.artifact.removesuffix(":files"), experiment="")
        _, entity, native = self._entity(run)
        if "source" not in file.metadata:
            known = (one for one in export_files.files(entity, native) if one.path == file.path)
            file = next(known, file)
        return export_files.open_file(entity, file)

    def registry(self) -> Iterator[RegisteredModel]:
        for folder in self.layout.projects():
            yield from export_registry.models(self.layout, folder)

    def stats(self, run: Run) -> RunStats:
        if run.id not in self._stats:
            _, entity, native = self._entity(run)
            self._stats.setdefault(run.id, _stats(export_rows.scan(entity, native)))
        return self._stats[run.id]

    def problems(self) -> Iterator[str]:
        """The exporter's own errors, missing, unfinished and damaged parts, missing and colliding files."""
        known: set[str] = set()
        for folder in self.layout.projects():
            known.add(self._project(folder) or folder)
            for scope in _SCOPES:
                for entity in self.layout.entities(folder, scope):
                    yield from entity.problems
                    yield from self._problems_of(folder, entity)
        for project, sentence in self.layout.errors():
            if not project or project in known or not known:
                yield sentence

    def _problems_of(self, folder: str, entity: Entity) -> Iterator[str]:
        name = f"{folder}/{entity.stem}"
        try:
            identity = export_rows.identity(entity)
            if identity is None:
                if entity.parts:
                    yield f"{name}: the export holds no rows of it"
                return
            name = "/".join(identity)
            found = export_rows.scan(entity, identity[1])
            for kind, count in found.unknown.items():
                yield f"{name}: {count} rows of the unknown attribute type {kind!r} are not read"
            run = run_of(found.attributes, id=name, experiment=identity[0], native_id=identity[1])
            if run.fork is not None and not self.layout.find(
                folder, run.fork.run.removeprefix(identity[0] + "/")
            ):
                yield f"{name}: its fork parent {run.fork.run} is not in the export"
            if found.files:
                yield from export_files.problems(entity, identity[1], name)
        except OutgrowError as error:
            yield f"{name}: {error.message}"


class _Names(dict[str, str]):
    """Attribute path → canonical key, made when first asked for."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def get(self, path: str, default: str | None = None) -> str:  # type: ignore[override]
        return key_of(self.kind, path)  # type: ignore[arg-type]


def _stats(found: export_rows.Scan) -> RunStats:
    return RunStats(
        series=len(found.lengths),
        points=sum(found.lengths.values()),
        texts=found.texts,
        histograms=found.histograms,
        files=found.files,
        longest_series=max(found.lengths.values(), default=0),
        fractional_steps=found.fractional,
        nonfinite=found.nonfinite,
    )
