"""Writing stretches of a journal to one sink: a refused record is set aside, the rest goes through."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from ..adapters import batches
from ..adapters.base import RunWriter, Sink
from ..adapters.fit import fit_model
from ..adapters.fit_stream import Stream
from ..adapters.replay import Replay
from ..errors import Rejected
from ..model import ArtifactUse, File, ModelVersion, RegisteredModel, to_builtins
from . import journal
from .fitting import Fitting, Stretch, folder_of
from .fold import NewArtifact
from .state import SinkState

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
ISOLATING = 200
"""Calls that looking for the refused rows of a batch may cost; the rest is refused as a whole."""
REJECTED = "rejected.jsonl"


class Writing:
    """One delivery. What it learns is in `state`, `refused` and `models`; nothing is saved here."""

    def __init__(
        self,
        folder: Path,
        sink: Sink,
        writer: RunWriter,
        fitting: Fitting,
        state: SinkState,
        present: Mapping[Stream, Replay],
        *,
        flushing: AbstractContextManager[object] | None,
    ) -> None:
        """`present`: rows that a sink which appends has already. `flushing`: flush after each record,
        holding this lock."""
        self.folder, self.sink, self.writer = folder, sink, writer
        self.fitting, self.state = fitting, state
        self.caps = sink.capabilities
        self.models: list[RegisteredModel] = []
        """To be registered once the run is durable."""
        self.refused: list[dict[str, Any]] = []
        self._present, self._flushing = present, flushing

    def stretch(self, stretch: Stretch) -> None:
        """Write what a stretch of the journal adds."""
        news, writer, caps = stretch.news, self.writer, self.caps
        self._items(stretch.params, writer.params, "param")
        self._items(stretch.tags, writer.tags, "tag")
        if stretch.labels:
            self._one("labels", stretch.labels, writer.tags, {}, stretch.labels)
        if news.datasets and caps.native("datasets"):
            self._one("dataset", news.datasets, writer.datasets, news.datasets)
        for loss in stretch.dropped:
            self.refuse(loss.concept, None, loss.detail, loss.count)
        for stream, rows in stretch.rows.items():
            send: Callable[[pa.RecordBatch], None] = getattr(writer, stream)
            for batch in batches.split(rows, caps.batch_points):
                self._batch(batch, send, stream)
        for file in news.files:
            self._file(file)
        for item in news.artifacts:
            self._artifact(item)
        if news.damaged:
            self.refuse("record", None, f"{news.damaged} damaged records of the journal", news.damaged)

    def register(self) -> None:
        """Make the registry entries; the run must be durable."""
        for model in self.models:
            self._one("model version", model, self.sink.register, fit_model(model, self.caps)[0])

    def save_refused(self) -> None:
        """Append what was refused to the dead-letter file, and count it."""
        if not self.refused:
            return
        self.state.rejected += sum(body["count"] for body in self.refused)
        with (self.folder / REJECTED).open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(body, ensure_ascii=False) + "\n" for body in self.refused)

    # --- files and artifact versions -----------------------------------------------------------

    def _file(self, file: File) -> None:
        def send() -> None:
            with self._open(file) as stream:
                self.writer.file(replace(file, path=self.fitting.path(file)), stream)

        self._one("file", file, send)

    def _open(self, file: File) -> BinaryIO:
        try:
            return (self.folder / journal.FILES / str(file.sha256)).open("rb")
        except FileNotFoundError as error:
            raise Rejected(f"the journal no longer holds the file {file.path!r}") from error

    def _artifact(self, item: NewArtifact) -> None:
        """Send an artifact version; where the sink has none, its files. Note what is to be registered."""
        version: dict[str, Any]
        if self.caps.native("artifacts"):
            made = replace(item.artifact, created_by=self.writer.run_id)
            use = ArtifactUse(artifact=item.artifact.id, role="output")
            with ExitStack() as opened:
                files = self._opened(item.files, opened)
                sent = self._one("artifact", item.artifact, self.writer.artifact, made, use, files)
            if sent is None:
                return
            self.state.artifacts[item.artifact.id] = sent
            version = {"artifact": sent}
        else:
            for file in self.fitting.loose(item):
                self._file(file)
            version = {"path": folder_of(item)}
        if item.register is not None and self.caps.native("registry"):
            name = item.register["name"]
            number = f"{self.folder.name}-{item.artifact.id.split('/')[1]}"
            entry = ModelVersion(
                model=name,
                version=number,
                run=self.writer.run_id,
                aliases=item.register.get("aliases", []),
                created_at=item.artifact.created_at,
                **version,
            )
            self.models.append(RegisteredModel(name=name, versions=[entry]))

    def _opened(self, files: list[File], opened: ExitStack) -> Iterator[tuple[File, BinaryIO | None]]:
        for file in files:
            yield file, opened.enter_context(self._open(file))

    # --- refusals ------------------------------------------------------------------------------

    def _one(self, kind: str, record: Any, send: Callable[..., T], *args: Any) -> T | None:
        """Send one record; None where it was refused."""
        try:
            return self._sent(send, *args)
        except Rejected as error:
            self.refuse(kind, record, str(error))
            return None

    def _sent(self, send: Callable[..., T], *args: Any) -> T:
        result = send(*args)
        if self._flushing is not None:
            with self._flushing:
                self.sink.flush()
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

    def _batch(self, batch: pa.RecordBatch, send: Callable[[pa.RecordBatch], None], stream: Stream) -> None:
        """Send a batch; halve it where it is refused, so that only the refused rows are left out."""
        if stream in self._present:
            batch = self._present[stream].new(batch)
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
                    self.refuse(stream, part.slice(0, 100).to_pylist(), str(error), rows)
                else:
                    waiting += [part.slice(rows // 2), part.slice(0, rows // 2)]

    def refuse(self, kind: str, record: Any, reason: str, count: int = 1) -> None:
        self.refused.append(
            {
                "time": time.time(),
                "sink": self.state.location,
                "kind": kind,
                "count": count,
                "reason": reason,
                "record": to_builtins(record),
            }
        )
