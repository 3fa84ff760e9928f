"""MLflow to MLflow: outgrow by REST and by SQL, the archive, and `mlflow-export-import`, side by side.

    python benchmarks/mlflow_copy.py                  # everything, about half an hour
    python benchmarks/mlflow_copy.py --scale 0.02     # a look, two minutes
    python benchmarks/mlflow_copy.py ordinary|big|growth [--no-peer]

`ordinary`: 50 runs × 20 keys × 1,000 steps, 30 params, 3 artifacts of 100 kB each; one source,
two local servers. `big`: one run of 10 million points, with its memory. `growth`: 100 to 10,000
small runs. Rates depend on the machine: compare ratios of one run.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from common import Results, mlflow_server, peak_rss_mb, peer_environment, ratio
from outgrow.adapters import batches
from outgrow.locations import open_sink, open_source
from outgrow.migrate import copy
from outgrow.model import Experiment, File, Origin, Run, Status

PEER = "mlflow-export-import==1.2.0"
START = datetime(2025, 1, 1, tzinfo=UTC)
CHUNK = 200_000
"""Points a batch that is made."""
BATCH = 1_000
"""Metrics a `log_batch` call takes at most."""


# --- what is copied ---------------------------------------------------------------------------------


def points(keys: int, steps: int, start: datetime) -> Iterator[pa.RecordBatch]:
    """`steps` points of each key, one a second, in batches."""
    rng = np.random.default_rng(0)
    words = pa.array([f"train/metric_{i:02d}" for i in range(keys)])
    first = int(start.timestamp() * 1e6)
    per_batch = max(1, CHUNK // keys)
    for at in range(0, steps, per_batch):
        some = np.arange(at, min(at + per_batch, steps))
        step = np.tile(some, keys)
        index = pa.array(np.repeat(np.arange(keys, dtype=np.int32), len(some)))
        yield pa.record_batch(
            [
                pa.DictionaryArray.from_arrays(index, words),
                pa.array(step),
                pa.array(first + step * 1_000_000).cast(batches.TIME),
                pa.array(rng.random(len(step))),
            ],
            schema=batches.POINTS,
        )


def fill(location: str, *, runs: int, keys: int, steps: int, params: int = 30, files: int = 0) -> None:
    """Runs in the experiment `bench`, as they would have been recorded: without any mark of a copy."""
    with open_sink(location) as sink:
        experiment = sink.experiment(Experiment(id="1", name="bench"))
        for number in range(runs):
            start = START + timedelta(minutes=20 * number)
            id = hashlib.md5(str(number).encode()).hexdigest()
            run = Run(
                id=id, experiment=experiment, name=f"run-{number:05d}", status=Status.FINISHED,
                started_at=start, ended_at=start + timedelta(minutes=17),
            )  # fmt: skip
            writer = sink.begin(run, Origin(platform="mlflow", run_id=id))
            writer.params({f"param_{i:02d}": str(i / 7) for i in range(params)})
            for batch in points(keys, steps, start):
                writer.points(batch)
            for i in range(files):
                data = np.random.default_rng([number, i]).bytes(100_000)
                writer.file(File(path=f"files/part-{i}.bin"), io.BytesIO(data))
            writer.finish(run, None)
        sink.flush()


def unmark(database: Path) -> None:
    """Take off the tags that say where a run came from: these runs were made here."""
    import sqlite3

    connection = sqlite3.connect(database)
    connection.execute("DELETE FROM tags WHERE key LIKE 'outgrow.%'")
    connection.commit()
    connection.close()


def copied(source: str, target: str, folder: Path, workers: int = 8) -> None:
    """A copy by the engine. Raises where anything failed."""
    report = copy(source, target, workers=workers, ledger=folder / f"ledger-{time.monotonic_ns()}.db")
    if report.exit_code:
        errors = [run.error.message for run in report.runs if run.error] + [
            f.message for f in report.failures
        ]
        raise RuntimeError(f"{source} → {target}: {report.state}: {errors[:3]}")


# --- ordinary ---------------------------------------------------------------------------------------


def ordinary(folder: Path, scale: float, peer: bool) -> None:
    runs, keys, steps = max(2, round(50 * min(1, scale * 5))), 20, max(10, round(1_000 * scale))
    total = runs * keys * steps
    print(f"\n{runs} runs × {keys} keys × {steps} steps, 30 params, 3 files of 100 kB; points a second")
    results = Results("points", base="peer: export and import")
    with mlflow_server(folder / "source") as source, mlflow_server(folder / "target") as target:
        database = folder / "source" / "mlflow.db"
        _experiment(source, "bench")  # by the server, so that its artifacts are served
        served = f"outgrow.artifacts={folder / 'source' / 'mlartifacts'}"
        fill(f"mlflow:sqlite:///{database}?{served}", runs=runs, keys=keys, steps=steps, files=3)
        unmark(database)
        if peer:
            _peer(results, folder, source, target, total)
        _read_ceiling(results, source)
        began = _bare_loop(target, "before", runs, keys, steps)
        with results.timed("outgrow: server to server (REST)", total):
            copied(f"mlflow:{source}", f"mlflow:{target}", folder)
        ended = _bare_loop(target, "after", runs, keys, steps)
        results.add("ceiling: bare log_batch loop, 4 threads", 2 * (runs // 2) * keys * steps, began + ended)
        with results.timed("outgrow: database to database (SQL)", total):
            copied(
                f"mlflow:sqlite:///{database}?{served}", f"mlflow:sqlite:///{folder}/sql/mlflow.db", folder
            )
        again = f"mlflow:sqlite:///{folder}/again/mlflow.db"
        with open_sink(again) as sink:
            sink.experiment(Experiment(id="1", name="bench"))  # MLflow's migrations take seconds
        with results.timed("outgrow: the same, into a store that is there", total):
            copied(f"mlflow:sqlite:///{database}?{served}", again, folder)
        with results.timed("outgrow: database to archive", total):
            copied(f"mlflow:sqlite:///{database}?{served}", f"archive:{folder}/archive", folder)
        with results.timed("outgrow: archive to database", total):
            copied(f"archive:{folder}/archive", f"mlflow:sqlite:///{folder}/restored/mlflow.db", folder)
        _sides(results, database, folder, total)
    _ordinary_ratios(results, peer)


def _ordinary_ratios(results: Results, peer: bool) -> None:
    print("ratios")
    rest, sql = (
        results.rate("outgrow: server to server (REST)"),
        results.rate("outgrow: database to database (SQL)"),
    )
    ratio(
        "REST, of a bare log_batch loop on that server",
        rest,
        results.rate("ceiling: bare log_batch loop, 4 threads"),
        0.95,
    )
    if peer:
        base = results.rate("peer: export and import")
        ratio("REST end to end, of the peer", rest, base, 1.5)
        ratio("SQL end to end, of the peer", sql, base, 20)
    ratio(
        "SQL write side, of a bare log_batch loop",
        results.rate("SQL: write only"),
        results.rate("ceiling: bare log_batch loop, 4 threads"),
        20,
    )
    ratio("SQL read side to Arrow, of a bare history loop", results.rate("SQL: read only, to Arrow"), results.rate("ceiling: bare get_metric_history loop"))  # fmt: skip


def _experiment(server: str, name: str) -> str:
    from mlflow import MlflowClient

    return str(MlflowClient(tracking_uri=server).create_experiment(name))


def _bare_loop(target: str, name: str, runs: int, keys: int, steps: int) -> float:
    """Seconds that MLflow's client takes for the points of half of the runs and nothing else.

    Half of them before the copy and half after it, for the store grows and the machine changes.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(tracking_uri=target)
    home = _experiment(target, f"bare loop {name}")
    ids = [client.create_run(home).info.run_id for _ in range(runs // 2)]

    def write(call: tuple[str, int]) -> None:
        run, at = call
        points = range(at, min(at + BATCH, keys * steps))
        metrics = [Metric(f"k{i // steps}", i / 7, 1_700_000_000_000 + i, i % steps) for i in points]
        client.log_batch(run, metrics=metrics)

    calls = [(run, at) for run in ids for at in range(0, keys * steps, BATCH)]
    began = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, calls))
    return time.perf_counter() - began


