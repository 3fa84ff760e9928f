"""A bit of everything in an MLflow store, made by MLflow's own client. Names are unique by `suffix`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START = 1_700_000_000_123


@dataclass(frozen=True)
class Content:
    experiment: str
    experiment_name: str
    parent: str
    child: str
    deleted: str
    model: str
    registered: str
    prompt: str
    trace: str
    dataset: str | None


FILES = {
    "notes/readme.txt": b"hello",
    "empty": b"",
    "deep/er/still/weights.bin": bytes(range(256)) * 20,
    "größe and space.txt": b"x",
}
ODD = [
    (math.nan, 5, -3),
    (math.inf, 6, -3),
    (-math.inf, 6, 2),
    (1.5, 0, 2),
    (1.5, 0, 3),
    (2.5, 0, 3),
]


def populate(uri: str, folder: Path, suffix: str = "", *, datasets: bool = True) -> Content:
    """Fill a store. `folder` is scratch space for the files."""
    import mlflow
    from mlflow import MlflowClient

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)  # for prompts and traces
    try:
        return _populate(MlflowClient(uri, uri), folder, suffix, datasets)
    finally:
        mlflow.set_tracking_uri(before)


def _populate(client: Any, folder: Path, suffix: str, datasets: bool) -> Content:
    import mlflow
    from mlflow.entities import (
        Dataset,
        DatasetInput,
        InputTag,
        LoggedModelInput,
        LoggedModelOutput,
        Metric,
        Param,
    )

    name = f"digits{suffix}"
    experiment = client.create_experiment(name, tags={"team": "vision", "mlflow.note.content": "Digits."})
    parent = client.create_run(experiment, start_time=START, run_name="sweep").info.run_id
    child = client.create_run(
        experiment,
        start_time=START + 1,
        run_name="child",
        tags={
            "mlflow.user": "ada",
            "mlflow.parentRunId": parent,
            "mlflow.note.content": "A note.",
            "mlflow.source.name": "train.py",
            "mlflow.source.git.commit": "abc",
            "mlflow.autologging": "sklearn",
            "a b": "c",
        },
    ).info.run_id
    metrics = [Metric("train/loss", 1 / (i + 1), START + i, i) for i in range(1_200)]
    metrics += [Metric("odd", *point) for point in ODD]
    for start in range(0, len(metrics), 1_000):
        client.log_batch(child, metrics[start : start + 1_000])
    client.log_batch(child, params=[Param("lr", "0.001"), Param("empty", ""), Param("größe", "µ" * 6_000)])
    client.log_inputs(
        child,
        [
            DatasetInput(
                Dataset("digits", "d1", "local", "{}", '{"a": 1}', '{"rows": 9}'),
                [InputTag("mlflow.data.context", "training"), InputTag("who", "me")],
            )
        ],
    )
    for path, data in FILES.items():
        file = folder / "files" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    client.log_artifacts(child, str(folder / "files"))

    model = client.create_logged_model(
        experiment, name="classifier", source_run_id=child, params={"depth": "3"}, tags={"mt": "1"}, model_type="agent"
    ).model_id  # fmt: skip
    client.log_model_artifacts(model, str(folder / "files"))
    client.finalize_logged_model(model, "READY")
    client.log_outputs(child, [LoggedModelOutput(model, 4)])
    client.log_batch(
        child,
        [
            Metric("eval/acc", 0.9, START, 4, model_id=model, dataset_name="digits", dataset_digest="d1"),
            Metric("eval/nan", math.nan, START, 4, model_id=model),
            Metric("eval/zero", 0.0, START, 4, model_id=model),
        ],
    )
    client.set_terminated(child, "FINISHED", START + 60_000)

    deleted = client.create_run(experiment, start_time=5).info.run_id
    client.log_metric(deleted, "x", 1.0, timestamp=3, step=1)
    client.log_inputs(deleted, models=[LoggedModelInput(model)])
    client.set_terminated(deleted, "KILLED", START + 70_000)
    client.delete_run(deleted)

    registered = f"digits{suffix}"
    client.create_registered_model(registered, {"stage": "x"}, "Digits.")
    for i in range(4):
        source, model_id = (f"models:/{model}", model) if i % 2 else (f"runs:/{child}/notes", None)
        client.create_model_version(
            registered, source, child, tags={"i": str(i)}, description=f"number {i}", model_id=model_id,
            await_creation_for=None,
        )  # fmt: skip
    client.delete_model_version(registered, "2")
    client.set_registered_model_alias(registered, "champion", "3")
    client.transition_model_version_stage(registered, "1", "Production")
    prompt = f"ask{suffix}"
    mlflow.genai.register_prompt(prompt, "Say {{word}}", tags={"lang": "en"})

    trace = _trace(experiment)
    gone = client.create_experiment(f"gone{suffix}")
    client.log_metric(client.create_run(gone).info.run_id, "x", 2.0)
    client.delete_experiment(gone)
    dataset = None
    if datasets:
        from mlflow.genai.datasets import create_dataset

        made = create_dataset(name=f"cases{suffix}", experiment_id=[experiment], tags={"t": "u"})
        made.merge_records(
            [{"inputs": {"q": "1"}, "expectations": {"a": "2"}}, {"inputs": {"q": "3"}, "tags": {"z": "y"}}]
        )
        dataset = made.dataset_id
    return Content(experiment, name, parent, child, deleted, model, registered, prompt, trace, dataset)


def _trace(experiment: str) -> str:
    """A trace with nested spans, an error and two assessments; its id."""
    import mlflow
    from mlflow.entities import AssessmentSource

    mlflow.set_experiment(experiment_id=experiment)
    try:
        with mlflow.start_span("ask", span_type="CHAIN") as span:
            trace_id = str(span.trace_id)
            span.set_inputs({"q": "é"})
            with mlflow.start_span("inner"):
                raise ValueError("bad")
    except ValueError:
        pass
    mlflow.flush_trace_async_logging()
    source = AssessmentSource("HUMAN", "ann")
    mlflow.log_feedback(trace_id=trace_id, name="ok", value=True, rationale="fine", source=source)
    mlflow.log_expectation(trace_id=trace_id, name="wanted", value={"a": [1]})
    return trace_id
