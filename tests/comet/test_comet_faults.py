"""Copies to and from a Comet server that fails: what is complete is complete, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from emulators.comet import CometServer, Fault
from outgrow import migrate
from outgrow.adapters.base import MARK_KEY
from outgrow.adapters.comet import delivery, upload
from outgrow.adapters.comet.api import Api
from outgrow.adapters.comet.keys import experiment_key
from outgrow.errors import CredentialsError, Unavailable
from outgrow.locations import open_sink, open_source
from outgrow.model import Origin
from outgrow.testing import records
from outgrow.testing.memory import MemorySource

TARGET = "comet:team/digits"

Copy = Callable[[], Any]


@pytest.fixture
def history() -> MemorySource:
    return records.history(runs=2, steps=30)


@pytest.fixture
def copy(history: MemorySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copy:
    monkeypatch.setattr(delivery, "SETTLE", (0.0, 0.1))
    return lambda: migrate.copy(history, TARGET, ledger=tmp_path / "ledger.db", workers=2)


def points_of(server: CometServer) -> list[Counter[str]]:
    return [
        Counter({name: len(values) for name, values in e.metrics.items()})
        for e in server.state.experiments.values()
    ]


def complete(server: CometServer, history: MemorySource) -> None:
    """Two runs, each with all of its points once, marked; and a deep check finds nothing."""
    assert points_of(server) == [Counter({"train/loss": 30, "eval/accuracy": 30})] * 2
    assert all(MARK_KEY in e.others for e in server.state.experiments.values())
    names = [[a["fileName"] for a in e.assets] for e in server.state.experiments.values()]
    assert all(len(set(found)) == len(found) for found in names)
    found = migrate.check(history, TARGET, deep=True)
    assert [(run.sign, run.differences) for run in found.runs if run.sign != "="] == []
    assert found.exit_code == 0


PASSING = {
    "429 while reading back": Fault("get-metric", 429, times=3, retry_after=0.1),
    "500 on the mark": Fault("api/rest/v2/write/experiment/set-start-end-time", 500, times=2),
    "dropped while listing": Fault("api/rest/v2/experiments", drop=True, times=2),
    "dropped while reading back": Fault("experiment/asset/list", drop=True, times=2),
    "503 on an artifact": Fault("write/artifacts/upsert", 503, times=2, retry_after=0.1),
    "dropped artifact file": Fault("clientlib/asset/upload", drop=True, times=1),
}


@pytest.mark.parametrize("case", PASSING)
def test_passing_faults_are_ridden_out(
    case: str, server: CometServer, history: MemorySource, copy: Copy
) -> None:
    server.state.faults = [fault := PASSING[case]]
    fault.seen = 0
    assert copy().exit_code == 0
    assert fault.seen > fault.times
    server.state.faults = []
    complete(server, history)


REFUSED_BY_UPLOADER = {
    "metrics": Fault("batch/logger/experiment/metric", 400),
    "params": Fault("batch/logger/experiment/parameter", 400),
    "an other": Fault("api/rest/v2/write/experiment/log-other", 400, after=5),
    "output": Fault("write/experiment/output", 400),
}


@pytest.mark.parametrize("case", REFUSED_BY_UPLOADER)
def test_what_the_uploader_lost_is_sent_again(
    case: str, server: CometServer, history: MemorySource, copy: Copy
) -> None:
    """The vendor's uploader says "uploaded" after a refused batch; reading back tells otherwise."""
    server.state.faults = [fault := REFUSED_BY_UPLOADER[case]]
    fault.seen = 0
    assert copy().exit_code == 0
    server.state.faults = []
    complete(server, history)


def test_what_is_refused_for_good_is_an_error_and_no_mark(
    server: CometServer, history: MemorySource, copy: Copy
) -> None:
    server.state.faults = [Fault("batch/logger/experiment/metric", 400, times=10**6)]
    report = copy()
    assert report.exit_code == 3
    [error] = {run.error.message.split(" of run ")[0] for run in report.runs if run.error}
    assert error == "Comet did not take 60 points"
    assert not any(MARK_KEY in e.others for e in server.state.experiments.values())
    server.state.faults = []
    assert copy().exit_code == 0
    complete(server, history)


