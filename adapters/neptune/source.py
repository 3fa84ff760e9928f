"""A folder of Neptune data of any kind, and the kinds behind it, as one source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from ...errors import LocationError, Vanished
from ...filters import Filter
from ...locations import Location
from ...model import Artifact, Experiment, File, RegisteredModel, Run
from ..base import RunStats, Source
from .export_layout import Layout
from .exports import ExportSource
from .places import Place


def folder_source(location: Location, place: Place) -> Source:
    """The source of whatever kinds of Neptune data the folder holds. Raises `LocationError` for none."""
    from .queues import QueueSource, queue_folders
    from .scale_logs import ScaleLogSource, log_files

    root = place.path
    assert root is not None
    found: list[Source] = []
    if root.is_dir() and Layout.recognises(root):
        found.append(ExportSource(location, root, forks=place.forks, files=place.files))
    if logs := log_files(root):
        found.append(ScaleLogSource(location, logs, forks=place.forks))
    if folders := queue_folders(root):
        found.append(QueueSource(location, folders, place.project))
    if not found:
        raise LocationError(
            f"{root} holds no Neptune data that is known",
            hint="known: an exporter's folder (data/, files/, model_data/), a .neptune folder with offline "
            "or async runs, run_operations.sqlite3 logs of neptune-scale",
        )
    return found[0] if len(found) == 1 else FolderSource(location, found)


class FolderSource(Source):
    """Several kinds of data in one folder. A run that two kinds know is read from the first of them."""

    def __init__(self, location: Location, sources: list[Source]) -> None:
        self.location = location
        self.sources = sources
        self.throughput = min((s.throughput for s in sources), key=lambda t: t.points_per_second)
        self._owners: dict[str, Source] = {}
        self._doubled: set[str] = set()

    def experiments(self) -> Iterator[Experiment]:
        seen: set[str] = set()
        for source in self.sources:
            for experiment in source.experiments():
                if experiment.id not in seen:
                    seen.add(experiment.id)
                    yield experiment

    def runs(self, experiment: Experiment, where: Filter | None = None) -> Iterator[Run]:
        for source in self.sources:
            for run in source.runs(experiment, where):
                if self._owners.setdefault(run.id, source) is source:
                    yield run
                else:
                    self._doubled.add(run.id)

    def _owner(self, id: str) -> Source:
        if id not in self._owners:
            for experiment in self.experiments():
                for _ in self.runs(experiment):
                    pass
        try:
            return self._owners[id]
        except KeyError:
            raise Vanished(f"the run {id} is not in {self.location}", hint="run the command again") from None

    def points(self, run: Run) -> Iterator[pa.RecordBatch]:
        return self._owner(run.id).points(run)

    def texts(self, run: Run) -> Iterator[pa.RecordBatch]:
        return self._owner(run.id).texts(run)

    def histograms(self, run: Run) -> Iterator[pa.RecordBatch]:
        return self._owner(run.id).histograms(run)

    def files(self, run: Run) -> Iterator[File]:
        return self._owner(run.id).files(run)

    def artifacts(self, run: Run) -> Iterator[Artifact]:
        return self._owner(run.id).artifacts(run)

    def artifact_files(self, artifact: Artifact) -> Iterator[File]:
        return self._owner(artifact.created_by or artifact.id).artifact_files(artifact)

    def open(self, run: Run, file: File) -> BinaryIO:
        return self._owner(run.id).open(run, file)

    def registry(self) -> Iterator[RegisteredModel]:
        for source in self.sources:
            yield from source.registry()

    def stats(self, run: Run) -> RunStats:
        return self._owner(run.id).stats(run)

    def problems(self) -> Iterator[str]:
        for source in self.sources:
            yield from source.problems()
        for experiment in self.experiments():
            for _ in self.runs(experiment):
                pass
        for id in sorted(self._doubled):
            yield f"{id} is both exported and in a local log; the export is read, the log is not"

    def close(self) -> None:
        for source in self.sources:
            source.close()
