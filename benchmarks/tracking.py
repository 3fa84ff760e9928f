"""Live logging beside its peers, in one run: time per call, slow-down of training, delivery.

    python benchmarks/tracking.py [--calls N] [--delivery POINTS]

Peers are measured where they are installed: MLflow (sync and async, SQLite), W&B offline, trackio.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Log = Callable[[dict[str, float], int], None]


def outgrow_run(to: list[str], **tracking: Any) -> Any:
    from outgrow.config import Config, Tracking
    from outgrow.tracking.start import start_run

    facts = {"to": to, "system_interval": 0.0} | tracking
    return start_run("benchmark", config=Config(tracking=Tracking(**facts)), capture=False)


@contextlib.contextmanager
def outgrow() -> Iterator[Log]:
    run = outgrow_run([])
    yield lambda data, step: run.log(data, step=step)
    run.finish()


@contextlib.contextmanager
def buffered_file() -> Iterator[Log]:
    with Path("plain.jsonl").open("a") as stream:
        yield lambda data, step: stream.write(json.dumps([step, time.time(), data]) + "\n") and None


@contextlib.contextmanager
def written_file() -> Iterator[Log]:
    file = os.open("written.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield lambda data, step: os.write(file, (json.dumps([step, time.time(), data]) + "\n").encode()) and None
    os.close(file)


@contextlib.contextmanager
def mlflow(synchronous: bool) -> Iterator[Log]:
    import mlflow

    mlflow.set_tracking_uri("sqlite:///peer.db")
    with mlflow.start_run():
        yield lambda data, step: mlflow.log_metrics(data, step=step, synchronous=synchronous) and None


@contextlib.contextmanager
def wandb() -> Iterator[Log]:
    import wandb

    run = wandb.init(mode="offline", project="peer", settings=wandb.Settings(silent=True))
    yield lambda data, step: run.log(data, step=step)
    run.finish()


@contextlib.contextmanager
def trackio() -> Iterator[Log]:
    import trackio

    trackio.init(project="peer")
    yield lambda data, step: trackio.log(data, step=step)
    trackio.finish()


PEERS: dict[str, tuple[Callable[[], contextlib.AbstractContextManager[Log]], float]] = {
    "outgrow": (outgrow, 1.0),
    "buffered file": (buffered_file, 1.0),
    "file, one write(2) a line": (written_file, 1.0),
    "mlflow sync, SQLite": (lambda: mlflow(True), 0.01),
    "mlflow async, SQLite": (lambda: mlflow(False), 0.02),
    "wandb offline": (wandb, 0.2),
    "trackio": (trackio, 0.02),
}


def calls(count: int) -> None:
    for keys in (1, 20):
        data = {f"train/metric_{number}": 0.1 + number / 7 for number in range(keys)}
        print(f"\nlog of {keys} keys: median, 99th percentile, and the median over outgrow's")
        ours = 0.0
        for name, (opened, share) in PEERS.items():
            try:
                with opened() as log:
                    taken = timed(log, data, max(20, int(count * share)))
            except ImportError:
                print(f"  {name:26} not installed")
                continue
            median, high = taken[len(taken) // 2], taken[int(len(taken) * 0.99)]
            ours = ours or median
            print(f"  {name:26} {median / 1e3:10.1f} µs {high / 1e3:10.1f} µs {median / ours:9.1f} ×")


def timed(log: Log, data: dict[str, float], count: int) -> list[int]:
    taken = []
    for step in range(count):
        began = time.perf_counter_ns()
        log(data, step)
        taken.append(time.perf_counter_ns() - began)
    return sorted(taken)


def work(seconds: float, log: Callable[[int], None]) -> int:
    """Rounds of a busy loop, one log of 20 keys each about 5 ms."""
    end, rounds = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        sum(number * number for number in range(60_000))
        log(rounds)
        rounds += 1
    return rounds


def slow_down(seconds: float) -> None:
    """The same loop without logging, with delivery in its own process, and with it in a thread."""
    data = {f"metric_{number}": float(number) for number in range(20)}
    results: dict[str, list[int]] = {"nothing logged": [], "process": [], "thread": []}
    run = outgrow_run(["mlflow:sqlite:///process.db"])
    location = "mlflow:sqlite:///thread.db"
    threaded = outgrow_run([location], delivery="off")
    lane = _lane(threaded, location)
    run.log(data)
    threaded.log(data)
    lane.step()  # its store is made and its SDK imported before the clock runs
    time.sleep(10)
    for _ in range(3):
        results["nothing logged"].append(work(seconds, lambda _: None))
        results["process"].append(work(seconds, lambda _: run.log(data)))
        pump = threading.Thread(target=_pump, args=(lane, done := threading.Event()))
        pump.start()
        results["thread"].append(work(seconds, lambda _: threaded.log(data)))
        done.set()
        pump.join()
    run.finish()
    threaded.finish(timeout=0)
    base = max(results["nothing logged"])
    print("\nrounds of a busy loop, and what logging costs it")
    for name, rounds in results.items():
        print(f"  {name:26} {max(rounds):8} {100 * (1 - max(rounds) / base):6.1f} %")


def _lane(run: Any, location: str) -> Any:
    from outgrow.locations import open_sink, open_source
    from outgrow.tracking.worker import Lane

    opener, reader = (lambda: open_sink(location)), (lambda: open_source(location))
    lane = Lane(location, opener, reader, threading.Event())
    lane.add(run.folder)
    return lane


def _pump(lane: Any, done: threading.Event) -> None:
    while not done.wait(0.2):
        lane.step()


def delivery(points: int) -> None:
    """Points a second from the journal into a local MLflow."""
    location = "mlflow:sqlite:///delivery.db"
    run = outgrow_run([location], delivery="off")
    data = {f"metric_{number}": float(number) for number in range(20)}
    run.log(data, step=0)
    lane = _lane(run, location)
    lane.step()
    for step in range(1, points // 20):
        run.log(data, step=step)
    began = time.perf_counter()
    run.finish(timeout=0)
    lane.step([run.folder])
    taken = time.perf_counter() - began
    print(
        f"\ndelivery into MLflow on SQLite: {points:,} points in {taken:.1f} s, {points / taken:,.0f} points/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=5_000)
    parser.add_argument("--delivery", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        calls(given.calls)
        delivery(given.delivery)
        slow_down(given.seconds)
        os.chdir("/")


if __name__ == "__main__":
    main()
