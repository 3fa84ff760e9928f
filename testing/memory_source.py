"""The reading side of `outgrow.testing.memory`, and the faults that both sides raise on demand."""

from __future__ import annotations

import fnmatch
import io
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Self

import pyarrow as pa

from ..adapters.base import RunStats, Source, Throughput
from ..errors import Vanished
from ..filters import EVERY_PART, Filter, Parts
from ..locations import Location
from ..model import (
    Artifact,
    EvaluationDataset,
    Experiment,
    File,
    RegisteredModel,
    Run,
    Trace,
)

Bulk = Sequence[pa.RecordBatch] | Callable[[], Iterable[pa.RecordBatch]]
"""Batches, or what makes them each time they are asked for."""


class Faults:
    """Counts calls by name, and does something at chosen ones. Safe to share between threads.

    Names are those of the methods (`points`, `open`…), a writer's with `writer.` before them, and
    `read` for each read of an opened file. An iterator's calls are counted per item.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._plans: list[list[object]] = []
        self._lock = threading.Lock()

    def at(self, name: str, nth: int, fault: BaseException | Callable[[], object], *, times: int = 1) -> Self:
        """At the `nth` call (from 1) whose name matches the glob `name`, and `times - 1` more: raise or call."""
        self._plans.append([name, nth, times, fault])
        return self

    def clear(self) -> None:
        """Forget the faults and the counts."""
        with self._lock:
            self._plans.clear()
            self.calls.clear()

    def __call__(self, name: str) -> None:
        due: object = None
        with self._lock:
            self.calls[name] += 1
            for plan in self._plans:
                pattern, nth, times, fault = plan
                assert isinstance(nth, int)
                assert isinstance(times, int)
                if times and fnmatch.fnmatchcase(name, str(pattern)):
                    if nth > 1:
                        plan[1] = nth - 1
                    else:
                        plan[2] = times - 1
                        due = fault
        if isinstance(due, BaseException):
            raise due
        if callable(due):
            due()


class FaultyStream(io.BytesIO):
    """Bytes whose every read is counted as `read`."""

    def __init__(self, data: bytes, faults: Faults) -> None:
        super().__init__(data)
        self._faults = faults

    def read(self, size: int | None = -1, /) -> bytes:
        self._faults("read")
        return super().read(size)


@dataclass(slots=True)
class RunData:
    """One run with its bulk. A file's bytes are None where it is only a reference."""

    run: Run
    points: Bulk = ()
    texts: Bulk = ()
    histograms: Bulk = ()
    files: list[tuple[File, bytes | None]] = field(default_factory=list)


@dataclass(slots=True)
class ArtifactData:
    """One artifact version with its files."""

    artifact: Artifact
    files: list[tuple[File, bytes | None]] = field(default_factory=list)


def batches_of(bulk: Bulk) -> Iterator[pa.RecordBatch]:
    yield from bulk() if callable(bulk) else bulk


