"""Logged models and the registry out of MLflow's tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from ...model import Artifact, LinkedMetric, ModelVersion, RegisteredModel
from .assets import ORIGIN_ID, ORIGIN_VERSION, artifact_record, model_record, version_record
from .records import metric_value, time_of
from .sql_database import Database
from .sql_runs import grouped, in_workspace

MODEL_STATUS = {0: "UNSPECIFIED", 1: "PENDING", 2: "READY", 3: "FAILED"}
"""`mlflow.entities.LoggedModelStatus`, as stored."""
CREATED = "outgrow.created_at"
"""Tag of a registered model or a version: its exact creation time; empty: it has none."""
DELETED = "Deleted_Internal"
"""Stage of a deleted version's row, which MLflow keeps (`entities.model_registry`)."""

R = TypeVar("R", RegisteredModel, ModelVersion)


def logged_models(database: Database, ids: Sequence[str]) -> Iterator[Artifact]:
    """The logged models of these ids that are still there, in that order."""
    if not ids:
        return
    of_model = database.among("model_id", "$1")
    rows = {
        row[0]: row
        for row in database.tuples(
            "SELECT model_id, experiment_id, name, artifact_location, creation_timestamp_ms, "
            f"last_updated_timestamp_ms, status, model_type, source_run_id FROM logged_models WHERE {of_model}",
            (database.listed(ids),),
        )
    }
    params = grouped(
        database, f"SELECT model_id, param_key, param_value FROM logged_model_params WHERE {of_model}", ids
    )
    tags = grouped(
        database, f"SELECT model_id, tag_key, tag_value FROM logged_model_tags WHERE {of_model}", ids
    )
    metrics = _linked_metrics(database, ids)
    for id in ids:
        if id not in rows:
            continue
        _, experiment, name, location, created, modified, status, model_type, run = rows[id]
        yield artifact_record(
            id=id,
            name=name,
            model_type=model_type,
            status=MODEL_STATUS.get(status, "UNSPECIFIED"),
            run=run,
            params=dict(params.get(id, ())),
            tags=dict(tags.get(id, ())),
            created_ms=created,
            modified_ms=modified,
            experiment=str(experiment),
            artifact_location=location,
            metrics=metrics.get(id, ()),
        )


def copied_models(database: Database) -> list[tuple[str, str]]:
    """Origin and id of the logged models that are copies."""
    return [
        (str(origin), str(id))
        for origin, id in database.tuples(
            "SELECT tag_value, model_id FROM logged_model_tags WHERE tag_key = $1", (ORIGIN_ID,)
        )
    ]


def _exact(record: R, tags: Mapping[str, str | None]) -> R:
    """The record with the creation time of its tag."""
    if CREATED not in tags:
        return record
    told = tags[CREATED]
    return replace(record, created_at=datetime.fromisoformat(told) if told else None)


def _copied(version: ModelVersion, tags: Mapping[str, str | None]) -> ModelVersion:
    """The version with its number in its origin, where it is a copy."""
    number, at, _ = (tags.get(ORIGIN_VERSION) or "").rpartition("@")
    if not at:
        return version
    return replace(version, extra=version.extra | {"outgrow": {"origin_version": number}})


def _linked_metrics(database: Database, ids: Sequence[str]) -> dict[str, list[LinkedMetric]]:
    # A NaN is stored here as 0; the run's own point tells.
    rows = grouped(
        database,
        "SELECT l.model_id, l.metric_name, l.metric_value, l.metric_step, l.metric_timestamp_ms, l.run_id, "
        "l.dataset_name, l.dataset_digest, EXISTS (SELECT 1 FROM metrics m WHERE m.run_uuid = l.run_id "
        "AND m.key = l.metric_name AND m.timestamp = l.metric_timestamp_ms AND m.step = l.metric_step "
        "AND l.metric_value = 0 AND m.is_nan) "
        f"FROM logged_model_metrics l WHERE {database.among('l.model_id', '$1')} "
        f"ORDER BY {database.written('l')}",
        ids,
    )
    return {
        model: [
            LinkedMetric(
                key=key,
                value=metric_value(float(value or 0), bool(is_nan)),
                step=step,
                time=time_of(ms),
                run=run,
                dataset=dataset,
                digest=digest,
            )
            for key, value, step, ms, run, dataset, digest, is_nan in found
        ]
        for model, found in rows.items()
    }


def registered_models(database: Database, workspace: str) -> Iterator[RegisteredModel]:
    """Every registered model, then every prompt; deleted versions are not shown."""
    here = in_workspace(database, "registered_models", "$1")
    tags: dict[str, dict[str, str | None]] = defaultdict(dict)
    for name, key, value in database.tuples(
        f"SELECT name, key, value FROM registered_model_tags WHERE {here}", (workspace,)
    ):
        tags[name][key] = value
    versions = _versions(database, workspace)
    rows = database.tuples(
        "SELECT name, description, creation_time, last_updated_time FROM registered_models "
        f"WHERE {here} ORDER BY name",
        (workspace,),
    )
    found = [
        _exact(
            model_record(
                name=name,
                description=description,
                tags=tags[name],
                versions=versions.get(name, ()),
                created_ms=created,
                modified_ms=modified,
            ),
            tags[name],
        )
        for name, description, created, modified in rows
    ]
    yield from sorted(found, key=lambda model: model.kind)


def _versions(database: Database, workspace: str) -> dict[str, list[ModelVersion]]:
    here = in_workspace(database, "registered_models", "$1")
    aliases: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name, version, alias in database.tuples(
        f"SELECT name, version, alias FROM registered_model_aliases WHERE {here} ORDER BY alias", (workspace,)
    ):
        aliases[name, version].append(alias)
    tags: dict[tuple[str, int], dict[str, str | None]] = defaultdict(dict)
    for name, version, key, value in database.tuples(
        f"SELECT name, version, key, value FROM model_version_tags WHERE {here}", (workspace,)
    ):
        tags[name, version][key] = value
    found: dict[str, list[ModelVersion]] = defaultdict(list)
    rows: list[tuple[Any, ...]] = database.tuples(
        "SELECT v.name, v.version, v.run_id, v.source, r.artifact_uri, v.current_stage, v.description, "
        "v.status, v.user_id, v.creation_time, v.last_updated_time FROM model_versions v "
        f"LEFT JOIN runs r ON r.run_uuid = v.run_id WHERE {'v.' + here if here.startswith('work') else here} "
        "ORDER BY v.name, v.version",
        (workspace,),
    )
    for name, version, run, source, artifact_uri, stage, description, status, user, created, modified in rows:
        if stage == DELETED:
            continue
        record = version_record(
            model=name,
            version=version,
            run=run,
            source=source,
            run_artifact_uri=artifact_uri,
            stage=stage,
            aliases=aliases.get((name, version), ()),
            tags=tags.get((name, version), {}),
            description=description,
            status=status,
            user=user,
            created_ms=created,
            modified_ms=modified,
        )
        found[name].append(
            _copied(_exact(record, tags.get((name, version), {})), tags.get((name, version), {}))
        )
    return found
