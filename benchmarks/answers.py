"""Lists, winners, differences and lineage over 10,000 runs, beside `mlflow.search_runs` on the same database.

    python benchmarks/answers.py [--runs 10000] [--folder FOLDER] [--repeats 3]

Builds a history of RUNS runs × 20 metrics × 30 params, first as an MLflow SQLite database (as
MLflow itself would have recorded it), then as an archive that is copied from it, and asks each the
same questions. Every question is a process of its own, as a person would ask it; the file cache is
warm; ratios are against `mlflow.search_runs`. A FOLDER is kept and used again.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import closing
from pathlib import Path

import numpy as np

METRICS, PARAMS, POINTS = 20, 30, 5
START_MS = 1_770_000_000_000
RUN_MS = 60_000


def mlflow_store(path: Path, runs: int) -> None:
    """A database of MLflow's own migrations, filled by its tables."""
    make = "import sys; from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as S; S(sys.argv[1], sys.argv[2])"
    root = f"file://{path.parent / 'mlartifacts'}"
    subprocess.run([sys.executable, "-W", "ignore", "-c", make, f"sqlite:///{path}", root], check=True)
    random = np.random.default_rng(0)
    ids = [uuid.UUID(bytes=random.bytes(16), version=4).hex for _ in range(runs)]
    metrics = [f"eval/metric_{i}" for i in range(METRICS)]
    numbers = random.uniform(0, 1, (runs, PARAMS))
    words = np.array(["adam", "sgd", "lion", "adagrad"])[random.integers(0, 4, runs)]
    with closing(sqlite3.connect(path)) as connection, connection:
        write = connection.executemany
        one = connection.execute
        one(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time, "
            "last_update_time) VALUES (1, 'digits', ?, 'active', ?, ?)",
            (f"{root}/1", START_MS, START_MS),
        )
        write(
            "INSERT INTO runs (run_uuid, name, source_type, user_id, status, start_time, end_time, "
            "lifecycle_stage, artifact_uri, experiment_id) VALUES (?, ?, 'LOCAL', 'ada', ?, ?, ?, 'active', ?, 1)",
            (
                (id, f"digits-sweep-{i:05d}", "FAILED" if i % 50 == 0 else "FINISHED", START_MS + i * RUN_MS, START_MS + (i + 1) * RUN_MS, f"{root}/1/{id}/artifacts")
                for i, id in enumerate(ids)
            ),
        )  # fmt: skip
        write(
            "INSERT INTO params (run_uuid, key, value) VALUES (?, ?, ?)",
            (
                (id, f"param_{p}", str(words[i]) if p == 0 else repr(float(numbers[i, p])))
                for i, id in enumerate(ids)
                for p in range(PARAMS)
            ),
        )
        own = {"mlflow.user": "ada", "mlflow.source.name": "train.py", "owner": "ml", "project": "digits"}
        write(
            "INSERT INTO tags (run_uuid, key, value) VALUES (?, ?, ?)",
            (
                (id, key, value)
                for i, id in enumerate(ids)
                for key, value in (own | {"mlflow.runName": f"digits-sweep-{i:05d}", "mlflow.source.git.commit": f"{i // 100:040x}"}).items()
            ),
        )  # fmt: skip
        for first in range(0, runs, 500):
            values = random.uniform(0, 1, (min(500, runs - first), METRICS, POINTS))
            # A param that matters: what `best` is to find.
            values[:, 0] = (values[:, 0] + 3 * numbers[first : first + 500, 1, None]) / 4
            rows = [
                (id, key, float(values[n, m, s]), START_MS + (first + n) * RUN_MS + s, s)
                for n, id in enumerate(ids[first : first + 500])
                for m, key in enumerate(metrics)
                for s in range(POINTS)
            ]
            write(
                "INSERT INTO metrics (run_uuid, key, value, timestamp, step, is_nan) VALUES (?, ?, ?, ?, ?, 0)",
                rows,
            )
            write(
                "INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan) VALUES (?, ?, ?, ?, ?, 0)",
                rows[POINTS - 1 :: POINTS],
            )
        one(
            "INSERT INTO datasets (dataset_uuid, experiment_id, name, digest, dataset_source_type, dataset_source) "
            "VALUES ('d1', 1, 'digits', '0f1e2d3c', 'local', '{}')"
        )
        write(
            "INSERT INTO inputs (input_uuid, source_type, source_id, destination_type, destination_id) "
            "VALUES (?, 'DATASET', 'd1', 'RUN', ?)",
            ((uuid.UUID(bytes=random.bytes(16), version=4).hex, id) for id in ids),
        )
        one("INSERT INTO registered_models (name, creation_time) VALUES ('clf', ?)", (START_MS,))
        one(
            "INSERT INTO model_versions (name, version, creation_time, current_stage, source, run_id, status) "
            "VALUES ('clf', 1, ?, 'None', ?, ?, 'READY')",
            (START_MS, f"runs:/{ids[-1]}/model", ids[-1]),
        )
        one("INSERT INTO registered_model_aliases (name, alias, version) VALUES ('clf', 'production', 1)")


