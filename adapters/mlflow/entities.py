"""MLflow's SDK entities → canonical records, by way of `records` and `assets`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...model import Artifact, DatasetUse, Experiment, LinkedMetric, Run
from . import assets, records
from .connection import Connection

EXPERIMENTS_PER_SEARCH = 200
"""Experiment ids that one search names."""


def experiment(native: Any) -> Experiment:
    return records.experiment_record(
        id=native.experiment_id,
        name=native.name,
        tags=native.tags,
        created_ms=native.creation_time,
        modified_ms=native.last_update_time,
        lifecycle_stage=native.lifecycle_stage,
        artifact_location=native.artifact_location,
        workspace=getattr(native, "workspace", None),
    )


def run(native: Any, url: str | None = None) -> Run:
    info, data = native.info, native.data
    inputs, outputs = native.inputs, native.outputs
    return records.run_record(
        id=info.run_id,
        experiment=info.experiment_id,
        name=info.run_name,
        status=info.status,
        start_ms=info.start_time,
        end_ms=info.end_time,
        user=info.user_id,
        lifecycle_stage=info.lifecycle_stage,
        artifact_uri=info.artifact_uri,
        params=data.params,
        tags=data.tags,
        metrics={key: records.metric_value(value) for key, value in data.metrics.items()},
        datasets=[use for i in (inputs.dataset_inputs if inputs else ()) for use in dataset_uses(i)],
        model_inputs=[m.model_id for m in (inputs.model_inputs if inputs else None) or ()],
        model_outputs=[(m.model_id, m.step) for m in (outputs.model_outputs if outputs else None) or ()],
        url=url,
    )


def dataset_uses(native: Any) -> list[DatasetUse]:
    dataset = native.dataset
    return assets.dataset_uses(
        assets.NativeDataset(
            name=dataset.name,
            digest=dataset.digest,
            source_type=dataset.source_type,
            source=dataset.source,
            schema=dataset.schema or None,
            profile=dataset.profile or None,
            tags={tag.key: tag.value for tag in native.tags},
        )
    )


def chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), EXPERIMENTS_PER_SEARCH):
        yield list(ids[start : start + EXPERIMENTS_PER_SEARCH])


def any_logged_model(connection: Connection) -> bool:
    """Whether there is any logged model; a server older than 3.0 has none."""
    from ...errors import Vanished

    for some in chunks(experiment_ids(connection)):
        try:
            with connection.calling("could not list logged models"):
                if connection.tracking.search_logged_models(some, max_results=1):
                    return True
        except Vanished:
            return False
    return False


def logged_model(connection: Connection, model_id: str) -> Any:
    """The entity of a logged model, also of a deleted one."""
    return connection.tracking.get_logged_model(model_id, allow_deleted=True)


def artifact(native: Any, connection: Connection) -> Artifact:
    return assets.artifact_record(
        id=native.model_id,
        name=native.name,
        model_type=native.model_type,
        status=str(native.status.value if hasattr(native.status, "value") else native.status),
        run=native.source_run_id,
        params=native.params,
        tags=native.tags,
        created_ms=native.creation_timestamp,
        modified_ms=native.last_updated_timestamp,
        experiment=native.experiment_id,
        artifact_location=native.artifact_location,
        metrics=linked_metrics(native, connection),
    )


def linked_metrics(native: Any, connection: Connection) -> list[LinkedMetric]:
    """A model's metrics. Where 0 is stored, the run's own point tells whether it was NaN."""
    zeros = {(m.run_id, m.key) for m in native.metrics or () if m.value == 0.0 and m.run_id}
    nans = {pair: _nan_points(connection, *pair) for pair in zeros}
    return [
        LinkedMetric(
            key=m.key,
            value=float("nan")
            if m.value == 0.0 and (m.timestamp, m.step) in nans.get((m.run_id, m.key), ())
            else records.metric_value(m.value),
            step=m.step,
            time=records.time_of(m.timestamp),
            run=m.run_id or None,
            dataset=m.dataset_name or None,
            digest=m.dataset_digest or None,
        )
        for m in native.metrics or ()
    ]


def _nan_points(connection: Connection, run_id: str, key: str) -> set[tuple[int, int]]:
    from ...errors import Vanished

    try:
        with connection.calling(f"could not read {key!r} of run {run_id}"):
            history = connection.tracking.get_metric_history(run_id, key)
    except Vanished:
        return set()
    return {(m.timestamp, m.step) for m in history if m.value != m.value}


def experiment_ids(connection: Connection) -> list[str]:
    """The ids of every experiment, deleted ones included."""
    from mlflow.entities import ViewType

    ids: list[str] = []
    token = None
    while True:
        with connection.calling("could not list experiments"):
            page = connection.tracking.search_experiments(
                view_type=ViewType.ALL, max_results=1_000, page_token=token
            )
        ids += [str(e.experiment_id) for e in page]
        if not (token := page.token):
            return ids


def run_url(connection: Connection, native: Any) -> str | None:
    """The page of a run in a server's own interface."""
    if connection.http is None:
        return None
    root = connection.uri.rstrip("/")
    return f"{root}/#/experiments/{native.info.experiment_id}/runs/{native.info.run_id}"


def find_model(connection: Connection, experiment_id: str, origin_id: str) -> Any:
    """The logged model that is a copy of that artifact; the run's own experiment is asked first."""
    others = [i for i in experiment_ids(connection) if i != experiment_id]
    filter_string = f"tags.`{assets.ORIGIN_ID}` {equals(origin_id)}"
    for some in ([experiment_id], *chunks(others)):
        with connection.calling("could not look for a logged model"):
            page = connection.tracking.search_logged_models(some, filter_string=filter_string, max_results=5)
        for model in page:
            if model.tags.get(assets.ORIGIN_ID) == origin_id:
                return model
    return None


def equals(text: str) -> str:
    """A comparison in MLflow's filter language, which has no escape for its quotes: for a text with
    one, a pattern in which it may be anything. Compare what is found.
    """
    return "LIKE '{}'".format(text.replace("'", "_")) if "'" in text else f"= '{text}'"
