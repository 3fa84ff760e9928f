"""MLflow → Comet zips, against `comet-for-mlflow` (PyPI), on the same MLflow database.

    uv venv peer-env && uv pip install --python peer-env/bin/python comet-for-mlflow==0.1.9
    python benchmarks/comet_migration.py --peer peer-env/bin/comet_for_mlflow [--runs 10]

The peer writes a tag into its source, so it gets a copy of the database. Afterwards both sets of
zips are read by the same reader, and what each carried is counted.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from outgrow import migrate
from outgrow.locations import open_source
from outgrow.model import CONSOLE_PREFIX

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from emulators.comet import API_KEY, CometServer

KEYS, STEPS, PARAMS, FILES = 20, 1_000, 30, 3


def fill(uri: str, artifacts: Path, runs: int) -> None:
    """Runs as users have them: finished, failed and running ones, repeated steps, a registered model."""
    import mlflow
    from mlflow.entities import Metric, Param, RunTag

    client = mlflow.MlflowClient(uri, uri)
    experiment = client.create_experiment("digits", artifact_location=artifacts.as_uri())
    client.create_registered_model("digits")
    for number in range(runs):
        tags = {"mlflow.source.name": "train.py", "mlflow.user": "ada"} if number % 4 else {}
        run = client.create_run(experiment, run_name=f"run-{number}", start_time=1_700_000_000_000, tags=tags)
        run_id = run.info.run_id
        metrics = [
            Metric(
                f"train/metric_{key:02d}", step / 7, 1_700_000_000_000 + step, step // (2 if key == 0 else 1)
            )
            for key in range(KEYS)
            for step in range(STEPS)
        ]
        for start in range(0, len(metrics), 1_000):
            client.log_batch(run_id, metrics=metrics[start : start + 1_000])
        params = [Param(f"p{key}", str(key / 7)) for key in range(PARAMS)]
        client.log_batch(run_id, params=params, tags=[RunTag("owner", "ml")])
        with tempfile.TemporaryDirectory() as folder:
            for name in range(FILES):
                Path(folder, f"file{name}.bin").write_bytes(os.urandom(100_000))
            client.log_artifacts(run_id, folder, "model")
        client.create_model_version("digits", f"{run.info.artifact_uri}/model", run_id)
        if number % 5 != 4:  # the others are still running
            client.set_terminated(run_id, "FAILED" if number % 5 == 3 else "FINISHED")
    client.set_registered_model_alias("digits", "champion", "1")


def carried(location: str) -> Counter[str]:
    """What a place holds, read by the same reader."""
    found: Counter[str] = Counter()
    with open_source(location) as source:
        for experiment in source.experiments():
            for run in source.runs(experiment):
                found["runs"] += 1
                found[f"status {run.status}"] += 1
                found[
                    "typed params" if any(not isinstance(v, str) for v in run.params.values()) else "-"
                ] += 1
                found["params"] += len(run.params)
                found["tags"] += len(run.tags)
                found["user kept"] += run.user == "ada"
                for batch in source.points(run):
                    found["points"] += batch.num_rows
                    found["points with a step"] += batch.num_rows - batch.column("step").null_count
                paths = [file.path for file in source.files(run)]
                found["files"] += sum(not path.startswith("outgrow/") for path in paths)
                found["origin records"] += "outgrow/origin.json" in paths
                found["console lines"] += sum(
                    str(key).startswith(CONSOLE_PREFIX)
                    for batch in source.texts(run)
                    for key in batch.column("key").to_pylist()
                )
        found["model versions"] = sum(len(model.versions) for model in source.registry())
    del found["-"]
    return found


def children() -> float:
    """Seconds of CPU that ended child processes took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--peer", required=True, help="the `comet_for_mlflow` command of its own environment")
    parser.add_argument("--runs", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uri = f"sqlite:///{folder}/mlflow.db"
        fill(uri, folder / "artifacts", given.runs)
        shutil.copy(folder / "mlflow.db", folder / "peer.db")

        # Neither side's start is counted: here a copy of nothing, there the printing of its help.
        migrate.copy(
            f"mlflow:{uri}", f"comet:{folder}/nothing", experiments=["Default"], ledger=folder / "0.db"
        )
        start, cpu = time.perf_counter(), time.process_time()
        report: Any = migrate.copy(f"mlflow:{uri}", f"comet:{folder}/ours", ledger=folder / "ledger.db")
        ours, our_cpu = time.perf_counter() - start, time.process_time() - cpu
        assert report.exit_code == 0, report.failures

        (folder / "theirs").mkdir()  # which the peer expects to be there
        command = [given.peer, "--no-upload", "--yes", "--output-dir"]
        source = ["--mlflow-store-uri", f"sqlite:///{folder}/peer.db"]
        start = time.perf_counter()
        subprocess.run([given.peer, "--help"], capture_output=True, check=True)
        start_up, start_cpu = time.perf_counter() - start, children()
        start = time.perf_counter()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("COMET_")}
        environment |= {"COMET_API_KEY": API_KEY, "COMET_WORKSPACE": "team", "COMET_INTERNAL_REPORTING": "0"}
        with CometServer() as server:  # it asks who the user is, even where it uploads nothing
            environment["COMET_URL_OVERRIDE"] = f"{server.url}/clientlib/"
            done = subprocess.run(
                [*command, f"{folder}/theirs", *source],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
        theirs = time.perf_counter() - start - start_up
        their_cpu = children() - 2 * start_cpu
        if done.returncode:
            sys.exit(f"the peer ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}"[-3000:])
        print(f"{given.runs} runs, {KEYS * STEPS:,} points each")
        print(f"outgrow copy      {ours:8.1f} s, {our_cpu:8.1f} s of CPU")
        print(f"comet-for-mlflow  {theirs:8.1f} s, {their_cpu:8.1f} s of CPU")
        print(f"ratio             {theirs / ours:8.1f}    {their_cpu / our_cpu:8.1f}")
        rows = [carried(f"mlflow:{uri}"), carried(f"comet:{folder}/ours"), carried(f"comet:{folder}/theirs")]
        print(f"{'':24}{'source':>12}{'outgrow':>12}{'peer':>12}")
        for what in sorted(set().union(*rows)):
            print(f"{what:24}" + "".join(f"{row[what]:12,}" for row in rows))


if __name__ == "__main__":
    main()
