"""A Neptune export into MLflow (HTTP and SQL), the archive and W&B folders, beside the vendor's own loader.

    python benchmarks/neptune_export.py [--runs 20] [--series 30] [--points 2000]
        [--peer PYTHON --peer-source DIR --peer-runs 1] [--ways archive wandb queues sql http]

The peer is neptune-exporter's loader, which is on no package index: clone it, give `src` as
`--peer-source`, and the interpreter (3.13) of an environment with its dependencies as `--peer`.
It loads the first `--peer-runs` runs (60,000 points each, about 40 seconds) into a tracking server
of its own; the copy over HTTP is measured on the same runs, and on all. Everything is a whole
command, its start included; server and store are there before, and what MLflow takes to make an
empty store is a line of its own. Absolute figures are this machine's; the ratios are what counts.
Aims: 2.5 × over HTTP, 30 × by SQL, 50 × into the archive and W&B folders.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import OUTGROW, Results, bare_calls, empty_store, mlflow_server, ratio, run_command
from outgrow.demo.neptune_export import START, RunExport
from outgrow.locations import open_source

PEER = "neptune-exporter load (HTTP)"
LABELS = {
    "archive": "archive",
    "wandb": "W&B folders",
    "queues": "2.x queues",
    "sql": "MLflow by SQL",
    "http": "MLflow over HTTP",
}
AIMS = {"http": 2.5, "sql": 30, "archive": 50, "wandb": 50}


def exported(folder: Path, runs: int, series: int, points: int) -> None:
    for number in range(runs):
        run = RunExport(folder, "ws/bench", f"run-{number}")
        run.sys(custom_run_id=f"run-{number}", name=f"run-{number}", creation_time=START)
        run.row("params/lr", "float", 10.0**-number)
        run.bulk([f"metrics/{n:02}" for n in range(series)], points, seed=number)
        run.write()


def load(export: Path, url: str, python: Path, source: Path) -> None:
    command = [str(python), "-c", "from neptune_exporter.main import main; main()", "load"]
    command += ["--loader", "mlflow", "--mlflow-tracking-uri", url]
    command += ["--data-path", str(export / "data"), "--files-path", str(export / "files")]
    run_command(command, export, os.environ | {"PYTHONPATH": str(source)})


def points_in(url: str) -> int:
    with open_source(f"mlflow:{url}") as opened:
        return sum(
            batch.num_rows
            for experiment in opened.experiments()
            for run in opened.runs(experiment)
            for batch in opened.points(run)
        )


def read(export: Path) -> None:
    with open_source(f"neptune:{export}") as opened:
        for experiment in opened.experiments():
            for run in opened.runs(experiment):
                for _ in opened.points(run):
                    pass


@contextmanager
def target_of(way: str, folder: Path, store: str) -> Iterator[str]:
    """A target that is ready to be written to; `store`: an empty MLflow store to begin with."""
    if way == "http":
        with mlflow_server(folder) as url:
            yield f"mlflow:{url}"
        return
    folder.mkdir()
    if way == "sql":
        shutil.copy(store.removeprefix("sqlite:///"), folder / "mlflow.db")
        yield f"mlflow:sqlite:///{folder / 'mlflow.db'}"
    else:
        yield f"{'neptune' if way == 'queues' else way}:{folder / 'target'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--series", type=int, default=30)
    parser.add_argument("--points", type=int, default=2_000)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--peer-source", type=Path)
    parser.add_argument("--peer-runs", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=LABELS, default=list(LABELS))
    asked = parser.parse_args()
    of_run = asked.series * asked.points
    total, part = of_run * asked.runs, of_run * min(asked.runs, asked.peer_runs)
    results = Results("points", base=PEER if asked.peer else None)
    with tempfile.TemporaryDirectory(prefix="outgrow-bench-") as scratch:
        folder = Path(scratch)
        exported(folder / "export", asked.runs, asked.series, asked.points)
        exported(folder / "slice", part // of_run, asked.series, asked.points)
        print(f"{total:,} points in {asked.runs} runs; the peer's slice: {part:,} points", flush=True)

        def copy(way: str, label: str, export: str, points: int) -> None:
            with target_of(way, folder / label.replace(" ", "-").replace("&", ""), store) as target:
                command = [*OUTGROW, "copy", f"neptune:{folder / export}", target]
                with results.timed(label, points):
                    run_command([*command, "--workers", "4"], folder)

        store = ""
        if "sql" in asked.ways:
            with results.timed("MLflow makes an empty store", 0):
                store = empty_store(folder / "empty.db")
        if asked.peer:
            with mlflow_server(folder / "bare") as url, results.timed("bare calls (HTTP)", part):
                bare_calls(url, folder, part // of_run, asked.series, asked.points)
            with mlflow_server(folder / "peer") as url:
                with results.timed(PEER, part):
                    load(folder / "slice", url, asked.peer, asked.peer_source)
                print(f"  points that arrived by the peer: {points_in(url):,}")
            copy("http", "MLflow over HTTP, the slice", "slice", part)
        with results.timed("read to Arrow", total):
            read(folder / "export")
        for way in asked.ways:
            copy(way, LABELS[way], "export", total)
        if asked.peer:
            of_peer = results.rate(PEER)
            ratio("bare calls, what any client can reach", results.rate("bare calls (HTTP)"), of_peer)
            ratio("MLflow over HTTP, the slice", results.rate("MLflow over HTTP, the slice"), of_peer, 2.5)
            for way in asked.ways:
                ratio(LABELS[way], results.rate(LABELS[way]), of_peer, AIMS.get(way))


if __name__ == "__main__":
    main()
