"""Frameworks: the real ones, with a script that knows nothing of outgrow."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from outgrow.cli import main
from outgrow.config import Config, Policy
from outgrow.locations import open_source
from outgrow.tracking.journal import journals

UNMODIFIED = """
import mlflow, mlflow.sklearn
from mlflow.entities import Metric
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

mlflow.set_experiment("iris")
mlflow.sklearn.autolog(log_models=False)
with mlflow.start_run(run_name="parent", tags={"owner": "ml"}) as parent:
    with mlflow.start_run(run_name="child", nested=True) as nested:
        X, y = load_iris(return_X_y=True)
        model = LogisticRegression(max_iter=200).fit(X, y)
        mlflow.sklearn.log_model(
            model, name="model", registered_model_name="iris", pip_requirements=["scikit-learn"]
        )
        for step in range(5):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.log_metrics({"a": float("nan"), "b": 2.0}, step=7)
        again = [Metric("again", 1.5, 1_700_000_000_000, 3)]
        for _ in range(2):  # MLflow holds one of two equal points
            mlflow.MlflowClient().log_batch(mlflow.active_run().info.run_id, metrics=again)
        for step in range(5):
            mlflow.log_metric("late", step, step=step, synchronous=False)
        mlflow.log_params({"asynchronous": True}, synchronous=False)
        mlflow.log_text("hello", "notes/hello.txt")
        mlflow.set_tag("stage", "test")
    mlflow.log_param("runs", 1)
client, child = mlflow.MlflowClient(), nested.info.run_id
client.log_metric(child, "after", 1.0, step=9)  # its end has been told already
client.set_tag(child, "reviewed", "yes")
with mlflow.start_run(run_id=child):
    mlflow.log_metric("resumed", 2.0, step=10)
client.log_param(child, "last", 3)
mlflow.set_tracking_uri("sqlite:///mlflow.db")
with mlflow.start_run(run_name="before") as run:
    mlflow.log_metric("alone", 1.0)
mlflow.set_tracking_uri("outgrow://")
client.log_metric(run.info.run_id, "alone", 2.0, step=1)  # of a run that outgrow has never seen
mlflow.start_run(run_name="left")  # open: MLflow ends it with the program
mlflow.log_metric("alone", 3.0)
mlflow.log_text("late", "late.txt")
"""


def test_unmodified_mlflow_code_reaches_a_second_platform(tmp_path: Path) -> None:
    (tmp_path / "outgrow.toml").write_text(
        '[tracking]\nto = ["mlflow:sqlite:///mlflow.db", "archive:history"]\ndelivery = "off"\n'
    )
    (tmp_path / "train.py").write_text(UNMODIFIED)
    environment = os.environ | {"MLFLOW_TRACKING_URI": "outgrow://", "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "train.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "could not log" not in done.stderr
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        names = dict(database.execute("SELECT name, run_uuid FROM runs"))
        metrics = set(database.execute("SELECT key, step FROM metrics WHERE key <> 'alone'"))
        assert set(names) == {"parent", "child", "before", "left"}
        assert database.execute("SELECT count(*) FROM model_versions").fetchone() == (1,)
        assert database.execute("SELECT count(*) FROM params").fetchone()[0] > 5
        params = dict(database.execute("SELECT key, value FROM params"))

    synced = CliRunner().invoke(main, ["sync"])
    assert synced.exit_code == 0, synced.output
    places = ["mlflow:sqlite:///mlflow.db", "archive:history"]
    checked = CliRunner().invoke(main, ["check", *places, "--deep", "--json"])
    signs = {run["name"]: run["sign"] for run in json.loads(checked.stdout)["runs"]}
    assert signs == {"parent": "=", "child": "=", "before": "-", "left": "="}, checked.stdout
    with open_source(f"archive:{tmp_path / 'history'}") as source:
        runs = {run.name: run for e in source.experiments() for run in source.runs(e)}
        child, parent = runs["child"], runs["parent"]
        assert child.origin is not None
        assert child.origin.identity == f"mlflow:{names['child']}"
        assert child.status.value == "finished"
        assert child.tags["stage"] == "test"
        assert parent.tags["owner"] == "ml"
        assert child.params | parent.params == params
        points = [row for batch in source.points(child) for row in batch.to_pylist()]
        assert {(row["key"], row["step"]) for row in points} == metrics
        assert [row["value"] for row in points if row["key"] == "loss"] == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]
        assert sorted(row["value"] for row in points if row["key"] == "late") == [0, 1, 2, 3, 4]
        assert child.params["asynchronous"] == "True"
        assert child.datasets
        assert "notes/hello.txt" in {file.path for file in source.files(child)}
        (model,) = source.artifacts(child)
        assert [file.path for file in source.files(runs["left"])] == ["late.txt"]
        assert "MLmodel" in {file.path for file in source.artifact_files(model)}


def test_files_are_fetched_at_the_end_of_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When Python ends, thread pools take no more work, and MLflow's download needs one."""
    from mlflow.store.artifact import artifact_repository_registry as registry
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
    from outgrow.tracking.integrations import mlflow_store

    (tmp_path / "there" / "deep").mkdir(parents=True)
    (tmp_path / "there" / "deep" / "a.txt").write_text("a")
    (tmp_path / "there" / "b.txt").write_text("b")
    local = LocalArtifactRepository(str(tmp_path / "there"))

    class Remote(ArtifactRepository):  # type: ignore[misc]
        log_artifact = log_artifacts = None
        list_artifacts = local.list_artifacts

        def _download_file(self, remote_file_path: str, local_path: str) -> None:
            Path(local_path).write_bytes((tmp_path / "there" / remote_file_path).read_bytes())

        def download_artifacts(self, *_: Any) -> str:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(registry, "get_artifact_repository", lambda uri: Remote(uri))
    place = mlflow_store._downloaded("remote://there", tmp_path / "here")
    assert place == tmp_path / "here"
    assert sorted(path.read_text() for path in place.rglob("*.txt")) == ["a", "b"]


