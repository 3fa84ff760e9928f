"""The three-way merge of a copied record: original, as written, as it is now.

Where a field is now as it was written, the original value comes back; where it was edited since,
the edit wins. A field without a (lossless) place on the copy's platform cannot have been edited
in a way that is told from the platform's own doing: it comes back as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..model import DatasetUse, Experiment, ModelVersion, RegisteredModel, Run, Value
from .origin import OriginRecord

# Field of Run → the concept that it needs; those without one are held everywhere.
FIELDS: dict[str, str | None] = {
    "name": None,
    "status": None,
    "exit_code": "exit_code",
    "created_at": "created_at",
    "started_at": "started_at",
    "ended_at": "ended_at",
    "duration": "duration",
    "user": "user",
    "deleted": "deleted",
    "group": "group",
    "job_type": "job_type",
    "sweep": "sweep",
    "description": "description",
    "code": "code",
    "environment": "environment",
}


def merged_run(record: OriginRecord, current: Run) -> Run:
    """The original run, with edits made to its copy. References and ids stay the copy's."""
    original, fitted = record.run, record.fitted
    changes: dict[str, Any] = {}
    for name, concept in FIELDS.items():
        changes[name] = _merged(
            getattr(original, name), getattr(fitted, name), getattr(current, name), _held(record, concept)
        )
    if current.status == fitted.status:
        changes["status"] = original.status
        changes["native_status"] = original.native_status
    else:
        changes["native_status"] = current.native_status
    names = {**record.names, "summary": record.names.get("metrics", {})}
    for name in ("params", "tags", "summary"):
        held = _held(record, name)
        changes[name] = merged_mapping(
            getattr(original, name), getattr(fitted, name), getattr(current, name), names.get(name, {}), held
        )
    if _held(record, "labels") and set(current.labels) != set(fitted.labels):
        changes["labels"] = current.labels
    else:
        changes["labels"] = original.labels
    changes["datasets"] = _merged_datasets(record, current)
    return replace(
        current,
        **changes,
        modified_at=original.modified_at,
        url=original.url,
        extra=original.extra,
    )


def merged_experiment(record: OriginRecord, current: Experiment) -> Experiment:
    """The original experiment, with edits made to its copy; the id stays the copy's."""
    original, fitted = record.experiment, record.fitted_experiment
    if not _held(record, "experiments"):
        return replace(original, id=f"{current.id}/{original.name}")
    tags = _held(record, "experiment_tags")
    return replace(
        original,
        id=current.id,
        name=_merged(original.name, fitted.name, current.name, True),
        description=_merged(original.description, fitted.description, current.description, tags),
        tags=merged_mapping(original.tags, fitted.tags, current.tags, {}, tags),
    )


def merged_model(record: OriginRecord, current: RegisteredModel) -> RegisteredModel | None:
    """The registered model's own facts, as far as this run's record knows them; its versions as they are."""
    for entry in record.registry:
        if entry.name == current.name and entry.model.kind == current.kind:
            original = entry.model
            return replace(
                current,
                name=original.name,
                description=original.description if current.description is None else current.description,
                created_at=original.created_at,
                modified_at=original.modified_at,
                extra=original.extra,
            )
    return None


def merged_version(record: OriginRecord, current: ModelVersion) -> ModelVersion:
    """A version's original number, stage and times; its tags and aliases are as they are now."""
    number = current.origin_version
    versions = (v for entry in record.registry if entry.name == current.model for v in entry.model.versions)
    original = next((v for v in versions if v.version == number), None)
    if original is None:
        return current
    return replace(
        current,
        model=original.model,
        version=original.version,
        stage=current.stage or original.stage,
        tags={key: value for key, value in current.tags.items() if key != "outgrow.stage"},
        aliases=current.aliases if _held(record, "registry_aliases") else original.aliases,
        user=original.user,
        source=original.source,
        created_at=original.created_at,
        modified_at=original.modified_at,
        extra=original.extra,
    )


def merged_mapping(
    original: Mapping[str, Any],
    fitted: Mapping[str, Any],
    current: Mapping[str, Any],
    names: Mapping[str, str],
    held: bool,
) -> dict[str, Any]:
    """Key by key; `names` are the written names of renamed keys."""
    if not held:
        return dict(original)
    result: dict[str, Any] = {}
    for key, value in original.items():
        name = names.get(key, key)
        if name not in fitted:
            result[key] = value
        elif name in current:
            result[key] = value if same(current[name], fitted[name]) else current[name]
        # else: it was deleted since
    result.update((name, value) for name, value in current.items() if name not in fitted)
    return result


def same(a: Value, b: Value) -> bool:
    """Equality of values and of their types, where NaN equals NaN and an int its equal float."""
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _merged(original: Any, fitted: Any, current: Any, held: bool) -> Any:
    return original if not held or same(current, fitted) else current


def _held(record: OriginRecord, concept: str | None) -> bool:
    return concept is None or record.held.get(concept, False)


def _merged_datasets(record: OriginRecord, current: Run) -> list[DatasetUse]:
    if not _held(record, "datasets") or _facts(current.datasets) == _facts(record.fitted.datasets):
        return record.run.datasets
    known = _facts(record.fitted.datasets)
    return record.run.datasets + [use for use in current.datasets if _facts([use])[0] not in known]


def _facts(uses: list[DatasetUse]) -> list[tuple[object, ...]]:
    return sorted(((use.name, use.digest, use.context) for use in uses), key=repr)


def losing_aliases(staying: Iterable[ModelVersion], coming: Iterable[ModelVersion]) -> list[ModelVersion]:
    """Those registered versions that lose an alias to one that comes, without it: an alias names one version."""
    given = {alias for version in coming for alias in version.aliases}
    return [
        replace(version, aliases=[alias for alias in version.aliases if alias not in given])
        for version in staying
        if given.intersection(version.aliases)
    ]
