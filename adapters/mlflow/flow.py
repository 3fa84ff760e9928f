"""How many calls that write points a tracking server is sent at once.

A server with one process and one SQLite file works on one call at a time: more of them fight for
its interpreter and its lock, and all become slower. A server with several processes takes as many
side by side. Which it is shows in how long a call takes alone, and how long beside others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

ROUND = 64
"""Calls after which everything is measured anew: a store slows down as it grows."""
CALL_ROWS = 100
"""Rows that take as long as an empty call (measured: 15 ms, and 0.15 ms a row)."""
GAIN = 0.2
"""What one call more at once has to add, of what one call alone gets done."""
REFUSALS = 2
"""So many times in a round one more is tried in vain; a single slow call is no proof."""


class Flow:
    """A gate for calls, as wide as the server serves. Safe for several threads."""

    def __init__(self) -> None:
        self.limit = 1
        self._running = 0
        self._round = 0
        self._gate = threading.Condition()
        self._begin()

    def _begin(self) -> None:
        self.limit, self._calls, self._refused = 1, 0, 0
        self._alone = float("inf")
        """Seconds a row, at the least in this round; its first call is alone."""
        self._best: dict[int, float] = {0: 0.0}
        """Calls at once → how much they get done, of one alone."""

    @contextmanager
    def call(self, rows: int) -> Iterator[None]:
        """Wait for a place, and hold it while the rows are sent."""
        with self._gate:
            self._gate.wait_for(lambda: self._running < self.limit)
            self._running += 1
            beside, number = self._running, self._round
        began = time.perf_counter()
        try:
            yield
            seconds = time.perf_counter() - began
            with self._gate:
                if number == self._round:
                    self.learn(beside, seconds / (rows + CALL_ROWS))
        finally:
            with self._gate:
                self._running -= 1
                self._gate.notify_all()

    def learn(self, beside: int, seconds: float) -> None:
        """A call took so long a row. `beside`: calls under way as it began, itself among them."""
        self._calls += 1
        if self._calls == ROUND:
            self._round += 1
            self._begin()
            return
        self._alone = min(self._alone, seconds)
        if beside != self.limit:
            return
        done = beside * self._alone / seconds
        self._best[beside] = max(done, self._best.get(beside, 0.0))
        if self._refused == REFUSALS:
            return
        if beside == 1 or done >= self._best[beside - 1] + GAIN:
            self.limit += 1
        else:
            self.limit -= 1
            self._refused += 1