def test_without_an_mlflow_location(tmp_path: Path) -> None:
    from outgrow.errors import ConfigError
    from outgrow.tracking.integrations.mlflow_store import tracking_store

    (tmp_path / "outgrow.toml").write_text('[tracking]\nto = ["archive:history"]\n')
    with pytest.raises(ConfigError, match="needs an MLflow location"):
        tracking_store("outgrow://")


def test_optuna_trials_are_child_runs(settings: Callable[..., Config], target: Any) -> None:
    optuna = pytest.importorskip("optuna", reason="Optuna is not installed")
    from outgrow.tracking.integrations import optuna_callback
    from outgrow.tracking.start import start_run

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def objective(trial: Any) -> float:
        x = trial.suggest_float("x", -1, 1)
        for step in range(3):
            trial.report(x * step, step)
        if trial.number == 1:
            raise optuna.TrialPruned
        if trial.number == 2:
            raise ValueError
        trial.set_user_attr("note", "good")
        return x**2

    config = settings()
    study = optuna.create_study(study_name="sweep", sampler=optuna.samplers.RandomSampler(seed=1))
    with start_run("digits", config=config, capture=False) as parent:
        callback = optuna_callback("digits", parent=parent, config=config)
        study.optimize(objective, n_trials=4, callbacks=[callback], catch=(ValueError,))
    folders = journals(config.journal)
    for folder in [*reversed(folders), *folders]:  # children wait for their parent
        target.deliver(folder)
    runs = {data.run.name: data.run for data in target.source.by_run.values()}
    assert [runs[f"sweep-{n:04d}"].tags["state"] for n in range(4)] == [
        "complete",
        "pruned",
        "fail",
        "complete",
    ]
    assert runs["sweep-0002"].status.value == "failed"
    assert runs["sweep-0000"].params == study.trials[0].params
    assert runs["sweep-0000"].summary == {"value": study.trials[0].value}
    assert runs["sweep-0000"].tags["note"] == "good"
    assert len({run.parent for run in runs.values()}) == 2


def test_a_study_goes_on_whatever_becomes_of_its_log(settings: Callable[..., Config], target: Any) -> None:
    optuna = pytest.importorskip("optuna", reason="Optuna is not installed")
    from outgrow.tracking.integrations import optuna_callback
    from outgrow.tracking.warning import IntegrationWarning, PolicyWarning

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def objective(trial: Any) -> tuple[float, float]:
        trial.set_user_attr("outgrow.origin", "a tag that is not ours to set")
        return 1.0, 2.0

    with pytest.raises(TypeError, match="no option 'experiment_name'"):
        optuna_callback(experiment_name="digits")
    rules = Policy(required_tags=[], required_metrics=["missing"], level="error")
    config = settings(policy=rules)
    study = optuna.create_study(study_name="sweep", directions=["minimize", "maximize"])
    callback = optuna_callback("digits", config=config, capture=False)
    with (
        pytest.warns(IntegrationWarning, match=r"could not log a trial: .*'outgrow\.origin'"),
        pytest.warns(PolicyWarning, match="missing"),
    ):
        study.optimize(objective, n_trials=2, callbacks=[callback])
    for folder in journals(config.journal):
        target.deliver(folder)
    runs = [data.run for data in target.source.by_run.values()]
    assert [run.summary for run in runs] == [{"value/0": 1.0, "value/1": 2.0}] * 2
    assert {run.tags["state"] for run in runs} == {"complete"}
