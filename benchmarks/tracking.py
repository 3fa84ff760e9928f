"""Live logging beside its peers: time per call, delivery, slow-down of training, import.

    python benchmarks/tracking.py [calls] [delivery] [training] [import] [--peers] [--scale N]

`--peers` puts trackio and neptune-scale into environments of their own, once; those that are not
installed are left out. Ratios are taken within one run; rates belong to the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import Results, mlflow_server, peer_environment, ratio
from tracking_peers import Log, data_of, timed

# The busy loop is one core. NumPy reads this when it is imported, in `training`.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
HERE = Path(__file__).parent
KEYS = (1, 20)


def outgrow_run(to: list[str], **tracking: Any) -> Any:
    from outgrow.config import Config, Tracking
    from outgrow.tracking.start import start_run

    facts = {"to": to, "system_interval": 0.0} | tracking
    return start_run("benchmark", config=Config(tracking=Tracking(**facts)), capture=False)


# --- one call -----------------------------------------------------------------------------------


@contextlib.contextmanager
def outgrow() -> Iterator[Log]:
    run = outgrow_run([])
    yield lambda data, step: run.log(data, step=step)
    run.finish()


@contextlib.contextmanager
def buffered_file() -> Iterator[Log]:
    with Path("plain.jsonl").open("a") as stream:
        yield lambda data, step: stream.write(json.dumps([step, time.time(), data]) + "\n")


@contextlib.contextmanager
def written_file() -> Iterator[Log]:
    file = os.open("written.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield lambda data, step: os.write(file, (json.dumps([step, time.time(), data]) + "\n").encode())
    os.close(file)


@contextlib.contextmanager
def written_bytes() -> Iterator[Log]:
    """The system call alone, of bytes that are there already."""
    file = os.open("bytes.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    lines: dict[int, bytes] = {}

    def log(data: dict[str, float], _: int) -> int:
        if len(data) not in lines:
            lines[len(data)] = (json.dumps([1, time.time(), data]) + "\n").encode()
        return os.write(file, lines[len(data)])

    yield log
    os.close(file)


@contextlib.contextmanager
def mlflow(uri: str, synchronous: bool) -> Iterator[Log]:
    import mlflow

    mlflow.set_tracking_uri(uri)
    with mlflow.start_run():
        yield lambda data, step: mlflow.log_metrics(data, step=step, synchronous=synchronous)


@contextlib.contextmanager
def wandb() -> Iterator[Log]:
    import wandb

    run = wandb.init(mode="offline", project="peer", settings=wandb.Settings(silent=True))
    yield lambda data, step: run.log(data, step=step)
    run.finish()


def calls(scale: float, peers: bool) -> None:
    taken: dict[str, dict[int, list[int]]] = {}

    def measure(name: str, opened: Callable[[], contextlib.AbstractContextManager[Log]], count: int) -> None:
        for keys in KEYS:
            try:
                with opened() as log:
                    found = timed(log, data_of(keys), max(20, int(count * scale)))
            except ImportError:
                print(f"  {name}: not installed")
                return
            taken.setdefault(name, {})[keys] = found

    measure("outgrow", outgrow, 20_000)
    measure("file, buffered", buffered_file, 20_000)
    measure("file, one write(2) a record", written_file, 20_000)
    measure("write(2) alone", written_bytes, 20_000)
    measure("outgrow, again", outgrow, 20_000)
    measure("wandb offline", wandb, 3_000)
    for peer in ("trackio", "neptune-scale"):
        if (found := in_environment(peer, peers, max(20, int(1_000 * scale)))) is not None:
            taken[peer] = found
    measure("mlflow async, SQLite", lambda: mlflow("sqlite:///peer.db", False), 200)
    measure("mlflow sync, SQLite", lambda: mlflow("sqlite:///peer.db", True), 200)
    with mlflow_server(Path("server").absolute()) as url:
        measure("mlflow async, server", lambda: mlflow(url, False), 200)
        measure("mlflow sync, server", lambda: mlflow(url, True), 100)
    told(taken)


def in_environment(peer: str, install: bool, count: int) -> dict[int, list[int]] | None:
    """The peer's times, measured in its own environment; None where it is not there."""
    folder = Path(tempfile.gettempdir()) / "outgrow-benchmark-peers" / peer
    if install:
        peer_environment(peer, peer)
    elif not (folder / "ready").exists():
        print(f"  {peer}: not installed (--peers does)")
        return None
    command = [folder / "bin" / "python", HERE / "tracking_peers.py", peer, str(count), *map(str, KEYS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"  {peer}: failed: {done.stderr[-300:]}")
        return None
    return {int(keys): found for keys, found in json.loads(done.stdout.splitlines()[-1]).items()}


def told(taken: dict[str, dict[int, list[int]]]) -> None:
    for keys in KEYS:
        print(f"\nlog of {keys} keys: median, 99th percentile, and the median over outgrow's")
        medians = {name: statistics.median(found[keys]) for name, found in taken.items()}
        ours = medians["outgrow"]
        for name, found in taken.items():
            high = found[keys][int(len(found[keys]) * 0.99)]
            print(
                f"  {name:28} {medians[name] / 1e3:10.1f} µs {high / 1e3:10.1f} µs {medians[name] / ours:9.1f} ×"
            )
        ratio("a file's write(2) a record, over outgrow", medians["file, one write(2) a record"], ours, 1 / 5)
        for place in ("SQLite", "server"):
            ratio(f"mlflow sync, {place}, over outgrow", medians[f"mlflow sync, {place}"], ours, 500)
            ratio(f"mlflow async, {place}, over outgrow", medians[f"mlflow async, {place}"], ours, 20)
        for peer in ("wandb offline", "trackio", "neptune-scale"):
            if peer in medians:
                ratio(f"{peer}, over outgrow", medians[peer], ours, 1)


# --- delivery -----------------------------------------------------------------------------------


def delivery(scale: float) -> None:
    """Points a second from the journal, beside what a bare loop over MLflow's client gets."""
    print("\ndelivery, and MLflow's own client with 1,000 points a call")
    results = Results("points")
    delivered("outgrow into SQLite", "mlflow:sqlite:///delivery.db", int(400_000 * scale), results)
    by_client("MLflow's client into SQLite", "sqlite:///client.db", int(20_000 * scale), results)
    with mlflow_server(Path("server").absolute()) as url:
        by_client("MLflow's client over HTTP", url, int(40_000 * scale), results)
        delivered("outgrow over HTTP", f"mlflow:{url}", int(40_000 * scale), results)
    fast = results.rate("outgrow into SQLite")
    ratio("outgrow into SQLite, over 50,000 points/s", fast, 50_000, 1)
    ratio(
        "outgrow over HTTP, over the client",
        results.rate("outgrow over HTTP"),
        results.rate("MLflow's client over HTTP"),
        1,
    )


def delivered(label: str, location: str, points: int, results: Results) -> None:
    import threading

    from outgrow.locations import open_sink, open_source
    from outgrow.tracking.worker import Lane

    run = outgrow_run([location], delivery="off")
    run.log(data_of(20), step=0)
    lane = Lane(location, lambda: open_sink(location), lambda: open_source(location), threading.Event())
    lane.add(run.folder)
    lane.step()  # the store is made and the SDK imported before the clock runs
    for step in range(1, points // 20):
        run.log(data_of(20), step=step)
    run.finish(timeout=0)
    with results.timed(label, points - 20):
        lane.step([run.folder])
    lane.close()


def by_client(label: str, uri: str, points: int, results: Results) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(uri)
    run = client.create_run("0")
    now = int(time.time() * 1e3)
    data = data_of(20)
    with results.timed(label, points):
        for first in range(0, points // 20, 50):
            batch = [Metric(k, v, now, step) for step in range(first, first + 50) for k, v in data.items()]
            client.log_batch(run.info.run_id, batch)


# --- training -----------------------------------------------------------------------------------


def training(scale: float, repeats: int = 8) -> None:
    """A busy NumPy loop with and without logging, in turns; the delivery process is at work meanwhile."""
    import numpy as np

    matrix = np.random.default_rng(0).random((400, 400))
    data = data_of(20)
    run = outgrow_run(["mlflow:sqlite:///training.db"])
    run.log(data)
    time.sleep(15 * min(1.0, scale))  # its store is made and its SDK imported before the clock runs

    def seconds(rounds: int, each: int, log: Callable[[], None] | None) -> float:
        began = time.perf_counter()
        for number in range(rounds):
            np.tanh(matrix @ matrix / 400).sum()
            if log is not None and number % each == 0:
                log()
        return time.perf_counter() - began

    one = seconds(100, 1, None) / 100
    rounds = int(3 * scale / one)
    print(f"\na training loop of {one * 1e3:.1f} ms a round, {repeats} pairs: what logging 20 keys costs it")
    for wanted in (10, 100):
        each = max(1, round(1 / one / wanted))
        ratios = []
        for number in range(repeats):
            pair = [0.0, 0.0]
            for logging in (number % 2, 1 - number % 2):  # each goes first as often as the other
                pair[logging] = seconds(rounds, each, (lambda: run.log(data)) if logging else None)
            ratios.append(pair[1] / pair[0])
        spread = f"{100 * (min(ratios) - 1):+.1f} to {100 * (max(ratios) - 1):+.1f} %"
        cost = 100 * (statistics.median(ratios) - 1)
        print(f"  {1 / one / each:6.0f} records/s {cost:+8.2f} % ({spread})   (aim: below 1 %)")
    run.finish(timeout=60)


def imported() -> None:
    code = "import time; t = time.perf_counter(); import outgrow; outgrow.start_run; print(time.perf_counter() - t)"
    took = sorted(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(9)
    )
    print(f"\nimport outgrow, start_run: {took[4] * 1e3:.0f} ms (aim: below 100 ms)")


PARTS = ("calls", "delivery", "training", "import")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--peers", action="store_true", help="install the peers that are not there")
    parser.add_argument("--scale", type=float, default=1.0, help="how much is measured")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    wanted = given.parts or PARTS
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        if "calls" in wanted:
            calls(given.scale, given.peers)
        if "delivery" in wanted:
            delivery(given.scale)
        if "training" in wanted:
            training(given.scale)
        if "import" in wanted:
            imported()


if __name__ == "__main__":
    main()
