"""A source whose copied runs are given back as they were before they were copied.

Runs that were recorded in the source itself pass through untouched. See `adapters.origin`.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import Corrupt, OutgrowError, Transient, Vanished
from ..filters import EVERY_PART
from ..model import Artifact, ArtifactUse, EvaluationDataset, Experiment, File, RegisteredModel, Run, Trace
from . import batches
from .base import RunStats, Source
from .fit import FittedRun
from .fit_points import fit_points
from .fit_stream import Sampler, Stream, StreamFitter, fingerprint
from .merge import merged_experiment, merged_model, merged_run, merged_version
from .origin import (
    RECORD_PATH,
    OriginRecord,
    StoredArtifact,
    StreamRecord,
    decode,
    is_origin_file,
    made_points,
    read_rows,
    stream_path,
    stream_record,
)
from .replay import Replay

if TYPE_CHECKING:
    import pyarrow as pa

    from ..filters import Filter, Parts

_CACHED_RECORDS = 512
_READERS = 6
"""Origin records read at once while runs are listed."""


Read = Callable[[Run], Iterator["pa.RecordBatch"]]


def restored(source: Source) -> Restored:
    """The source with its copied runs restored; a restored source stays as it is."""
    return source if isinstance(source, Restored) else Restored(source)


class Restored(Source):
    """See the module. `experiment_of` tells a run's original experiment."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.location = source.location
        self.throughput = source.throughput
        self._lock = threading.Lock()
        self._indexing = threading.Lock()
        self._cache: OrderedDict[str, OriginRecord | None] = OrderedDict()
        self._raw: dict[str, Run] = {}
        self._artifact_runs: dict[str, str] = {}
        self._broken: dict[str, OutgrowError] = {}
        self._experiments: dict[str, Experiment] = {}
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="outgrow-origin")
        self._by_identity: dict[str, str] | None = None

    def close(self) -> None:
        self._readers.shutdown(cancel_futures=True)
        self.source.close()

    # --- records ---------------------------------------------------------------------------

    def record(self, run: Run) -> OriginRecord | None:
        """The run's origin record; None for a run recorded here, or copied without one.

        Raises `Corrupt` or `SchemaVersionError` for one that cannot be used.
        """
        if run.origin is None or not run.origin.recorded:
            return None
        if error := self._broken.get(run.id):
            raise error
        with self._lock:
            if run.id in self._cache:
                self._cache.move_to_end(run.id)
                return self._cache[run.id]
        raw = self._raw.get(run.id, run)
        what = f"run {run.id!r} of {self.location}"
        record = None
        for file in self.source.files(raw):
            if file.path == RECORD_PATH:
                with closing(self.source.open(raw, file)) as stream:
                    record = decode(stream.read(), what)
                break
        with self._lock:
            self._cache[run.id] = record
            while len(self._cache) > _CACHED_RECORDS:
                self._cache.popitem(last=False)
        return record

    def raw(self, run: Run) -> Run:
        """The run as the source itself gives it."""
        return self._raw.get(run.id, run)

    def experiments(self) -> Iterator[Experiment]:
        return self.source.experiments()

    def experiment_of(self, run: Run, listed: Experiment) -> Experiment:
        """The experiment that the run belongs to; `listed` is the one that it was listed under."""
        return self._experiments.get(run.experiment, listed)

    def runs(self, experiment: Experiment, where: Filter | None = None) -> Iterator[Run]:
        """The runs, restored. A filter sees the restored runs: it is pushed down only for those recorded here.

        A run whose origin record is damaged is listed as it is; reading it raises the error.
        """
        listed = self.source.listed(experiment, where, EVERY_PART) if where else self.source.runs(experiment)
        for run in self._restored(listed, experiment):
            if where is None or where(run, self.experiment_of(run, experiment).name):
                yield run

    def listed(self, experiment: Experiment, where: Filter | None, parts: Parts) -> Iterator[Run]:
        return self._restored(self.source.listed(experiment, where, parts), experiment)

    def _restored(self, listed: Iterator[Run], experiment: Experiment) -> Iterator[Run]:
        """The runs in order; a few origin records are read at once."""
        ahead: deque[Future[Run]] = deque()
        try:
            for raw in listed:
                if not ahead and (raw.origin is None or not raw.origin.recorded):
                    yield raw
                    continue
                ahead.append(self._readers.submit(self.restore, raw, experiment))
                if len(ahead) >= 2 * _READERS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()

    def restore(self, raw: Run, experiment: Experiment) -> Run:
        """A run that the source gives, as it was before it was copied."""
        if raw.origin is None or not raw.origin.recorded:
            return raw
        self._raw[raw.id] = raw
        try:
            record = self.record(raw)
        except Transient:
            raise  # the listing may be repeated
        except OutgrowError as error:
            self._broken[raw.id] = error
            return raw
        if record is None:
            return raw
        run = merged_run(record, raw)
        before = merged_experiment(record, experiment)
        self._experiments.setdefault(before.id, before)
        uses = raw.artifacts
        if record.artifacts:
            uses = [self._use(artifact.use, artifact.id) for artifact in record.artifacts]
            kept = {use.artifact for use in uses}
            uses += [use for use in raw.artifacts if use.artifact not in kept]
            for artifact in record.artifacts:
                if artifact.id is None and artifact.files:
                    self._artifact_runs[artifact.artifact.id] = raw.id
                elif artifact.id is None:  # empty, or its files are with the run that made it
                    self._artifact_runs.setdefault(artifact.artifact.id, raw.id)
        return replace(run, experiment=before.id, artifacts=uses, parent=self._parent(record, raw))

    @staticmethod
    def _use(use: ArtifactUse, here: str | None) -> ArtifactUse:
        return use if here is None else replace(use, artifact=here)

    def _parent(self, record: OriginRecord, raw: Run) -> str | None:
        if record.held.get("parent", False) or record.parent is None:
            return raw.parent
        with self._indexing:
            if self._by_identity is None:
                listed = (run for e in self.source.experiments() for run in self.source.runs(e))
                self._by_identity = {r.origin.identity: r.id for r in listed if r.origin}
        return self._by_identity.get(record.parent)

    def stats(self, run: Run) -> RunStats:
        stats = self.source.stats(self.raw(run))
        record = None if run.id in self._broken else self.record(run)
        if record is None:
            return stats
        # A stream that the record does not tell of is as it is here.
        rows = {name: stream.rows for name, stream in record.streams.items()}
        points = record.streams.get("points")
        return RunStats(
            series=len(points.keys) - len(record.made_points) if points else stats.series,
            points=rows.get("points", stats.points),
            texts=rows.get("texts", stats.texts),
            histograms=rows.get("histograms", stats.histograms),
            files=len(record.files),
            file_bytes=sum(stored.file.size or 0 for stored in record.files),
        )

    # --- streams ---------------------------------------------------------------------------

    def points(self, run: Run) -> Iterator[pa.RecordBatch]:
        return self._stream("points", run, self.source.points)

    def texts(self, run: Run) -> Iterator[pa.RecordBatch]:
        return self._stream("texts", run, self.source.texts)

    def histograms(self, run: Run) -> Iterator[pa.RecordBatch]:
        return self._stream("histograms", run, self.source.histograms)

    def _stream(self, stream: Stream, run: Run, read: Read) -> Iterator[pa.RecordBatch]:
        raw = self.raw(run)
        record = self.record(run)
        return read(raw) if record is None else self._original(stream, raw, record, read)

    def _original(
        self, stream: Stream, raw: Run, record: OriginRecord, read: Read
    ) -> Iterator[pa.RecordBatch]:
        """The original rows: the attached ones, and of the others those that are here."""
        import pyarrow as pa
        import pyarrow.compute as pc

        written = record.streams.get(stream, StreamRecord())
        names = record.names.get("metrics", {})
        back = {name: key for key, name in names.items()}
        replaced = {names.get(key, key) for key in written.attached}
        if stream == "points":
            replaced |= {names.get(key, key) for key in record.made_points}
        wanted = pa.array(sorted(replaced), pa.string())
        seen = batches.Fingerprint()
        for batch in read(raw):
            if replaced:
                inside = pc.is_in(pc.cast(batch.column("key"), pa.string()), wanted)
                fingerprint(stream, batch.filter(inside), seen)
                batch = batch.filter(pc.invert(inside))
            if batch.num_rows:
                yield batches.rename(batch, back)
        if not replaced:
            return
        now = stream_record(0, seen.by_key).keys
        changed = {key for key in replaced if now.get(key, (0, "")) != written.keys.get(key, (0, ""))}
        with tempfile.TemporaryDirectory(prefix="outgrow-") as folder:
            path = Path(folder) / f"{stream}.parquet"
            if written.attached:
                self._fetch(raw, stream_path(stream), path)
                yield from read_rows(path, f"run {raw.id!r} of {self.location}")
            if changed:
                fitted = _written(stream, record, path)
                yield from _added(read(raw), fitted, changed, back)

    def _fetch(self, raw: Run, name: str, path: Path) -> None:
        for file in self.source.files(raw):
            if file.path == name:
                with closing(self.source.open(raw, file)) as stream, path.open("wb") as out:
                    shutil.copyfileobj(stream, out)
                return
        raise Corrupt(
            f"run {raw.id!r} of {self.location} has lost {name}, which holds its original rows",
            hint="copy the run again from its origin",
        )

    # --- files -----------------------------------------------------------------------------

    def files(self, run: Run) -> Iterator[File]:
        record = self.record(run)
        current = (file for file in self.source.files(self.raw(run)) if not is_origin_file(file.path))
        if record is None:
            yield from current
            return
        stored = {s.path: s.file for s in record.files if s.path is not None}
        loose = {f.path for artifact in record.artifacts if artifact.id is None for f in artifact.files}
        for file in current:
            before = stored.get(file.path)
            if file.path in loose:
                continue
            yield file if before is None or _replaced(before, file) else before
        yield from (s.file for s in record.files if s.path is None and s.file.reference)

    def artifacts(self, run: Run) -> Iterator[Artifact]:
        record = self.record(run)
        if record is None:
            yield from self.source.artifacts(run)
            return
        raw = self.raw(run)
        here = {artifact.id: artifact for artifact in self.source.artifacts(raw)}
        for stored in record.artifacts:
            if stored.id is None:
                yield stored.artifact
            elif (now := here.pop(stored.id, None)) is not None:
                yield replace(
                    stored.artifact, id=now.id, aliases=now.aliases or stored.artifact.aliases,
                    created_by=now.created_by,
                )  # fmt: skip
        yield from here.values()

    def artifact_files(self, artifact: Artifact) -> Iterator[File]:
        stored = self._loose(artifact.id)
        if stored is None:
            return self.source.artifact_files(artifact)
        return (replace(s.file, artifact=artifact.id) for s in stored.files)

    def _loose(self, artifact_id: str) -> StoredArtifact | None:
        """The record of an artifact version whose files are loose files of a copy here."""
        raw = self._raw.get(self._artifact_runs.get(artifact_id, ""))
        record = raw and self.record(raw)
        if not record:
            return None
        return next((a for a in record.artifacts if a.id is None and a.artifact.id == artifact_id), None)

    def open(self, run: Run, file: File) -> BinaryIO:
        record = self.record(run)
        raw = self.raw(run)
        if record is None:
            return self.source.open(raw, file)
        stored = record.files
        if file.artifact is not None:
            loose = self._loose(file.artifact)
            if loose is None:
                return self.source.open(raw, file)
            raw, stored = self._raw[self._artifact_runs[file.artifact]], loose.files
        path = {s.file.path: s.path for s in stored}.get(file.path, file.path)
        if path is None:
            raise Vanished(f"the copy {raw.id!r} in {self.location} does not hold {file.path!r}")
        return self.source.open(raw, replace(file, path=path, artifact=None))

    # --- beyond runs -----------------------------------------------------------------------

    def registry(self) -> Iterator[RegisteredModel]:
        return map(self.restored_model, self.source.registry())

    def restored_model(self, model: RegisteredModel) -> RegisteredModel:
        """The model as it was, as far as the versions' runs have been listed and know it."""
        original: RegisteredModel | None = None
        versions = []
        for version in model.versions:
            record = self._record_of(version.run)
            if record is not None:
                original = original or merged_model(record, model)
                version = merged_version(record, version)
            versions.append(version)
        return replace(original or model, versions=versions)

    def _record_of(self, run_id: str | None) -> OriginRecord | None:
        raw = self._raw.get(run_id or "")
        return None if raw is None or raw.id in self._broken else self.record(raw)

    def traces(self, experiment: Experiment) -> Iterator[Trace]:
        return self.source.traces(experiment)

    def evaluation_datasets(self) -> Iterator[EvaluationDataset]:
        return self.source.evaluation_datasets()

    def problems(self) -> Iterable[str]:
        return self.source.problems()


