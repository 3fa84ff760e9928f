"""MLflow's dataset inputs, logged models and registry entries ↔ canonical records.

Plain values in and out, as in `records`. Facts without a place in MLflow are kept as JSON in tags
`outgrow.facts`, `outgrow.facts.1`…, only where they differ from what MLflow shows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ...model import (
    Artifact,
    DatasetUse,
    LinkedMetric,
    ModelVersion,
    RegisteredModel,
    Value,
    from_builtins,
    to_builtins,
)
from ..base import RESERVED
from .records import CONTEXT, PLATFORM, ms_of, native_tags, split_tags, time_of, user_tags
from .structured import joined, pieces

FACTS = "outgrow.facts"
ALIASES = "outgrow.aliases"
"""Aliases that MLflow reserves or refuses, as a JSON list."""
ORIGIN_ID = "outgrow.origin"
"""Logged model: id of the artifact that it is a copy of."""
METRICS = "outgrow.metrics."
"""Logged model: prefix of the tags `outgrow.metrics.<run id>`, see `metrics_tag`."""
ORIGIN_VERSION = "outgrow.origin_version"
"""Model version: `<its origin>#<version there>`."""
SOURCE = "outgrow.source"  # model version: its source, where the server refuses that URI
MODEL_VERSIONS = "mlflow.modelVersions"
"""Logged model: its registered versions; the registry tells them, and the server writes it."""
IS_PROMPT = "mlflow.prompt.is_prompt"

NAME_LENGTH, DIGEST_LENGTH = 500, 36  # MAX_DATASET_NAME_SIZE, MAX_DATASET_DIGEST_SIZE
INPUT_TAG_LENGTH = 500  # MAX_INPUT_TAG_VALUE_SIZE
# MAX_DATASET_SOURCE_SIZE, MAX_DATASET_SCHEMA_SIZE, MAX_DATASET_PROFILE_SIZE
SOURCE_LENGTH, SCHEMA_LENGTH, PROFILE_LENGTH = 65_535, 1_048_575, 16_777_215
ALIAS_LENGTH = 255  # MAX_REGISTERED_MODEL_ALIAS_LENGTH

R = TypeVar("R", DatasetUse, Artifact)


def _facts(record: R, shown: R, names: Sequence[str]) -> dict[str, Any]:
    """The fields of a record that its native form does not show."""
    return {n: to_builtins(getattr(record, n)) for n in names if getattr(record, n) != getattr(shown, n)}


def _with_facts(shown: R, facts: Mapping[str, Any], names: Sequence[str]) -> R:
    own = {n: facts[n] for n in names if n in facts}
    return from_builtins(to_builtins(shown) | own, type(shown)) if own else shown


def _read_facts(tags: Mapping[str, str | None]) -> dict[str, Any]:
    try:
        facts = json.loads(joined(FACTS, tags) or "{}")
    except ValueError:
        return {}  # edited by hand: no longer ours to read
    return facts if isinstance(facts, dict) else {}


def _write_facts(facts: Mapping[str, Any], length: int) -> dict[str, str]:
    return pieces(FACTS, json.dumps(facts, ensure_ascii=False, sort_keys=True), length) if facts else {}


# --- dataset inputs -----------------------------------------------------------------------------

_DATASET_FACTS = ("name", "digest", "version", "source_type", "source", "rows", "tags", "extra", "context")


@dataclass(frozen=True, slots=True)
class NativeDataset:
    """A row of `datasets`, with the tags of its input edge."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None
    profile: str | None
    tags: dict[str, str]


def dataset_uses(native: NativeDataset) -> list[DatasetUse]:
    """The uses behind one dataset input; several where a run used one data set more than once."""
    facts = _read_facts(native.tags)
    first = _with_facts(_shown_dataset(native), facts, _DATASET_FACTS)
    return [first, *(_with_facts(first, more, _DATASET_FACTS) for more in facts.get("also", []))]


def _shown_dataset(native: NativeDataset) -> DatasetUse:
    own, mlflow = split_tags(native.tags)
    context = mlflow.pop(CONTEXT, None)
    return DatasetUse(
        name=native.name,
        digest=native.digest,
        context=context,
        source_type=native.source_type,
        source=native.source,
        schema=native.schema,
        profile=native.profile,
        tags=own,
        extra={PLATFORM: {"tags": dict(mlflow)}} if mlflow else {},
    )


def native_datasets(uses: Iterable[DatasetUse]) -> list[NativeDataset]:
    """Rows for a run's uses. MLflow has one input a (name, digest): further uses ride on the first."""
    groups: dict[tuple[str, str], list[DatasetUse]] = {}
    for use in uses:
        groups.setdefault((_short(use.name, NAME_LENGTH), _digest(use)), []).append(use)
    return [_native_dataset(name, digest, group) for (name, digest), group in groups.items()]


