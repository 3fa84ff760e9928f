"""The contract suite against MLflow in PostgreSQL, written and read directly."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

import pytest
from outgrow.testing.contract import LimitsContract, Place, ReadingContract, WritingContract
from postgres_server import fresh_postgres, location, server


class PostgresPlace(Place):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = fresh_postgres()
        self.location = location(self.uri, folder)

    def state(self) -> object:
        import psycopg

        tables = (
            "runs",
            "metrics",
            "latest_metrics",
            "params",
            "tags",
            "inputs",
            "logged_models",
            "model_versions",
        )
        with psycopg.connect(self.uri) as connection:
            rows = {
                table: sorted(map(repr, connection.execute(f"SELECT xmin, t.* FROM {table} t")))  # type: ignore[arg-type]
                for table in tables
            }
        files = {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }
        return rows, files


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    try:
        server()
    except RuntimeError as error:
        pytest.skip(str(error))
    return PostgresPlace(tmp_path_factory.mktemp("postgres"))


class TestPostgresWriting(WritingContract):
    gaps: ClassVar = {"nonfinite:points": "MLflow stores infinities as the largest double"}


class TestPostgresLimits(LimitsContract):
    pass


class TestPostgresReading(ReadingContract):
    pass
