"""One log call of a peer that lives in an environment of its own: prints nanoseconds as JSON.

    PEER_PYTHON benchmarks/tracking_peers.py PEER CALLS KEYS...

Imports nothing but the peer; `tracking.py` runs it.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator

Log = Callable[[dict[str, float], int], object]


@contextlib.contextmanager
def trackio() -> Iterator[Log]:
    import trackio

    trackio.init(project="peer")
    yield lambda data, step: trackio.log(data, step=step)
    trackio.finish()


@contextlib.contextmanager
def neptune_scale() -> Iterator[Log]:
    from neptune_scale import Run

    run = Run(project="peer/peer", run_id=f"run-{time.time_ns()}", mode="offline")
    yield lambda data, step: run.log_metrics(data, step=step)
    run.close()


def data_of(keys: int) -> dict[str, float]:
    return {f"train/metric_{number}": 0.1 + number / 7 for number in range(keys)}


def timed(log: Log, data: dict[str, float], count: int) -> list[int]:
    """Nanoseconds of each call, shortest first; a tenth as many calls go before, uncounted."""
    taken = []
    warm = count // 10
    for step in range(warm + count):
        began = time.perf_counter_ns()
        log(data, step)
        taken.append(time.perf_counter_ns() - began)
    return sorted(taken[warm:])


def main() -> None:
    peer, calls, *keys = sys.argv[1:]
    found = {}
    for number in keys:
        with {"trackio": trackio, "neptune-scale": neptune_scale}[peer]() as log:
            found[number] = timed(log, data_of(int(number)), int(calls))
    print("\n" + json.dumps(found))


if __name__ == "__main__":  # neptune-scale starts processes that import this file again
    main()