def test_a_refused_run_fails_alone(server: CometServer, history: MemorySource, copy: Copy) -> None:
    key = experiment_key("memory:run00002", "team/digits").encode()
    server.state.faults = [Fault("batch/logger/experiment/metric", 400, times=10**6, body=key)]
    report = copy()
    assert {run.source_run: run.state for run in report.runs} == {"run00001": "copied", "run00002": "failed"}
    server.state.faults = []
    report = copy()
    assert {run.source_run: run.state for run in report.runs} == {
        "run00001": "unchanged",
        "run00002": "copied",
    }
    complete(server, history)


def test_what_a_flush_could_not_send_is_sent_by_the_next(
    server: CometServer, history: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outgrow.adapters.comet.api._ATTEMPTS", 1)
    with open_sink(TARGET) as sink:
        run = next(history.runs(next(history.experiments())))
        writer = sink.begin(run, Origin(platform="memory", run_id=run.id))
        writer.points(next(history.points(run)))
        writer.finish(run, "mark")
        server.state.faults = [Fault("experiment/tags", 503)]
        with pytest.raises(Unavailable):
            sink.flush()
        assert not any(MARK_KEY in e.others for e in server.state.experiments.values())
        sink.flush()
    assert points_of(server) == [Counter({"train/loss": 30, "eval/accuracy": 30})]
    assert all(MARK_KEY in e.others for e in server.state.experiments.values())


def test_killed_uploader(server: CometServer, history: MemorySource, copy: Copy) -> None:
    """Killed between metrics and assets: a second copy completes, and doubles nothing."""

    def kill() -> None:
        upload.uploader(server.url)._process.kill()

    server.state.faults = [Fault("batch/logger/experiment/parameter", drop=True, action=kill)]
    copy()
    server.state.faults = []
    assert copy().exit_code == 0
    complete(server, history)


def test_abandoned_copy(server: CometServer, history: MemorySource, copy: Copy) -> None:
    """A process that dies before it uploads leaves nothing but an experiment that is taken up."""
    with open_sink(TARGET) as sink:
        run = next(history.runs(next(history.experiments())))
        origin = Origin(platform="memory", run_id=run.id)
        writer = sink.begin(run, origin)
        writer.points(next(history.points(run)))
        [artifact] = history.artifacts(run)

        def broken() -> Iterator[Any]:
            file = next(history.artifact_files(artifact))
            yield file, history.open(run, file)
            raise OSError("the process dies here")

        with pytest.raises(OSError, match="dies here"):
            writer.artifact(artifact, run.artifacts[0], broken())
        assert sink.find(origin.identity) is None
    assert copy().exit_code == 0
    complete(server, history)


def test_server_down(server: CometServer, history: MemorySource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMET_URL_OVERRIDE", "http://127.0.0.1:9/clientlib/")
    monkeypatch.setattr("outgrow.adapters.comet.api._ATTEMPTS", 2)
    with open_source(TARGET) as source, pytest.raises(Unavailable) as caught:
        list(source.experiments())
    assert "COMET_URL_OVERRIDE" in (caught.value.hint or "")


def test_wrong_key(server: CometServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMET_API_KEY", "wrong-and-secret")
    with open_source(TARGET) as source, pytest.raises(CredentialsError) as caught:
        list(source.experiments())
    assert "wrong-and-secret" not in str(caught.value)


def test_no_key(server: CometServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("COMET_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CredentialsError, match="no Comet API key"):
        open_source(TARGET)


def test_retry_after_holds_back_every_thread(server: CometServer) -> None:
    server.state.faults = [Fault("workspaces", 429, retry_after=0.3)]
    api = Api()
    try:
        api.get("workspaces")
        assert server.state.requests.count("api/rest/v2/workspaces") == 2
        assert api._not_before > 0
    finally:
        api.close()
