"""Reading a server of the 3.x API (an installation of one's own) through `neptune-query`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from ...errors import Vanished
from ...filters import Filter
from ...locations import Location
from ...model import Experiment, File, Run
from .. import batches
from ..base import RunStats, Source, Throughput
from .places import Place, Server
from .records import EXPERIMENT_PATH, SCALARS, Attribute, Attributes, Kind, key_of, references, run_of
from .vendor3 import Reader


@dataclass(frozen=True, slots=True)
class _Held:
    """What is known of one run without its bulk."""

    sys_id: str
    attributes: Attributes = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    series: dict[str, list[str]] = field(default_factory=dict)
    """Type, in the exporter's words → paths."""
    last: dict[str, float] = field(default_factory=dict)


class ServerSource3(Source):
    """A run's id is `PROJECT/RUN`, with the id that its user gave it (`sys/custom_run_id`)."""

    throughput = Throughput(path="Neptune 3.x API", points_per_second=100_000, runs_per_second=10)

    def __init__(self, location: Location, place: Place, server: Server) -> None:
        assert place.project is not None
        self.location = location
        self.project = place.project
        self.inherited = place.forks == "complete"
        self.reader = Reader(server, place.project)
        self._short: dict[str, str] = {}
        self._held: dict[str, _Held] = {}
        self._scratch = Path(tempfile.mkdtemp(prefix="outgrow-neptune-"))

    def close(self) -> None:
        self.reader.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _listed(self) -> Iterator[tuple[str, str]]:
        """(native id, experiment) of every run."""
        for native, sys_id, found in self.reader.entries(EXPERIMENT_PATH):
            self._short[native] = sys_id
            yield native, str(found.get(EXPERIMENT_PATH, self.project))

    def experiments(self) -> Iterator[Experiment]:
        """The project, and the experiments that copies in it were made from."""
        for name in dict.fromkeys([self.project, *(experiment for _, experiment in self._listed())]):
            yield Experiment(id=name, name=name)

    def runs(self, experiment: Experiment, where: Filter | None = None) -> Iterator[Run]:
        for native, of in self._listed():
            if of != experiment.id:
                continue
            id = f"{self.project}/{native}"
            held = self._held[id] = self._load(self._short[native])
            run = run_of(held.attributes, id=id, experiment=of, native_id=native)
            summary = {key_of("metrics", path): value for path, value in held.last.items()}
            run = replace(run, summary=dict(summary))
            if self.inherited and run.origin is None:
                run = replace(run, fork=None)
            yield run

    def _load(self, sys_id: str) -> _Held:
        held = _Held(sys_id)
        for path, type_, value in self.reader.attributes(sys_id):
            if type_ in SCALARS:
                held.attributes[path] = Attribute(type_, sorted(value) if type_ == "string_set" else value)
            elif type_ == "file":
                held.files[path] = value
            else:
                held.series.setdefault(type_, []).append(path)
                if type_ == "float_series":
                    held.last[path] = float(value.last)
        return held

    def _of(self, run: Run) -> _Held:
        if run.id not in self._held:
            native = run.id.removeprefix(f"{self.project}/")
            if native not in self._short:
                for _ in self._listed():
                    pass
            if native not in self._short:
                raise Vanished(f"the run {run.id} is not in {self.location}", hint="run the command again")
            self._held[run.id] = self._load(self._short[native])
        return self._held[run.id]

    def points(self, run: Run) -> Iterator[pa.RecordBatch]:
        held = self._of(run)
        paths = held.series.get("float_series", [])
        for path, points in self.reader.floats(held.sys_id, paths, self.inherited):
            values = pa.array(np.fromiter((p.value for p in points), np.float64, len(points)))
            yield pa.record_batch(
                [*_head("metrics", path, points), values], schema=batches.POINTS_FLOAT_STEPS
            )

    def _objects(self, run: Run, type_: str) -> Iterator[tuple[str, Any]]:
        held = self._of(run)
        return self.reader.objects(held.sys_id, held.series.get(type_, []), self.inherited)

    def texts(self, run: Run) -> Iterator[pa.RecordBatch]:
        for path, values in self._objects(run, "string_series"):
            texts = pa.array([v.object.stringValue for v in values], pa.large_string())
            yield pa.record_batch([*_head("texts", path, values), texts], schema=batches.TEXTS)

    def histograms(self, run: Run) -> Iterator[pa.RecordBatch]:
        for path, values in self._objects(run, "histogram_series"):
            columns = [
                *_head("histograms", path, values),
                pa.array([list(v.object.histogram.edges) for v in values], pa.list_(pa.float64())),
                pa.array([list(v.object.histogram.values) for v in values], pa.list_(pa.float64())),
            ]
            yield pa.record_batch(columns, schema=batches.HISTOGRAMS)

    def files(self, run: Run) -> Iterator[File]:
        held = self._of(run)
        for path, stored in held.files.items():
            key, suffix = key_of("files", path), PurePosixPath(stored.path).suffix
            yield File(
                path=key if key.endswith(suffix) else key + suffix,
                size=int(stored.size_bytes),
                media_type=stored.mime_type or None,
                metadata={"attribute": path, "stored": stored.path},
            )
        for path, values in self._objects(run, "file_series"):
            key = key_of("files", path)
            for value in values:
                stored, step = value.object.fileRef, value.step
                number = int(step) if step.is_integer() else step
                yield File(
                    path=f"{key}/{number}{PurePosixPath(stored.path).suffix}",
                    size=int(stored.sizeBytes),
                    media_type=stored.mimeType or None,
                    key=key,
                    step=step,
                    metadata={"attribute": path, "stored": stored.path},
                )
        yield from references(held.attributes)

    def open(self, run: Run, file: File) -> BinaryIO:
        stored = file.metadata.get("stored")
        if stored is None:
            found = (f.metadata.get("stored") for f in self.files(run) if f.path == file.path)
            stored = next(found, None)
        if stored is None:
            raise Vanished(f"{file.path} of {run.id} is not on the server")
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            target = Path(folder) / "file"
            self.reader.download(str(stored), target)
            return target.open("rb")  # stays readable when its folder goes

    def stats(self, run: Run) -> RunStats:
        series = self._of(run).series
        return RunStats(
            series=len(series.get("float_series", ())),
            points=None if "float_series" in series else 0,
            texts=None if "string_series" in series else 0,
            histograms=None if "histogram_series" in series else 0,
            files=None if "file_series" in series else len(self._of(run).files),
        )


def _head(kind: Kind, path: str, values: Any) -> list[pa.Array]:
    count = len(values)
    times = np.fromiter((v.timestamp_millis for v in values), np.int64, count) * 1_000
    key = pa.array([key_of(kind, path)], pa.string())
    return [
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), key),
        pa.array(np.fromiter((v.step for v in values), np.float64, count)),
        pa.array(times).cast(batches.TIME),
    ]
