"""A run's streams as the target is given them; the same for copy, plan and check."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import pyarrow as pa

from ..adapters.base import Capabilities, RunStats, Source
from ..adapters.fit import FittedRun, Loss
from ..adapters.fit_points import fit_points
from ..adapters.fit_stream import Sampler, Stream, StreamFitter, fingerprint
from ..adapters.origin import made_points
from ..model import Run

T = TypeVar("T")
_END = object()


def reader(source: Source, stream: Stream) -> Callable[[Run], Iterator[pa.RecordBatch]]:
    read: Callable[[Run], Iterator[pa.RecordBatch]] = getattr(source, stream)
    return read


SMALL = 20_000
"""Rows up to which a stream is read where it is used: another thread would cost more than it saves."""


def reading(
    source: Source, stream: Stream, run: Run, stats: RunStats
) -> AbstractContextManager[Iterable[pa.RecordBatch]]:
    """A stream of a run, read in another thread unless it is known to be small."""
    return ahead_of(reader(source, stream)(run), getattr(stats, stream))


def ahead_of(items: Iterator[T], rows: int | None) -> AbstractContextManager[Iterable[T]]:
    if rows is not None and rows <= SMALL:
        return nullcontext(items)
    return ReadAhead(items)


class FittedStream:
    """The rows of one stream as the target holds them. Iterate once, then ask `fitter` what happened."""

    def __init__(
        self, source: Source, stream: Stream, run: Run, stats: RunStats, fitted: FittedRun, caps: Capabilities
    ) -> None:
        self.source, self.stream, self.run, self.stats = source, stream, run, stats
        self.fitted, self.caps = fitted, caps
        sampler = None
        limit = caps.max_points_per_series
        longest = stats.longest_series
        if stream == "points" and limit is not None and (longest is None or longest > limit):
            sampler = Sampler(source.points(run), limit) or None
        self.fitter = StreamFitter(stream, fitted, caps, sampler, lambda: reader(source, stream)(run))
        self.made: dict[str, float] = {}

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        with reading(self.source, self.stream, self.run, self.stats) as ahead:
            for batch in ahead:
                if (fitted := self.fitter(batch)).num_rows:
                    yield fitted
        if self.stream == "points":
            yield from self._summary_points()

    def _summary_points(self) -> Iterator[pa.RecordBatch]:
        """A target without a summary gets the numbers that have no series as one point each.

        Not while the run is running: the series may still come.
        """
        if self.caps.native("summary") or not self.run.status.terminal:
            return
        values = {
            key: float(value)
            for key, value in self.run.summary.items()
            if isinstance(value, int | float) and key not in self.fitter.original.by_key
        }
        if not values:
            return
        batch, _ = fit_points(made_points(values, self.run), self.fitted, self.caps)
        self.made = values
        detail = "summary values without a series are written as one point"
        self.fitter.losses.add([Loss("moved", "summary", detail, len(values), next(iter(values)))])
        fingerprint("points", batch, self.fitter.written)
        if batch.num_rows:
            yield batch


# Threads are kept, not made for each stream; as many as there are streams being read at once.
_READERS = ThreadPoolExecutor(512, thread_name_prefix="outgrow-read-ahead")


class ReadAhead(Iterable[T]):
    """Iterates in another thread, a few items ahead, so that reading and writing overlap."""

    def __init__(self, items: Iterator[T], depth: int = 4) -> None:
        self._items = items
        self._queue: queue.Queue[object] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._reading: Future[None] | None = None

    def __enter__(self) -> ReadAhead[T]:
        self._reading = _READERS.submit(self._read)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._reading is not None:
            self._reading.result()

    def _read(self) -> None:
        end: object = _END
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as error:  # noqa: BLE001 - raised again where the items are used
            end = _Raised(error)
        finally:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()
        self._put(end)

    def _put(self, item: object) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[T]:
        while (item := self._queue.get()) is not _END:
            if isinstance(item, _Raised):
                raise item.error
            yield item  # type: ignore[misc]


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error
