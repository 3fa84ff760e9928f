"""The origin record of a run that was logged live: written at its end, as a copy would write it.

So `outgrow copy` of the platform that it was delivered to gives back what was logged: types, texts,
histograms, and everything else that the platform has no place for (`adapters.origin`).
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..adapters.base import RunWriter, Source
from ..adapters.batches import with_steps
from ..adapters.fit import FittedRun, fit_experiment
from ..adapters.fit_stream import STREAMS, Losses, Stream
from ..adapters.origin import (
    RECORD_PATH,
    Names,
    OriginRecord,
    StoredArtifact,
    StoredFile,
    StreamRecord,
    decode,
    encode,
    holding,
    read_rows,
    stream_path,
    stream_record,
    write_rows,
)
from ..adapters.replay import Replay
from ..errors import Corrupt
from ..model import ArtifactUse, Experiment, File, Origin, Run
from .fitting import Fitting, rows

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an origin record that is there already says of the same run, from another journal."""

    record: OriginRecord
    folder: Path
    """Its Parquet files."""

    def rows(self, stream: Stream) -> Iterator[pa.RecordBatch]:
        path = self.folder / Path(stream_path(stream)).name
        if path.exists():
            yield from read_rows(path, f"run {self.record.run.id!r}")


def earlier(source: Source, run: Run, folder: Path) -> Earlier | None:
    """Read the origin record of a run in the target; None where there is none that can be read."""
    wanted = {RECORD_PATH, *map(stream_path, STREAMS)}
    for file in source.files(run):
        if file.path in wanted:
            with closing(source.open(run, file)) as stream, (folder / Path(file.path).name).open("wb") as out:
                shutil.copyfileobj(stream, out)
    path = folder / Path(RECORD_PATH).name
    try:
        return Earlier(decode(path.read_bytes(), f"run {run.id!r}"), folder)
    except (FileNotFoundError, Corrupt):
        return None


def attach(
    writer: RunWriter,
    fitting: Fitting,
    fitted: FittedRun,
    target: Run,
    origin: Origin,
    sent: dict[str, str],
    before: Earlier | None,
) -> None:
    """Write the origin record among the files of the run.

    `target` is the run as it is about to be finished (with what `before` knew); `sent` the
    artifacts' ids there.
    """
    record = _record(fitting, fitted, target, origin, sent)
    if before is not None:
        record = _joined(before.record, record)
    with TemporaryDirectory(prefix="outgrow-") as folder:
        for stream, told in record.streams.items():
            path = Path(folder) / Path(stream_path(stream)).name
            if told.attached and write_rows(_rows(fitting, stream, before), set(told.attached), path):
                with path.open("rb") as content:
                    writer.file(File(path=stream_path(stream), size=path.stat().st_size), content)
    data = encode(record)
    writer.file(File(path=RECORD_PATH, size=len(data)), io.BytesIO(data))


def _rows(fitting: Fitting, stream: Stream, before: Earlier | None) -> Iterator[pa.RecordBatch]:
    fractional = fitting.fold.fractional or before is not None
    own = rows(fitting.folder, stream, fitting.offset, fractional=fractional)
    if before is None:
        yield from own
        return
    import pyarrow as pa

    for batch in before.rows(stream):
        yield with_steps(batch, pa.float64())
    known = Replay(with_steps(batch, pa.float64()) for batch in before.rows(stream))
    for batch in own:  # a part of it may be in the earlier record
        yield known.new(batch)


def _record(
    fitting: Fitting, fitted: FittedRun, target: Run, origin: Origin, sent: dict[str, str]
) -> OriginRecord:
    fold, caps, names = fitting.fold, fitting.caps, fitting.names
    run = fold.current()
    experiment = Experiment(id=run.experiment, name=run.experiment, created_at=run.started_at)
    artifacts = []
    for item in fold.artifacts:
        id = sent.get(item.artifact.id)
        if caps.native("artifacts") and id is None:
            continue  # it was refused
        use = ArtifactUse(artifact=item.artifact.id, role="output")
        paths = [file.path for file in item.files] if id else map(fitting.path, fitting.loose(item))
        files = [StoredFile(file=file, path=path) for file, path in zip(item.files, paths, strict=True)]
        artifacts.append(StoredArtifact(artifact=item.artifact, use=use, id=id, files=files))
    streams: dict[Stream, StreamRecord] = {}
    for stream in STREAMS:
        count, written, inexact = fitting.written(stream)
        if count:
            streams[stream] = stream_record(count, written, inexact)
    return OriginRecord(
        origin=origin,
        run=replace(run, origin=None, artifacts=[stored.use for stored in artifacts]),
        fitted=replace(target, origin=None),
        **holding(caps),
        experiment=experiment,
        fitted_experiment=fit_experiment(experiment, caps)[0],
        parent=None if run.parent is None else replace(origin, run_id=run.parent).identity,
        names={
            "metrics": names.metrics.changed,
            "params": names.params.changed,
            "tags": names.tags.changed,
        },
        files=[StoredFile(file=file, path=fitting.path(file)) for file in fold.files.values()],
        artifacts=artifacts,
        streams=streams,
        losses=list(Losses([*fitted.losses, *fitting.losses()])),
    )


def _joined(before: OriginRecord, now: OriginRecord) -> OriginRecord:
    """One record of a run that was logged in several places; the later one wins."""
    streams = {}
    for stream in {**before.streams, **now.streams}:
        one, two = before.streams.get(stream, StreamRecord()), now.streams.get(stream, StreamRecord())
        streams[stream] = StreamRecord(
            rows=one.rows + two.rows,
            keys=one.keys | two.keys,
            attached=sorted({*one.attached, *two.attached}),
        )
    files = {stored.file.path: stored for stored in [*before.files, *now.files]}
    artifacts = {stored.artifact.id: stored for stored in [*before.artifacts, *now.artifacts]}
    names: Names = {kind: before.names.get(kind, {}) | now.names.get(kind, {}) for kind in now.names}
    return replace(
        now,
        run=both(before.run, now.run),
        fitted=now.fitted,
        names=names,
        made_points=before.made_points,
        files=list(files.values()),
        artifacts=list(artifacts.values()),
        streams=streams,
        losses=list(Losses([*before.losses, *now.losses])),
        registry=before.registry,
    )


def both(before: Run, now: Run) -> Run:
    """One run of what two journals told; the later one wins."""
    starts = [run.started_at for run in (before, now) if run.started_at is not None]
    uses = [*before.artifacts, *(use for use in now.artifacts if use not in before.artifacts)]
    return replace(
        now,
        name=now.name or before.name,
        created_at=before.created_at or now.created_at,
        started_at=min(starts, default=None),
        user=now.user or before.user,
        parent=now.parent or before.parent,
        group=now.group or before.group,
        job_type=now.job_type or before.job_type,
        description=now.description or before.description,
        code=now.code or before.code,
        environment=now.environment or before.environment,
        params=before.params | now.params,
        tags=before.tags | now.tags,
        labels=list(dict.fromkeys([*before.labels, *now.labels])),
        summary=before.summary | now.summary,
        datasets=[*before.datasets, *(use for use in now.datasets if use not in before.datasets)],
        artifacts=uses,
    )
