"""Delivering one journal to one sink, through the adapter contract.

A delivery is one small copy: `begin` → what is new in the journal → `finish` → `flush` → the
cursor is saved. Killed anywhere, it is done again from the old cursor, which the contract allows.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from ..adapters import batches
from ..adapters.base import Copy, RunWriter, Sink, Source
from ..adapters.fit import FittedRun, KeyMap, fit_experiment, fit_file, fit_model, fit_run
from ..adapters.fit_points import fit_points
from ..adapters.replay import Replay
from ..errors import Rejected
from ..model import ArtifactUse, Experiment, File, ModelVersion, Origin, RegisteredModel, Run, to_builtins
from . import journal, state
from .fold import Fold, NewArtifact, News

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
PLATFORM = "outgrow"
"""`Origin.platform` of a run that live logging recorded."""
STRETCH = 16 << 20
"""Bytes of journal that one delivery takes at most, so that memory and repeats are bounded."""
ISOLATING = 200
"""Calls that looking for the refused rows of a batch may cost; the rest is refused as a whole."""
LIVE_MARK = "live"


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
    ) -> None:
        """`location` is the public form; `open_sink` gives the (shared) sink when there is something to send.
        `open_source` reads the same location: only where a delivery to a sink that appends was cut.

        `ended`: a run of another machine that said no goodbye has ended; it is then killed.
        """
        self.folder = folder
        self.busy = False
        """Another process had the journal at the last call."""
        self.waiting = False
        """The parent run, whose journal is beside this one, is not there yet."""
        self._assume_ended = ended
        self.location = location
        self._open_sink, self._open_source = open_sink, open_source
        self._present: dict[str, Replay] = {}
        """Rows of a cut delivery that the sink has already, by stream."""
        self._fold = Fold()
        self._folded = 0
        self._experiment: str | None = None
        self._parent: str | None = None
        self._careful = False
        self._sink: Sink | None = None
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
            if self._folded > self.state.offset:  # a delivery failed after its records were read
                self._fold, self._folded = Fold(), 0
            while self._folded < self.state.offset:
                self._read(self.state.offset)
            return self._deliver()
        finally:
            self._lock.release()

    @property
    def settled(self) -> bool:
        """Everything that the journal holds is delivered and the run has ended."""
        return self.state.done and self.state.offset >= journal.size(self.folder)

    def failed(self, error: BaseException, *, hopeless: bool) -> None:
        """Keep the reason where `finish` and `outgrow sync` find it."""
        text = str(error) or type(error).__name__
        self.state = state.load(self.folder, self.location)
        self.state.error, self.state.hopeless = text, hopeless
        state.save(self.folder, self.state)

    def _read(self, limit: int) -> News:
        """Fold the next stretch of the journal, at most up to the offset `limit`."""
        news = News()
        room = min(STRETCH, limit - self._folded)
        for record, offset in journal.read(self.folder, self._folded, room):
            self._folded = offset
            news.records += 1
            if record is None:
                news.damaged += 1
            else:
                self._fold.add(record, news)
        return news

    def _deliver(self) -> bool:
        written = not journal.has_writer(self.folder)  # asked first: what it wrote last is then read
        end = journal.size(self.folder)
        before = self._folded
        news = self._read(end)
        fold = self._fold
        if fold.run is None or fold.start is None:
            return False
        more = end - self._folded > 0 and self._folded > before
        here = self._assume_ended or fold.start.host == socket.gethostname()
        over = not more and (fold.ended or (written and here))
        if over and not fold.ended:
            fold.killed()
        if self._folded == before and not (over and not self.state.done):
            return False
        sink = self._open_sink()
        self.waiting = not self._has_parent(sink, fold.run)
        if self.waiting or (not sink.capabilities.live and not over):
            self._fold, self._folded = Fold(), 0
            return False
        if sink.capabilities.replay == "append":
            self._present = self._read_back() if self.state.sending else {}
            self.state.sending = True
            state.save(self.folder, self.state)
        try:
            self._send(sink, news, over)
        except Rejected:  # by a sink that buffers: each record alone then tells which one it is
            self._careful = True
            try:
                self._send(sink, news, over)
            finally:
                self._careful = False
        # A cut last line counts as delivered once nobody will complete it.
        self.state.offset = journal.size(self.folder) if over and written else self._folded
        self._folded = max(self._folded, self.state.offset)
        self.state.done, self.state.error, self.state.hopeless = over, None, False
        self.state.sending = False
        state.save(self.folder, self.state)
        return more

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

    def _read_back(self) -> dict[str, Replay]:
        """What a delivery left there that was cut before its end: it must not be appended again."""
        with self._open_source() as source:
            for experiment in source.experiments():
                for run in source.runs(experiment):
                    if run.id == self.state.run_id or (run.origin and run.origin.run_id == self.folder.name):
                        return {
                            "points": Replay(source.points(run)),
                            "texts": Replay(source.texts(run)),
                            "histograms": Replay(source.histograms(run)),
                        }
        return {}

    # --- one delivery ------------------------------------------------------------------------

    def _send(self, sink: Sink, news: News, over: bool) -> None:
        caps, self._sink = sink.capabilities, sink
        run = self._fold.current()
        origin = run.origin or Origin(platform=PLATFORM, run_id=run.id)
        if self._experiment is None:
            experiment = Experiment(id=run.experiment, name=run.experiment, created_at=run.started_at)
            self._experiment = sink.experiment(fit_experiment(experiment, caps)[0])
        fitted = self._fit(replace(run, experiment=self._experiment), sink)
        if self.state.run_id is None:
            existing = sink.find(origin.identity)
        else:
            mark = LIVE_MARK if self.state.done else None
            existing = Copy(identity=origin.identity, run_id=self.state.run_id, mark=mark)
        writer = sink.begin(fitted.run, origin, existing)
        try:
            self.state.run_id, self.state.url = writer.run_id, writer.url
            registrations = self._write(sink, writer, fitted, news)
            writer.finish(fitted.run, LIVE_MARK if over else None)
        except BaseException:
            writer.abort()
            raise
        sink.flush()
        for model in registrations:
            self._one("model version", model, sink.register, fit_model(model, caps)[0])
        if news.damaged:
            self._refused("record", None, f"{news.damaged} damaged records of the journal", news.damaged)

    def _fit(self, run: Run, sink: Sink) -> FittedRun:
        """Fit the run; keys keep the names that they got first, whatever comes later."""
        caps = sink.capabilities
        if run.parent is not None and caps.native("parent"):
            run = replace(run, parent=self._parent)
        fitted = fit_run(run, caps)
        keys = KeyMap(caps.metric_key)
        summary = {keys(key): value for key, value in run.summary.items()}
        if not caps.native("summary"):
            summary = {}
        return FittedRun(replace(fitted.run, summary=summary), keys, fitted.losses)

    def _write(self, sink: Sink, writer: RunWriter, fitted: FittedRun, news: News) -> list[RegisteredModel]:
        caps = sink.capabilities
        new = fit_run(replace(fitted.run, params=news.params, tags=news.tags, labels=news.labels), caps).run
        self._items(new.params, writer.params, "param")
        self._items(new.tags, writer.tags, "tag")
        if new.labels:
            self._one("labels", new.labels, writer.tags, {}, new.labels)
        if news.datasets and caps.native("datasets"):
            self._one("dataset", news.datasets, writer.datasets, news.datasets)
        if news.keys:
            self._points(writer, fitted, news, sink)
        for rows, concept, make, send in (
            (news.texts, "texts", news.text_batch, writer.texts),
            (news.histograms, "histograms", news.histogram_batch, writer.histograms),
        ):
            if rows and caps.native(concept):  # type: ignore[arg-type]
                batch = make()
                names = {key: fitted.keys(key) for key in batches.keys_of(batch)}
                self._batch(batches.rename(batch, names), send, concept)
        for file in news.files:
            self._file(writer, fit_file(file, caps)[0], file)
        return [
            model
            for item in news.artifacts
            if (model := self._artifact(sink, writer, item)) is not None and caps.native("registry")
        ]

    def _points(self, writer: RunWriter, fitted: FittedRun, news: News, sink: Sink) -> None:
        caps = sink.capabilities
        points, losses = fit_points(news.points(self._fold.fractional), fitted, caps)
        for loss in losses:
            if loss.kind == "dropped":
                self._refused("points", None, loss.detail, loss.count)
        for batch in batches.split(points, caps.batch_points):
            self._batch(batch, writer.points, "points")

    def _file(self, writer: RunWriter, fitted: File, file: File) -> None:
        def send() -> None:
            with self._open(file) as stream:
                writer.file(fitted, stream)

        self._one("file", file, send)

    def _open(self, file: File) -> BinaryIO:
        try:
            return (self.folder / journal.FILES / str(file.sha256)).open("rb")
        except FileNotFoundError as error:
            raise Rejected(f"the journal no longer holds the file {file.path!r}") from error

    def _artifact(self, sink: Sink, writer: RunWriter, item: NewArtifact) -> RegisteredModel | None:
        """Send an artifact version; where the sink has none, its files. What to register, if anything."""
        caps = sink.capabilities
        artifact = replace(item.artifact, created_by=writer.run_id)
        number = item.artifact.id.split("/")[1]
        version: dict[str, Any] = {}
        if caps.native("artifacts"):
            use = ArtifactUse(artifact=item.artifact.id, role="output")
            with ExitStack() as opened:
                files = self._opened(item.files, opened)
                sent = self._one("artifact", item.artifact, writer.artifact, artifact, use, files)
            if sent is None:
                return None
            self.state.artifacts[item.artifact.id] = sent
            version = {"artifact": sent}
        else:
            folder = f"artifacts/{artifact.name}/{number}"
            for file in item.files:
                self._file(writer, fit_file(replace(file, path=f"{folder}/{file.path}"), caps)[0], file)
            version = {"path": folder}
        if item.register is None:
            return None
        return RegisteredModel(
            name=item.register["name"],
            versions=[
                ModelVersion(
                    model=item.register["name"],
                    version=f"{self.folder.name}-{number}",
                    run=writer.run_id,
                    aliases=item.register.get("aliases", []),
                    created_at=artifact.created_at,
                    **version,
                )
            ],
        )

    def _opened(self, files: list[File], opened: ExitStack) -> Iterator[tuple[File, BinaryIO | None]]:
        for file in files:
            yield file, opened.enter_context(self._open(file))

    # --- refusals ----------------------------------------------------------------------------

    def _one(self, kind: str, record: Any, send: Callable[..., T], *args: Any) -> T | None:
        """Send one record; None where it was refused."""
        try:
            return self._sent(send, *args)
        except Rejected as error:
            self._refused(kind, record, str(error))
            return None

    def _sent(self, send: Callable[..., T], *args: Any) -> T:
        result = send(*args)
        if self._careful and self._sink is not None:
            self._sink.flush()
        return result

    def _items(self, items: dict[str, Any], send: Callable[[dict[str, Any]], None], kind: str) -> None:
        """Send all at once; where that is refused, one by one."""
        if not items:
            return
        try:
            self._sent(send, items)
        except Rejected:
            for key, value in items.items():
                self._one(kind, {key: value}, send, {key: value})

    def _batch(self, batch: pa.RecordBatch, send: Callable[[pa.RecordBatch], None], kind: str) -> None:
        """Send a batch; halve it where it is refused, so that only the refused rows are left out."""
        if kind in self._present:
            batch = self._present[kind].new(batch)
        waiting, calls = [batch], 0
        while waiting:
            part = waiting.pop()
            if not part.num_rows:
                continue
            calls += 1
            try:
                self._sent(send, part)
            except Rejected as error:
                rows = part.num_rows
                if rows == 1 or calls > ISOLATING:
                    self._refused(kind, part.slice(0, 100).to_pylist(), str(error), rows)
                else:
                    waiting += [part.slice(rows // 2), part.slice(0, rows // 2)]

    def _refused(self, kind: str, record: Any, reason: str, count: int = 1) -> None:
        self.state.rejected += count
        body = {
            "time": time.time(),
            "sink": self.location,
            "kind": kind,
            "count": count,
            "reason": reason,
            "record": to_builtins(record),
        }
        with (self.folder / "rejected.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(body, ensure_ascii=False) + "\n")


def targets(folder: Path) -> Iterable[str]:
    """The public locations that a journal's run goes to, as its last start says."""
    fold, news = Fold(), News()
    for record, _ in journal.read(folder):
        if record is not None:
            fold.add(record, news)
            break
    return fold.to
