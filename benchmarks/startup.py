"""What it costs to start: `import outgrow`, `outgrow --help`, the first run, beside `python -c pass`.

python benchmarks/startup.py [REPEATS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

CASES = {
    "python -c pass": ["-c", "pass"],
    "import outgrow": ["-c", "import outgrow"],
    "outgrow --help": ["-m", "outgrow.cli", "--help"],
    "first run, journal only": ["-c", "import outgrow; outgrow.start_run(to=[]).finish()"],
    "import mlflow": ["-c", "import mlflow"],
}


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    times: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):  # in turn, so that a busy moment hits every case
            for name, arguments in CASES.items():
                began = time.perf_counter()
                subprocess.run([sys.executable, *arguments], cwd=folder, check=True, capture_output=True)
                times[name].append(time.perf_counter() - began)
    base = statistics.median(times["python -c pass"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"{name:26} {median * 1e3:8.1f} ms   {median / base:6.1f} ×   +{(median - base) * 1e3:7.1f} ms")


if __name__ == "__main__":
    main()
