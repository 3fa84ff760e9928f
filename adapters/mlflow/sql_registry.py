"""Registered models and prompts into MLflow's tables: numbers, times and users as they were."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ...model import ModelVersion, RegisteredModel
from .assets import IS_PROMPT, ORIGIN_VERSION, native_aliases
from .records import ms_of
from .registry import MADE, version_identity
from .sql_assets import CREATED
from .sql_database import Database
from .sql_runs import in_workspace
from .sql_stage import Row, Writer
from .sql_store import WORKSPACE, joined


@dataclass(frozen=True, slots=True)
class _Here:
    """A version that is in the database."""

    number: int
    run: str | None
    origin: str | None


def register(database: Database, writer: Writer, model: RegisteredModel) -> dict[str, str]:
    """Write a model with its versions, unless they are here; source version → version here."""
    numbers = _numbers(database, model)
    now = time.time_ns() // 1_000_000
    tags = model.tags | exact_time(model.created_at)
    prompt = {IS_PROMPT: "true"} if model.kind == "prompt" else {}
    models = [
        {
            "name": model.name,
            "creation_time": _first(ms_of(model.created_at), now),
            "last_updated_time": _first(ms_of(model.modified_at), ms_of(model.created_at), now),
            "description": model.description,
            "workspace": WORKSPACE,
        }
    ]
    ours, here = _is_ours(database, model.name)
    if here:  # one that was made here keeps its own facts
        models = models if ours else []
        tags = tags if ours else {}
    model_tags = [
        _tag(model.name, k, v)
        for k, v in (tags | prompt | {MADE: "true"} if ours or not here else {}).items()
    ]
    versions: list[Row] = []
    version_tags: list[Row] = []
    aliases: list[Row] = []
    for version in model.versions:
        number = numbers[version.origin_version]
        native, tag = native_aliases(version.aliases)
        aliases += [
            {"alias": a, "version": number, "name": model.name, "workspace": WORKSPACE} for a in native
        ]
        own = (
            version.tags
            | prompt
            | tag
            | {ORIGIN_VERSION: version_identity(version)}
            | exact_time(version.created_at)
        )
        version_tags += [_tag(model.name, k, v) | {"version": number} for k, v in own.items()]
        versions.append(_version_row(database, model.name, number, version, now))
    writer.upsert(
        {
            "registered_models": (models, "replace"),
            "registered_model_tags": (model_tags, "replace"),
            "model_versions": (versions, "replace"),
            "model_version_tags": (version_tags, "replace"),
            "registered_model_aliases": (aliases, "replace"),
        }
    )
    return {number: str(here) for number, here in numbers.items()}


def _is_ours(database: Database, name: str) -> tuple[bool, bool]:
    """Whether the registered model of that name was made by outgrow, and whether it is here."""
    here = in_workspace(database, "registered_models", "$1")
    rows = database.tuples(f"SELECT 1 FROM registered_models WHERE {here} AND name = $2", (WORKSPACE, name))
    made = database.tuples(
        f"SELECT 1 FROM registered_model_tags WHERE {here} AND name = $2 AND key = $3",
        (WORKSPACE, name, MADE),
    )
    return bool(made), bool(rows)


def exact_time(created: datetime | None) -> dict[str, str]:
    """A tag with a creation time that MLflow's milliseconds cannot tell, or with none."""
    if created is not None and created.microsecond % 1_000 == 0:
        return {}
    return {CREATED: created.isoformat() if created else ""}


def _numbers(database: Database, model: RegisteredModel) -> dict[str, int]:
    """The source's version → its number here: the same where that is free."""
    here = list(_here(database, model.name))
    taken = {version.number for version in here}
    numbers: dict[str, int] = {}
    for version in model.versions:
        same = [v.number for v in here if v.origin == version_identity(version)]
        wanted = int(version.version) if version.version.isdigit() else 0
        number = same[0] if same else wanted
        if not same and (number in taken or number < 1):
            number = max(taken, default=0) + 1
        taken.add(number)
        numbers[version.origin_version] = number
    return numbers


def _here(database: Database, name: str) -> Iterable[_Here]:
    of_model = f"{in_workspace(database, 'model_versions', '$1')} AND name = $2"
    origins = dict(
        database.tuples(
            f"SELECT version, value FROM model_version_tags WHERE {of_model} AND key = $3",
            (WORKSPACE, name, ORIGIN_VERSION),
        )
    )
    for number, run in database.tuples(
        f"SELECT version, run_id FROM model_versions WHERE {of_model}", (WORKSPACE, name)
    ):
        yield _Here(int(number), run, origins.get(number))


def _version_row(database: Database, name: str, number: int, version: ModelVersion, now: int) -> Row:
    source, storage = _source(database, version)
    return {
        "name": name,
        "version": number,
        "creation_time": _first(ms_of(version.created_at), now),
        "last_updated_time": _first(ms_of(version.modified_at), ms_of(version.created_at), now),
        "description": version.description,
        "user_id": version.user,
        "current_stage": version.stage or "None",
        "source": source,
        "run_id": version.run,
        "status": version.status or "READY",
        "status_message": None,
        "run_link": None,
        "storage_location": storage,
        "workspace": WORKSPACE,
    }


def _source(database: Database, version: ModelVersion) -> tuple[str | None, str | None]:
    """`source` as MLflow's client would give it, and the URI behind it, from which models are loaded."""
    path = [version.path] if version.path else []
    if version.artifact:
        rows = database.tuples(
            "SELECT artifact_location FROM logged_models WHERE model_id = $1", (version.artifact,)
        )
        source = "/".join([f"models:/{version.artifact}", *path])
        return source, joined(str(rows[0][0]), *path) if rows else source
    if version.run and version.path is not None:
        rows = database.tuples("SELECT artifact_uri FROM runs WHERE run_uuid = $1", (version.run,))
        if rows:
            uri = joined(str(rows[0][0]), *path)
            return uri, uri
    return version.source, version.source


def _tag(name: str, key: str, value: str) -> dict[str, Any]:
    return {"key": key, "value": value, "name": name, "workspace": WORKSPACE}


def _first(*times: int | None) -> int:
    return next((t for t in times if t is not None), 0)