def _read_ceiling(results: Results, source: str) -> None:
    """What the source does for a client that only reads."""
    from mlflow import MlflowClient

    reader = MlflowClient(tracking_uri=source)
    bench = reader.get_experiment_by_name("bench")
    assert bench is not None
    runs = reader.search_runs([bench.experiment_id], max_results=2)
    read = 0
    began = time.perf_counter()
    for run in runs:
        for key in run.data.metrics:
            read += len(reader.get_metric_history(run.info.run_id, key))
    results.add("ceiling: bare get_metric_history loop", read, time.perf_counter() - began)


def _sides(results: Results, database: Path, folder: Path, total: int) -> None:
    """Reading alone and writing alone."""
    with open_source(f"mlflow:sqlite:///{database}") as source:
        runs = [run for experiment in source.experiments() for run in source.runs(experiment)]
        held = []
        with results.timed("SQL: read only, to Arrow", total):
            held = [(run, list(source.points(run))) for run in runs]
    with open_sink(f"mlflow:sqlite:///{folder}/written/mlflow.db") as sink:
        home = sink.experiment(Experiment(id="1", name="bench"))  # makes the store
        with results.timed("SQL: write only", total):
            for run, found in held:
                writer = sink.begin(run, Origin(platform="mlflow", run_id=run.id))
                for batch in found:
                    writer.points(batch)
                writer.finish(run, "m")
            sink.flush()
        assert home


