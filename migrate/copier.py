"""`copy`: history from one location to another, resumable, exactly once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from ..adapters.base import Copy, Sink, Source
from ..adapters.fit_stream import Stream
from ..adapters.restored import Restored, restored
from ..filters import Filter
from ..model import Artifact, Run
from .context import Context, Interrupted
from .engine import Engine
from .ids import MAP_KINDS, Ids
from .ledger import DEFAULT_PATH, Ledger
from .places import Place, sink_of, source_of, source_of_sink
from .registry import Beyond, BeyondRuns
from .report import CopyReport, Event, Failure
from .select import Selection
from .streams import reader

DEFAULT_WORKERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a copy is. `listed` grows until `listing` is over."""

    listed: int = 0
    settled: int = 0
    copied: int = 0
    failed: int = 0
    points: int = 0
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0


def copy(
    source: Place | Source,
    target: Place | Sink,
    *,
    experiments: Iterable[str] | None = None,
    where: Filter | str | None = None,
    workers: int = DEFAULT_WORKERS,
    retry_failed: bool = False,
    again: bool = False,
    ledger: Ledger | str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    on_event: Callable[[Event], None] | None = None,
    target_source: Callable[[], Source] | None = None,
) -> CopyReport:
    """Copy what is selected and not yet complete in the target.

    `retry_failed`: only runs whose last attempt failed, by the ledger. `again`: runs that are
    complete in the target too, so that what was added to them since gets there. `ledger`: a file, by
    default `.outgrow/ledger.db`. `progress` and `on_event` are called from several threads, one
    call at a time. `target_source` reads the target back, for a `Sink` without a location of its
    own; it is used for platforms that append what is sent again.

    A failed run is in the report and stops no other. Raises `ConfigError` for a selection that
    is not understood, and what opening either side or listing the source raises.
    """
    selection = Selection.of(experiments, where)
    opened = ExitStack()
    try:
        report = _copy(
            restored(source_of(source, opened)),
            sink_of(target, opened),
            ledger if isinstance(ledger, Ledger) else opened.enter_context(Ledger(ledger or DEFAULT_PATH)),
            selection,
            workers=workers,
            retry_failed=retry_failed,
            again=again,
            progress=progress,
            on_event=on_event,
            target_source=target_source,
        )
    except BaseException as error:
        try:
            opened.close()
        except Exception as second:  # noqa: BLE001 - the first error is the one to report
            error.add_note(f"closing failed too: {second}")
        raise
    try:
        opened.close()
    except Exception as error:  # noqa: BLE001 - what was copied is to be reported all the same
        report = replace(report, failures=[*report.failures, Failure.of(error)])
    return report


def _copy(
    source: Restored,
    sink: Sink,
    ledger: Ledger,
    selection: Selection,
    *,
    workers: int,
    retry_failed: bool,
    again: bool,
    progress: Callable[[Progress], None] | None,
    on_event: Callable[[Event], None] | None,
    target_source: Callable[[], Source] | None,
) -> CopyReport:
    started = time.monotonic()
    places = (str(source.location), str(sink.location))
    copies = list(sink.copies())
    if not copies:
        ledger.forget(*places)  # the target is new, or was emptied since
    ids = Ids(sink, source.location.platform, {kind: ledger.remembered(*places, kind) for kind in MAP_KINDS})
    ids.load(copies)
    open_target = target_source or (lambda: source_of_sink(sink))
    read_back = _ReadBack(open_target)
    context = Context(
        source=source,
        sink=sink,
        caps=sink.capabilities,
        ids=ids,
        stop=threading.Event(),
        event=_Events(on_event, progress, started),
        open_target=open_target,
        target_rows=read_back.rows,
        target_artifacts=read_back.artifacts,
    )
    only = None
    if retry_failed:
        failed = {*ledger.rows(*places, "failed"), *ledger.rows(*places, "partial")}
        only = frozenset(row.identity for row in failed)
    models = list(source.source.registry())
    engine = Engine(context, selection, ledger, models, workers=workers, only=only, again=again)
    engine.run()
    beyond = Beyond()
    if engine.state == "done":
        try:
            filtered = retry_failed or not selection.everything
            beyond = BeyondRuns(engine, ledger, engine.losses, filtered=filtered).copy()
        except (KeyboardInterrupt, Interrupted):
            engine.state = "interrupted"
    return _report(engine, beyond, list(source.problems()), time.monotonic() - started)


def _report(engine: Engine, beyond: Beyond, problems: list[str], seconds: float) -> CopyReport:
    copied = [outcome for outcome in engine.outcomes if outcome.state in ("copied", "partial")]
    return CopyReport(
        source=str(engine.source.location),
        target=str(engine.sink.location),
        state=engine.state,
        stopped_by=engine.stopped_by,
        runs=engine.outcomes,
        counts=dict(Counter(outcome.state for outcome in engine.outcomes)),
        points=sum(outcome.points for outcome in copied),
        files=sum(outcome.files for outcome in copied),
        bytes=sum(outcome.bytes for outcome in copied),
        models=beyond.models,
        versions=beyond.versions,
        versions_omitted=beyond.omitted,
        traces=beyond.traces,
        evaluation_datasets=beyond.evaluation_datasets,
        losses=engine.losses.lines(),
        failures=engine.failures + beyond.failures,
        problems=problems,
        seconds=seconds,
    )


class _Events:
    """Passes events on, one at a time, and adds them up."""

    def __init__(
        self,
        on_event: Callable[[Event], None] | None,
        progress: Callable[[Progress], None] | None,
        started: float,
    ) -> None:
        self._on_event, self._progress, self._started = on_event, progress, started
        self._sum = Progress()
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        if self._on_event is None and self._progress is None:
            return
        with self._lock:
            if self._on_event is not None:
                self._on_event(replace(event, time=datetime.now(UTC)))
            if self._progress is not None:
                self._sum = self._added(event)
                self._progress(self._sum)

    def _added(self, event: Event) -> Progress:
        now, kind = self._sum, event.kind
        return replace(
            now,
            listed=now.listed + (kind == "listed"),
            settled=now.settled + (kind in ("durable", "skipped", "failed")),
            copied=now.copied + (kind == "durable"),
            failed=now.failed + (kind == "failed"),
            points=now.points + event.points,
            files=now.files + (kind == "file"),
            bytes=now.bytes + event.bytes,
            seconds=time.monotonic() - self._started,
        )


class _ReadBack:
    """Rows of runs in the target, read through its source, opened anew each time: it is being written."""

    def __init__(self, open_: Callable[[], Source]) -> None:
        self._open = open_
        self._listed: dict[str, Run] = {}
        self._lock = threading.Lock()

    def rows(self, stream: Stream, copy: Copy) -> Iterator[pa.RecordBatch]:
        with self._open() as source:
            run = self._find(source, copy.run_id)
            if run is not None:
                yield from reader(source, stream)(run)

    def artifacts(self, copy: Copy) -> list[Artifact]:
        with self._open() as source:
            run = self._find(source, copy.run_id)
            return list(source.artifacts(run)) if run is not None else []

    def _find(self, source: Source, run_id: str) -> Run | None:
        with self._lock:
            if run_id not in self._listed:
                listed = (run for experiment in source.experiments() for run in source.runs(experiment))
                self._listed = {run.id: run for run in listed}
            return self._listed.get(run_id)
