"""Reading the run logs of neptune-scale (3.x): `.neptune/<project>_<run>_<ns>/run_operations.sqlite3`.

Tables and their versions: `neptune_scale/sync/operations_repository.py`; the blobs are the protobuf
messages `Run` and `UpdateRunSnapshot` of neptune-api. `operation_errors` holds pickles: only its
plain columns are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from ...errors import OutgrowError, Vanished
from ...filters import Filter
from ...locations import Location
from ...model import Experiment, File, Run, Status
from .. import batches
from ..base import RunStats, Source, Throughput
from . import lineage
from .local import STAGING
from .records import EXPERIMENT_PATH, key_of, references, run_of
from .scale_replay import Log, Rows, ScaleReplay, metadata_of, replay

NAME = "run_operations.sqlite3"


def log_files(root: Path) -> list[Path]:
    """Every log at or below a folder (or the log itself)."""
    if root.is_file():
        return [root] if root.suffix == ".sqlite3" else []
    found: set[Path] = set()
    for base in (root, root / ".neptune"):
        for pattern in (NAME, f"*/{NAME}", f"*/*/{NAME}"):
            found.update(path for path in base.glob(pattern) if STAGING not in path.parts)
    return sorted(found, key=lambda path: (path.parent.name.rpartition("_")[2], path))


class ScaleLogSource(Source):
    """A run's id is `PROJECT/RUN`; several logs of one run (it was resumed) are one run."""

    throughput = Throughput(path="neptune-scale log (SQLite)", points_per_second=250_000)

    def __init__(self, location: Location, files: list[Path], *, forks: str = "own") -> None:
        self.location = location
        self.forks = forks
        self._files = files
        self._runs: dict[str, tuple[str, str, list[Log]]] | None = None
        self._replays: dict[str, ScaleReplay] = {}
        self._damaged: list[str] = []

    def _logs(self) -> dict[str, tuple[str, str, list[Log]]]:
        """Run id → (experiment, native id, its logs)."""
        if self._runs is None:
            runs: dict[str, tuple[str, str, list[Log]]] = {}
            for path in self._files:
                try:
                    project, native = metadata_of(path)
                except OutgrowError as error:
                    self._damaged.append(f"{path.parent.name}: {error.message}")
                    continue
                runs.setdefault(f"{project}/{native}", (project, native, []))[2].append(Log(path))
            self._runs = runs
        return self._runs

    def _replay(self, id: str) -> ScaleReplay:
        if id not in self._replays:
            if id not in self._logs():
                raise Vanished(f"the run {id} is not in {self.location}", hint="run the command again")
            self._replays[id] = replay(self._logs()[id][2])
        return self._replays[id]

    def _experiment(self, id: str) -> str:
        project = self._logs()[id][0]
        try:
            told = self._replay(id).attributes.get(EXPERIMENT_PATH)
        except OutgrowError:
            return project  # the run is listed, and fails when it is read
        return str(told.value) if told is not None else project

    def experiments(self) -> Iterator[Experiment]:
        for name in dict.fromkeys(self._experiment(id) for id in self._logs()):
            yield Experiment(id=name, name=name)

    def runs(self, experiment: Experiment, where: Filter | None = None) -> Iterator[Run]:
        for id, (_, native, _) in self._logs().items():
            if self._experiment(id) != experiment.id:
                continue
            try:
                found = self._replay(id)
            except OutgrowError:
                yield Run(id=id, experiment=experiment.id, name=native, status=Status.FINISHED)
                continue
            run = run_of(found.attributes, id=id, experiment=experiment.id, native_id=native)
            summary = {key_of("metrics", path): value for path, (_, value) in found.last.items()}
            run = replace(run, summary=dict(summary))
            if run.fork is not None and run.origin is None and self.forks == "complete":
                run = replace(run, fork=None)
            yield run

    def _rows(self, run: Run, kind: str) -> Iterator[tuple[Rows, float]]:
        """The run's rows of one kind; with complete forks, its ancestors' first, up to their last step."""
        found = self._replay(run.id)

        def parent_of(id: str) -> tuple[str, str, float] | None:
            fork = self._replay(id).fork
            project = self._logs()[id][0]
            if self.forks != "complete" or fork is None or f"{project}/{fork[0]}" not in self._logs():
                return None
            return f"{project}/{fork[0]}", f"{project}/{fork[0]}", fork[1]

        for id, _, until in lineage.chain(run.id, run.id, parent_of):
            for log in self._logs()[id][2]:
                for rows in log.rows(kind):
                    yield rows, until
        del found
        for log in self._logs()[run.id][2]:
            for rows in log.rows(kind):
                yield rows, float("inf")

    def points(self, run: Run) -> Iterator[pa.RecordBatch]:
        whole = not self._replay(run.id).fractional and self.forks != "complete"
        kind = pa.int64() if whole else pa.float64()
        for rows, until in self._rows(run, "float64"):
            steps = [None if s is None else s // 1_000_000 if whole else s / 1e6 for s in rows.steps]
            batch = pa.record_batch(
                [*_head("metrics", rows), pa.array(rows.values, pa.float64())],
                schema=batches.POINTS_FLOAT_STEPS,
            ) if not whole else pa.record_batch(
                [_head("metrics", rows)[0], pa.array(steps, kind), _head("metrics", rows)[2],
                 pa.array(rows.values, pa.float64())],
                schema=batches.POINTS,
            )  # fmt: skip
            yield from lineage.until([batch], until)

    def texts(self, run: Run) -> Iterator[pa.RecordBatch]:
        for rows, until in self._rows(run, "string"):
            columns = [*_head("texts", rows), pa.array(rows.values, pa.large_string())]
            yield from lineage.until([pa.record_batch(columns, schema=batches.TEXTS)], until)

    def histograms(self, run: Run) -> Iterator[pa.RecordBatch]:
        for rows, until in self._rows(run, "histogram"):
            edges = pa.array([list(h.bin_edges) for h in rows.values], pa.list_(pa.float64()))
            counts = pa.array([_counts(h) for h in rows.values], pa.list_(pa.float64()))
            columns = [*_head("histograms", rows), edges, counts]
            yield from lineage.until([pa.record_batch(columns, schema=batches.HISTOGRAMS)], until)

    def files(self, run: Run) -> Iterator[File]:
        found = self._replay(run.id)
        for file, local in found.files:
            if local is not None and local.is_file():
                yield file
        yield from references(found.attributes)

    def open(self, run: Run, file: File) -> BinaryIO:
        for known, local in self._replay(run.id).files:
            if known.path == file.path and local is not None:
                try:
                    return local.open("rb")
                except OSError as error:
                    raise Vanished(f"{file.path} cannot be read: {error.strerror}") from error
        raise Vanished(f"the log does not hold {file.path}", hint="it was uploaded, moved or deleted")

    def stats(self, run: Run) -> RunStats:
        found = self._replay(run.id)
        return RunStats(
            series=len(found.lengths),
            points=sum(found.lengths.values()),
            texts=found.texts,
            histograms=found.histograms,
            files=len(found.files),
            longest_series=max(found.lengths.values(), default=0),
            fractional_steps=found.fractional,
            nonfinite=found.nonfinite,
        )

    def problems(self) -> Iterator[str]:
        """Damaged logs, operations that were uploaded and removed, errors of the server, files that are gone."""
        for id in self._logs():
            try:
                found = self._replay(id)
            except OutgrowError as error:
                yield f"{id}: {error.message}"
                continue
            for sentence in found.problems:
                yield f"{id}: {sentence}"
            for file, local in found.files:
                if local is None or not local.is_file():
                    yield f"{id}: the file of {file.path} is gone from this machine (perhaps it was uploaded)"
        yield from self._damaged


def _head(kind: Any, rows: Rows) -> list[pa.Array]:
    names = {word: key_of(kind, word) for word in set(rows.paths)}
    return [
        pa.array([names[path] for path in rows.paths], pa.string()).dictionary_encode(),
        pa.array([None if step is None else step / 1e6 for step in rows.steps], pa.float64()),
        pa.array(rows.times, batches.TIME),
    ]


def _counts(histogram: Any) -> list[float]:
    kind = histogram.WhichOneof("values")
    return [float(value) for value in getattr(histogram, kind).values] if kind else []
