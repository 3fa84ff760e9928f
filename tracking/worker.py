"""The delivery process, and the lanes that `outgrow sync` uses too.

A lane serves one sink: it goes through the journals that have something for it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import tenacity

from ..adapters.base import Sink, Source
from ..errors import Terminal, Transient
from ..locations import open_sink, open_source
from . import journal
from .cleaning import clean
from .delivery import Delivery, targets
from .spawn import gate_of, lock_of

log = logging.getLogger("outgrow.delivery")
IDLE = 15.0
"""Seconds that the process waits for a next run before it leaves."""
POLL = 0.2
WRITERS = 4
"""Journals that one lane delivers at once, where the sink allows it."""
ATTEMPTS = 4
"""Tries of one delivery in a row; then the next journal has its turn."""
LONGEST_WAIT = 60.0


class Lane:
    """One sink and its journals. `step` goes through them once."""

    def __init__(
        self,
        location: str,
        opener: Callable[[], Sink],
        reader: Callable[[], Source],
        stop: threading.Event,
        interval: float = 0.0,
        *,
        ended: bool = False,
    ) -> None:
        """`location` is the public form; `interval` the seconds between two deliveries of one journal.

        `ended`: runs of other machines that said no goodbye have ended.
        """
        self.location = location
        self.ended = ended
        self.interval = interval
        self.stop = stop
        self._opener, self._reader = opener, reader
        self._sink: Sink | None = None
        self._opening = threading.Lock()
        self._flushing = threading.RLock()
        self._deliveries: dict[Path, Delivery] = {}
        self._due: dict[Path, float] = {}
        self._failures: dict[Path, int] = {}

    def sink(self) -> Sink:
        with self._opening:
            if self._sink is None:
                self._sink = self._opener()
            return self._sink

    def open(self) -> None:
        """Open the sink now. Where that fails, it is tried again with the first delivery."""
        try:
            self.sink()
        except Exception as error:  # noqa: BLE001 - the delivery will tell
            log.debug("%s: %s", self.location, error)

    def add(self, folder: Path) -> bool:
        """Serve a journal from now on; False where nothing of it is left to deliver."""
        if folder not in self._deliveries:
            delivery = Delivery(
                folder, self.location, self.sink, self._reader, ended=self.ended, flushing=self._flushing
            )
            if delivery.settled and not journal.has_writer(folder):
                return False
            self._deliveries[folder] = delivery
            self._due[folder] = 0.0
        return True

    def due(self) -> list[Path]:
        now = time.monotonic()
        return [folder for folder in self.unsettled() if self._due[folder] <= now or self._at_its_end(folder)]

    def _at_its_end(self, folder: Path) -> bool:
        """Somebody may be waiting for the rest."""
        return folder not in self._failures and not journal.has_writer(folder)

    def step(self, folders: list[Path] | None = None) -> None:
        """Deliver what is due (or these), several journals at once where the sink allows it."""
        folders = self.due() if folders is None else folders
        if not folders:
            return
        self.deliver(folders[0])  # alone: it opens the sink
        rest = folders[1:]
        if rest and not self.stop.is_set():
            limit = self._sink.capabilities.writers if self._sink else 1
            with ThreadPoolExecutor(min(limit or WRITERS, WRITERS, len(rest))) as pool:
                list(pool.map(self.deliver, rest))

    def deliver(self, folder: Path) -> bool:
        """One journal, until it has nothing more. False where that failed (and is written down)."""
        delivery = self._deliveries[folder]
        began = time.monotonic()
        try:
            while not self.stop.is_set() and self._attempt(delivery):
                pass
        except Exception as error:  # noqa: BLE001 - an SDK may raise anything; the lane must go on
            self._failed(delivery, error)
            return False
        self._failures.pop(folder, None)
        if delivery.settled:
            delivery.forget()
        # Where delivering is slow it is done less often, so that it never takes most of the time.
        self._due[folder] = time.monotonic() + max(self.interval, 2 * (time.monotonic() - began))
        return True

    def _attempt(self, delivery: Delivery) -> bool:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((Transient, ConnectionError, TimeoutError)),
            stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_when_event_set(self.stop),
            wait=_wait,
            sleep=tenacity.sleep_using_event(self.stop),
            before_sleep=lambda call: self._noted(delivery, call),
            reraise=True,
        )
        return bool(retrying(delivery.deliver))

    def _noted(self, delivery: Delivery, call: tenacity.RetryCallState) -> None:
        if call.outcome is not None and (error := call.outcome.exception()) is not None:
            delivery.failed(error, hopeless=False)

    def _failed(self, delivery: Delivery, error: Exception) -> None:
        hopeless = isinstance(error, Terminal) or not isinstance(error, Transient | OSError)
        log.warning(
            "%s to %s: %s",
            delivery.folder.name,
            self.location,
            error,
            exc_info=not isinstance(error, Terminal),
        )
        with contextlib.suppress(OSError):  # the disk may be full: it was logged
            delivery.failed(error, hopeless=hopeless)
        count = self._failures[delivery.folder] = self._failures.get(delivery.folder, 0) + 1
        self._due[delivery.folder] = time.monotonic() + min(2.0**count, LONGEST_WAIT)
        with self._opening:
            self._sink = None  # a broken connection is not used again

    def unsettled(self) -> list[Path]:
        return [folder for folder, delivery in self._deliveries.items() if not delivery.settled]

    def busy(self, folder: Path) -> bool:
        """Whether, at its last turn, the journal had to wait for another process or for its parent run."""
        return self._deliveries[folder].busy or self._deliveries[folder].waiting

    def close(self) -> None:
        if self._sink is not None:
            self._sink.close()


def _wait(call: tenacity.RetryCallState) -> float:
    """What the server asked for; else exponential with jitter."""
    error = call.outcome.exception() if call.outcome else None
    asked = getattr(error, "retry_after", None)
    backoff = tenacity.wait_exponential_jitter(multiplier=0.2, max=10.0)(call)
    return min(float(asked), LONGEST_WAIT) if asked else backoff


class Server:
    """Serves one location for the journals of a folder, until there has been nothing to do for a while."""

    def __init__(
        self,
        root: Path,
        key: str,
        lane: Lane,
        linger: float,
        keep_days: float | None = None,
        every: Sequence[str] = (),
    ) -> None:
        """`every`: all locations of the configuration, which a journal is kept for (see `cleaning`)."""
        self.root, self.key, self.lane, self.linger = root, key, lane, linger
        self._keep_days, self._every = keep_days, every
        self.running = lock_of(root, key)
        self._known: set[Path] = set()
        self._seen = 0

    def look(self) -> None:
        """Take up journals that are new. Raises `FileNotFoundError` where their folder is gone."""
        changed = self.root.stat().st_mtime_ns
        if changed == self._seen:
            return
        missed = False
        for folder in journal.journals(self.root):
            if folder in self._known:
                continue
            wanted = targets(folder)
            missed = missed or not wanted  # made, but its first record is not written yet
            if self.lane.location in wanted and self.lane.add(folder):
                self._known.add(folder)
        self._seen = 0 if missed else changed

    def run(self) -> None:
        """Until there is nothing more; at once where another process serves the location."""
        if not self.running.acquire():
            return
        self.running.path.write_text(f"{os.getpid()}\n")
        with contextlib.suppress(FileNotFoundError):  # the journals were removed
            self._clean()
            self.look()
            thread = threading.Thread(target=self._deliver, daemon=True)
            thread.start()
            self._watch()
            self.lane.stop.set()
            thread.join(timeout=30.0)  # a call that hangs dies with the process
            self.lane.close()
            self._clean()

    def _clean(self) -> None:
        if self._keep_days is not None:
            removed = clean(journal.journals(self.root), self._every, self._keep_days)
            if removed:
                log.info("removed %d journals", len(removed))

    def _deliver(self) -> None:
        while not self.lane.stop.wait(POLL):
            self.lane.step()

    def _watch(self) -> None:
        quiet = time.monotonic()
        while True:
            time.sleep(POLL)
            self.look()
            waiting = self.lane.unsettled()
            now = time.monotonic()
            if any(journal.has_writer(folder) for folder in waiting):
                quiet = now
            elif now - quiet > (self.linger if waiting else IDLE) and self._leave():
                return

    def _leave(self) -> bool:
        """Leave, unless a run began meanwhile: starters pass the same gate."""
        gate = gate_of(self.root, self.key)
        if not gate.acquire():
            return False
        known = len(self._known)
        self.look()
        leaving = len(self._known) == known
        if leaving:
            self.running.release()
        gate.release()
        return leaving


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    settings: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    with contextlib.suppress(OSError):
        os.nice(10)  # training first
    opener = partial(open_sink, settings["location"])
    reader = partial(open_source, settings["location"])
    lane = Lane(settings["public"], opener, reader, threading.Event(), settings["interval"])
    root, key = Path(settings["root"]), settings["key"]
    Server(root, key, lane, settings["linger"], settings["keep_days"], settings["every"]).run()


if __name__ == "__main__":
    main()
