"""Copies into a server that is slow, broken, or gone, and copies that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import wandb_copy
from emulators.wandb import WandbServer
from emulators.wandb.server import Fault
from outgrow import locations, migrate
from outgrow.errors import CredentialsError, LocationError
from outgrow.testing import records

RUNS, STEPS = 2, 40


def assert_each_run_once(server: WandbServer, target: str) -> None:
    report = migrate.check(records.history(RUNS, STEPS), target, deep=True)
    assert [(d.what, d.detail) for run in report.runs for d in run.differences if not d.expected] == []
    assert report.unexpected == 0
    assert report.counts == {"=": RUNS}
    runs = server.state.runs_of(*target.removeprefix("wandb:").split("/"))
    assert len(runs) == RUNS
    for run in runs:
        steps = [row["_step"] for row in run.history]
        assert steps == sorted(set(steps))


def test_slow_and_broken_answers(server: WandbServer, tmp_path: Path) -> None:
    server.faults += [
        Fault("UpsertBucket", 429, headers={"Retry-After": "1"}),
        Fault("file_stream", 500),
        Fault("file_stream", 0, after=True),
        Fault("PUT storage", 503, times=2),
        Fault("CreateArtifact", 0),
        Fault("Runs", 500),
    ]
    report = migrate.copy(records.history(RUNS, STEPS), "wandb:ada/faults", ledger=tmp_path / "ledger.db")
    assert report.counts == {"copied": RUNS}, report
    assert all(fault.times == 0 for fault in server.faults)
    assert_each_run_once(server, "wandb:ada/faults")


def test_what_sync_failed_to_upload_is_noticed(server: WandbServer, tmp_path: Path) -> None:
    """The vendor's sync says nothing of an artifact that was refused; reading back does."""
    server.faults.append(Fault("CommitArtifact", 400))
    events: list[str] = []
    report = migrate.copy(
        records.history(RUNS, STEPS),
        "wandb:ada/silent",
        ledger=tmp_path / "ledger.db",
        on_event=lambda event: events.append(event.kind),
    )
    assert "retry" in events
    assert report.counts == {"copied": RUNS}, report
    assert_each_run_once(server, "wandb:ada/silent")


@pytest.mark.parametrize("moment", ["file_stream", "CommitArtifact"])
def test_killed_during_the_upload(moment: str, server: WandbServer, tmp_path: Path) -> None:
    reached = threading.Event()
    server.hook = lambda name: reached.set() if name == moment else None
    ledger = str(tmp_path / "ledger.db")
    child = subprocess.Popen(
        [sys.executable, wandb_copy.__file__, str(RUNS), str(STEPS), "wandb:ada/killed", ledger], cwd=tmp_path
    )
    assert reached.wait(60)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    server.hook = None
    report = migrate.copy(records.history(RUNS, STEPS), "wandb:ada/killed", ledger=ledger)
    assert report.counts.get("copied", 0) + report.counts.get("unchanged", 0) == RUNS, report
    assert_each_run_once(server, "wandb:ada/killed")
    again = migrate.copy(records.history(RUNS, STEPS), "wandb:ada/killed", ledger=ledger)
    assert again.counts == {"unchanged": RUNS}


def test_an_id_that_was_deleted_once(server: WandbServer, tmp_path: Path) -> None:
    source = records.history(RUNS, STEPS)
    first = migrate.copy(source, "wandb:ada/deleted", ledger=tmp_path / "one.db")
    server.delete(str(first.runs[0].run_id))
    second = migrate.copy(source, "wandb:ada/deleted", ledger=tmp_path / "two.db")
    assert second.counts == {"unchanged": RUNS - 1, "failed": 1}
    (failed,) = [outcome for outcome in second.runs if outcome.state == "failed"]
    assert failed.error is not None
    assert "deleted" in failed.error.message
    assert "another project" in str(failed.error.hint)


def test_wrong_key(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    with pytest.raises(CredentialsError) as caught, locations.open_sink("wandb:ada/x") as sink:
        list(sink.copies())
    assert "f" * 40 not in str(caught.value)


def test_no_key(server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(CredentialsError, match="wandb login"), locations.open_source("wandb:ada/x") as source:
        list(source.experiments())


def test_no_such_project(server: WandbServer) -> None:
    with (
        pytest.raises(LocationError, match="no project"),
        locations.open_source("wandb:ada/absent") as source,
    ):
        list(source.experiments())
