"""Runs the copies of many runs: parents first, in parallel, retried, flushed, recorded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from ..adapters.base import LIVE_MARK, Copy
from ..adapters.batches import Fingerprint
from ..adapters.fit import KeyMap, fit_experiment
from ..adapters.fit_stream import STREAMS, fingerprint
from ..adapters.origin import RegistryEntry
from ..errors import CredentialsError, OutgrowError, PartlyFailed, TargetFull, Transient, Unavailable
from ..model import Experiment, RegisteredModel, Run
from .context import Context, Interrupted, Written
from .ids import origin_of
from .ledger import Ledger, Row
from .losses import LossTable
from .marks import Mark, content_digest, record_digest
from .names import model_name
from .report import Event, Failure, RunOutcome
from .runcopy import Job, copy_run
from .schedule import Schedule
from .select import Selection
from .streams import reader

ATTEMPTS = 4
FIRST_WAIT = 1.0
LONGEST_WAIT = 60.0
UNAVAILABLE_RUNS = 3
"""So many runs in a row that find one side unavailable end the copy."""

T = TypeVar("T")


class Engine:
    """One copy. Worker threads copy runs; everything else happens in the calling thread."""

    def __init__(
        self,
        context: Context,
        selection: Selection,
        ledger: Ledger,
        models: list[RegisteredModel],
        *,
        workers: int,
        only: frozenset[str] | None = None,
        again: bool = False,
    ) -> None:
        """`only`: identities to look at, None for all. `models`: the source's registry, as it is.
        `again`: runs that are complete in the target are sent once more.
        """
        self.context, self.selection, self.ledger, self.only = context, selection, ledger, only
        self.again = again
        self.source, self.sink, self.caps, self.ids = context.source, context.sink, context.caps, context.ids
        self.workers = min(workers, self.caps.writers or workers)
        self.state: Literal["done", "stopped", "interrupted"] = "done"
        self.stopped_by: Failure | None = None
        self.outcomes: list[RunOutcome] = []
        self.failures: list[Failure] = []
        self.losses = LossTable()
        self.experiments: list[Experiment] = []
        self._experiment_ids: dict[str, tuple[Experiment, str]] = {}
        self._experiment_names = KeyMap(self.caps.experiment_name)
        self._experiment_lock = threading.Lock()
        self._versions: dict[str, list[RegisteredModel]] = {}
        for model in models:
            for run in {version.run for version in model.versions if version.run}:
                of_run = [version for version in model.versions if version.run == run]
                self._versions.setdefault(run, []).append(replace(model, versions=of_run))
        self._pending: list[RunOutcome] = []
        self._unavailable = 0
        where = (str(self.source.location), str(self.sink.location))
        self._known = {row.identity for row in ledger.rows(*where) if row.state != "failed"}

    # --- the calling thread ----------------------------------------------------------------

    def run(self) -> None:
        """Copy everything selected. Raises only what stops the listing before anything was done."""
        self.experiments = self.selection.listed(self.source)
        self._experiment_names = KeyMap(self.caps.experiment_name, (e.name for e in self.experiments))
        schedule = Schedule(self.ids, inputs=self.caps.native("artifact_inputs"))
        with ThreadPoolExecutor(self.workers, thread_name_prefix="outgrow-copy") as pool:
            running: dict[Future[tuple[RunOutcome, Written | None] | None], str] = {}
            try:
                for run, experiment in self._listed():
                    schedule.add(run, experiment)
                    self._advance(pool, running, schedule, self.workers * 2)
                schedule.end()
                while (running or schedule) and not self.context.stop.is_set():
                    self._advance(pool, running, schedule, 1)
            except KeyboardInterrupt:
                self.state = "interrupted"
            except OutgrowError as error:
                if not self.outcomes and not running:
                    raise
                self._stop(Failure.of(error))
            finally:
                if self.state != "done":
                    self.context.stop.set()
                while running:
                    self._collect(running, schedule)
                self._flush()

    def _listed(self) -> Iterator[tuple[Run, Experiment]]:
        for experiment in self.experiments:
            empty = True
            try:
                for run in self.selection.runs(self.source, experiment):
                    empty = False
                    if self.context.stop.is_set():
                        return
                    of = self.source.experiment_of(run, experiment)
                    origin = origin_of(run, self.source.location.platform, self.source.location.public)
                    self.ids.listed(run, origin.identity)
                    if self.only is None or origin.identity in self.only:
                        self._event("listed", origin.identity, run)
                        yield run, of
            except (Transient, CredentialsError):
                raise
            except OutgrowError as error:
                self.failures.append(Failure.of(error))
            if empty and self.selection.where is None and self.only is None:
                self.experiment_id(experiment)

    def _advance(
        self,
        pool: ThreadPoolExecutor,
        running: dict[Future[tuple[RunOutcome, Written | None] | None], str],
        schedule: Schedule,
        limit: int,
    ) -> None:
        """Start what may start; wait while more than `limit - 1` runs are under way."""
        while not self.context.stop.is_set():
            while len(running) < self.workers * 2 and (ready := schedule.next(idle=not running)):
                running[pool.submit(self._process, *ready)] = ready[0].id
            if len(running) < limit:
                return
            self._collect(running, schedule)

    def _collect(
        self, running: dict[Future[tuple[RunOutcome, Written | None] | None], str], schedule: Schedule
    ) -> None:
        """Take in what has finished; at least one run."""
        try:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
        except KeyboardInterrupt:
            self.state = "interrupted"
            self.context.stop.set()
            return
        for future in done:
            schedule.settled(running.pop(future))
            result = future.result()
            if result is not None:
                self._settle(*result)

    def _settle(self, outcome: RunOutcome, written: Written | None) -> None:
        if written is not None:
            self.losses.add(written.losses)
        if outcome.state == "failed":
            self._failed(outcome)
            return
        self._unavailable = 0
        if written is None:
            self.outcomes.append(outcome)
            if outcome.identity not in self._known:
                self.ledger.record([self._row(outcome)])
            self._event("skipped", outcome.identity)
            return
        self._pending.append(outcome)
        points = sum(one.points for one in self._pending)
        if len(self._pending) >= self.caps.flush_runs or points >= self.caps.flush_points:
            self._flush()

    def _failed(self, outcome: RunOutcome) -> None:
        self.outcomes.append(outcome)
        self.ledger.record([self._row(outcome)])
        error = outcome.error
        assert error is not None
        self._event("failed", outcome.identity, error=error)
        self._unavailable = self._unavailable + 1 if error.type == Unavailable.__name__ else 0
        hopeless = error.type in (TargetFull.__name__, CredentialsError.__name__)
        if hopeless or self._unavailable >= UNAVAILABLE_RUNS:
            self._stop(error)

    def _stop(self, error: Failure) -> None:
        if self.state == "done":
            self.state, self.stopped_by = "stopped", error
        self.context.stop.set()

    def _flush(self) -> None:
        """Make what is written durable, then record it."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        try:
            self._retrying("flush", self.sink.flush)
        except PartlyFailed as error:
            for outcome in pending:
                if (own := error.runs.get(outcome.run_id or "")) is not None:
                    self._failed(replace(outcome, state="failed", mark=None, error=Failure.of(own)))
            pending = [outcome for outcome in pending if outcome.run_id not in error.runs]
        except Exception as error:  # noqa: BLE001 - whatever a sink raises, these runs are not durable
            failure = Failure.of(error)
            for outcome in pending:
                self._failed(replace(outcome, state="failed", error=failure))
            return
        self.ledger.record([self._row(outcome) for outcome in pending])
        for kind, values in self.ids.news().items():
            self.ledger.remember(*self._where, kind, values)
        self.outcomes += pending
        for outcome in pending:
            self._event("durable", outcome.identity)

    @property
    def _where(self) -> tuple[str, str]:
        return str(self.source.location), str(self.sink.location)

    def _row(self, outcome: RunOutcome) -> Row:
        error = outcome.error
        reason = "; ".join(outcome.refused) or None
        source, target = self._where
        return Row(
            source=source,
            target=target,
            identity=outcome.identity,
            source_run=outcome.source_run,
            source_url=outcome.source_url,
            experiment=outcome.experiment,
            name=outcome.name,
            state="copied" if outcome.state == "unchanged" else outcome.state,
            run_id=outcome.run_id,
            url=outcome.url,
            mark=outcome.mark,
            points=outcome.points,
            files=outcome.files,
            bytes=outcome.bytes,
            attempts=outcome.attempts,
            error_type=error.type if error else None,
            error=error.message if error else reason,
            hint=error.hint if error else None,
            updated_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )

    def experiment_id(self, experiment: Experiment) -> tuple[Experiment, str]:
        """The experiment as it is in the target, and its id there; made when first needed."""
        with self._experiment_lock:
            if experiment.id not in self._experiment_ids:
                fitted, losses = fit_experiment(experiment, self.caps)
                fitted = replace(fitted, name=self._experiment_names(experiment.name))
                self.losses.add(losses, runs=0)
                self._experiment_ids[experiment.id] = fitted, self.sink.experiment(fitted)
            return self._experiment_ids[experiment.id]

    # --- the worker threads ----------------------------------------------------------------

    def _process(self, run: Run, experiment: Experiment) -> tuple[RunOutcome, Written | None] | None:
        """One run, whatever happens to it. None where the copy is being stopped."""
        started = time.monotonic()
        origin = origin_of(run, self.source.location.platform, self.source.location.public)
        base = RunOutcome(
            identity=origin.identity,
            source_run=run.id,
            source_url=run.url,
            name=run.name,
            experiment=experiment.name,
            state="failed",
        )
        tries: list[int] = []

        def attempt() -> tuple[RunOutcome, Written | None]:
            tries.append(1)
            existing = (
                self.sink.find(origin.identity) if len(tries) > 1 else self.ids.existing(origin.identity)
            )
            return self._once(base, run, experiment, existing)

        try:
            outcome, written = self._retrying(origin.identity, attempt, run)
        except Interrupted:
            return None
        except Exception as error:  # noqa: BLE001 - one run's failure, of any kind, must not stop its siblings
            outcome, written = replace(base, error=Failure.of(error)), None
        seconds = time.monotonic() - started
        return replace(outcome, seconds=seconds, attempts=len(tries)), written

    def _once(
        self, base: RunOutcome, run: Run, experiment: Experiment, existing: Copy | None
    ) -> tuple[RunOutcome, Written | None]:
        here = existing and replace(base, run_id=existing.run_id, url=existing.url, mark=existing.mark)
        if existing and here and existing.home:
            if existing.mark == LIVE_MARK and run.id in self._versions:
                self._pair_artifacts(run, existing)
            return replace(here, state="home"), None
        raw = self.source.raw(run)
        stats = self.source.source.stats(raw)
        parent = self.ids.run(run.parent)
        orphan = run.parent is not None and parent is None and self.caps.native("parent")
        models = self._versions.get(run.id, [])
        versions = sorted((model.name, version.version) for model in models for version in model.versions)
        record = record_digest(raw, stats, [orphan, versions])
        mark = Mark.parse(existing.mark) if existing else None
        if here and mark and mark.record == record and not self.again and self._unchanged(run, mark):
            if not mark.refused:
                return replace(here, state="unchanged"), None
            reason = f"{mark.refused} files with unsafe paths were refused when it was copied"
            return replace(here, state="partial", refused=[reason]), None
        fitted, experiment_id = self.experiment_id(experiment)
        job = Job(
            run=run,
            origin=origin_of(run, self.source.location.platform, self.source.location.public),
            stats=stats if raw is run else self.source.stats(run),
            record=record,
            experiment=experiment,
            fitted_experiment=fitted,
            experiment_id=experiment_id,
            parent=parent,
            registry=[
                RegistryEntry(name=model_name(model, self.caps), model=self.source.restored_model(model))
                for model in models
            ],
        )
        written = copy_run(job, self.context, existing)
        return (
            replace(
                base,
                state="partial" if written.refused else "copied",
                run_id=written.run_id,
                url=written.url,
                mark=written.mark,
                points=written.points,
                files=written.files,
                bytes=written.bytes,
                refused=written.refused,
            ),
            written,
        )

    def _pair_artifacts(self, run: Run, twin: Copy) -> None:
        """Versions that are registered in the source only find their artifacts in a run that was
        logged live to both sides: by name, where one has it."""
        here: dict[str, list[str]] = {}
        for artifact in self.context.target_artifacts(twin):
            here.setdefault(artifact.name, []).append(artifact.id)
        for artifact in self.source.artifacts(run):
            if len(found := here.get(artifact.name, [])) == 1:
                self.ids.made("artifact", artifact.id, found[0])

    def _unchanged(self, run: Run, mark: Mark) -> bool:
        """A finished run is known by its record; a running one is read to its end."""
        if run.status.terminal:
            return True
        if not mark.content:
            return False
        seen: dict[str, Fingerprint] = {stream: Fingerprint() for stream in STREAMS}
        for stream in STREAMS:
            for batch in reader(self.source, stream)(run):
                self.context.check_stop()
                fingerprint(stream, batch, seen[stream])
        return content_digest(seen, self.source.files(run)) == mark.content

    def _retrying(self, identity: str, call: Callable[[], T], run: Run | None = None) -> T:
        """Repeat the call on `Transient` errors, as long as the server asked, a few times."""

        def pause(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = getattr(error, "retry_after", None)
            grown: float = FIRST_WAIT * 2 ** (state.attempt_number - 1)
            return min(asked if asked is not None else grown, LONGEST_WAIT)

        def tell(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            self._event("retry", identity, run, error=Failure.of(error) if error else None)

        def sleep(seconds: float) -> None:
            if self.context.stop.wait(seconds):
                raise Interrupted

        return Retrying(
            retry=retry_if_exception_type(Transient),
            stop=stop_after_attempt(ATTEMPTS),
            wait=pause,
            sleep=sleep,
            before_sleep=tell,
            reraise=True,
        )(call)

    def _event(
        self,
        kind: Literal["listed", "durable", "skipped", "retry", "failed"],
        identity: str,
        run: Run | None = None,
        error: Failure | None = None,
    ) -> None:
        self.context.event(Event(kind=kind, identity=identity, name=run.name if run else None, error=error))
