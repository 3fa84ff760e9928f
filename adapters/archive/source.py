"""Reading an archive. Nothing is written to it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

import pyarrow as pa

from ...errors import Corrupt, Vanished
from ...filters import Filter, Parts
from ...locations import Location
from ...model import (
    Artifact,
    EvaluationDataset,
    Experiment,
    File,
    RegisteredModel,
    Run,
    Trace,
)
from ..base import RunStats, Source, Throughput
from .bulk import read_pieces
from .index import Index, RunPlace
from .manifest import check_root
from .records import load, without_ours
from .storage import Storage, storage


def blob_name(sha256: str) -> str:
    return f"files/{sha256[:2]}/{sha256}"


class CheckedStream(io.RawIOBase):
    """A stored file whose SHA-256 is compared when its end is reached. Raises `Corrupt` there."""

    def __init__(self, stream: BinaryIO, sha256: str, where: str) -> None:
        self._stream, self._expected, self._where = stream, sha256, where
        self._sha = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        if data:
            self._sha.update(data)
        elif len(buffer) and self._sha.hexdigest() != self._expected:
            raise Corrupt(
                f"{self._where} is damaged: its SHA-256 is not its name", hint="restore it from a backup"
            )
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


class ArchiveSource(Source):
    """A view of an archive; `experiments` and `registry` take in what was committed since."""

    throughput = Throughput(
        path="Parquet", points_per_second=10e6, files_per_second=2_000, bytes_per_second=400e6,
        runs_per_second=5_000,
    )  # fmt: skip

    def __init__(self, location: Location, store: Storage | None = None) -> None:
        self.location = location
        self._storage = store or storage(location)
        check_root(self._storage)
        self._index = Index(self._storage)
        self._index.refresh()

    def experiments(self) -> Iterator[Experiment]:
        self._index.refresh()
        for experiment in self._index.latest("experiments", ("id",), Experiment, first=True).values():
            yield without_ours(experiment)

    def runs(self, experiment: Experiment, where: Filter | None = None) -> Iterator[Run]:
        for record in self._index.run_records(experiment.id, where.ids if where else None):
            run = load(record, Run, f"a run of {self.location}")
            if where is None or where(run, experiment.name):
                yield run

    def listed(self, experiment: Experiment, where: Filter | None, parts: Parts) -> Iterator[Run]:
        for record in self._index.run_records(experiment.id, where.ids if where else None):
            run = load(record, Run, f"a run of {self.location}")
            if where is None or (run.origin and run.origin.recorded) or where(run, experiment.name):
                yield run

    def _place(self, run: Run) -> RunPlace:
        if run.id not in self._index.runs:
            raise Vanished(f"run {run.id!r} is not in {self.location}", hint="list its runs again")
        return self._index.runs[run.id]

    def _bulk(self, run: Run, table: str) -> Iterator[pa.RecordBatch]:
        self._place(run)
        pieces = self._index.pieces(run.id)
        return read_pieces(self._index.reader, self._index.parts, pieces, table)

    def points(self, run: Run) -> Iterator[pa.RecordBatch]:
        return self._bulk(run, "points")

    def texts(self, run: Run) -> Iterator[pa.RecordBatch]:
        return self._bulk(run, "texts")

    def histograms(self, run: Run) -> Iterator[pa.RecordBatch]:
        return self._bulk(run, "histograms")

    def files(self, run: Run) -> Iterator[File]:
        segment = self._place(run).place.segment
        yield from self._index.files("run_files", "run", run.id, segment)

    def artifacts(self, run: Run) -> Iterator[Artifact]:
        if not run.artifacts:
            return
        places = self._index.places("artifacts")
        for use in run.artifacts:
            if use.artifact not in places:
                raise Vanished(f"artifact {use.artifact!r} of run {run.id!r} is not in {self.location}")
            record = self._index.cell(places[use.artifact], "record")
            yield load(record, Artifact, f"artifact {use.artifact}")

    def artifact_files(self, artifact: Artifact) -> Iterator[File]:
        place = self._index.places("artifacts").get(artifact.id)
        if place is None:
            raise Vanished(f"artifact {artifact.id!r} is not in {self.location}")
        yield from self._index.files("artifact_files", "artifact", artifact.id, place.segment)

    def open(self, run: Run, file: File) -> BinaryIO:
        if file.sha256 is None:
            raise Vanished(f"file {file.path!r} of run {run.id!r} is only a reference to {file.reference}")
        if (place := self._index.small_files().get(file.sha256)) is not None:
            return io.BytesIO(self._index.cell(place, "data"))
        name = blob_name(file.sha256)
        where = f"{self._storage.url}/{name}"
        try:
            size = self._storage.size(name)
            stream = self._storage.open(name)
        except FileNotFoundError as error:
            raise Corrupt(
                f"{where} is missing: the bytes of {file.path!r} of run {run.id!r}",
                hint="restore the file from a backup",
            ) from error
        if size != file.size:
            stream.close()
            raise Corrupt(f"{where} has {size} bytes, not the {file.size} of {file.path!r}")
        return io.BufferedReader(CheckedStream(stream, file.sha256, where), 2**16)

    def registry(self) -> Iterator[RegisteredModel]:
        self._index.refresh()
        for model in self._index.models().values():
            yield replace(model, versions=[without_ours(version) for version in model.versions])

    def traces(self, experiment: Experiment) -> Iterator[Trace]:
        for trace in self._index.latest("traces", ("id",), Trace).values():
            if trace.experiment == experiment.id:
                yield trace

    def evaluation_datasets(self) -> Iterator[EvaluationDataset]:
        yield from self._index.latest("evaluation_datasets", ("id",), EvaluationDataset).values()

    def stats(self, run: Run) -> RunStats:
        self._place(run)
        return RunStats(**self._index.stats(run.id))

    def verify(self) -> Iterator[str]:
        """Reads every table and every file; yields what is missing or damaged."""
        self._index.refresh()
        for part in self._index.parts.values():
            try:
                self._index.reader.open(part).close()
            except Corrupt as error:
                yield error.message
        digests: dict[str, int | None] = {}
        for table in ("run_files", "artifact_files"):
            for segment in self._index.segments.live:
                for part in segment.parts_of(table):
                    rows = self._index.reader.read(part, ["sha256", "size"])
                    digests.update(zip(*(c.to_pylist() for c in rows.columns), strict=True))
        digests.pop(None, None)  # type: ignore[call-overload]
        for sha256, size in digests.items():
            file = File(path=sha256, sha256=sha256, size=size)
            try:
                with self.open(Run(id="", experiment=""), file) as stream:
                    while stream.read(2**20):
                        pass
            except Corrupt as error:
                yield error.message

    def close(self) -> None:
        self._storage.close()
