"""Letting each row of a stream of points through once, for targets that keep a point only once.

A stream whose keys go forward in step (and, at one step, in time) cannot hold a row twice: the last
step and time of each key are all that has to be known of it. The first row that does not go
forward makes the history be read again, and from there on a hash of each row is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa

from . import batches
from .replay import Hashes, row_hashes


class Once:
    """Feed it the batches of one run in order. `columns` are what makes rows the same; None: all.

    `earlier` gives the rows before the batch at hand; without it their hashes are held from the start.
    """

    def __init__(
        self, columns: Sequence[str] | None, earlier: Callable[[], Iterable[pa.RecordBatch]] | None
    ) -> None:
        self._columns, self._earlier = columns, earlier
        times_differ = columns is None or "time" in columns
        self._forward = _Forward(times_differ) if earlier is not None else None
        self._seen = _Seen()

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if not batch.num_rows:
            return batch
        if self._forward is not None:
            if self._forward(batch):
                return batch
            assert self._earlier is not None
            for before in self._earlier():
                self._seen.new(self._hashes(before))
            self._forward = None
        keep = self._seen.new(self._hashes(batch))
        return batch if keep.all() else batch.filter(pa.array(keep))

    def _hashes(self, batch: pa.RecordBatch) -> Hashes:
        return row_hashes(batch if self._columns is None else batch.select(self._columns))


class _Forward:
    """Whether every key goes on where it was, or further."""

    def __init__(self, times_differ: bool) -> None:
        self._times_differ = times_differ
        self._last: dict[str, tuple[float, int]] = {}

    def __call__(self, batch: pa.RecordBatch) -> bool:
        step, time = batch.column("step"), batch.column("time")
        if step.null_count or (time.null_count and self._times_differ):
            return False
        steps = step.to_numpy(zero_copy_only=False)
        times = time.cast(pa.int64()).to_numpy(zero_copy_only=False) if self._times_differ else None
        for key, rows in batches.rows_by_key(batch):
            own = steps[rows]
            forward = own[1:] > own[:-1]
            clock = 0
            if times is not None:
                own_times = times[rows]
                forward |= (own[1:] == own[:-1]) & (own_times[1:] > own_times[:-1])
                first, clock = (own[0].item(), int(own_times[0])), int(own_times[-1])
            else:
                first = (own[0].item(), 0)
            if not forward.all() or (key in self._last and first <= self._last[key]):
                return False
            self._last[key] = (own[-1].item(), clock)
        return True


class _Seen:
    """Hashes of rows. 8 bytes a row; sorted runs of doubling length, merged as they grow, up to
    `LONGEST`, so that a merge never needs much room beside them."""

    LONGEST = 2_000_000

    def __init__(self) -> None:
        self._runs: list[Hashes] = []

    def new(self, hashes: Hashes) -> np.typing.NDArray[np.bool_]:
        """Which of these were not there before, the first of equal ones. From now on they are."""
        keep = np.zeros(len(hashes), dtype=bool)
        hashes, first = np.unique(hashes, return_index=True)
        new = np.ones(len(hashes), dtype=bool)
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, hashes), len(run) - 1)
            new &= run[place] != hashes
        if new.any():
            self._runs.append(hashes[new])
        while (
            len(self._runs) > 1
            and len(self._runs[-2]) <= 2 * len(self._runs[-1])
            and len(self._runs[-2]) + len(self._runs[-1]) <= self.LONGEST
        ):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate((self._runs[-1], last)), kind="stable")
        keep[first[new]] = True
        return keep
