"""W&B → MLflow, against `wandb-to-mlflow` 0.1.0, from the same emulated W&B server.

    python benchmarks/wandb_to_mlflow.py [--runs 50] [--keys 10] [--steps 1000]

Into a tracking server over HTTP, and into an SQLite store directly. Both sides are whole commands,
their start included; the peer has an environment of its own and is given as many workers. Server
and store are there before: what MLflow takes to make an empty store is a line of its own. What the
server takes for the same points in bare calls is the ceiling of every client, the peer's too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from common import (
    OUTGROW,
    Results,
    bare_calls,
    empty_store,
    mlflow_server,
    peer_environment,
    ratio,
    run_command,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from emulators.wandb import WandbServer
from emulators.wandb.state import Run

PEER = ("wandb-to-mlflow==0.1.0",)


def fill(server: WandbServer, runs: int, keys: int, steps: int) -> None:
    """Finished runs, put into the server as if they had been uploaded and exported."""
    server.state.project(server.entity, "bench")
    for number in range(runs):
        run = Run(server.entity, "bench", f"run{number:04d}", state="finished", exit_code=0)
        run.fields = {"displayName": f"run {number}", "tags": ["bench"]}
        run.config = {f"param_{i}": {"value": i / 7} for i in range(20)}
        run.history = [
            {f"train/metric_{k:02d}": (s + k) / 7 for k in range(keys)}
            | {"_step": s, "_timestamp": 1_770_000_000 + s + number, "_runtime": float(s)}
            for s in range(steps)
        ]
        run.summary = {k: v for k, v in run.history[-1].items() if k.startswith("train/")}
        run.summary["_wandb"] = {"runtime": steps}
        server.state.runs[server.entity, "bench", run.name] = run
    server.export_history()


def points_in(uri: str) -> int:
    """Metric values that arrived, but for system metrics."""
    script = (
        "import sys, json, mlflow\n"
        "c = mlflow.MlflowClient(sys.argv[1]); n = 0\n"
        "for e in c.search_experiments():\n"
        "    for r in c.search_runs([e.experiment_id]):\n"
        "        n += sum(len(c.get_metric_history(r.info.run_id, k)) for k in r.data.metrics if k.startswith('train'))\n"
        "print(json.dumps(n))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, uri], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    return int(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--keys", type=int, default=10)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--ways", nargs="+", default=["HTTP", "SQLite"])
    given = parser.parse_args()
    points = given.runs * given.keys * given.steps
    peer = peer_environment("wandb-to-mlflow", *PEER)
    print(f"{points:,} points in {given.runs} runs")
    with tempfile.TemporaryDirectory() as name, WandbServer() as server:
        folder = Path(name)
        fill(server, given.runs, given.keys, given.steps)
        environment = os.environ | server.environment(folder / "home") | {"MLFLOW_DISABLE_TELEMETRY": "true"}
        results = Results("points", base=f"wandb-to-mlflow, {given.ways[0]}")
        for way in given.ways:
            with contextlib.ExitStack() as opened:
                if way == "HTTP":
                    theirs, ours, bare = (
                        opened.enter_context(mlflow_server(folder / part)) for part in ("a", "b", "c")
                    )
                    tenth = max(1, given.runs // 10)
                    with results.timed("bare calls, HTTP", points * tenth / given.runs):
                        bare_calls(bare, folder, tenth, given.keys, given.steps)
                else:
                    with results.timed("MLflow makes an empty store", 0):
                        theirs = empty_store(folder / "one.db")
                    ours = f"sqlite:///{shutil.copy(folder / 'one.db', folder / 'two.db')}"
                command = [str(peer / "wandb-to-mlflow"), "migrate", "-e", server.entity, "-p", "bench"]
                command += ["--tracking-uri", theirs, "--workers", str(given.workers)]
                command += ["--artifact-root", str(folder / f"artifacts-{way}")]
                with results.timed(f"wandb-to-mlflow, {way}", points):
                    run_command(command, folder, environment)
                command = [*OUTGROW, "copy", f"wandb:{server.entity}/bench", f"mlflow:{ours}"]
                with results.timed(f"outgrow, {way}", points):
                    run_command([*command, "--workers", str(given.workers)], folder, environment)
                counted = points_in(theirs), points_in(ours)
                print(f"  points that arrived, {way}: {counted[0]:,} and {counted[1]:,} of {points:,}")
        if "HTTP" in given.ways:
            theirs_rate = results.rate("wandb-to-mlflow, HTTP")
            ratio(
                "HTTP: bare calls, what any client can reach", results.rate("bare calls, HTTP"), theirs_rate
            )
        for way in given.ways:
            aim = 3 if way == "HTTP" else 10
            ratio(way, results.rate(f"outgrow, {way}"), results.rate(f"wandb-to-mlflow, {way}"), aim)


if __name__ == "__main__":
    main()
