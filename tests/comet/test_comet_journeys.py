"""From one platform to Comet and on: nothing is lost on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from outgrow import migrate
from outgrow.testing import records
from sql_stores import fresh_sqlite, populated


def test_mlflow_to_comet_to_mlflow(tmp_path: Path) -> None:
    """Runs, series, files and dataset inputs of a store with a bit of everything come back as they were."""
    database, _ = populated()
    first = f"mlflow:sqlite:///{database}"
    zips, last = f"comet:{tmp_path}/zips", f"mlflow:{fresh_sqlite(tmp_path / 'last.db')}"
    assert migrate.copy(first, zips, ledger=tmp_path / "1.db").failures == []
    assert [run.differences for run in migrate.check(first, zips, deep=True).runs if run.sign != "="] == []
    assert migrate.copy(zips, last, ledger=tmp_path / "2.db").failures == []
    found = migrate.check(first, last, deep=True)
    assert [(run.name, run.differences) for run in found.runs if run.sign != "="] == []


def test_comet_to_wandb(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    zips, folders = f"comet:{tmp_path}/zips", f"wandb:{tmp_path}/wandb"
    migrate.copy(records.history(runs=2), zips, ledger=tmp_path / "1.db")
    report = migrate.copy(zips, folders, ledger=tmp_path / "2.db")
    assert (report.failures, [run.error for run in report.runs if run.error]) == ([], [])
    found = migrate.check(zips, folders, deep=True)
    assert [(run.name, run.differences) for run in found.runs if run.sign != "="] == []