def _native_dataset(name: str, digest: str, group: list[DatasetUse]) -> NativeDataset:
    use = group[0]
    tags = {
        k: v
        for k, v in (native_tags(use.extra) | user_tags(use.tags)).items()
        if len(k) <= 255 and len(v) <= INPUT_TAG_LENGTH  # MAX_INPUT_TAG_KEY_SIZE
    }
    if use.context is not None and len(use.context) <= INPUT_TAG_LENGTH:
        tags[CONTEXT] = use.context
    native = NativeDataset(
        name=name,
        digest=digest,
        source_type=(use.source_type or "")[:36],  # column of dbmodels.models.SqlDataset
        source=use.source if use.source is not None and len(use.source) <= SOURCE_LENGTH else "",
        schema=use.schema if use.schema is not None and len(use.schema) <= SCHEMA_LENGTH else None,
        profile=use.profile if use.profile is not None and len(use.profile) <= PROFILE_LENGTH else None,
        tags=tags,
    )
    facts = _facts(use, _shown_dataset(native), _DATASET_FACTS)
    if also := [_facts(more, use, _DATASET_FACTS) for more in group[1:]]:
        facts["also"] = also
    return replace(native, tags=tags | _write_facts(facts, INPUT_TAG_LENGTH))


def _digest(use: DatasetUse) -> str:
    """MLflow insists on a digest of at most 36 characters, and tells data sets apart by it."""
    if use.digest is not None and len(use.digest) <= DIGEST_LENGTH:
        return use.digest
    told = use.digest if use.digest is not None else to_builtins(replace(use, context=None, tags={}))
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:DIGEST_LENGTH]


