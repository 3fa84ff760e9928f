"""A real `mlflow server` that is killed, restarted, and loses its answers: nothing is lost, nothing doubled."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from mlflow_server import MlflowServer
from outgrow.adapters.base import Sink
from outgrow.adapters.restored import restored
from outgrow.config import Config
from outgrow.errors import Transient
from outgrow.locations import open_sink, open_source
from outgrow.tracking import journal, state
from outgrow.tracking.delivery import Delivery
from outgrow.tracking.start import start_run

TRAINING = """
import os, time, outgrow
with outgrow.start_run("digits", "through", id="through", params={"lr": 0.1, "layers": [64, 32]}, capture=False) as run:
    step = 0
    while not os.path.exists("stop"):
        run.log({"loss": 1 / (step + 1), "accuracy": step * 0.001}, step=step)
        print(step, flush=True)
        step += 1
        if step == 100:
            run.log_bytes("half way", "notes/half.txt")
            run.log_text("sample", "a cat")
        time.sleep(0.002)
print("unharmed")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    made = MlflowServer(tmp_path_factory.mktemp("server"))
    try:
        yield made.start()
    finally:
        made.kill()


@pytest.fixture(autouse=True)
def _ended(tmp_path: Path) -> Iterator[None]:
    """No delivery process outlives its test."""
    yield
    for lock in (tmp_path / ".outgrow" / "journal").glob("delivery-*.lock"):
        with contextlib.suppress(ValueError, OSError):
            os.kill(int(lock.read_text()), signal.SIGKILL)


def configure(*to: str) -> None:
    facts = {"to": to, "interval": 0.1, "system_interval": 0, "finish_timeout": 240}
    lines = [f"{key} = {json.dumps(value)}" for key, value in facts.items()]
    Path("outgrow.toml").write_text("[tracking]\n" + "\n".join(lines) + "\n")


def rows(server: MlflowServer, sql: str) -> list[tuple[Any, ...]]:
    path = f"file:{server.database}?mode=ro"
    with contextlib.closing(sqlite3.connect(path, uri=True, timeout=60)) as database:
        return database.execute(sql).fetchall()


