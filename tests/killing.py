"""A copy that is killed: run in a process of its own by `tests/migrate/test_kill.py`."""

from __future__ import annotations

import os
import signal
import threading

from outgrow import migrate


def copy_and_die(source: str, target: str, ledger: str, at_event: int) -> None:
    """Copy, and be killed at that event, wherever it is."""
    seen, lock = 0, threading.Lock()

    def count(event: object) -> None:
        nonlocal seen
        with lock:
            seen += 1
            if seen >= at_event:
                os.kill(os.getpid(), signal.SIGKILL)

    migrate.copy(source, target, ledger=ledger, workers=3, on_event=count)


def copy_and_be_killed_after(source: str, target: str, ledger: str, seconds: float) -> None:
    """Copy, and be killed after that time, in the middle of whatever call it is in."""
    threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    migrate.copy(source, target, ledger=ledger, workers=3)
    os._exit(0)
