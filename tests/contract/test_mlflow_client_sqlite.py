"""The contract suite against an MLflow database by the client (`outgrow.via=client`)."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import ClassVar

import pytest
from outgrow.testing.contract import LimitsContract, Place, ReadingContract, WritingContract
from sql_stores import fresh_sqlite


class ClientPlace(Place):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.location = f"mlflow:{fresh_sqlite(folder / 'mlflow.db')}?outgrow.via=client"

    def state(self) -> object:
        with sqlite3.connect(f"file:{self.folder / 'mlflow.db'}?mode=ro", uri=True) as connection:
            rows = list(connection.iterdump())
        files = self.folder.rglob("*")
        return rows, sorted((str(f), f.stat().st_mtime_ns) for f in files if f.is_file())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return ClientPlace(tmp_path_factory.mktemp("contract-client"))


@pytest.fixture(autouse=True)
def _short(request: pytest.FixtureRequest) -> None:
    if "long_series" in request.node.name:
        pytest.skip(
            "MLflow takes twenty seconds for it; tests/mlflow/test_http.py reads a series page by page"
        )


class TestClientReading(ReadingContract):
    """First, while the database holds little: it reads all that is there."""


class TestClientWriting(WritingContract):
    gaps: ClassVar = {
        "nonfinite:points": "MLflow stores infinities as the largest double",
        "same_names:run.deleted": "MLflow deletes the runs of an experiment with it",
    }


class TestClientLimits(LimitsContract):
    pass


def test_reading_leaves_nothing_in_the_working_directory(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with place.source() as source:
        list(source.experiments())
    assert list(tmp_path.iterdir()) == []
