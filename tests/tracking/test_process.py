"""The delivery process against a real MLflow store, servers that fail, and SIGKILL on either side."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import outgrow
import pytest
from click.testing import CliRunner
from outgrow.cli import main
from outgrow.tracking import journal, state
from outgrow.tracking.start import start_run
from outgrow.tracking.warning import DeliveryWarning

STORE = "mlflow:sqlite:///mlflow.db"


def workers(root: Path) -> list[int]:
    found = []
    for lock in root.glob("delivery-*.lock"):
        with contextlib.suppress(ValueError, OSError):
            pid = int(lock.read_text())
            os.kill(pid, 0)
            found.append(pid)
    return found


@pytest.fixture(autouse=True)
def _ended(tmp_path: Path) -> Iterator[None]:
    """No delivery process outlives its test."""
    yield
    for pid in workers(tmp_path / ".outgrow" / "journal"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., None]:
    def write(*to: str, **settings: Any) -> None:
        facts = {"to": list(to), "interval": 0.2, "system_interval": 0, "linger": 30.0} | settings
        lines = [f"{key} = {json.dumps(value)}" for key, value in facts.items()]
        (tmp_path / "outgrow.toml").write_text("[tracking]\n" + "\n".join(lines) + "\n")

    return write


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs: making one takes seconds."""
    from outgrow.locations import open_sink
    from outgrow.model import Experiment

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    with open_sink(f"mlflow:sqlite:///{path}") as sink:
        sink.experiment(Experiment(id="digits", name="digits"))
    return path


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return STORE


def rows(sql: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect("file:mlflow.db?mode=ro", uri=True, timeout=30)) as database:
        return database.execute(sql).fetchall()


def until(true: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


TRAINING = """
import os, struct, sys, outgrow
run = outgrow.start_run("digits", id="long", capture=False)
step = 0
while True:
    run.log({"loss": step * 0.5, "accuracy": 1.0}, step=step)
    os.write(1, struct.pack("<i", step))
    step += 1
    if step % 50 == 0:
        import time; time.sleep(0.01)
"""


def test_delivery_survives_the_training_and_its_own_death(
    configured: Any, store: str, tmp_path: Path
) -> None:
    configured(STORE)
    training = subprocess.Popen([sys.executable, "-c", TRAINING], stdout=subprocess.PIPE)
    assert training.stdout is not None
    root = tmp_path / ".outgrow" / "journal"
    until(lambda: state.load(root / "long", STORE).offset > 0)
    for pid in workers(root):  # the delivery process dies first…
        os.kill(pid, signal.SIGKILL)
    time.sleep(random.random() * 0.2)
    training.kill()  # …then the training
    told = training.stdout.read()
    training.wait()
    acknowledged = len(told) // 4
    assert acknowledged > 50
    assert CliRunner().invoke(main, ["sync"]).exit_code == 0
    steps = [step for (step,) in rows("SELECT step FROM metrics WHERE key = 'loss' ORDER BY step")]
    assert steps == list(range(len(steps)))
    assert len(steps) in (acknowledged, acknowledged + 1)
    assert rows("SELECT status FROM runs") == [("KILLED",)]
    assert rows("SELECT value FROM tags WHERE key = 'outgrow.complete'") == [("live",)]


def test_a_run_is_in_the_store_when_finish_returns(configured: Any, store: str, tmp_path: Path) -> None:
    configured(STORE)
    runs = []
    for number in range(3):
        with outgrow.start_run("digits", f"run-{number}", params={"lr": 0.1 * number}) as run:
            run.log({"loss": 1.0})
            run.log_bytes("hello", "notes/a.txt")
        report = run.finish()
        assert report.complete, report
        assert report.sinks[0].run_id
        runs.append(report.sinks[0].run_id)
    assert len(workers(tmp_path / ".outgrow" / "journal")) == 1  # one process serves them all
    stored = {
        run_id: (name, status) for run_id, name, status in rows("SELECT run_uuid, name, status FROM runs")
    }
    assert stored == {run_id: (f"run-{n}", "FINISHED") for n, run_id in enumerate(runs)}
    assert Counter(key for (key,) in rows("SELECT key FROM metrics"))["loss"] == 3


class Failing(http.server.BaseHTTPRequestHandler):
    """A server that answers everything with an error, and with another one each time."""

    statuses = itertools.cycle([500, 429, 503])

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b'{"error_code": "INTERNAL_ERROR", "message": "out of order"}'
        status = next(self.statuses)
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def failing_server() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"mlflow:http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def hanging_server() -> Iterator[str]:
    """It takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"mlflow:http://127.0.0.1:{server.getsockname()[1]}"


def test_broken_servers_harm_neither_training_nor_the_other_sink(
    configured: Any, failing_server: str, hanging_server: str, store: str, tmp_path: Path
) -> None:
    configured(failing_server, STORE, hanging_server)
    run = start_run("digits", "unharmed", capture=False)
    for step in range(2_000):
        run.log({"loss": 1 / (step + 1)}, step=step)
    assert run.folder is not None
    until(lambda: bool(state.load(run.folder, failing_server).error))
    with pytest.warns(DeliveryWarning, match=r"2,00\d records undelivered .*out of order"):
        report = run.finish(timeout=4)
    assert not report.delivered
    assert report.sinks[2].pending >= 2_000
    until(lambda: state.load(run.folder, STORE).done)
    assert rows("SELECT count(*), count(DISTINCT step) FROM metrics") == [(2_000, 2_000)]
    refused = CliRunner().invoke(main, ["sync", "--json", "--to", failing_server, "--to", STORE])
    assert refused.exit_code == 3  # one of two: partial
    sinks = json.loads(refused.stdout)["runs"][0]["sinks"]
    assert [sink["delivered"] for sink in sinks] == [False, True]
    assert "out of order" in sinks[0]["error"]


def test_nobody_at_home(configured: Any, store: str, tmp_path: Path) -> None:
    """A server that is gone: everything stays in the journal, and goes elsewhere later."""
    configured("mlflow:http://127.0.0.1:9", delivery="off")
    with start_run("digits", capture=False) as run:
        run.log({"loss": 1.0})
    assert run.folder is not None
    assert not workers(tmp_path / ".outgrow" / "journal")
    told = CliRunner().invoke(main, ["sync"])
    assert told.exit_code == 4
    assert "undelivered" in told.stdout
    done = CliRunner().invoke(main, ["sync", str(run.folder), "--to", STORE])
    assert done.exit_code == 0, done.output
    assert rows("SELECT value FROM metrics") == [(1.0,)]


def test_sync_of_many_journals_from_another_folder(configured: Any, tmp_path: Path) -> None:
    configured("archive:history", delivery="off")
    for number in range(12):
        with start_run("digits", f"run-{number}", capture=False) as run:
            run.log({"loss": float(number)})
    (tmp_path / ".outgrow").rename(tmp_path / "carried")
    done = CliRunner().invoke(main, ["sync", str(tmp_path / "carried" / "journal"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["complete"]
    from outgrow.locations import open_source

    with open_source(f"archive:{tmp_path / 'history'}") as source:
        runs = [run for experiment in source.experiments() for run in source.runs(experiment)]
        assert {run.name for run in runs} == {f"run-{number}" for number in range(12)}
    assert len(journal.journals(tmp_path / "carried" / "journal")) == 12


def test_sync_without_journals(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["sync"]).stdout == "0 of 0 deliveries complete, 0 runs\n"
    missing = CliRunner().invoke(main, ["sync", "nowhere"])
    assert missing.exit_code == 2
