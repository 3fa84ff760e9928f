"""Reading a project of a Comet server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from ...errors import Vanished
from ...filters import Filter
from ...locations import Location
from ...model import Artifact, Experiment, Extra, File, RegisteredModel, Run
from ..base import RunStats, Source, Throughput
from .api import Api
from .artifacts import Artifacts
from .assets import Asset, files_of, own
from .location import Project
from .records import KEEPER, PLATFORM, Native, run_of
from .registry import models_of
from .remote import Remote, ahead


class CloudSource(Source):
    """Through the REST API, experiments and metrics in parallel; archived experiments are deleted runs."""

    throughput = Throughput(path="REST API", points_per_second=10_000, files_per_second=20, runs_per_second=5)

    def __init__(self, location: Location, project: Project) -> None:
        self.location, self.project = location, project
        self.remote = Remote(Api())
        self._artifacts = Artifacts(self.remote, project)
        self._lock = threading.Lock()
        self._opened: tuple[str, dict[str, Asset]] | None = None

    def close(self) -> None:
        self.remote.close()

    def experiments(self) -> Iterator[Experiment]:
        for found in self.remote.projects(self.project.workspace):
            if found.get("projectName") == self.project.name:
                extra: Extra = {PLATFORM: {"workspace": self.project.workspace}}
                yield Experiment(
                    id=self.project.id,
                    name=self.project.name,
                    description=found.get("projectDescription") or None,
                    extra=extra,
                )

    def runs(self, experiment: Experiment, where: Filter | None = None) -> Iterator[Run]:
        def one(listed: dict[str, Any]) -> Native | None:
            try:
                return self.remote.native(listed)
            except Vanished:  # deleted since it was listed
                return None

        for native in ahead(self.remote.pool, one, self.remote.listing(self.project)):
            if native is not None and KEEPER not in native.others:
                native.uses = self._artifacts.uses(native.key)
                yield run_of(native)

    def points(self, run: Run) -> Iterator[pa.RecordBatch]:
        for _, batch in self.remote.series(run.id):
            if batch.num_rows:
                yield batch

    def texts(self, run: Run) -> Iterator[pa.RecordBatch]:
        yield from self.remote.texts(run.id)

    def _files(self, run_id: str) -> Iterator[tuple[File, Asset]]:
        yield from files_of(asset for asset in self.remote.assets(run_id) if not own(asset))

    def files(self, run: Run) -> Iterator[File]:
        for file, _ in self._files(run.id):
            yield file

    def artifacts(self, run: Run) -> Iterator[Artifact]:
        for use in run.artifacts:
            yield self._artifacts.artifact(use.artifact)

    def artifact_files(self, artifact: Artifact) -> Iterator[File]:
        yield from self._artifacts.files(artifact.id)

    def open(self, run: Run, file: File) -> BinaryIO:
        if file.artifact is not None:
            return self._artifacts.open(file)
        with self._lock:
            if self._opened is None or self._opened[0] != run.id or file.path not in self._opened[1]:
                self._opened = run.id, {known.path: asset for known, asset in self._files(run.id)}
            asset = self._opened[1].get(file.path)
        if asset is None:
            raise Vanished(f"{file.path!r} is no longer among the assets of {run.id}")
        return self.remote.bytes(run.id, asset.id)

    def registry(self) -> Iterator[RegisteredModel]:
        yield from models_of(self.remote, self.project.workspace)

    def stats(self, run: Run) -> RunStats:
        assets = [asset for _, asset in self._files(run.id)]
        return RunStats(
            series=len(run.summary), files=len(assets), file_bytes=sum(asset.size or 0 for asset in assets)
        )