def _peer(results: Results, folder: Path, source: str, target: str, total: int) -> None:
    """The peer's own commands; it writes files between the two servers."""
    binaries = peer_environment("mlflow-export-import", PEER, "mlflow<3", "setuptools<81", "tabulate")
    out = folder / "peer"
    began = time.perf_counter()
    for server, command in (
        (source, ["export-experiment", "--experiment", "bench", "--output-dir", str(out)]),
        (target, ["import-experiment", "--experiment-name", "bench-peer", "--input-dir", str(out)]),
    ):
        done = subprocess.run(
            [str(binaries / command[0]), *command[1:]],
            env=os.environ | {"MLFLOW_TRACKING_URI": server},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    seconds = time.perf_counter() - began
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=target)
    home = client.get_experiment_by_name("bench-peer")
    arrived = len(client.search_runs([home.experiment_id], max_results=1_000)) if home else 0
    print(f"  (the peer carried {arrived} runs)")
    results.add("peer: export and import", total, seconds)


# --- one big run, many small runs -------------------------------------------------------------------


def big(folder: Path, scale: float) -> None:
    steps = max(1_000, round(500_000 * scale))
    print(f"\none run of {20 * steps:,} points, by SQL, in a process of its own")
    fill(f"mlflow:sqlite:///{folder}/big/mlflow.db", runs=1, keys=20, steps=steps)
    unmark(folder / "big" / "mlflow.db")
    for target in (f"mlflow:sqlite:///{folder}/big-copy/mlflow.db", f"archive:{folder}/big-archive"):
        command = [sys.executable, __file__, "--child", f"mlflow:sqlite:///{folder}/big/mlflow.db", target]
        seconds, memory = map(
            float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        )
        kind = target.partition(":")[0]
        print(
            f"  to {kind:8} {seconds:8.1f} s {20 * steps / seconds:12,.0f} points/s   peak {memory:5.0f} MB (aim: 500)"
        )


def growth(folder: Path, scale: float) -> None:
    print("\nruns of 20 points, 30 params and no files, by SQL")
    before = None
    for runs in (100, 1_000, max(2_000, round(10_000 * scale))):
        source = f"mlflow:sqlite:///{folder}/growth-{runs}/mlflow.db"
        target = f"mlflow:sqlite:///{folder}/grown-{runs}/mlflow.db"
        fill(source, runs=runs, keys=5, steps=4)
        unmark(folder / f"growth-{runs}" / "mlflow.db")
        with open_sink(target) as sink:
            sink.experiment(Experiment(id="1", name="bench"))  # makes the store, which is not timed
        command = [sys.executable, __file__, "--child", source, target]
        seconds, memory = map(
            float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        )
        per_run = seconds / runs * 1e3
        grown = "" if before is None else f"   {per_run / before:5.2f} × the time a run of the line above"
        print(
            f"  {runs:6} runs {seconds:8.2f} s {per_run:8.2f} ms a run   peak {memory:4.0f} MB{grown}",
            flush=True,
        )
        before = per_run


def child(source: str, target: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        copied(source, target, Path(folder))
        print(time.perf_counter() - began, peak_rss_mb())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=["ordinary", "big", "growth", []], help="default: all")
    parser.add_argument("--scale", type=float, default=1.0, help="1.0 is the full size")
    parser.add_argument("--no-peer", action="store_true", help="leave out mlflow-export-import")
    parser.add_argument("--child", nargs=2, metavar=("SOURCE", "TARGET"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are stopped, too
    parts = options.parts or ["ordinary", "big", "growth"]
    with tempfile.TemporaryDirectory(prefix="outgrow-benchmark-") as name:
        folder = Path(name)
        if "ordinary" in parts:
            ordinary(folder, options.scale, not options.no_peer)
        if "big" in parts:
            big(folder, options.scale)
        if "growth" in parts:
            growth(folder, options.scale)


if __name__ == "__main__":
    main()
