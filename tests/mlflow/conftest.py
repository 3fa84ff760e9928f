"""One real tracking server for a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mlflow_server import MlflowServer, mlflow_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow-server")) as started:
        yield started
