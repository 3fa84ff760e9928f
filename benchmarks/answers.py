"""Lists and winners over 10,000 runs, beside `mlflow.search_runs` on the same database.

    python benchmarks/answers.py [--runs 10000]

Builds a history of RUNS runs × 20 metrics × 30 params in a temporary folder, once as an MLflow
SQLite database and once as an archive, and asks each the same questions. Every question is a
process of its own, as a person would ask it; ratios are against `mlflow.search_runs`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from outgrow import migrate
from outgrow.adapters import batches
from outgrow.testing import records
from outgrow.testing.memory import MemorySource, RunData

METRICS, PARAMS = 20, 30


def history(runs: int) -> MemorySource:
    random = np.random.default_rng(0)
    names = [f"eval/metric_{i}" for i in range(METRICS)]
    data = []
    for number in range(1, runs + 1):
        values = random.uniform(0, 1, METRICS)
        params = {f"param_{i}": float(v) for i, v in enumerate(random.uniform(0, 1, PARAMS))}
        one = records.run(
            number,
            started_at=records.START,
            ended_at=records.START,
            created_at=None,
            params=params,
            summary=dict(zip(names, values.tolist(), strict=True)),
        )
        points = batches.points(names, [1] * METRICS, [one.started_at] * METRICS, values.tolist())
        data.append(RunData(one, [points]))
    return MemorySource([records.experiment()], data, [])


def timed(command: list[str], folder: Path, repeats: int = 3) -> float:
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        seconds.append(time.perf_counter() - began)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="outgrow-bench-") as name:
        folder = Path(name)
        os.chdir(folder)
        source = history(arguments.runs)
        for target in ("mlflow:sqlite:///mlflow.db", "archive:history"):
            if code := migrate.copy(source, target).exit_code:
                raise SystemExit(f"copying into {target} ended with {code}")
        outgrow = [sys.executable, "-m", "outgrow.cli"]
        search = "import mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db'); mlflow.search_runs(experiment_names=['digits'], filter_string='metrics.`eval/metric_0` > 0.9', max_results=50000)"
        peer = timed([sys.executable, "-W", "ignore", "-c", search], folder)
        print(f"{arguments.runs:,} runs × {METRICS} metrics × {PARAMS} params")
        print(f"{'question':34}{'seconds':>9}{'of mlflow.search_runs':>24}")
        print(f"{'mlflow.search_runs, filtered':34}{peer:9.2f}{1:24.2f}")
        for place in ("mlflow:sqlite:///mlflow.db", "archive:history"):
            run = f"{place}#digits-sweep-00{{}}"
            questions = {
                "runs --where": [
                    "runs",
                    place,
                    "--where",
                    'metrics["eval/metric_0"] > 0.9',
                    "--columns",
                    "name,metrics.eval/metric_0",
                    "--csv",
                ],
                "best": ["best", place, "--metric", "eval/metric_0"],
                "diff": ["diff", run.format(1), run.format(2)],
                "lineage": ["lineage", place, "digits-sweep-001"],
            }
            for question, command in questions.items():
                seconds = timed([*outgrow, *command], folder)
                print(f"{question + ', ' + place.partition(':')[0]:34}{seconds:9.2f}{seconds / peer:24.2f}")


if __name__ == "__main__":
    main()
