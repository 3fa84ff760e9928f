"""Writing W&B run folders, against the SDK's own offline loop.

    python benchmarks/wandb_offline.py [--small 500] [--sdk-small 10] [--steps 25000]

Small runs: 5 keys × 10 steps, params and a summary each. The SDK's time of many small runs is
taken from fewer, for each costs it about two seconds; a process is started once and not counted.
One large run: 20 keys × STEPS. Each side writes the same values.
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

from common import Results, ratio
from outgrow.locations import open_sink, open_source
from outgrow.model import Origin
from outgrow.testing import records

SDK = """
import json, sys, time
import wandb
folder, runs, keys, steps = sys.argv[1], *map(int, sys.argv[2:])
options = dict(mode="offline", dir=folder, project="bench", config={"lr": 0.1, "epochs": 10},
               settings=wandb.Settings(console="off", x_disable_stats=True, disable_git=True, silent=True))
run = wandb.init(**options)
run.finish()
start = time.perf_counter()
for number in range(runs):
    run = wandb.init(**options)
    for step in range(steps):
        run.log({f"train/metric_{key:02d}": step / 7 + key for key in range(keys)})
    run.finish()
print(json.dumps(time.perf_counter() - start))
"""


def by_sdk(folder: Path, runs: int, keys: int, steps: int) -> float:
    folder.mkdir()
    environment = os.environ | {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    command = [sys.executable, "-c", SDK, str(folder), str(runs), str(keys), str(steps)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd=folder)
    return float(json.loads(done.stdout.splitlines()[-1]))


def by_outgrow(folder: Path, runs: int, keys: int, steps: int) -> float:
    names = [f"train/metric_{key:02d}" for key in range(keys)]
    batch = records.points(names, steps)
    start = time.perf_counter()
    with open_sink(f"wandb:{folder}") as sink:
        for number in range(1, runs + 1):
            run = replace(records.run(number), experiment="bench")
            writer = sink.begin(run, Origin(platform="bench", run_id=run.id))
            writer.points(batch)
            writer.finish(run, "mark")
        sink.flush()
    return time.perf_counter() - start


def read(folder: Path) -> int:
    with open_source(f"wandb:{folder}") as source:
        return sum(
            batch.num_rows
            for experiment in source.experiments()
            for run in source.runs(experiment)
            for batch in source.points(run)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--small", type=int, default=500)
    parser.add_argument("--sdk-small", type=int, default=10)
    parser.add_argument("--steps", type=int, default=25_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        open_sink(f"wandb:{folder / 'warm'}").close()
        by_outgrow(folder / "warm", 1, 1, 1)
        print("small runs: 5 keys × 10 steps")
        small = Results("runs", base="SDK, offline")
        small.add("SDK, offline", given.sdk_small, by_sdk(folder / "sdk", given.sdk_small, 5, 10))
        small.add("wandb:DIR", given.small, by_outgrow(folder / "small", given.small, 5, 10))
        ratio("runs a second", small.rate("wandb:DIR"), small.rate("SDK, offline"), 20)
        points = 20 * given.steps
        print(f"one large run: 20 keys × {given.steps:,} steps")
        large = Results("points", base="SDK, offline")
        large.add("SDK, offline", points, by_sdk(folder / "sdk-large", 1, 20, given.steps))
        large.add("wandb:DIR", points, by_outgrow(folder / "large", 1, 20, given.steps))
        ratio("points a second", large.rate("wandb:DIR"), large.rate("SDK, offline"), 4)
        with large.timed("read back, wandb:DIR", points):
            assert read(folder / "large") == points


if __name__ == "__main__":
    main()
