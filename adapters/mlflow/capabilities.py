"""What an MLflow target can hold, as data. Limits: `mlflow/utils/validation.py` and
`mlflow/store/*/dbmodels/models.py` of MLflow 3.17; all lengths count characters.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Literal

from ..base import Capabilities, Concept, Hold, TextLimit

# validate_param_and_metric_name, path_not_unique, MAX_ENTITY_KEY_LENGTH
KEY = TextLimit(length=250, allowed=r"[/\w.\- :]", empty=False, path_like=True)
PARAM_VALUE_LENGTH = 6_000  # MAX_PARAM_VAL_LENGTH
TAG_VALUE_LENGTH = 8_000  # MAX_TAG_VAL_LENGTH

BATCH_METRICS = 1_000  # MAX_METRICS_PER_BATCH
BATCH_PARAMS_TAGS = 100  # MAX_PARAMS_TAGS_PER_BATCH
BATCH_BYTES = 900_000  # MAX_BATCH_LOG_REQUEST_SIZE is 1e6

HOLDS: dict[Concept, Hold] = {
    "experiments": Hold("experiment"),
    "experiment_tags": Hold("experiment tags; description in `mlflow.note.content`"),
    "params": Hold("params", lossless=False, note="text: types come back from the origin record"),
    "tags": Hold("tags"),
    "labels": Hold("tag `outgrow.labels`", note="a JSON list"),
    "description": Hold("tag `mlflow.note.content`"),
    "user": Hold("user and tag `mlflow.user`"),
    "parent": Hold("tag `mlflow.parentRunId`"),
    "group": Hold("tag `outgrow.group`"),
    "job_type": Hold("tag `outgrow.job_type`"),
    "sweep": Hold("tag `outgrow.sweep`"),
    "started_at": Hold("start time", lossless=False, note="milliseconds"),
    "ended_at": Hold("end time", lossless=False, note="milliseconds"),
    "deleted": Hold("lifecycle stage"),
    "points": Hold(
        "metrics",
        lossless=False,
        note="integer steps, milliseconds; ±Inf is stored as ±1.797e308, so that value reads as ±Inf",
    ),
    "datasets": Hold("dataset inputs", note="version, rows and further facts as input tags `outgrow.*`"),
    "code": Hold("tags `mlflow.source.*`"),
    "environment": Hold("tags `outgrow.environment*`", note="JSON, in pieces of 8,000 characters"),
    "files": Hold("run artifacts"),
    "artifacts": Hold(
        "logged models", note="type → model_type; version, aliases, metadata, digest as tags `outgrow.*`"
    ),
    "aliases": Hold("logged-model tag `outgrow.aliases`"),
    "artifact_inputs": Hold("model inputs"),
    "linked_metrics": Hold(
        "logged-model metrics", lossless=False, note="NaN of a model metric is stored as 0"
    ),
    "registry": Hold("registered models"),
    "registry_aliases": Hold("aliases", note="`latest` and `vN` are reserved: tag `outgrow.aliases`"),
    "stages": Hold("stages"),
    "prompts": Hold("prompts"),
    "traces": Hold("traces"),
    "evaluation_datasets": Hold("evaluation datasets", lossless=False, note="new ids and times"),
}

CLIENT = Capabilities(
    holds=MappingProxyType(HOLDS),
    metric_key=KEY,
    param_key=KEY,
    param_value=TextLimit(length=PARAM_VALUE_LENGTH),
    # 12 characters less than MLflow takes: a reserved key is kept as `outgrow.tag.<key>`.
    tag_key=replace(KEY, length=238),
    tag_value=TextLimit(length=TAG_VALUE_LENGTH),
    # The database behind a server is not known: the narrower columns of PostgreSQL count.
    run_name=TextLimit(length=250, empty=False),
    experiment_name=TextLimit(length=256, empty=False),
    description=TextLimit(length=TAG_VALUE_LENGTH),
    file_path=TextLimit(length=500),
    model_name=TextLimit(length=256, allowed=r"[^/:]", empty=False, path_like=True),
    param_types=frozenset({"str"}),
    float_steps=False,
    null_steps=False,
    exact_duplicates=False,
    point_times="ms",
    null_point_times=False,
    times_before_1970=False,  # validation._validate_metric
    run_times="ms",
    version_numbers="sequential",
    replay="idempotent",
    batch_points=BATCH_METRICS,
    writers=4,
)
"""Through the REST API or the client, whatever the database behind it."""


RegistryKind = Literal["mlflow", "unity catalog", "workspace"]
"""Databricks has two registries of its own; `MLFLOW_REGISTRY_URI=databricks` chooses the workspace's."""
# mlflow/store/_unity_catalog/registry/rest_store.py, mlflow/store/tracking/databricks_rest_store.py,
# mlflow/store/model_registry/databricks_workspace_model_registry_rest_store.py
_NOT_THERE: dict[RegistryKind, tuple[Concept, ...]] = {
    "unity catalog": ("stages", "prompts", "traces", "evaluation_datasets"),
    "workspace": ("registry_aliases", "prompts", "traces", "evaluation_datasets"),
}


def client(*, sqlite: bool = False, registry: RegistryKind = "mlflow") -> Capabilities:
    """Capabilities of the client path. SQLite does not enforce its columns' lengths."""
    if registry in _NOT_THERE:
        holds = {k: v for k, v in CLIENT.holds.items() if k not in _NOT_THERE[registry]}
        return replace(CLIENT, holds=MappingProxyType(holds))
    if not sqlite:
        return CLIENT
    return replace(
        CLIENT,
        run_name=TextLimit(length=TAG_VALUE_LENGTH, empty=False),
        experiment_name=TextLimit(length=500, empty=False),
        writers=1,
    )
