"""MLflow's own basic authentication: a server that knows users, and what each may do."""

from __future__ import annotations

import json
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_server import MlflowServer, mlflow_server
from outgrow import migrate
from outgrow.errors import CredentialsError
from outgrow.locations import open_source
from outgrow.testing import records
from outgrow.testing.memory_source import MemorySource, RunData

pytest.importorskip("flask_wtf")

PASSWORD, READER = "a-long-admin-password", "a-long-reader-password"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("auth")
    settings = folder / "auth.ini"
    settings.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = admin\nadmin_password = {PASSWORD}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environment = {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": "test"}
    with mlflow_server(folder, options=("--app-name", "basic-auth"), environment=environment) as started:
        request = urllib.request.Request(
            f"{started.url}/api/2.0/mlflow/users/create",
            json.dumps({"username": "reader", "password": READER}).encode(),
            {
                "Content-Type": "application/json",
                "Authorization": "Basic " + b64encode(f"admin:{PASSWORD}".encode()).decode(),
            },
        )
        urllib.request.urlopen(request).close()
        yield started


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch):
    def set_environment(user: str, password: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

    return set_environment


def test_nothing_is_opened_without_the_right_password(server: MlflowServer, login) -> None:
    with pytest.raises(CredentialsError, match="401") as missing:
        open_source(server.location)
    assert "MLFLOW_TRACKING_USERNAME" in (missing.value.hint or "")
    login("admin", "wrong-password")
    with pytest.raises(CredentialsError) as wrong:
        open_source(server.location)
    assert "wrong-password" not in str(wrong.value)


def test_a_copy_by_one_who_may_write_and_by_one_who_may_not(
    server: MlflowServer, login, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger.db"
    # Few records: the server hashes the password anew at every request.
    runs = [RunData(records.run(n), points=[records.points(("loss",), 3)]) for n in (1, 2)]
    first, more = (MemorySource([records.experiment()], some) for some in (runs[:1], runs))
    login("admin", PASSWORD)
    done = migrate.copy(first, server.location, ledger=ledger)
    assert (done.exit_code, len(done.runs)) == (0, 1)

    login("reader", READER)
    refused = migrate.copy(more, server.location, ledger=ledger)
    assert sorted(run.state for run in refused.runs) == ["failed", "unchanged"]
    (error,) = [run.error for run in refused.runs if run.error]
    assert error.type == "CredentialsError"

    login("nobody", "wrong-password")  # what stands in the address counts
    with_password = f"mlflow:{server.url.replace('//', f'//admin:{PASSWORD}@')}"
    again = migrate.copy(more, with_password, ledger=ledger, retry_failed=True)
    assert again.exit_code == 0
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for told in (repr(done), repr(refused), repr(again), kept.decode("latin-1")):
        assert PASSWORD not in told
        assert READER not in told
