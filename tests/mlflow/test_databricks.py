"""The Databricks way in: MLflow's own Databricks stores, with a tracking server in Databricks' place.

Its tracking API and its workspace registry are those of an MLflow server under another address and
another login; Unity Catalog has endpoints of its own, of which the reading ones are answered here.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow_server import MlflowServer, mlflow_server
from outgrow import migrate
from outgrow.errors import CredentialsError, Rejected
from outgrow.locations import open_sink, open_source
from outgrow.model import ModelVersion, RegisteredModel
from outgrow.testing import records

LOCATION = "mlflow:databricks"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("databricks")
    options = ("--no-serve-artifacts", "--default-artifact-root", str(folder / "artifacts"))
    with mlflow_server(folder, options=options) as started:
        yield started


@pytest.fixture
def workspace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def use(url: str) -> None:
        monkeypatch.setenv("DATABRICKS_HOST", url)
        monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-test")

    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.databrickscfg of the one who runs this
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.delenv("DATABRICKS_HOST", raising=False)
    return use


def test_without_a_login(workspace) -> None:
    with pytest.raises(CredentialsError) as error:
        open_source(LOCATION)
    assert "DATABRICKS_TOKEN" in (error.value.hint or "")


def test_there_and_back(server: MlflowServer, workspace, monkeypatch, tmp_path: Path) -> None:
    workspace(server.url)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "databricks")
    source = records.history(2)
    done = migrate.copy(source, LOCATION, ledger=tmp_path / "ledger.db")
    assert not [run.error for run in done.runs if run.error] + done.failures
    assert done.exit_code == 0
    assert ("moved", "registry_aliases") in {(loss.kind, loss.concept) for loss in done.losses}
    assert migrate.check(source, LOCATION, deep=True).exit_code == 0
    back = migrate.copy(LOCATION, f"archive:{tmp_path / 'archive'}", ledger=tmp_path / "ledger.db")
    assert back.exit_code == 0
    assert migrate.check(source, f"archive:{tmp_path / 'archive'}", deep=True).exit_code == 0


class _UnityCatalog(BaseHTTPRequestHandler):
    MODEL = {"name": "main.ml.digits", "creation_timestamp": 1_700_000_000_000, "description": "reads digits"}  # noqa: RUF012
    VERSION = {  # noqa: RUF012
        "name": "main.ml.digits", "version": "4", "creation_timestamp": 1_700_000_000_000,
        "run_id": "", "source": "dbfs:/models/4", "status": "MODEL_VERSION_REGISTRATION_READY",
    }  # fmt: skip

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answers = {
            "mlflow/experiments/search": {},
            "unity-catalog/registered-models/search": {"registered_models": [self.MODEL]},
            "unity-catalog/registered-models/get": {
                "registered_model": self.MODEL | {"aliases": [{"alias": "champion", "version": "4"}]}
            },
            "unity-catalog/model-versions/search": {"model_versions": [self.VERSION]},
            "unity-catalog/model-versions/get": {
                "model_version": self.VERSION | {"tags": [{"key": "reviewed", "value": "yes"}]}
            },
        }
        found = next((a for path, a in answers.items() if path in self.path), None)
        body = json.dumps(found if found is not None else {"error_code": "ENDPOINT_NOT_FOUND"}).encode()
        self.send_response(200 if found is not None else 404)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def unity_catalog(workspace) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _UnityCatalog) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        workspace(f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


def test_models_of_unity_catalog_are_read(unity_catalog: None) -> None:
    with open_source(LOCATION) as source:
        (model,) = source.registry()
    (version,) = model.versions
    assert (model.name, model.description) == ("main.ml.digits", "reads digits")
    assert (version.version, version.aliases, version.tags) == ("4", ["champion"], {"reviewed": "yes"})


def test_unity_catalog_wants_three_names_and_has_no_stages(unity_catalog: None) -> None:
    model = RegisteredModel(name="digits", versions=[ModelVersion(model="digits", version="1")])
    with open_sink(LOCATION) as sink:
        assert not sink.capabilities.native("stages")
        assert not sink.capabilities.native("prompts")
        with pytest.raises(Rejected, match=r"CATALOG\.SCHEMA\.MODEL") as error:
            sink.register(model)
    assert "MLFLOW_REGISTRY_URI" in (error.value.hint or "")