def until(true: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_training_through_a_server_that_dies_and_comes_back(server: MlflowServer, tmp_path: Path) -> None:
    configure(server.location)
    with subprocess.Popen(
        [sys.executable, "-c", TRAINING], stdout=subprocess.PIPE, text=True, bufsize=1
    ) as training:
        assert training.stdout is not None
        folder = tmp_path / ".outgrow" / "journal" / "through"
        said = threading.Thread(target=(lines := []).extend, args=(training.stdout,))
        said.start()
        try:
            until(lambda: state.load(folder, server.location).offset > 0)
            time.sleep(random.random() * 0.5)  # at any moment of a delivery
            server.kill()
            at_the_kill = journal.size(folder)
            until(lambda: bool(state.load(folder, server.location).error))
            until(lambda: journal.size(folder) > at_the_kill + 50_000)  # it goes on, in its own pace
            assert training.poll() is None
            server.start()
            until(lambda: state.load(folder, server.location).offset > at_the_kill)
            (tmp_path / "stop").touch()
            assert training.wait(240) == 0
        finally:
            training.kill()
            said.join()
    assert lines.pop() == "unharmed\n"
    steps = list(range(len(lines)))
    assert [int(line) for line in lines] == steps
    for key in ("loss", "accuracy"):
        found = rows(server, f"SELECT step FROM metrics WHERE key = '{key}' ORDER BY step")
        assert [step for (step,) in found] == steps
    assert rows(server, "SELECT name, status FROM runs") == [("through", "FINISHED")]
    with open_source(server.location) as source:
        source = restored(source)
        (run,) = (run for experiment in source.experiments() for run in source.runs(experiment))
        assert run.params == {"lr": 0.1, "layers": [64, 32]}
        files = {file.path: source.open(run, file).read() for file in source.files(run)}
        assert files == {"notes/half.txt": b"half way"}
        assert [text for batch in source.texts(run) for text in batch.column("text").to_pylist()] == ["a cat"]


class Losing(http.server.BaseHTTPRequestHandler):
    """A proxy that carries out the first call of each kind and then breaks the connection, unanswered."""

    protocol_version = "HTTP/1.1"
    port = 0
    lost: ClassVar[Counter[str]] = Counter()

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        server.request(
            self.command, self.path, body, {k: v for k, v in self.headers.items() if k != "Connection"}
        )
        answer = server.getresponse()
        data = answer.read()
        server.close()
        kind = self.path.partition("?")[0] + (" points" if b'"timestamp":' in body else "")
        if self.command != "GET" and answer.status == 200 and not self.lost[kind]:
            self.lost[kind] += 1
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass

    def log_message(self, *_: Any) -> None:
        pass

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()


@pytest.fixture
def losing(server: MlflowServer) -> Iterator[str]:
    handler = type("Handler", (Losing,), {"port": server.port, "lost": Counter()})
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    yield f"mlflow:http://127.0.0.1:{proxy.server_address[1]}"
    proxy.shutdown()
    proxy.server_close()
    thread.join()
    assert "/api/2.0/mlflow/runs/log-batch points" in handler.lost
    assert len(handler.lost) > 12


def test_an_answer_that_is_lost_doubles_nothing(
    server: MlflowServer, losing: str, settings: Callable[..., Config], tmp_path: Path
) -> None:
    """What was done there and not heard of is found, or comes to the same when it is done again."""
    config = settings(to=[losing])
    (tmp_path / "w.bin").write_bytes(b"weights")
    with start_run("answers", "lost", config=config, capture=False, params={"lr": 1}) as run:
        for step in range(300):
            run.log({"loss": 1 / (step + 1)}, step=step)
        run.set_tags({"owner": "ml"})
        run.use_dataset(tmp_path / "w.bin", "weights")
        run.log_bytes("hello", "notes/hello.txt")
        run.log_model(tmp_path / "w.bin", "net", register="answers", aliases=["champion"])
    assert run.folder is not None
    sinks: list[Sink] = []

    def opened() -> Sink:
        if not sinks:
            sinks.append(open_sink(losing))
        return sinks[0]

    delivery = Delivery(run.folder, losing, opened, lambda: open_source(losing))
    for _ in range(40):
        with contextlib.suppress(Transient):
            delivery.deliver()
    sinks[0].close()
    assert delivery.settled
    assert delivery.state.rejected == 0
    here = "FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name = 'answers'"
    assert rows(server, f"SELECT status {here}") == [("FINISHED",)]
    its = f"run_uuid IN (SELECT run_uuid {here})"
    assert rows(server, f"SELECT count(*), count(DISTINCT step) FROM metrics WHERE {its}") == [(300, 300)]
    assert rows(server, "SELECT count(*) FROM logged_models") == [(1,)]
    assert rows(server, "SELECT name, version FROM model_versions") == [("answers", 1)]
    assert rows(server, "SELECT count(*) FROM inputs WHERE source_type = 'DATASET'") == [(1,)]
    with open_source(server.location) as source:
        (run_there,) = (run for e in source.experiments() if e.name == "answers" for run in source.runs(e))
        assert {file.path for file in source.files(run_there)} >= {"notes/hello.txt"}
        (model,) = source.artifacts(run_there)
        (file,) = source.artifact_files(model)
        assert source.open(run_there, file).read() == b"weights"


SCRIPT = """
import outgrow
with outgrow.start_run("digits", "both", params={"lr": 0.1}, capture=False) as run:
    for step in range(50):
        run.log({"loss": 1 / (step + 1)}, step=step)
"""


def test_two_platforms_by_one_line(server: MlflowServer, tmp_path: Path) -> None:
    for to in ([server.location], [server.location, "wandb:folders"]):
        configure(*to)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    for location, runs in ((server.location, 2), ("wandb:folders", 1)):
        with open_source(location) as source:
            found = [run for e in source.experiments() for run in source.runs(e) if run.name == "both"]
            assert len(found) == runs
            for run in found:
                points = [row for batch in source.points(run) for row in batch.to_pylist()]
                assert [(p["step"], p["value"]) for p in points] == [(n, 1 / (n + 1)) for n in range(50)]
