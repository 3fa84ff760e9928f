"""Servers that refuse, ask to wait, or die."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from mlflow_server import MlflowServer
from outgrow.adapters.base import Copy
from outgrow.errors import CredentialsError, OutgrowError, Unavailable, Vanished
from outgrow.locations import open_sink, open_source
from outgrow.model import Experiment, Origin, Run
from outgrow.testing import records


@contextmanager
def answering(status: int, body: str = "{}", **headers: str) -> Iterator[str]:
    """A server that has one answer for everything."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"mlflow:http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, CredentialsError),
        (403, CredentialsError),
        (404, Vanished),
        (429, Unavailable),
        (503, Unavailable),
    ],
)
def test_what_a_server_answers(status: int, error: type[OutgrowError]) -> None:
    with answering(status, "You are not authenticated.", Retry_After="7") as location:
        with pytest.raises(error) as raised:
            open_source(location)
        if isinstance(raised.value, Unavailable):
            assert raised.value.retry_after == 7
        if isinstance(raised.value, CredentialsError):
            assert "MLFLOW_TRACKING" in (raised.value.hint or "")


def test_credentials_reach_the_server_and_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pa55word")
    with answering(401, "no") as location, pytest.raises(CredentialsError) as raised:
        open_sink(location)
    assert "pa55word" not in str(raised.value)
    assert "ada" not in str(raised.value)


def test_a_server_killed_while_it_is_written_to(server: MlflowServer) -> None:
    """The write fails at once, as something that may be repeated; repeating it completes the run."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    run = Run(id="r", experiment="", name="outage", started_at=start, summary={})
    origin = Origin(platform="test", run_id="outage")
    batch = records.points(["loss"], 3_000)
    with open_sink(server.location) as sink:
        experiment = sink.experiment(Experiment(id="x", name="outage"))
        run = replace(run, experiment=experiment)
        writer = sink.begin(run, origin)
        writer.points(batch.slice(0, 1_000))
        server.kill()
        with pytest.raises(Unavailable):
            writer.points(batch)
        with pytest.raises(Unavailable):
            open_source(server.location)
        server.start()
        found = sink.find(origin.identity)
        assert found == Copy(identity=origin.identity, run_id=writer.run_id, mark=None, url=writer.url)
        again = sink.begin(run, origin, found)
        again.points(batch)
        again.finish(run, "1")
    with open_source(server.location) as source:
        (back,) = source.runs(Experiment(id=experiment, name=""))
        assert back.id == writer.run_id
        assert sum(rows.num_rows for rows in source.points(back)) == 3_000