def _short(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    return text[: length - 9] + "-" + hashlib.sha256(text.encode()).hexdigest()[:8]


# --- logged models ------------------------------------------------------------------------------

_ARTIFACT_FACTS = (
    "name", "type", "version", "aliases", "tags", "params", "metadata", "description", "digest", "status",
)  # fmt: skip
_MODEL_STATUS = ("PENDING", "READY", "FAILED")
_BAD_NAME = re.compile(r"[/:.%\"']")  # validation._validate_logged_model_name


@dataclass(frozen=True, slots=True)
class NativeModel:
    """A row of `logged_models`, with its params and tags."""

    name: str
    model_type: str | None
    status: str
    params: dict[str, str]
    tags: dict[str, str]


def artifact_record(
    *,
    id: str,
    name: str,
    model_type: str | None,
    status: str,
    run: str | None,
    params: Mapping[str, str],
    tags: Mapping[str, str | None],
    created_ms: int | None = None,
    modified_ms: int | None = None,
    experiment: str | None = None,
    artifact_location: str | None = None,
    metrics: Iterable[LinkedMetric] = (),
) -> Artifact:
    """A logged model. `status` is PENDING, READY or FAILED; `metrics` as `LinkedMetric`s whose
    value is already that of the run's own point (a NaN is stored as 0 beside the model).
    """
    extra: dict[str, Value] = {}
    if experiment:
        extra["experiment"] = experiment
    if artifact_location:
        extra["artifact_location"] = artifact_location
    shown = _shown_model(
        NativeModel(name, model_type, status, dict(params), {k: v or "" for k, v in tags.items()})
    )
    shown = _with_facts(shown, _read_facts(tags), _ARTIFACT_FACTS)
    if shown.type != "model":  # model_type holds the type, which is no fact of MLflow's
        rest = {k: v for k, v in shown.extra.get(PLATFORM, {}).items() if k != "model_type"}
        shown = replace(shown, extra={PLATFORM: rest} if rest else {})
    if extra:
        shown = replace(shown, extra={PLATFORM: shown.extra.get(PLATFORM, {}) | extra})
    return replace(
        shown,
        id=id,
        created_by=run or None,
        created_at=time_of(created_ms),
        modified_at=time_of(modified_ms),
        metrics=[*metrics, *_kept_metrics(tags)],
    )


def _shown_model(native: NativeModel) -> Artifact:
    own, mlflow = split_tags(native.tags)
    mlflow.pop(MODEL_VERSIONS, None)
    extra: dict[str, Value] = {}
    if native.model_type:
        extra["model_type"] = native.model_type
    if mlflow:
        extra["tags"] = dict(mlflow)
    return Artifact(
        id="",
        name=native.name,
        type="model",
        tags=own,
        params=dict(native.params),
        status=native.status,
        extra={PLATFORM: extra} if extra else {},
    )


def native_model(artifact: Artifact, origin_id: str | None = None) -> NativeModel:
    """What an artifact version becomes. `origin_id` marks it as a copy of that artifact."""
    ours = artifact.extra.get(PLATFORM, {})
    model_type = ours.get("model_type") if artifact.type == "model" else artifact.type
    native = NativeModel(
        name=_short(_BAD_NAME.sub("_", artifact.name) or "_", NAME_LENGTH),
        model_type=str(model_type)[:500] if model_type else None,
        status=artifact.status if artifact.status in _MODEL_STATUS else "READY",
        params={k: v for k, v in artifact.params.items() if isinstance(v, str) and len(k) <= 255},
        tags={
            k: v for k, v in (native_tags(artifact.extra) | user_tags(artifact.tags)).items() if len(k) <= 255
        },
    )
    tags = native.tags | _write_facts(_facts(artifact, _shown_model(native), _ARTIFACT_FACTS), 8_000)
    if origin_id is not None:
        tags[ORIGIN_ID] = origin_id
    return replace(native, tags=tags)


Point = tuple[int, int, str]


def point(time_ms: int, step: int, value: float) -> Point:
    """A point as something that compares, NaN included."""
    return time_ms, step, repr(value)


def point_of(metric: LinkedMetric) -> Point | None:
    """The point of the run that a model's metric is; None where MLflow's milliseconds cannot be it."""
    ms = ms_of(metric.time)
    return None if ms is None or time_of(ms) != metric.time else point(ms, metric.step, metric.value)


def metrics_tag(run_id: str, metrics: Sequence[LinkedMetric]) -> dict[str, str]:
    """A run's metrics of a model that are no points of the run."""
    return {f"{METRICS}{run_id}": json.dumps(to_builtins(list(metrics)), ensure_ascii=False)}


def _kept_metrics(tags: Mapping[str, str | None]) -> list[LinkedMetric]:
    kept: list[LinkedMetric] = []
    for key, text in tags.items():
        if key.startswith(METRICS):
            try:
                kept += [from_builtins(metric, LinkedMetric) for metric in json.loads(text or "[]")]
            except (ValueError, TypeError):
                continue  # edited by hand: no longer ours to read
    return kept


# --- registry -----------------------------------------------------------------------------------


def aliases_of(aliases: Iterable[str], tags: Mapping[str, str | None]) -> list[str]:
    """A version's aliases: the native ones, and those that MLflow refuses."""
    try:
        kept = json.loads(tags.get(ALIASES) or "[]")
    except ValueError:
        kept = []
    return sorted({*aliases, *(str(a) for a in kept)})


def native_aliases(aliases: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Aliases that MLflow takes, and the tag that keeps the others."""
    refused = [a for a in aliases if not _alias_allowed(a)]
    return (
        [a for a in aliases if _alias_allowed(a)],
        {ALIASES: json.dumps(refused, ensure_ascii=False)} if refused else {},
    )


def _alias_allowed(alias: str) -> bool:
    # validation._validate_model_alias_name, …_reserved
    return (
        0 < len(alias) <= ALIAS_LENGTH
        and re.fullmatch(r"[\w\-]+", alias) is not None
        and re.fullmatch(r"[vV]\d+", alias) is None
        and alias.lower() != "latest"
    )


def version_record(
    *,
    model: str,
    version: int | str,
    run: str | None,
    source: str | None,
    run_artifact_uri: str | None = None,
    model_id: str | None = None,
    stage: str | None = None,
    aliases: Iterable[str] = (),
    tags: Mapping[str, str | None],
    description: str | None = None,
    status: str | None = None,
    user: str | None = None,
    created_ms: int | None = None,
    modified_ms: int | None = None,
) -> ModelVersion:
    """A model version. `run_artifact_uri` is that of its run, where the run is known."""
    source = tags.get(SOURCE) or source
    artifact, path = version_place(source, run, run_artifact_uri, model_id)
    return ModelVersion(
        model=model,
        version=str(version),
        run=run or None,
        artifact=artifact,
        path=path,
        source=source or None,
        aliases=aliases_of(aliases, tags),
        stage=stage if stage and stage != "None" else None,
        tags=_registry_tags(tags),
        description=description or None,
        status=status or None,
        user=user or None,
        created_at=time_of(created_ms),
        modified_at=time_of(modified_ms),
    )


def version_place(
    source: str | None, run: str | None, run_artifact_uri: str | None, model_id: str | None = None
) -> tuple[str | None, str | None]:
    """The logged model, and the folder among the run's files (or the model's), that a source names."""
    if match := re.fullmatch(r"models:/(m-[0-9a-zA-Z-]+)(?:/(.*))?", source or ""):
        return match[1], match[2] or None
    if not source:
        return model_id or None, None
    if run and source.startswith(prefix := f"runs:/{run}/"):
        return model_id or None, source.removeprefix(prefix).strip("/") or None
    root = (run_artifact_uri or "").rstrip("/")
    if root and (source == root or source.startswith(root + "/")):
        return model_id or None, source[len(root) :].strip("/") or None
    return model_id or None, None


def _registry_tags(tags: Mapping[str, str | None]) -> dict[str, str]:
    """Without our own, and without the one that `RegisteredModel.kind` is made of."""
    return {k: v or "" for k, v in tags.items() if not k.startswith(RESERVED) and k != IS_PROMPT}


def model_record(
    *,
    name: str,
    description: str | None,
    tags: Mapping[str, str | None],
    versions: Iterable[ModelVersion],
    created_ms: int | None = None,
    modified_ms: int | None = None,
) -> RegisteredModel:
    """A registered model, or a prompt (which MLflow tells apart by a tag)."""
    return RegisteredModel(
        name=name,
        kind="prompt" if tags.get(IS_PROMPT) == "true" else "model",
        description=description or None,
        tags=_registry_tags(tags),
        created_at=time_of(created_ms),
        modified_at=time_of(modified_ms),
        versions=sorted(versions, key=lambda v: int(v.version)),
    )
