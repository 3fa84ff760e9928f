"""A Neptune export of 100 million points into the archive or W&B folders: points a second, and memory.

    python benchmarks/neptune_memory.py [--points 100_000_000] [--runs 10] [--series 100] [--target archive]

The export is generated first, in part files of about the exporter's size. The copy runs in a process
of its own; its resident size is printed as it goes and must not grow with the number of points.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

from common import OUTGROW, Results
from outgrow.demo.neptune_export import START, RunExport

PART_ROWS = 4_000_000
"""About 50 MB, where the exporter begins a new part."""
GROUP_ROWS = 500_000


def export(folder: Path, runs: int, series: int, points: int) -> None:
    """`runs` runs of `series` series of `points` points each."""
    at_once = max(1, GROUP_ROWS // points)
    keys = [f"metrics/{number:03}" for number in range(series)]
    for number in range(runs):
        run = RunExport(folder, "ws/bench", f"run-{number}")
        run.sys(custom_run_id=f"run-{number}", name=f"run-{number}", creation_time=START)
        rows = 0
        for first in range(0, series, at_once):
            run.bulk(keys[first : first + at_once], points, seed=first)
            rows += at_once * points
            if rows >= PART_ROWS:
                run.roll()
                rows = 0
        run.write()


def resident_mb(process: int) -> float:
    """Of a running process, in MB (Linux)."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e3 for line in status.splitlines() if line.startswith("VmRSS")), 0.0)


class Watch(threading.Thread):
    """Resident sizes of a process, taken twice a second until it has ended."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        self.process, self.sizes = process, list[float]()
        self.start()

    def run(self) -> None:
        while self.process.poll() is None:
            self.sizes.append(resident_mb(self.process.pid))
            time.sleep(0.5)

    def curve(self, parts: int = 10) -> list[float]:
        """The highest size in each of some equal stretches of time."""
        cuts = [round(len(self.sizes) * n / parts) for n in range(parts + 1)]
        return [max(self.sizes[a:b], default=0.0) for a, b in pairwise(cuts)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--points", type=int, default=100_000_000)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--series", type=int, default=100)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--target", choices=("archive", "wandb"), default="archive")
    asked = parser.parse_args()
    each = asked.points // (asked.runs * asked.series)
    total = asked.runs * asked.series * each
    results = Results("points")
    with tempfile.TemporaryDirectory(prefix="outgrow-bench-") as scratch:
        folder = Path(scratch)
        with results.timed("writing the export", total):
            export(folder / "export", asked.runs, asked.series, each)
        size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
        print(f"{total:,} points in {asked.runs} runs, {size / 1e6:,.0f} MB", flush=True)
        places = (f"neptune:{folder / 'export'}", f"{asked.target}:{folder / 'target'}")
        with results.timed(f"outgrow copy → {asked.target}, the whole command", total):
            process = subprocess.Popen(
                [*OUTGROW, "copy", *places, "--workers", str(asked.workers)],
                cwd=folder,
                stdout=subprocess.DEVNULL,
            )
            watch = Watch(process)
            if process.wait():
                raise SystemExit(f"the copy ended with exit code {process.returncode}")
        watch.join()
        print("  resident MB as it went: " + " ".join(f"{size:,.0f}" for size in watch.curve()))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        print(f"  peak resident size {peak / (1e6 if sys.platform == 'darwin' else 1e3):,.0f} MB")


if __name__ == "__main__":
    main()
