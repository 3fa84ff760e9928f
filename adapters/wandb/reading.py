"""What a folder of logs and a project of a server have in common as sources: a run is history rows,
system metrics, console output and run files.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ...model import CONSOLE_PREFIX, SYSTEM_PREFIX, File, Run, from_builtins
from .. import batches
from ..base import RunStats, Source
from . import history
from .history import Frame
from .layout import GENERATED_FILES, TEXTS_FILE, unescape_path

_POINTS_A_BATCH = 100_000
_ROWS_A_BATCH = 20_000


class HistorySource(Source):
    """Points, texts, histograms and media are all cells of the same rows."""

    def __init__(self) -> None:
        self._numeric: set[str] = set()
        """Ended runs whose rows hold nothing but numbers: they are not read again for the rest."""

    @abstractmethod
    def _record(self, run: Run) -> Mapping[str, Any]:
        """What a copy keeps of its run (`records.record_of`); {} for a run recorded here."""

    @abstractmethod
    def _frames(self, run: Run, text_keys: frozenset[str]) -> Iterator[Frame]:
        """The history rows."""

    @abstractmethod
    def _system(self, run: Run) -> Iterator[tuple[str, int | None, float]]:
        """System metrics: name, time in microseconds, value."""

    @abstractmethod
    def _console(self, run: Run) -> Iterator[tuple[str, int | None, str]]:
        """Captured output: `stdout` or `stderr`, time in microseconds, text."""

    @abstractmethod
    def _side_texts(self, run: Run) -> Iterator[BinaryIO]:
        """The files of a copied run with its exact texts. Each is closed before the next is asked for."""

    @abstractmethod
    def _stored_files(self, run: Run) -> Iterator[tuple[str, int]]:
        """Path and size of each run file, W&B's own included."""

    def _decoded(self, run: Run) -> Iterator[tuple[str, Any]]:
        record = self._record(run)
        text_keys = frozenset(record.get("text_keys") or ())
        numeric = True
        for frame in self._frames(run, text_keys):
            for kind, found in frame.batches(bool(record.get("fractional")), text_keys):
                numeric = numeric and kind == "points"
                yield kind, found
        if numeric and run.status.terminal:
            self._numeric.add(run.id)

    def _others(self, run: Run) -> Iterator[list[history.Cell]]:
        """The cells that are no numbers."""
        if run.id not in self._numeric:
            for kind, found in self._decoded(run):
                if kind == "others":
                    yield found

    def points(self, run: Run) -> Iterator[pa.RecordBatch]:
        for kind, found in self._decoded(run):
            if kind == "points":
                yield from batches.split(found, _POINTS_A_BATCH)
        if run.origin is None:
            rows = ((SYSTEM_PREFIX + name, time, value) for name, time, value in self._system(run))
            yield from _batched(rows, lambda k, t, v: batches.points(k, [None] * len(k), t, v))

    def texts(self, run: Run) -> Iterator[pa.RecordBatch]:
        for cells in self._others(run):
            if (batch := history.as_texts(cells)) is not None:
                yield batch
        if run.origin is None:
            lines = ((CONSOLE_PREFIX + stream, time, text) for stream, time, text in self._console(run))
            yield from _batched(lines, _console_batch)
            return
        for stream in self._side_texts(run):
            with stream:
                yield from _read_texts(stream)

    def histograms(self, run: Run) -> Iterator[pa.RecordBatch]:
        for cells in self._others(run):
            if (batch := history.as_histograms(cells)) is not None:
                yield batch

    def media(self, run: Run) -> Iterator[pa.RecordBatch]:
        """The cells that point at run files, as texts."""
        for cells in self._others(run):
            told = [cell for file in history.media(cells) if (cell := history.media_cell(file)) is not None]
            if told:
                yield history.texts_batch(list(dict.fromkeys(told)))

    def files(self, run: Run) -> Iterator[File]:
        media: dict[str, File] | None = None
        for path, size in self._own_files(run):
            if media is None and path.startswith("media/"):
                media = {file.path: file for cells in self._others(run) for file in history.media(cells)}
            if media is not None and path in media:
                yield replace(media[path], size=size)
                continue
            yield File(path=path if run.origin is None else unescape_path(path), size=size)
        yield from self._references(run)

    def _own_files(self, run: Run) -> Iterator[tuple[str, int]]:
        """Without those that a copy's upload has made."""
        hidden: frozenset[str] = frozenset() if run.origin is None else GENERATED_FILES | {TEXTS_FILE}
        return ((path, size) for path, size in self._stored_files(run) if path not in hidden)

    def _references(self, run: Run) -> Iterator[File]:
        for reference in self._record(run).get("references") or ():
            yield from_builtins(reference, File)

    def stats(self, run: Run) -> RunStats:
        sizes = [size for _, size in self._own_files(run)]
        references = sum(1 for _ in self._references(run))
        return RunStats(files=len(sizes) + references, file_bytes=sum(sizes))


def _batched(
    rows: Iterator[tuple[Any, Any, Any]], build: Callable[[list[Any], list[Any], list[Any]], pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Three-column rows as batches."""
    while part := list(islice(rows, _ROWS_A_BATCH)):
        first, second, third = (list(column) for column in zip(*part, strict=True))
        yield build(first, second, third)


def _console_batch(keys: list[str], times: list[int | None], texts: list[str]) -> pa.RecordBatch:
    return history.texts_batch([(k, None, t, x) for k, t, x in zip(keys, times, texts, strict=True)])


def _read_texts(stream: BinaryIO) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(stream) as file:
        for batch in file.iter_batches(_ROWS_A_BATCH):
            yield batch.cast(batches.TEXTS)
