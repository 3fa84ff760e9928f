"""MLflow databases for tests: fresh ones, and one with a bit of everything, made by MLflow itself."""

from __future__ import annotations

import atexit
import math
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any


@cache
def _template() -> bytes:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = Path(tempfile.mkdtemp(prefix="outgrow-template-"))
    try:
        store = SqlAlchemyStore(f"sqlite:///{folder}/mlflow.db", str(folder / "mlartifacts"))
        store.engine.dispose()
        return (folder / "mlflow.db").read_bytes()
    finally:
        shutil.rmtree(folder)


def fresh_sqlite(path: Path) -> str:
    """A store as MLflow's migrations make it (made once a session, then copied). Its URI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_template())
    return f"sqlite:///{path}"


@cache
def populated() -> tuple[Path, dict[str, str]]:
    """A store that `populate` has filled, and its ids. For the whole session: do not change it."""
    folder = Path(tempfile.mkdtemp(prefix="outgrow-populated-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    ids = populate(fresh_sqlite(folder / "made.db"), folder / "artifacts")
    shutil.copy(folder / "made.db", folder / "mlflow.db")  # the other stays open in MLflow's pools
    return folder / "mlflow.db", ids


def populate(uri: str, artifacts: Path) -> dict[str, str]:
    """Fill a store through MLflow's own client. Names → ids."""
    import mlflow
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)  # the registry looks logged models up there
    try:
        return _populate(client, artifacts)
    finally:
        mlflow.set_tracking_uri(before)


def _populate(client: Any, artifacts: Path) -> dict[str, str]:
    from mlflow.entities import (
        Dataset,
        DatasetInput,
        InputTag,
        LoggedModelInput,
        LoggedModelOutput,
        Metric,
        Param,
        RunTag,
    )

    experiment = client.create_experiment(
        "digits", artifact_location=(artifacts / "digits").as_uri(), tags={"team": "vision"}
    )
    client.set_experiment_tag(experiment, "mlflow.note.content", "Handwritten digits.")
    gone = client.create_experiment("gone", artifact_location=(artifacts / "gone").as_uri())
    client.delete_experiment(gone)

    parent = client.create_run(
        experiment, start_time=1_700_000_000_123, run_name="sweep", tags={"mlflow.user": "ada", "k": "v"}
    ).info.run_id
    start = 1_700_000_100_000
    metrics = [Metric("train/loss", 1 / (i + 1), start + i * 1000, i) for i in range(50)]
    metrics += [
        Metric("odd", math.nan, start, 0),
        Metric("odd", math.inf, start, 1),
        Metric("odd", -math.inf, start, 2),
        Metric("odd", 0.0, 0, -5),
        Metric("odd", 7.0, start, 2),
        Metric("odd", 8.0, start, 2),
        Metric("nan_last", 1.0, start, 3),
        Metric("nan_last", math.nan, start, 3),
        Metric("system/cpu", 12.5, start, 0),
    ]
    child = client.create_run(
        experiment, start_time=start, run_name="child", tags={"mlflow.parentRunId": parent}
    ).info.run_id
    client.log_batch(
        child,
        metrics,
        [Param("lr", "0.001"), Param("empty", ""), Param("größe", "µ")],
        [RunTag("t", "x" * 5000)],
    )
    dataset = Dataset("digits", "abc123", "local", '{"uri": "x"}', schema='{"a": 1}', profile='{"rows": 9}')
    client.log_inputs(
        child,
        datasets=[
            DatasetInput(dataset, [InputTag("mlflow.data.context", "training"), InputTag("who", "me")]),
            DatasetInput(Dataset("test", "d2", "code", "{}"), []),
        ],
    )
    client.log_text(child, "hello", "notes/readme.txt")
    client.log_text(child, "", "empty.txt")
    model = client.create_logged_model(
        experiment, name="classifier", source_run_id=child, params={"depth": "3"}, tags={"mt": "1"},
        model_type="sklearn",
    )  # fmt: skip
    client.log_model_artifacts(model.model_id, str(_model_folder(artifacts)))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(child, [LoggedModelOutput(model.model_id, 4)])
    client.log_batch(
        child,
        [
            Metric("eval/acc", 0.9, start, 4, model_id=model.model_id, dataset_name="digits", dataset_digest="abc123", run_id=child),
            Metric("eval/nan", math.nan, start, 4, model_id=model.model_id, run_id=child),
        ],
    )  # fmt: skip
    client.set_terminated(child, "FINISHED", start + 60_000)
    user = client.create_run(experiment, start_time=start + 1, run_name="uses the model").info.run_id
    client.log_inputs(user, models=[LoggedModelInput(model.model_id)])
    client.set_terminated(user, "FAILED", start + 70_000)
    client.delete_run(user)

    client.create_registered_model("digits", tags={"stage": "x"}, description="Digits.")
    for i in range(3):
        client.create_model_version(
            "digits", f"models:/{model.model_id}" if i else f"runs:/{child}/notes", run_id=child,
            tags={"i": str(i)}, description=f"number {i}",
        )  # fmt: skip
    client.delete_model_version("digits", "2")
    client.set_registered_model_alias("digits", "champion", "3")
    client.transition_model_version_stage("digits", "1", "Production")
    client.register_prompt("ask", "Say {{word}}", tags={"lang": "en"})
    return {
        "experiment": experiment,
        "gone": gone,
        "parent": parent,
        "child": child,
        "user": user,
        "model": model.model_id,
    }


def _model_folder(artifacts: Path) -> Path:
    folder = artifacts / "model"
    (folder / "weights").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "weights" / "w.bin").write_bytes(bytes(range(256)))
    return folder
