"""MLflow → W&B → MLflow through the origin record, by way of folders and of a server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from emulators.wandb import WandbServer
from outgrow import migrate
from outgrow.testing import records


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with WandbServer() as server:
        for name, value in server.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        yield server


def test_mlflow_to_wandb_and_back(server: WandbServer, tmp_path: Path) -> None:
    """MLflow → folders → server → MLflow: the last is the first, by a deep check."""
    ledger = tmp_path / "ledger.db"
    first, last = (f"mlflow:sqlite:///{tmp_path / name}.db" for name in ("first", "last"))
    migrate.copy(records.history(3, 25), first, ledger=ledger)
    places = [first, f"wandb:{tmp_path / 'folders'}", "wandb:ada/moved", last]
    for source, target in itertools.pairwise(places):
        report = migrate.copy(source, target, ledger=ledger)
        assert (report.state, report.counts, report.failures) == ("done", {"copied": 3}, []), report
    assert len(server.state.runs) == 3
    found = migrate.check(first, last, deep=True)
    differences = [
        (r.identity, d.what, d.detail) for r in found.runs for d in r.differences if not d.expected
    ]
    assert differences == []
    assert [d for d in found.registry if not d.expected] == []
    assert found.counts == {"=": 3}
    again = migrate.copy(places[1], "wandb:ada/moved", ledger=ledger)
    assert again.counts == {"unchanged": 3}, again
    # Straight from the first, the same runs are met: they are written again, and no row is doubled.
    migrate.copy(first, "wandb:ada/moved", ledger=ledger)
    assert {len(run.history) for run in server.state.runs.values()} == {25}
    assert {run.received_rows for run in server.state.runs.values()} == {25}
