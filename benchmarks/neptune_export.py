"""A Neptune export into MLflow (HTTP and SQL), the archive and W&B folders, beside the vendor's own loader.

    python benchmarks/neptune_export.py [--runs 20] [--series 30] [--points 2000]
        [--peer PYTHON --peer-source DIR]

The peer is neptune-exporter's loader, which is on no package index: clone it, give `src` as
`--peer-source`, and the interpreter (3.13) of an environment with its dependencies as `--peer`.
It loads into a tracking server of its own, of the same kind. Absolute figures are this machine's;
the ratios are what counts. Aims: 2.5 × over HTTP, 30 × by SQL, 50 × into the archive and W&B folders.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

from common import Results, mlflow_server, peak_rss_mb, ratio
from outgrow import migrate
from outgrow.demo.neptune_export import START, RunExport
from outgrow.locations import open_source

PEER = "neptune-exporter load (HTTP)"


def exported(folder: Path, runs: int, series: int, points: int) -> None:
    for number in range(runs):
        run = RunExport(folder, "ws/bench", f"run-{number}")
        run.sys(custom_run_id=f"run-{number}", name=f"run-{number}", creation_time=START)
        run.row("params/lr", "float", 10.0**-number)
        run.bulk([f"metrics/{n:02}" for n in range(series)], points, seed=number)
        run.write()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--series", type=int, default=30)
    parser.add_argument("--points", type=int, default=2_000)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--peer-source", type=Path)
    asked = parser.parse_args()
    total = asked.runs * asked.series * asked.points
    results = Results("points", base=PEER if asked.peer else None)
    with tempfile.TemporaryDirectory(prefix="outgrow-bench-") as scratch:
        folder = Path(scratch)
        exported(folder / "export", asked.runs, asked.series, asked.points)
        print(f"{total:,} points in {asked.runs} runs", flush=True)
        source = f"neptune:{folder / 'export'}"
        if asked.peer:
            with mlflow_server(folder / "peer") as url, results.timed(PEER, total):
                subprocess.run(
                    [
                        *(str(asked.peer), "-c", "from neptune_exporter.main import main; main()"),
                        *("load", "--loader", "mlflow"),
                        *("--mlflow-tracking-uri", url, "--data-path", str(folder / "export" / "data")),
                        *("--files-path", str(folder / "export" / "files")),
                    ],
                    env=os.environ | {"PYTHONPATH": str(asked.peer_source)},
                    cwd=folder,
                    check=True,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
        with results.timed("read to Arrow", total), open_source(source) as opened:
            for experiment in opened.experiments():
                for run in opened.runs(experiment):
                    for _ in opened.points(run):
                        pass
        targets = {
            "archive": f"archive:{folder / 'archive'}",
            "W&B folders": f"wandb:{folder / 'wandb'}",
            "2.x queues": f"neptune:{folder / 'queues'}",
            "MLflow by SQL": f"mlflow:sqlite:///{folder / 'mlflow.db'}",
        }
        (folder / "wandb").mkdir()
        for label, target in targets.items():
            with results.timed(f"outgrow copy → {label}", total):
                report = migrate.copy(source, target, ledger=folder / "ledger.db")
            assert report.exit_code == 0, report.failures
        with mlflow_server(folder / "ours") as url:
            with results.timed("outgrow copy → MLflow over HTTP", total):
                report = migrate.copy(source, f"mlflow:{url}", ledger=folder / "ledger.db")
            assert report.exit_code == 0, report.failures
        if asked.peer:
            for label, aim in (
                ("MLflow over HTTP", 2.5),
                ("MLflow by SQL", 30),
                ("archive", 50),
                ("W&B folders", 50),
            ):
                ratio(
                    f"{label}: outgrow / {PEER}",
                    results.rate(f"outgrow copy → {label}"),
                    results.rate(PEER),
                    aim,
                )
        print(f"  peak resident size {peak_rss_mb():,.0f} MB")


if __name__ == "__main__":
    main()
