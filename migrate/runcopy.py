"""Copying one run: begin, stream, attach the origin record, mark complete, last."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import pyarrow as pa

from ..adapters.base import Copy, RunStats, RunWriter
from ..adapters.batches import Fingerprint
from ..adapters.fit import FittedRun, Loss, fit_run
from ..adapters.fit_stream import STREAMS, Stream, coalesce, fingerprint
from ..adapters.origin import (
    RECORD_PATH,
    OriginRecord,
    RegistryEntry,
    StreamRecord,
    encode,
    holding,
    renamed,
    stream_path,
    stream_record,
    write_rows,
)
from ..adapters.replay import Replay
from ..model import Experiment, File, Origin, Run
from .context import Context, Written
from .marks import Mark, content_digest
from .names import FileNames
from .report import Event
from .runfiles import FileCopy
from .streams import FittedStream, ahead_of, reader, reading


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run to copy."""

    run: Run
    origin: Origin
    stats: RunStats
    record: str
    """Digest of the source's record, for the mark."""
    experiment: Experiment
    fitted_experiment: Experiment
    experiment_id: str
    parent: str | None
    """Id of the parent in the target."""
    registry: Sequence[RegistryEntry] = ()


def copy_run(job: Job, context: Context, existing: Copy | None) -> Written:
    """Copy one run, or complete its copy. Raises what the source or the sink raises."""
    return _RunCopy(job, context).run(existing)


