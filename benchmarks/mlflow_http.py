"""Writing to and reading from a tracking server: outgrow beside bare loops of MLflow's client.

    python benchmarks/mlflow_http.py [--points 50000] [--rounds 3]

The two write the same points, in turns, to the same server; what counts is the ratio. A bare loop
is `MlflowClient.log_batch` with 1,000 prepared metrics a call, and `get_metric_history` a key.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from outgrow.adapters.base import RunWriter

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

KEYS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from outgrow.locations import open_sink, open_source
    from outgrow.model import Experiment, Origin, Run
    from outgrow.testing import records

    serving = importlib.import_module("mlflow_server").mlflow_server
    keys = [f"key/{i}" for i in range(KEYS)]
    batch = records.points(keys, options.points // KEYS)
    metrics = [
        Metric(row["key"], row["value"], int(row["time"].timestamp() * 1000), row["step"])
        for row in batch.to_pylist()
    ]
    seconds: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        seconds.setdefault(name, []).append(time.perf_counter() - start)

    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "server") as server:
        client = MlflowClient(server.url)
        with open_sink(server.location) as sink, open_source(server.location) as source:
            experiment = sink.experiment(Experiment(id="x", name="speed"))
            size = sink.capabilities.batch_points
            for turn in range(options.rounds):
                native = client.create_run(experiment).info.run_id
                run = Run(id=str(turn), experiment=experiment, name=str(turn))
                writer = sink.begin(run, Origin(platform="test", run_id=str(turn)))
                back = Run(id=writer.run_id, experiment=experiment)

                def write_bare(run_id: str = native) -> None:
                    for start in range(0, len(metrics), 1_000):
                        client.log_batch(run_id, metrics[start : start + 1_000])

                def write(writer: RunWriter = writer) -> None:
                    for start in range(0, batch.num_rows, size):
                        writer.points(batch.slice(start, size))

                def read_bare(run_id: str = native) -> None:
                    for key in keys:
                        client.get_metric_history(run_id, key)

                def read(run: Run = back) -> None:
                    assert sum(rows.num_rows for rows in source.points(run)) == batch.num_rows

                work: list[tuple[str, Callable[[], object]]] = [("write bare", write_bare), ("write", write)]
                for name, call in work if turn % 2 else reversed(work):
                    timed(name, call)
                writer.finish(run, "1")
                timed("read", read)
                timed("read bare", read_bare)
    for name in ("write", "read"):
        ours, bare = (batch.num_rows / statistics.median(seconds[n]) for n in (name, f"{name} bare"))
        print(
            f"{name}: outgrow {ours:,.0f} points/s, bare client {bare:,.0f} points/s, ratio {ours / bare:.2f}"
        )


if __name__ == "__main__":
    main()
