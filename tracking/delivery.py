"""Delivering one journal to one sink, through the adapter contract.

A delivery is one small copy: `begin` → what is new in the journal → `finish` → `flush` → the
cursor is saved. Killed anywhere, it is done again from the old cursor, which the contract allows.
A sink that takes only ended runs gets the whole journal in one delivery. With a run's end goes its
origin record (`tracking.original`).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ..adapters.base import LIVE_MARK, Copy, Sink, Source
from ..adapters.fit import fit_experiment
from ..adapters.fit_stream import Stream
from ..adapters.replay import Replay
from ..errors import Rejected
from ..model import ArtifactUse, Experiment, Origin, Run
from . import journal, state
from .fitting import Fitting, Stretch
from .fold import Fold, News
from .original import Earlier, attach, both, earlier
from .writing import Writing

PLATFORM = "outgrow"
"""`Origin.platform` of a run that live logging recorded."""


class Delivery:
    """One journal and one sink. Not for several threads; a file lock keeps other processes out."""

    def __init__(
        self,
        folder: Path,
        location: str,
        open_sink: Callable[[], Sink],
        open_source: Callable[[], Source],
        *,
        ended: bool = False,
        flushing: AbstractContextManager[object] | None = None,
    ) -> None:
        """`location` is the public form; `open_sink` gives the (shared) sink when there is something to send.
        `open_source` reads the same location: only where the run is there already, from a delivery
        that was cut to a sink that appends, or from another journal.

        `ended`: a run of another machine that said no goodbye has ended; it is then killed.
        `flushing`: a lock, held again by who holds it, that the deliveries share which share a sink.
        """
        self.folder = folder
        self.busy = False
        """Another process had the journal at the last call."""
        self.waiting = False
        """The parent run, whose journal is beside this one, is not there yet."""
        self._assume_ended = ended
        self._flushing = flushing or nullcontext()
        self.location = location
        self._open_sink, self._open_source = open_sink, open_source
        self._fitting: Fitting | None = None
        self._experiment: str | None = None
        self._parent: str | None = None
        self._lock = journal.FileLock(folder / f"delivery-{state.sink_name(location)}.lock")
        self.state = state.load(folder, location)

    def deliver(self) -> bool:
        """Send what is new. True where more can be sent at once; `settled` tells whether all is done.

        Raises what the sink raises, except `Rejected`: the refused records go to `rejected.jsonl`.
        """
        self.busy = not self.settled and not self._lock.acquire()
        if self.busy or self.settled:
            return False
        try:
            self.state = state.load(self.folder, self.location)
            try:
                return self._deliver(careful=False)
            except Rejected:  # by a sink that buffers: each record alone then tells which one it is
                self.state = state.load(self.folder, self.location)
                return self._deliver(careful=True)
        finally:
            self._lock.release()

    @property
    def settled(self) -> bool:
        """Everything that the journal holds is delivered and the run has ended."""
        return self.state.done and self.state.offset >= journal.size(self.folder)

    @property
    def run(self) -> Run | None:
        """The run as far as it was read; ids are the journal's."""
        return self._fitting.fold.run if self._fitting else None

    def forget(self) -> None:
        """Free what was read of the journal; it is read again where the run goes on."""
        self._fitting = None

    def failed(self, error: BaseException, *, hopeless: bool) -> None:
        """Keep the reason where `finish` and `outgrow sync` find it."""
        text = str(error) or type(error).__name__
        self.state = state.load(self.folder, self.location)
        self.state.error, self.state.hopeless = text, hopeless
        state.save(self.folder, self.state)

    def _deliver(self, *, careful: bool) -> bool:
        written = not journal.has_writer(self.folder)  # asked first: what it wrote last is then read
        end = journal.size(self.folder)
        if not end or (end <= self.state.offset and not written):
            return False
        sink = self._open_sink()
        whole = not sink.capabilities.live
        if whole and not written and not journal.ended(self.folder):
            return False
        fitting = self._caught_up(sink)
        before = fitting.offset
        stretch = fitting.read(end)
        run, start = fitting.fold.run, fitting.fold.start
        if run is None or start is None:
            return False
        here = self._assume_ended or start.host == socket.gethostname()
        more = before < fitting.offset < end
        over = fitting.fold.ended or (written and here)
        if fitting.offset == before and not (over and not self.state.done):
            return False
        self.waiting = not self._has_parent(sink, run)
        if self.waiting or (whole and not (written and here) and not journal.ended(self.folder)):
            self._fitting = None
            if self.waiting and whole and not self.state.held_back:
                self.state.held_back = True
                state.save(self.folder, self.state)
            return False
        self._send(sink, fitting, stretch, end if whole else None, (over and not more) or whole, careful)
        # A cut last line counts as delivered once nobody will complete it.
        self.state.offset = journal.size(self.folder) if self.state.done and written else fitting.offset
        fitting.offset = max(fitting.offset, self.state.offset)
        self.state.error, self.state.hopeless = None, False
        self.state.sending, self.state.held_back = False, False
        state.save(self.folder, self.state)
        return more and not whole

    def _caught_up(self, sink: Sink) -> Fitting:
        """The run as far as it is delivered."""
        fitting = self._fitting
        if fitting is None or fitting.offset > self.state.offset:  # a delivery failed after it read
            fitting = Fitting(self.folder, sink.capabilities)
        self._fitting = fitting
        at = -1
        while at < fitting.offset < self.state.offset:
            at = fitting.offset
            fitting.read(self.state.offset)
        return fitting

    def _has_parent(self, sink: Sink, run: Run) -> bool:
        """Look for the parent run. False where it will come from a journal beside this one."""
        if run.parent is None or self._parent is not None or not sink.capabilities.native("parent"):
            return True
        platform = run.origin.platform if run.origin else PLATFORM
        found = sink.find(Origin(platform=platform, run_id=run.parent).identity)
        if found is not None:
            self._parent = found.run_id
            return True
        beside = self.folder.parent / run.parent
        coming = (beside / journal.RECORDS).exists() and self.location in targets(beside)
        return not coming or state.load(beside, self.location).hopeless

    # --- one delivery ------------------------------------------------------------------------

    def _send(
        self, sink: Sink, fitting: Fitting, stretch: Stretch, whole: int | None, over: bool, careful: bool
    ) -> None:
        """One delivery of a stretch, or of the whole journal up to the byte `whole`."""
        run = fitting.fold.current()
        origin = run.origin or Origin(platform=PLATFORM, run_id=run.id)
        if self._experiment is None:
            experiment = Experiment(id=run.experiment, name=run.experiment, created_at=run.started_at)
            self._experiment = sink.experiment(fit_experiment(experiment, sink.capabilities)[0])
        existing = self._existing(sink, origin)
        present = self._present(sink, existing)
        if over and whole is None and not fitting.fold.ended:
            fitting.fold.killed()
        writer = sink.begin(self._target(fitting, origin), origin, existing)
        self.state.run_id, self.state.url = writer.run_id, writer.url
        # A sink that buffers flushes the runs of all: only ours may be waiting, so that what becomes
        # of it is told to us.
        alone = self._flushing if type(sink).flush is not Sink.flush else nullcontext()
        writing = Writing(
            self.folder, sink, writer, fitting, self.state, present, flushing=alone if careful else None
        )
        try:
            writing.stretch(stretch)
            at = -1
            while whole is not None and at < fitting.offset < whole:
                at = fitting.offset
                writing.stretch(fitting.read(whole))
            if over and not fitting.fold.ended:
                fitting.fold.killed()
            target = self._target(fitting, origin)
            if over:
                target = self._with_origin(writing, target, origin)
        except BaseException:
            writer.abort()
            raise
        with alone:
            try:
                writer.finish(target, LIVE_MARK if over else None)
            except BaseException:
                writer.abort()
                raise
            sink.flush()
            if writing.models:  # of a run that is there now
                writing.register()
                sink.flush()
        self.state.done = over
        writing.save_refused()

    def _existing(self, sink: Sink, origin: Origin) -> Copy | None:
        if self.state.run_id is not None:
            mark = LIVE_MARK if self.state.done else None
            return Copy(identity=origin.identity, run_id=self.state.run_id, mark=mark)
        found = sink.find(origin.identity)
        # One without a mark is of a delivery of ours that was cut before its cursor was saved.
        self.state.joined = found is not None and found.mark is not None
        return found

    def _present(self, sink: Sink, existing: Copy | None) -> dict[Stream, Replay]:
        """Rows that must not be appended again: those of a delivery that was cut, or whose cursor is lost."""
        if sink.capabilities.replay != "append":
            return {}
        found: dict[Stream, Replay] = {}
        if existing is not None and (self.state.sending or self.state.run_id is None):
            with self._open_source() as source:
                for run in _found(source, existing):
                    found = {
                        "points": Replay(source.points(run)),
                        "texts": Replay(source.texts(run)),
                        "histograms": Replay(source.histograms(run)),
                    }
        self.state.sending = True
        state.save(self.folder, self.state)
        return found

    def _target(self, fitting: Fitting, origin: Origin) -> Run:
        """The run as it is now, with the ids that it and others have in the target."""
        caps = fitting.caps
        uses = [
            ArtifactUse(artifact=sent, role="output")
            for item in fitting.fold.artifacts
            if (sent := self.state.artifacts.get(item.artifact.id)) is not None
        ]
        parent = self._parent if caps.native("parent") else None
        assert self._experiment is not None
        return replace(
            fitting.run().run, experiment=self._experiment, parent=parent, artifacts=uses, origin=origin
        )

    def _with_origin(self, writing: Writing, target: Run, origin: Origin) -> Run:
        """Write the origin record, unless the target holds the run as it was."""
        fitting, sent = writing.fitting, self.state.artifacts
        fitted = fitting.run()
        whole = not (fitted.losses or writing.refused or self.state.rejected or any(fitting.losses()))
        if fitting.caps.exact and whole and not self.state.joined:
            return replace(target, origin=replace(origin, recorded=False))
        with TemporaryDirectory(prefix="outgrow-") as folder:
            before = self._earlier(origin, Path(folder)) if self.state.joined else None
            if before is not None:
                target = both(before.record.fitted, target)
            try:
                attach(writing.writer, fitting, fitted, target, origin, sent, before)
            except Rejected as error:
                writing.refuse("origin record", None, str(error))
        return target

    def _earlier(self, origin: Origin, folder: Path) -> Earlier | None:
        assert self.state.run_id is not None
        with self._open_source() as source:
            for run in _found(source, Copy(identity=origin.identity, run_id=self.state.run_id)):
                if run.origin is not None and run.origin.recorded:
                    return earlier(source, run, folder)
        return None


def _found(source: Source, copy: Copy) -> Iterator[Run]:
    """The run in the target."""
    for experiment in source.experiments():
        for run in source.runs(experiment):
            if run.id == copy.run_id or (run.origin and run.origin.identity == copy.identity):
                yield run
                return


def targets(folder: Path) -> Iterable[str]:
    """The public locations that a journal's run goes to, as its last start says."""
    fold, news = Fold(), News()
    for record, _ in journal.read(folder):
        if record is not None:
            fold.add(record, news)
            break
    return fold.to