class _RunCopy:
    def __init__(self, job: Job, context: Context) -> None:
        self.job, self.context = job, context
        self.source, self.caps, self.ids = context.source, context.caps, context.ids
        self.fitted: FittedRun = fit_run(job.run, self.caps)
        self.written = Written()
        self.losses = self.written.losses
        self.losses.add(self.fitted.losses)
        self.streams: dict[Stream, StreamRecord] = {}
        self.originals: dict[str, Fingerprint] = {}
        self.made: dict[str, float] = {}
        self.files = FileCopy(job.run, context, self.written, self._event)

    def run(self, existing: Copy | None) -> Written:
        target = self._target_run()
        writer = self.context.sink.begin(target, self.job.origin, existing)
        self.written.run_id, self.written.url = writer.run_id, writer.url
        self.ids.begun(self.job.origin.identity, writer.run_id)
        self._event("begun")
        try:
            self._write(writer, target, existing)
        except BaseException as error:
            try:
                writer.abort()
            except Exception as second:  # noqa: BLE001 - the first error is the one to report
                error.add_note(f"giving up the run failed too: {second}")
            raise
        return self.written

    def _target_run(self) -> Run:
        fork = self.fitted.run.fork
        fork_run = None if fork is None else self.ids.run(fork.run)
        if fork is not None and fork_run is None:
            self.losses.add(
                [Loss("moved", "fork", "forks of runs that were not copied: only in the origin record")]
            )
        return replace(
            self.fitted.run,
            experiment=self.job.experiment_id,
            parent=self.job.parent if self.caps.native("parent") else None,
            fork=fork and (replace(fork, run=fork_run) if fork_run else None),
            artifacts=[],
            origin=None,
        )

    def _write(self, writer: RunWriter, target: Run, existing: Copy | None) -> None:
        if target.params:
            writer.params(target.params)
        if target.tags or target.labels:
            writer.tags(target.tags, target.labels)
        if target.datasets:
            writer.datasets(target.datasets)
        with _Scratch() as scratch:
            attached = [
                path for stream in STREAMS if (path := self._stream(stream, writer, existing, scratch))
            ]
            names = self.files.loose(writer)
            uses = self.files.artifacts(writer)
            for path in attached:
                with path.open("rb") as stream:
                    writer.file(_origin_file(f"outgrow/{path.name}", path.stat().st_size), stream)
        self.context.check_stop()
        exact = self.caps.exact and not list(self.losses) and not self.written.refused
        if not exact:
            data = encode(self._record(target))
            writer.file(_origin_file(RECORD_PATH, len(data)), io.BytesIO(data))
        mark = None if self.files.retry_later else str(self._mark(names))
        origin = replace(self.job.origin, recorded=not exact)
        writer.finish(replace(target, artifacts=uses, origin=origin), mark)
        self.written.mark = mark
        self._event("written")

    def _mark(self, names: FileNames) -> Mark:
        content = ""
        if not self.job.run.status.terminal:
            content = content_digest(self.originals, names.files)
        return Mark(self.job.record, content, len(self.written.refused))

    # --- streams ---------------------------------------------------------------------------

    def _stream(
        self, stream: Stream, writer: RunWriter, existing: Copy | None, scratch: _Scratch
    ) -> Path | None:
        """Write a stream; the path of its Parquet file where the target does not hold all of it."""
        run = self.job.run
        if not self.caps.native(stream):
            return self._attach_all(stream, scratch)
        rows = FittedStream(self.source, stream, run, self.job.stats, self.fitted, self.caps)
        again = existing is not None and self.caps.replay == "append"
        known = Replay(self.context.target_rows(stream, existing) if again and existing else ())
        write: Callable[[pa.RecordBatch], None] = getattr(writer, stream)
        for batch in coalesce(rows, self.caps.batch_points):
            self.context.check_stop()
            fresh = known.new(batch)
            if fresh.num_rows:
                write(fresh)
            points = batch.num_rows if stream == "points" else 0
            self.written.points += points
            self._event("points", points=points)
        self.losses.add(rows.fitter.losses)
        self.originals[stream] = rows.fitter.original
        self.made |= rows.made
        inexact = rows.fitter.inexact
        if not rows.fitter.original.count and not rows.made:
            return None
        self.streams[stream] = stream_record(rows.fitter.original.count, rows.fitter.written.by_key, inexact)
        if not inexact:
            return None
        path = scratch.path(stream)
        return path if self._attach(stream, inexact, path) else None

    def _attach(self, stream: Stream, keys: set[str], path: Path) -> bool:
        with reading(self.source, stream, self.job.run, self.job.stats) as ahead:
            return write_rows(self._checked(ahead), keys, path)

    def _attach_all(self, stream: Stream, scratch: _Scratch) -> Path | None:
        """A stream that the target has no place for."""
        seen = self.originals[stream] = Fingerprint()

        def counted() -> Iterator[pa.RecordBatch]:
            for batch in reader(self.source, stream)(self.job.run):
                fingerprint(stream, batch, seen)
                yield batch

        with ahead_of(counted(), getattr(self.job.stats, stream)) as ahead:
            rows = self._checked(ahead)
            first = next(rows, None)
            if first is None:
                return None
            path = scratch.path(stream)
            found = write_rows(chain([first], rows), None, path)
        if not found:
            return None
        self.losses.add([Loss("moved", stream, f"{stream}: only in the origin record", seen.count)])
        self.streams[stream] = stream_record(seen.count, {}, seen.by_key)
        return path

    def _checked(self, rows: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in rows:
            self.context.check_stop()
            yield batch

    # --- the origin record -----------------------------------------------------------------

    def _record(self, target: Run) -> OriginRecord:
        parent = self.job.run.parent
        return OriginRecord(
            origin=self.job.origin,
            run=replace(self.job.run, origin=None),
            fitted=target,
            **holding(self.caps),
            experiment=self.job.experiment,
            fitted_experiment=self.job.fitted_experiment,
            parent=None if parent is None else self.ids.identity(parent),
            names=renamed(self.job.run, self.fitted, self.caps),
            made_points=self.made,
            files=self.files.stored,
            artifacts=self.files.stored_artifacts,
            streams=self.streams,
            losses=list(self.losses),
            registry=list(self.job.registry),
        )

    def _event(self, kind: str, **numbers: int) -> None:
        identity = self.job.origin.identity
        self.context.event(Event(kind=kind, identity=identity, name=self.job.run.name, **numbers))  # type: ignore[arg-type]


def _origin_file(path: str, size: int) -> File:
    return File(path=path, size=size)


class _Scratch:
    """A temporary folder, made when it is first needed."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def path(self, stream: Stream) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="outgrow-")
        return Path(self._folder.name) / Path(stream_path(stream)).name

    def __enter__(self) -> _Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()
