"""Models and model versions of 2.x, which Neptune keeps as it keeps runs."""

from __future__ import annotations

from collections.abc import Iterable

from ...model import ModelVersion, RegisteredModel, Run
from ..fit import text_of
from .records import PLATFORM, Attributes, decode


def version_of(run: Run, artifact: str | None) -> ModelVersion:
    """Of `PROJECT-MODEL-NUMBER`, read as a run; its version is the number."""
    native = run.id.rpartition("/")[2]
    told = run.extra.get(PLATFORM, {})
    model = str(told.get("model_id") or native.rpartition("-")[0])
    stage = told.get("stage")
    return ModelVersion(
        model=model,
        version=native.removeprefix(f"{model}-"),
        run=run.id,
        artifact=artifact,
        stage=None if stage in (None, "none") else str(stage),
        tags={key: text_of(value) for key, value in run.params.items()},
        description=run.description,
        user=run.user,
        created_at=run.started_at,
        modified_at=run.modified_at,
        extra=run.extra,
    )


def model_of(run: Run, attributes: Attributes, versions: Iterable[ModelVersion]) -> RegisteredModel:
    """Of `PROJECT-MODEL`, read as a run; versions oldest first."""
    name = attributes.get("sys/name")
    return RegisteredModel(
        name=run.id.rpartition("/")[2],
        description=run.description,
        tags={key: text_of(value) for key, value in run.params.items()},
        created_at=run.started_at,
        modified_at=run.modified_at,
        versions=in_order(versions),
        extra={PLATFORM: run.extra.get(PLATFORM, {}) | ({"name": decode(name)} if name else {})},
    )


def in_order(versions: Iterable[ModelVersion]) -> list[ModelVersion]:
    return sorted(
        versions, key=lambda v: (0, int(v.version), "") if v.version.isdigit() else (1, 0, v.version)
    )