def _written(stream: Stream, record: OriginRecord, path: Path) -> Replay:
    """What was written in place of the attached rows: the same fitting of the same rows."""
    caps, fitted = record.capabilities(), FittedRun(record.run, record.keys())
    written = []
    if path.exists():
        what = f"run {record.run.id!r}"
        limit = caps.max_points_per_series
        sampler = Sampler(read_rows(path, what), limit) if limit and stream == "points" else None
        fitter = StreamFitter(stream, fitted, caps, sampler, lambda: read_rows(path, what))
        written = [fitter(batch) for batch in read_rows(path, what)]
    if stream == "points" and record.made_points:
        written.append(fit_points(made_points(record.made_points, record.run), fitted, caps)[0])
    return Replay(written)


def _added(
    current: Iterator[pa.RecordBatch], written: Replay, keys: set[str], back: dict[str, str]
) -> Iterator[pa.RecordBatch]:
    """Rows of those keys that were logged into the copy since."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pa.array(sorted(keys), pa.string())
    for batch in current:
        batch = written.new(batch.filter(pc.is_in(pc.cast(batch.column("key"), pa.string()), wanted)))
        if batch.num_rows:
            yield batches.rename(batch, back)


def _replaced(before: File, now: File) -> bool:
    """Whether the copy's file was replaced since, as far as the platform tells."""
    return (now.size is not None and before.size is not None and now.size != before.size) or (
        now.sha256 is not None and before.sha256 is not None and now.sha256 != before.sha256
    )
