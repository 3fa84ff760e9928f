"""MLflow's own values ↔ canonical records. Plain values in and out: no SDK entity, no I/O.

Both ways into MLflow (client and SQL) use these functions, so that they read and write the same.
Times are integers in milliseconds since 1970 UTC.

MLflow has no place for some fields of a run. They become tags of our own, which are read back
and hidden again: `outgrow.labels`, `.group`, `.job_type`, `.sweep`, `.code`, `.environment`.
A user's tag whose key is reserved (`mlflow.…`, `outgrow.…`) is kept as `outgrow.tag.<key>`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ...filters import Keys, Parts
from ...model import (
    ArtifactUse,
    DatasetUse,
    Experiment,
    Extra,
    Origin,
    Run,
    Status,
    Value,
)
from ..base import MARK_KEY, ORIGIN_KEY, RESERVED
from .structured import CODE, CODE_TAGS, ENVIRONMENT, code_of, code_tags, environment_of, environment_tags

PLATFORM = "mlflow"
NATIVE = "mlflow."

RUN_NAME = "mlflow.runName"
USER = "mlflow.user"
NOTE = "mlflow.note.content"
PARENT = "mlflow.parentRunId"
CONTEXT = "mlflow.data.context"
LOGGED_MODELS = "mlflow.log-model.history"
"""JSON list of MLflow 2 models; each entry repeats the run's id, which a copy must replace."""

ORIGIN_LOCATION = "outgrow.origin.location"
ORIGIN_URL = "outgrow.origin.url"
LABELS = "outgrow.labels"
UNNAMED = "outgrow.unnamed"
"""The run had no name; MLflow insists on one."""
_NO_NAME: dict[str | None, str | None] = {"true": None, "empty": ""}
UNSTARTED = "outgrow.unstarted"
"""The run had no start time; MLflow insists on one."""
ESCAPED = "outgrow.tag."
_FIELD_TAGS = {"group": "outgrow.group", "job_type": "outgrow.job_type", "sweep": "outgrow.sweep"}
_FIELD_KEYS: dict[str, Iterable[str]] = {
    **{field: (tag,) for field, tag in _FIELD_TAGS.items()},
    "name": (UNNAMED,),
    "started_at": (UNSTARTED,),
    "description": (NOTE,),
    "parent": (PARENT,),
    "labels": (LABELS,),
    "code": (*CODE_TAGS.values(), CODE),
    "environment": (ENVIRONMENT,),
}
"""Field of a run → the tags that it is made from."""

