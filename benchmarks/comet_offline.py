"""Points a second into Comet's offline zips, against the SDK's own offline experiment.

    python benchmarks/comet_offline.py [--runs 5] [--keys 20] [--steps 1000]

The same points, written by `comet:DIR` and by `comet_ml.OfflineExperiment.log_metric`, then read
back from both sets of zips. The SDK runs in a process of its own; its start is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from outgrow.locations import open_sink, open_source
from outgrow.model import Origin
from outgrow.testing import records

SDK = """
import json, sys, time
import comet_ml
folder, runs, keys, steps = sys.argv[1], *map(int, sys.argv[2:])
options = dict(log_code=False, log_git_metadata=False, log_env_details=False, parse_args=False,
               auto_output_logging=False, log_graph=False, display_summary_level=0)
comet_ml.OfflineExperiment(project_name="warm", offline_directory=folder + "-warm", **options).end()
start = time.perf_counter()
for number in range(runs):
    experiment = comet_ml.OfflineExperiment(project_name="bench", offline_directory=folder, **options)
    for step in range(steps):
        for key in range(keys):
            experiment.log_metric(f"train/metric_{key:02d}", step / 7 + key, step=step)
    experiment.end()
print(json.dumps(time.perf_counter() - start))
"""


def by_sdk(folder: Path, runs: int, keys: int, steps: int) -> float:
    environment = os.environ | {"COMET_LOGGING_CONSOLE": "CRITICAL", "COMET_ERROR_TRACKING_ENABLE": "0"}
    command = [sys.executable, "-c", SDK, str(folder), str(runs), str(keys), str(steps)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def by_outgrow(folder: Path, runs: int, keys: int, steps: int) -> float:
    names = [f"train/metric_{key:02d}" for key in range(keys)]
    batches = [records.points(names, steps, seed=number) for number in range(runs)]
    start = time.perf_counter()
    with open_sink(f"comet:{folder}") as sink:
        for number, batch in enumerate(batches):
            run = replace(records.run(number + 1), experiment="bench")
            writer = sink.begin(run, Origin(platform="bench", run_id=run.id))
            writer.points(batch)
            writer.finish(run, "mark")
        sink.flush()
    return time.perf_counter() - start


def read(folder: Path) -> tuple[int, float]:
    start, count = time.perf_counter(), 0
    with open_source(f"comet:{folder}") as source:
        for experiment in source.experiments():
            for run in source.runs(experiment):
                count += sum(batch.num_rows for batch in source.points(run))
    return count, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--keys", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1_000)
    given = parser.parse_args()
    points = given.runs * given.keys * given.steps
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = by_outgrow(folder / "ours", given.runs, given.keys, given.steps)
        theirs = by_sdk(folder / "sdk", given.runs, given.keys, given.steps)
        print(f"{points:,} points in {given.runs} runs")
        print(f"write, comet:DIR                 {points / ours:12,.0f} points/s")
        print(
            f"write, comet_ml.OfflineExperiment{points / theirs:12,.0f} points/s   ratio {theirs / ours:.1f}"
        )
        for label, part in (("ours", "ours"), ("the SDK's", "sdk")):
            count, seconds = read(folder / part)
            print(f"read {label + ' zips':28}{count / seconds:12,.0f} points/s")
            assert count >= points, f"{count} points read of {points}"


if __name__ == "__main__":
    main()
