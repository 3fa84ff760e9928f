"""What benchmarks share: real MLflow servers, a peer in an environment of its own, a table of results."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

OUTGROW = [sys.executable, "-c", "from outgrow.cli import main; main()"]
# Else each start would compile every module anew, those of one side and not of the other.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@dataclass
class Results:
    """Rows of label, amount, seconds. Ratios are to the row named `base`, and are what counts."""

    unit: str
    base: str | None = None
    rows: list[tuple[str, float, float]] = field(default_factory=list)

    @contextlib.contextmanager
    def timed(self, label: str, amount: float) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.add(label, amount, time.perf_counter() - began)

    def add(self, label: str, amount: float, seconds: float) -> None:
        self.rows.append((label, amount, seconds))
        rates = {name: n / s for name, n, s in self.rows}
        rate = amount / seconds
        ratio = f"{rate / rates[self.base]:8.2f} ×" if self.base in rates else ""
        print(f"  {label:44} {seconds:9.2f} s {rate:12,.0f} {self.unit}/s {ratio}", flush=True)

    def rate(self, label: str) -> float:
        return next(amount / seconds for name, amount, seconds in self.rows if name == label)


def ratio(what: str, one: float, other: float, aim: float | None = None) -> None:
    """One line for a ratio that is aimed at."""
    aimed = "" if aim is None else f"   (aim: {aim:g} ×, {'met' if one / other >= aim else 'MISSED'})"
    print(f"  {what:60} {one / other:8.2f} ×{aimed}", flush=True)


def peak_rss_mb() -> float:
    """Largest resident size that this process has had, in MB (Linux counts in KiB, macOS in bytes)."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / 1e6 if sys.platform == "darwin" else size / 1e3


def run_command(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
    """A whole command, its start included. Raises with the end of what it said where it fails."""
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        raise RuntimeError(f"{command[0]}: exit {done.returncode}\n{said}")


def empty_store(path: Path) -> str:
    """An SQLite store as MLflow itself makes it, by its migrations; its URI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{path}"
    run_command([sys.executable, "-m", "mlflow", "db", "upgrade", uri], path.parent)
    return uri


def bare_calls(url: str, folder: Path, runs: int, keys: int, steps: int) -> None:
    """The points alone, 1,000 a call, two at once: what a tracking server takes from any client."""
    script = (
        "import sys, requests\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "url, runs, keys, steps = sys.argv[1], *map(int, sys.argv[2:])\n"
        "http = requests.Session()\n"
        "def post(name, body):\n"
        "    answer = http.post(f'{url}/api/2.0/mlflow/{name}', json=body)\n"
        "    answer.raise_for_status()\n"
        "    return answer.json()\n"
        "experiment = post('experiments/create', {'name': 'bare'})['experiment_id']\n"
        "def run(number):\n"
        "    made = post('runs/create', {'experiment_id': experiment, 'start_time': 0})['run']['info']['run_id']\n"
        "    points = [{'key': f'm{k}', 'value': (s + k) / 7, 'timestamp': s, 'step': s}"
        " for k in range(keys) for s in range(steps)]\n"
        "    for first in range(0, len(points), 1000):\n"
        "        post('runs/log-batch', {'run_id': made, 'metrics': points[first:first + 1000]})\n"
        "with ThreadPoolExecutor(2) as pool: list(pool.map(run, range(runs)))"
    )
    run_command([sys.executable, "-c", script, url, *map(str, (runs, keys, steps))], folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """A tracking server with SQLite and proxied artifacts in the folder; its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"),
        *("--port", str(port), "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder / "mlartifacts")),
    ]
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True
        )
    try:
        _wait(url, process, folder / "server.log")
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(log.read_text()[-2000:])
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{url} did not start: see {log}")


def peer_environment(name: str, *packages: str) -> Path:
    """A virtual environment with these packages, made once; its `bin` directory."""
    folder = Path(tempfile.gettempdir()) / "outgrow-benchmark-peers" / name
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        print(f"  installing {' '.join(packages)} …", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [
            str(folder / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        subprocess.run([*pip, *packages], check=True)
        (folder / "ready").touch()
    return folder / "bin"
