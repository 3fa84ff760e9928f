"""The contract suite against an MLflow database written and read directly."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest
from outgrow.testing.contract import (
    LimitsContract,
    Place,
    ReadingContract,
    RoundTripContract,
    WritingContract,
)
from sql_stores import fresh_sqlite


class SqlitePlace(Place):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.location = f"mlflow:{fresh_sqlite(folder / 'mlflow.db')}"

    def state(self) -> object:
        with closing(sqlite3.connect(f"file:{self.folder / 'mlflow.db'}?mode=ro", uri=True)) as connection:
            rows = list(connection.iterdump())
        files = self.folder.rglob("*")
        return rows, sorted((str(f), f.stat().st_mtime_ns) for f in files if f.is_file())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return SqlitePlace(tmp_path_factory.mktemp("contract-sql"))


class TestSqlWriting(WritingContract):
    gaps: ClassVar = {"nonfinite:points": "MLflow stores infinities as the largest double"}


class TestSqlLimits(LimitsContract):
    pass


class TestSqlReading(ReadingContract):
    pass


class TestSqlRoundTrip(RoundTripContract):
    gaps: ClassVar = {
        "nonfinite:*": "MLflow stores infinities as the largest double, which then reads as one",
        "artifacts:restored.*": "files of an artifact version that are only pointed at are not restored",
    }