_STATUS = {
    "RUNNING": Status.RUNNING,
    "SCHEDULED": Status.RUNNING,
    "FINISHED": Status.FINISHED,
    "FAILED": Status.FAILED,
    "KILLED": Status.KILLED,
}
_WORD = {status: word for word, status in _STATUS.items() if word != "SCHEDULED"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LARGEST = sys.float_info.max
"""MLflow stores +Inf as this (`SqlAlchemyStore.sanitize_metric_value`)."""


# --- scalars ------------------------------------------------------------------------------------


def status_of(word: str | None) -> Status:
    return _STATUS.get(word or "RUNNING", Status.RUNNING)


def status_word(status: Status, native: str | None = None) -> str:
    """MLflow's word; `native` wins where it is one of MLflow's own for the same status."""
    if native is not None and _STATUS.get(native) is status:
        return native
    return _WORD[status]


def time_of(ms: int | None) -> datetime | None:
    return None if ms is None else _EPOCH + timedelta(milliseconds=int(ms))


def ms_of(time: datetime | None) -> int | None:
    return None if time is None else (time - _EPOCH) // timedelta(milliseconds=1)


def metric_value(stored: float, is_nan: bool = False) -> float:
    """The value behind a stored one: ±1.797e308 is ±Inf."""
    if is_nan:
        return float("nan")
    if stored >= LARGEST:
        return float("inf")
    return float("-inf") if stored <= -LARGEST else stored


# --- experiments --------------------------------------------------------------------------------


def experiment_record(
    *,
    id: str,
    name: str,
    tags: Mapping[str, str | None],
    created_ms: int | None = None,
    modified_ms: int | None = None,
    lifecycle_stage: str | None = "active",
    artifact_location: str | None = None,
    workspace: str | None = None,
) -> Experiment:
    own, native = split_tags(tags)
    description = native.pop(NOTE, None)
    extra: dict[str, Value] = {}
    if artifact_location:
        extra["artifact_location"] = artifact_location
    if native:
        extra["tags"] = dict(native)
    if workspace and workspace != "default":
        extra["workspace"] = workspace
    return Experiment(
        id=str(id),
        name=name,
        description=description,
        tags=own,
        created_at=time_of(created_ms),
        modified_at=time_of(modified_ms),
        deleted=lifecycle_stage == "deleted",
        extra={PLATFORM: extra} if extra else {},
    )


def experiment_tags(experiment: Experiment) -> dict[str, str]:
    """Every tag that an experiment's fields become."""
    tags = native_tags(experiment.extra) | {escape(k): v for k, v in experiment.tags.items()}
    if experiment.description is not None:
        tags[NOTE] = experiment.description
    return tags


# --- runs ---------------------------------------------------------------------------------------


def run_record(
    *,
    id: str,
    experiment: str,
    name: str | None,
    status: str | None,
    start_ms: int | None,
    end_ms: int | None,
    user: str | None = None,
    lifecycle_stage: str | None = "active",
    artifact_uri: str | None = None,
    params: Mapping[str, str | None],
    tags: Mapping[str, str | None],
    metrics: Mapping[str, float],
    datasets: Iterable[DatasetUse] = (),
    model_inputs: Iterable[str] = (),
    model_outputs: Iterable[tuple[str, int]] = (),
    url: str | None = None,
) -> Run:
    """A run. `metrics` are the latest values, already through `metric_value`; ids of logged
    models are their `model_id`s, outputs with their step.
    """
    own, native = split_tags(tags)
    origin = origin_of(tags)
    extra: dict[str, Value] = {}
    user_tag = native.pop(USER, None)
    description = native.pop(NOTE, None)
    parent = native.pop(PARENT, None)
    name_tag = native.pop(RUN_NAME, None)
    code = code_of(native, tags)
    if LOGGED_MODELS in native:
        native[LOGGED_MODELS] = _without_run_id(native[LOGGED_MODELS])
    if native:
        extra["tags"] = dict(native)
    if artifact_uri:
        extra["artifact_uri"] = artifact_uri
    return Run(
        id=id,
        experiment=str(experiment),
        name=_NO_NAME.get(tags.get(UNNAMED), name or name_tag or None),
        status=status_of(status),
        native_status=status,
        started_at=None if UNSTARTED in tags else time_of(start_ms),
        ended_at=time_of(end_ms),
        user=user or user_tag,
        deleted=lifecycle_stage == "deleted",
        parent=parent or None,
        description=description,
        tags=own,
        labels=labels_of(tags),
        params={k: v or "" for k, v in params.items()},
        summary=dict(metrics),
        datasets=list(datasets),
        artifacts=[
            *(ArtifactUse(artifact=m, role="input") for m in model_inputs),
            *(ArtifactUse(artifact=m, role="output", step=step) for m, step in model_outputs),
        ],
        code=code,
        environment=environment_of(tags),
        url=url,
        origin=origin,
        extra={PLATFORM: extra} if extra else {},
        **{field: tags[tag] for field, tag in _FIELD_TAGS.items() if tag in tags},  # type: ignore[arg-type]
    )


@dataclass(frozen=True, slots=True)
class NativeRun:
    """A run's row and its own tags, without the user's tags and labels (`user_tags`, `labels_tag`)."""

    name: str
    user: str | None
    status: str
    start_ms: int
    end_ms: int | None
    lifecycle_stage: str
    tags: dict[str, str]


def native_run(run: Run, origin: Origin | None) -> NativeRun:
    """What a run's fields become. `origin` marks it as a copy; None: it is recorded here."""
    tags = native_tags(run.extra)
    start, name = ms_of(run.started_at), run.name
    if start is None:
        start = ms_of(run.created_at) or ms_of(run.ended_at) or 0
        tags[UNSTARTED] = "true"
    if not name:
        tags[UNNAMED] = "true" if name is None else "empty"
        name = (origin.run_id if origin else "")[:250] or "unnamed"
    tags[RUN_NAME] = name
    for tag, value in ((USER, run.user), (NOTE, run.description), (PARENT, run.parent)):
        if value is not None:
            tags[tag] = value
    for field, tag in _FIELD_TAGS.items():
        if (value := getattr(run, field)) is not None:
            tags[tag] = value
    tags |= code_tags(run.code) | environment_tags(run.environment)
    if origin is not None:
        tags |= origin_tags(origin)
    return NativeRun(
        name=name,
        user=run.user,
        status=status_word(run.status, run.native_status),
        start_ms=start,
        end_ms=ms_of(run.ended_at),
        lifecycle_stage="deleted" if run.deleted else "active",
        tags=tags,
    )


def own_history(tags: dict[str, str], run_id: str) -> dict[str, str]:
    """The tags with the run's id in its list of logged models (MLflow 2), which the source took out."""
    if LOGGED_MODELS not in tags:
        return tags
    try:
        models = json.loads(tags[LOGGED_MODELS])
    except ValueError:
        return tags
    if isinstance(models, list):
        models = [m | {"run_id": run_id} if isinstance(m, dict) else m for m in models]
    return tags | {LOGGED_MODELS: json.dumps(models)}


def _without_run_id(text: str) -> str:
    try:
        models = json.loads(text)
    except ValueError:
        return text
    if not isinstance(models, list):
        return text
    return json.dumps(
        [{k: v for k, v in m.items() if k != "run_id"} if isinstance(m, dict) else m for m in models]
    )


def tag_keys(parts: Parts) -> Keys:
    """The tags that `run_record` needs for these parts of a run; None for all of them.

    Without the tags that only repeat a column (`RUN_NAME`, `USER`), and the further pieces of a
    long environment.
    """
    if parts.tags is None or "extra" in parts.fields:
        return None
    keys = {key for key in parts.tags if not key.startswith((NATIVE, RESERVED))}
    keys |= {ESCAPED + key for key in parts.tags}
    return frozenset(keys.union(*(_FIELD_KEYS.get(name, ()) for name in parts.fields)))


# --- tags ---------------------------------------------------------------------------------------


def escape(key: str) -> str:
    """The key of a user's tag, out of the way of MLflow's and our own."""
    return ESCAPED + key if key.startswith((NATIVE, RESERVED)) else key


def user_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {escape(key): value for key, value in tags.items()}


def labels_tag(labels: Sequence[str]) -> dict[str, str]:
    return {LABELS: json.dumps(list(labels), ensure_ascii=False)} if labels else {}


def split_tags(tags: Mapping[str, str | None]) -> tuple[dict[str, str], dict[str, str]]:
    """The user's tags, and MLflow's own; ours are in neither."""
    own, native = {}, {}
    for key, value in tags.items():
        if key.startswith(ESCAPED):
            own[key.removeprefix(ESCAPED)] = value or ""
        elif key.startswith(NATIVE):
            native[key] = value or ""
        elif not key.startswith(RESERVED):
            own[key] = value or ""
    return own, native


def native_tags(extra: Extra) -> dict[str, str]:
    tags = extra.get(PLATFORM, {}).get("tags")
    return {str(k): str(v) for k, v in tags.items()} if isinstance(tags, dict) else {}


def origin_tags(origin: Origin) -> dict[str, str]:
    tags = {ORIGIN_KEY: origin.identity}
    if origin.location:
        tags[ORIGIN_LOCATION] = origin.location
    if origin.url:
        tags[ORIGIN_URL] = origin.url
    return tags


def origin_of(tags: Mapping[str, str | None]) -> Origin | None:
    platform, colon, run_id = (tags.get(ORIGIN_KEY) or "").partition(":")
    if not colon:
        return None
    return Origin(
        platform=platform,
        run_id=run_id,
        location=tags.get(ORIGIN_LOCATION) or "",
        url=tags.get(ORIGIN_URL),
    )


def mark_of(tags: Mapping[str, str | None]) -> str | None:
    return tags.get(MARK_KEY)


def labels_of(tags: Mapping[str, str | None]) -> list[str]:
    if not tags.get(LABELS):
        return []
    try:
        labels = json.loads(tags[LABELS] or "[]")
    except ValueError:
        return []
    return [str(label) for label in labels] if isinstance(labels, list) else []