def timed(command: list[str], repeats: int) -> float:
    """Median seconds of the command, after one run of it that fills caches; compiled code is kept, as it is for users."""
    seconds = []
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(Path("compiled").resolve())
    for _ in range(repeats + 1):
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        seconds.append(time.perf_counter() - began)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return statistics.median(seconds[1:])


def compare(arguments: argparse.Namespace) -> None:
    outgrow = [sys.executable, "-m", "outgrow.cli"]
    if not Path("mlflow.db").exists():
        mlflow_store(Path("building.db").resolve(), arguments.runs)
        Path("building.db").rename("mlflow.db")
    if not Path("history").exists():
        subprocess.run([*outgrow, "copy", "mlflow:sqlite:///mlflow.db", "archive:history"], check=True)
    search = (
        "import mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db'); mlflow.search_runs("
        "experiment_names=['digits'], filter_string='metrics.`eval/metric_0` > 0.9', max_results=50000)"
    )
    peer = timed([sys.executable, "-W", "ignore", "-c", search], arguments.repeats)
    print(f"{arguments.runs:,} runs × {METRICS} metrics × {PARAMS} params")
    print(f"{'question':44}{'seconds':>9}{'of mlflow.search_runs':>24}{'aim':>8}")
    print(f"{'mlflow.search_runs, filtered':44}{peer:9.2f}{1:24.2f}", flush=True)
    for place in ("mlflow:sqlite:///mlflow.db", "archive:history"):
        above = ["--where", 'metrics["eval/metric_0"] > 0.9']
        chosen = ["--columns", "name,metrics.eval/metric_0"]
        by_metric = ["--metric", "eval/metric_0"]
        questions: dict[str, tuple[float, list[str]]] = {
            "runs --where, two columns": (2, ["runs", place, *above, *chosen, "--csv"]),
            "runs --where, every column": (2, ["runs", place, *above, "--csv"]),
            "runs, every column": (2, ["runs", place, "--csv"]),
            "best": (2, ["best", place, *by_metric]),
            "best --where": (2, ["best", place, *by_metric, "--where", 'status == "finished" and params.param_1 < 0.5']),
            "diff by name": (1, ["diff", f"{place}#digits-sweep-00001", f"{place}#digits-sweep-00002"]),
            "lineage of a run": (1, ["lineage", place, "digits-sweep-00001"]),
            "lineage of a model": (1, ["lineage", place, "clf@production"]),
        }  # fmt: skip
        for question, (aim, command) in questions.items():
            seconds = timed([*outgrow, *command], arguments.repeats)
            met = "met" if seconds < aim else "MISSED"
            label = f"{place.partition(':')[0]}: {question}"
            print(f"{label:44}{seconds:9.2f}{seconds / peer:24.2f}{aim:5d} s {met}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        os.chdir(arguments.folder)
        compare(arguments)
        return
    with tempfile.TemporaryDirectory(prefix="outgrow-bench-") as name:
        os.chdir(name)
        compare(arguments)


if __name__ == "__main__":
    main()
