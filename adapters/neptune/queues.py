"""Reading the local queues of the 2.x client: `.neptune/offline` and `.neptune/async`.

A queue names no project: it is `outgrow.project`, `NEPTUNE_PROJECT`, or `offline`. A run's id is
`PROJECT/CONTAINER`. Nothing here is ever opened with the vendor's client.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from ...errors import OutgrowError, Vanished
from ...filters import Filter
from ...locations import Location
from ...model import Experiment, File, Run, Status
from .. import batches
from ..base import RunStats, Source, Throughput
from . import local, queue_files
from .queue_lines import Columns, Line, Steps, columns, lines
from .queue_replay import Replay, replay
from .records import EXPERIMENT_PATH, key_of, references, run_of

NO_PROJECT = "offline"


@dataclass(frozen=True, slots=True)
class Container:
    """The queues of one run, in the order in which they were begun (a resumed run has several)."""

    kind: str
    id: str
    folders: tuple[Path, ...]


def queue_folders(root: Path) -> list[Container]:
    """Every queue at or below a folder, by the container that it belongs to."""
    if not root.is_dir():
        return []
    found: set[Path] = set()
    for base in (root, root / ".neptune"):
        for depth in ("", "*/", "*/*/", "*/*/*/"):
            found.update(
                path.parent
                for path in base.glob(depth + "data-*.log")
                if not {"upload_path", local.STAGING}.intersection(path.relative_to(base).parts)
            )
    grouped: dict[tuple[str, str], list[Path]] = {}
    for folder in sorted(found, key=_begun):
        name = folder.parent.name if folder.name.startswith("exec-") else folder.name
        parts = name.split("__")
        kind, id = (parts[0], parts[1]) if len(parts) > 1 else ("run", name)
        grouped.setdefault((kind, id), []).append(folder)
    return [Container(kind, id, tuple(folders)) for (kind, id), folders in sorted(grouped.items())]


def _begun(folder: Path) -> tuple[float, str]:
    try:
        return folder.stat().st_mtime, folder.name
    except FileNotFoundError:  # a copy that was replaced since it was listed
        return 0.0, folder.name


@dataclass(slots=True)
class _Known:
    container: Container
    found: Replay
    broken: OutgrowError | None = None
    problems: list[str] = field(default_factory=list)


class QueueSource(Source):
    throughput = Throughput(path="Neptune 2.x queue (JSON lines)", points_per_second=500_000)

    def __init__(self, location: Location, containers: list[Container], project: str | None) -> None:
        self.location = location
        self._project = project or NO_PROJECT
        self._containers = containers
        self._known: dict[str, _Known] = {}

    def _all(self) -> Iterator[tuple[str, _Known]]:
        for container in self._containers:
            yield self._load(container)

    def _load(self, container: Container) -> tuple[str, _Known]:
        for id, known in self._known.items():
            if known.container == container:
                return id, known
        try:
            known = _Known(container, replay(container.folders))
        except OutgrowError as error:
            known = _Known(container, Replay(), broken=error)
        id = f"{self._experiment(known)}/{container.id}"
        return id, self._known.setdefault(id, known)

    def _experiment(self, known: _Known) -> str:
        told = known.found.attributes.get(EXPERIMENT_PATH)
        return str(told.value) if told is not None else self._project

    def experiments(self) -> Iterator[Experiment]:
        for name in dict.fromkeys(self._experiment(known) for _, known in self._all()):
            yield Experiment(id=name, name=name)

    def runs(self, experiment: Experiment, where: Filter | None = None) -> Iterator[Run]:
        for id, known in self._all():
            if self._experiment(known) == experiment.id:
                yield self._run(id, known, experiment.id)

    def _run(self, id: str, known: _Known, experiment: str) -> Run:
        container, found = known.container, known.found
        if known.broken is not None:
            return Run(id=id, experiment=experiment, name=container.id, status=Status.FINISHED)
        run = run_of(found.attributes, id=id, experiment=experiment, native_id=container.id)
        summary = {key_of("metrics", path): value for path, (_, value) in found.last.items()}
        run = replace(run, summary=dict(summary))
        if run.origin is None and found.configs:
            native = run.extra["neptune"] | {"series": dict(found.configs)}
            run = replace(run, extra=run.extra | {"neptune": native})
        return run if container.kind == "run" else replace(run, job_type=container.kind)

    def _of(self, run: Run) -> _Known:
        if run.id not in self._known:
            for _ in self._all():
                pass
        known = self._known.get(run.id)
        if known is None:
            raise Vanished(f"the run {run.id} is not in {self.location}", hint="run the command again")
        if known.broken is not None:
            raise known.broken
        return known

    def points(self, run: Run) -> Iterator[pa.RecordBatch]:
        known = self._of(run)
        whole = not known.found.fractional
        for part, steps in _columns(known, "LogFloats"):
            names = [key_of("metrics", word) for word in part.key.dictionary.to_pylist()]
            yield pa.record_batch(
                [
                    pa.DictionaryArray.from_arrays(part.key.indices, pa.array(names, pa.string())),
                    pa.array(steps.astype(np.int64) if whole else steps),
                    pa.array(part.time).cast(batches.TIME),
                    part.value.fill_null(float("nan")),
                ],
                schema=batches.POINTS if whole else batches.POINTS_FLOAT_STEPS,
            )

    def texts(self, run: Run) -> Iterator[pa.RecordBatch]:
        for part, steps in _columns(self._of(run), "LogStrings"):
            names = [key_of("texts", word) for word in part.key.dictionary.to_pylist()]
            yield pa.record_batch(
                [
                    pa.DictionaryArray.from_arrays(part.key.indices, pa.array(names, pa.string())),
                    pa.array(steps),
                    pa.array(part.time).cast(batches.TIME),
                    part.value.fill_null("").cast(pa.large_string()),
                ],
                schema=batches.TEXTS,
            )

    def files(self, run: Run) -> Iterator[File]:
        found = self._of(run).found
        for file, _ in queue_files.files(found):
            yield file
        yield from references(found.attributes)

    def open(self, run: Run, file: File) -> BinaryIO:
        return queue_files.open_file(self._of(run).found, file)

    def stats(self, run: Run) -> RunStats:
        found = self._of(run).found
        return RunStats(
            series=len(found.lengths),
            points=sum(found.lengths.values()),
            texts=found.texts,
            histograms=0,
            files=sum(1 for _ in queue_files.files(found)),
            longest_series=max(found.lengths.values(), default=0),
            fractional_steps=found.fractional,
            nonfinite=found.nonfinite,
        )

    def problems(self) -> Iterator[str]:
        """Damaged queues, operations that were uploaded and removed, files that are gone."""
        for id, known in self._all():
            if known.broken is not None:
                yield f"{id}: {known.broken.message}"
            for sentence in known.found.problems:
                yield f"{id}: {sentence}"
            for sentence in queue_files.problems(known.found):
                yield f"{id}: {sentence}"


def _columns(
    known: _Known, kind: str
) -> Iterator[tuple[Columns, np.ndarray[tuple[int], np.dtype[np.float64]]]]:
    """Rows that a later clear or delete did not take away, with every step numbered."""

    def wanted(folder: Path) -> Iterator[Line]:
        return (line for line in lines(folder) if line.kind == kind and known.found.keeps(folder, line))

    numbering = Steps()
    for folder in known.container.folders:
        for part in columns(wanted(folder), kind):
            if len(part.key):
                yield part, numbering.filled(part.key, part.step)
