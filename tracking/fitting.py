"""The journal of a run, stretch by stretch, as one sink can hold it.

The rows go through the same `StreamFitter` as those of a copy, so that a delivered run holds what
a copy of it would, and what the sink does not hold exactly is known at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ..adapters.base import Capabilities
from ..adapters.batches import Fingerprint
from ..adapters.fit import FittedRun, KeyMap, Loss, Names, fit_run
from ..adapters.fit_stream import STREAMS, Sampler, Stream, StreamFitter, fingerprint
from ..adapters.origin import is_origin_file
from ..model import File, Value
from . import journal
from .fold import Fold, NewArtifact, News

if TYPE_CHECKING:
    import pyarrow as pa

STRETCH = 16 << 20
"""Bytes of journal that are in memory at once."""


@dataclass(slots=True)
class Stretch:
    """What a stretch of the journal adds, with names, values and rows as the sink can hold them."""

    news: News
    params: dict[str, Value]
    tags: dict[str, str]
    labels: list[str]
    rows: dict[Stream, pa.RecordBatch] = field(default_factory=dict)
    dropped: list[Loss] = field(default_factory=list)
    """Rows that have no form there."""


class Fitting:
    """Reads the journal from its beginning; `offset` is how far it is."""

    def __init__(self, folder: Path, caps: Capabilities) -> None:
        self.folder, self.caps = folder, caps
        self.fold = Fold()
        self.offset = 0
        self.names = Names.of(caps)
        self._paths = KeyMap(caps.file_path)
        self._fitters: dict[Stream, StreamFitter] = {}
        self._unheld: dict[Stream, Fingerprint] = {}
        """Streams that the sink has no place for."""
        self._dropped: dict[tuple[Stream, str], int] = {}

    def read(self, limit: int) -> Stretch:
        """The next stretch, at most up to the offset `limit`. Raises `SchemaVersionError`."""
        news = News()
        room = min(STRETCH, limit - self.offset)
        for record, offset in journal.read(self.folder, self.offset, room):
            self.offset = offset
            news.records += 1
            if record is None:
                news.damaged += 1
            else:
                self.fold.add(record, news)
        run = self.fold.run
        if run is None:
            return Stretch(news, {}, {}, [])
        for names, keys in (
            (self.names.metrics, self.fold.keys),
            (self.names.params, run.params),
            (self.names.tags, run.tags),
        ):
            for key in islice(keys, len(names.names), None):  # as they came, so that a name never changes
                names(key)
        for file in [*news.files, *(file for item in news.artifacts for file in self.loose(item))]:
            self.path(file)
        new = replace(run, params=news.params, tags=news.tags, labels=news.labels)
        fitted = fit_run(new, self.caps, self.names).run
        stretch = Stretch(news, fitted.params, fitted.tags, fitted.labels)
        self._rows(stretch)
        return stretch

    def _rows(self, stretch: Stretch) -> None:
        for stream in STREAMS:
            if not stretch.news.has(stream):
                continue
            batch = stretch.news.batch(stream, self.fold.fractional)
            if not self.caps.native(stream):
                fingerprint(stream, batch, self._unheld.setdefault(stream, Fingerprint()))
                continue
            fitter = self._fitter(stream)
            stretch.rows[stream] = fitter(batch)
            for loss in fitter.losses:
                if loss.kind == "dropped":
                    before = self._dropped.get((stream, loss.detail), 0)
                    self._dropped[stream, loss.detail] = loss.count
                    if loss.count > before:
                        stretch.dropped.append(replace(loss, concept=stream, count=loss.count - before))

    def _fitter(self, stream: Stream) -> StreamFitter:
        if stream not in self._fitters:
            sampler = None
            limit = self.caps.max_points_per_series
            # A sink that takes only ended runs gets them whole: the series' lengths are known.
            if stream == "points" and limit is not None and not self.caps.live:
                sampler = Sampler(rows(self.folder, stream), limit) or None
            assert self.fold.run is not None
            written = FittedRun(self.fold.run, self.names.metrics)
            again = partial(rows, self.folder, stream)
            self._fitters[stream] = StreamFitter(stream, written, self.caps, sampler, again)
        return self._fitters[stream]

    def run(self) -> FittedRun:
        """The run as it is now; ids in it are the journal's."""
        return fit_run(self.fold.current(), self.caps, self.names)

    def path(self, file: File) -> str:
        """Where a file goes: distinct names, clear of the origin record."""
        path = file.path
        if is_origin_file(path):
            path = path.replace("/", "_/", 1) if "/" in path else f"{path}_"
        return self._paths(path)

    def loose(self, item: NewArtifact) -> list[File]:
        """The files of an artifact version as loose files, for a sink that has no versions."""
        if self.caps.native("artifacts"):
            return []
        return [replace(file, path=f"{folder_of(item)}/{file.path}") for file in item.files]

    # --- for the origin record ---------------------------------------------------------------

    def losses(self) -> Iterator[Loss]:
        for fitter in self._fitters.values():
            yield from fitter.losses
        for stream, seen in self._unheld.items():
            yield Loss("moved", stream, f"{stream}: only in the origin record", seen.count)

    def written(self, stream: Stream) -> tuple[int, dict[str, tuple[int, int]], set[str]]:
        """Rows of the original, the fingerprint of what was written, and the keys that are not held exactly."""
        if (fitter := self._fitters.get(stream)) is not None:
            return fitter.original.count, fitter.written.by_key, set(fitter.inexact)
        seen = self._unheld.get(stream, Fingerprint())
        return seen.count, {}, set(seen.by_key)


def folder_of(item: NewArtifact) -> str:
    """Folder of an artifact version's files on a platform without versions."""
    return f"artifacts/{item.artifact.name}/{item.artifact.id.split('/')[1]}"


def rows(
    folder: Path, stream: Stream, limit: int | None = None, *, fractional: bool = False
) -> Iterator[pa.RecordBatch]:
    """Every row of a stream as it was logged, up to a byte of the journal."""
    fold, news, start = Fold(), News(), 0
    for record, offset in journal.read(folder, 0, limit):
        if record is not None:
            fold.add(record, news)
        if offset - start >= STRETCH:
            if news.has(stream):
                yield news.batch(stream, fractional or fold.fractional)
            news, start = News(), offset
    if news.has(stream):
        yield news.batch(stream, fractional or fold.fractional)