def without_duplicates(held: Iterable[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """The batches with only the first of identical rows, as a platform keeps them whose rows are a set."""
    seen: set[tuple[object, ...]] = set()
    result = []
    for batch in held:
        keep = []
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            # A NaN differs from itself: its text does not.
            slot = tuple(str(value) if value != value else value for value in row)
            keep.append(slot not in seen)
            seen.add(slot)
        result.append(batch.filter(pa.array(keep)))
    return result


class MemorySource(Source):
    """A source over plain records and batches. Its dictionaries may be changed by a test at any time."""

    throughput = Throughput(path="memory", points_per_second=10e6)

    def __init__(
        self,
        experiments: Iterable[Experiment] = (),
        runs: Iterable[RunData] = (),
        artifacts: Iterable[ArtifactData] = (),
        *,
        registry: Iterable[RegisteredModel] = (),
        traces: Iterable[Trace] = (),
        evaluation_datasets: Iterable[EvaluationDataset] = (),
        problems: Iterable[str] = (),
        platform: str = "memory",
        name: str = "test",
        faults: Faults | None = None,
    ) -> None:
        self.location = Location(platform, name)
        self.by_experiment = {e.id: e for e in experiments}
        self.by_run = {r.run.id: r for r in runs}
        self.by_artifact = {a.artifact.id: a for a in artifacts}
        self.models = list(registry)
        self.all_traces = list(traces)
        self.datasets = list(evaluation_datasets)
        self.known_problems = list(problems)
        self.faults = faults or Faults()

    def _of(self, run: Run) -> RunData:
        if run.id not in self.by_run:
            raise Vanished(f"run {run.id!r} is no longer in {self.location}", hint="plan again")
        return self.by_run[run.id]

    def experiments(self) -> Iterator[Experiment]:
        for experiment in list(self.by_experiment.values()):
            self.faults("experiments")
            yield experiment

    def runs(self, experiment: Experiment, where: Filter | None = None) -> Iterator[Run]:
        for data in list(self.by_run.values()):
            run = data.run
            if run.experiment == experiment.id and (where is None or where(run, experiment.name)):
                self.faults("runs")
                yield run

    def listed(self, experiment: Experiment, where: Filter | None, parts: Parts) -> Iterator[Run]:
        """No more of a run than `parts`, so that who looks at more is found out."""
        for run in self.runs(experiment):
            if parts == EVERY_PART or (run.origin and run.origin.recorded):
                yield run
            elif where is None or where(run, experiment.name):
                yield Run(**({"deleted": run.deleted, "origin": run.origin} | parts.of(run)))

    def points(self, run: Run) -> Iterator[pa.RecordBatch]:
        for batch in batches_of(self._of(run).points):
            self.faults("points")
            yield batch

    def texts(self, run: Run) -> Iterator[pa.RecordBatch]:
        for batch in batches_of(self._of(run).texts):
            self.faults("texts")
            yield batch

    def histograms(self, run: Run) -> Iterator[pa.RecordBatch]:
        for batch in batches_of(self._of(run).histograms):
            self.faults("histograms")
            yield batch

    def files(self, run: Run) -> Iterator[File]:
        for file, _ in list(self._of(run).files):
            self.faults("files")
            yield file

    def artifacts(self, run: Run) -> Iterator[Artifact]:
        self._of(run)
        for use in run.artifacts:
            self.faults("artifacts")
            yield self._artifact(use.artifact).artifact

    def _artifact(self, artifact_id: str) -> ArtifactData:
        if artifact_id not in self.by_artifact:
            raise Vanished(f"artifact {artifact_id!r} is no longer in {self.location}", hint="plan again")
        return self.by_artifact[artifact_id]

    def artifact_files(self, artifact: Artifact) -> Iterator[File]:
        for file, _ in list(self._artifact(artifact.id).files):
            self.faults("artifact_files")
            yield replace(file, artifact=artifact.id)

    def open(self, run: Run, file: File) -> BinaryIO:
        self.faults("open")
        held = self._of(run).files if file.artifact is None else self._artifact(file.artifact).files
        for known, data in held:
            if known.path == file.path and data is not None:
                return FaultyStream(data, self.faults)
        raise Vanished(f"file {file.path!r} of run {run.id!r} is no longer in {self.location}")

    def registry(self) -> Iterator[RegisteredModel]:
        for model in list(self.models):
            self.faults("registry")
            yield model

    def traces(self, experiment: Experiment) -> Iterator[Trace]:
        for trace in list(self.all_traces):
            if trace.experiment == experiment.id:
                self.faults("traces")
                yield trace

    def evaluation_datasets(self) -> Iterator[EvaluationDataset]:
        for dataset in list(self.datasets):
            self.faults("evaluation_datasets")
            yield dataset

    def stats(self, run: Run) -> RunStats:
        data = self._of(run)
        sizes = [len(content) for _, content in data.files if content is not None]
        if callable(data.points):
            return RunStats(files=len(data.files), file_bytes=sum(sizes))
        lengths: Counter[str] = Counter()
        for batch in data.points:
            for pair in batch.column("key").value_counts().to_pylist():
                lengths[str(pair["values"])] += pair["counts"]
        return RunStats(
            series=len(lengths),
            points=lengths.total(),
            texts=None if callable(data.texts) else sum(b.num_rows for b in data.texts),
            histograms=None if callable(data.histograms) else sum(b.num_rows for b in data.histograms),
            files=len(data.files),
            file_bytes=sum(sizes),
            longest_series=max(lengths.values(), default=0),
        )

    def problems(self) -> Iterable[str]:
        return list(self.known_problems)
