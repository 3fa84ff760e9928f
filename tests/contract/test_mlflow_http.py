"""The contract suite against a real MLflow tracking server over HTTP, artifacts proxied.

The series that a server takes twenty seconds for are left to `test_mlflow_client_sqlite`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from mlflow_server import MlflowServer, mlflow_server
from outgrow.testing.contract import LimitsContract, Place, ReadingContract, WritingContract


class ServerPlace(Place):
    def __init__(self, server: MlflowServer) -> None:
        self.server = server
        self.location = server.location

    def state(self) -> object:
        return sqlite_state(self.server.database), files_below(self.server.folder / "mlartifacts")


def sqlite_state(path: Path) -> list[str]:
    """Every row of a database, as SQL."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        return list(connection.iterdump())


def files_below(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(f), f.stat().st_mtime_ns) for f in folder.rglob("*") if f.is_file())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with mlflow_server(tmp_path_factory.mktemp("contract-server")) as server:
        yield ServerPlace(server)


@pytest.fixture(autouse=True)
def _short(request: pytest.FixtureRequest) -> None:
    if "long_series" in request.node.name or "many_series" in request.node.name:
        pytest.skip("a server takes twenty seconds for it; the client on SQLite and test_http.py do the same")


class TestServerReading(ReadingContract):
    """First, while the server holds little: it reads all that is there."""


class TestServerLimits(LimitsContract):
    pass


class TestServerWriting(WritingContract):
    gaps: ClassVar = {
        "nonfinite:points": "MLflow stores infinities as the largest double",
        "same_names:run.deleted": "MLflow deletes the runs of an experiment with it",
    }
