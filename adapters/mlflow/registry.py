"""The model registry: models and prompts, their versions, aliases, stages and tags."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import Rejected, Vanished
from ...model import ModelVersion, RegisteredModel
from . import assets
from .connection import Connection
from .entities import equals

PAGE = 100
PROMPTS = f"tag.`{assets.IS_PROMPT}` = 'true'"
"""Without it, a search leaves prompts out."""


def read_models(connection: Connection) -> Iterator[RegisteredModel]:
    """Every registered model, then every prompt, with versions oldest first."""
    uris: dict[str, str | None] = {}
    if connection.registry_kind == "unity catalog":  # lists models without their aliases
        for model in _search(connection, None, None):
            yield read_model(connection, _get(connection, model.name), uris)
        return
    for filter_string in (None, PROMPTS):
        for model in _search(connection, filter_string, ["name ASC"]):
            yield read_model(connection, model, uris)


def _search(connection: Connection, filter_string: str | None, order_by: list[str] | None) -> Iterator[Any]:
    token = None
    while True:
        with connection.calling("could not list registered models"):
            page = connection.registry.search_registered_models(
                filter_string=filter_string, max_results=PAGE, order_by=order_by, page_token=token
            )
        yield from page
        if not (token := page.token):
            return


def read_model(connection: Connection, native: Any, uris: dict[str, str | None]) -> RegisteredModel:
    """A registered model with its versions. `uris` remembers runs' artifact URIs."""
    by_version: dict[str, list[str]] = {}
    for alias, version in (native.aliases or {}).items():
        by_version.setdefault(str(version), []).append(alias)
    versions = [
        assets.version_record(
            model=native.name,
            version=v.version,
            run=v.run_id,
            source=v.source,
            run_artifact_uri=_artifact_uri(connection, v.run_id, uris),
            model_id=getattr(v, "model_id", None),
            stage=v.current_stage,
            aliases=by_version.get(str(v.version), ()),
            tags=v.tags or {},
            description=v.description,
            status=str(v.status) if v.status else None,
            user=v.user_id,
            created_ms=v.creation_timestamp,
            modified_ms=v.last_updated_timestamp,
        )
        for v in read_versions(connection, native.name, prompt=native._is_prompt())
    ]
    return assets.model_record(
        name=native.name,
        description=native.description,
        tags=_tags(native),
        versions=versions,
        created_ms=native.creation_timestamp,
        modified_ms=native.last_updated_timestamp,
    )


def _tags(native: Any) -> dict[str, str]:
    """A registered model's tags with the one that makes it a prompt, which the entity hides."""
    prompt = {assets.IS_PROMPT: "true"} if native._is_prompt() else {}
    return {**(native.tags or {}), **prompt}


def read_versions(connection: Connection, name: str, *, prompt: bool) -> Iterator[Any]:
    """The versions of a model; a search leaves those of prompts out unless it asks for them."""
    where = f"name {equals(name)}" + (f" AND {PROMPTS}" if prompt else "")
    from mlflow.store.entities import PagedList

    token = None
    while True:
        with connection.calling(f"could not list the versions of {name!r}"):
            page = connection.registry.search_model_versions(
                filter_string=where, max_results=PAGE, page_token=token
            )
            if connection.registry_kind == "unity catalog":  # lists versions without their tags
                page = PagedList(
                    [connection.registry.get_model_version(name, v.version) for v in page], page.token
                )
        yield from (v for v in page if v.name == name)
        if not (token := page.token):
            return


def _artifact_uri(connection: Connection, run_id: str | None, uris: dict[str, str | None]) -> str | None:
    if not run_id:
        return None
    if run_id not in uris:
        try:
            with connection.calling(f"could not read run {run_id}"):
                uris[run_id] = connection.tracking.get_run(run_id).info.artifact_uri
        except Vanished:
            uris[run_id] = None  # deleted for good; the version stays
    return uris[run_id]


# --- writing --------------------------------------------------------------------------------------

MADE = "outgrow.made"
"""Tag of a registered model that we made: its description and tags are ours to bring up to date."""
GAP = "outgrow.gap"
"""Tag of a version that only exists until it is deleted, so that its number is passed over."""
MOST_GAPS = 1_000
"""Version numbers that are passed over at most; beyond, versions get other numbers."""
NOWHERE = "s3://outgrow-unknown/source"
"""The source of a version that has none which the server takes."""


def write_model(connection: Connection, model: RegisteredModel) -> dict[str, str]:
    """Make a registered model and its versions exist; source version → version here.

    Versions that are already here are told by their tag `outgrow.origin_version`; only what
    differs is written. Raises `Rejected` for a name that Unity Catalog does not take.
    """
    if connection.registry_kind == "unity catalog" and model.name.count(".") != 2:
        raise Rejected(
            f"{model.name!r} is no name of Unity Catalog, which wants CATALOG.SCHEMA.MODEL",
            hint="set MLFLOW_REGISTRY_URI=databricks to register in the workspace's own registry instead",
        )
    native = _ensure_model(connection, model)
    here = {
        v.version: v
        for v in map(_Version, read_versions(connection, model.name, prompt=model.kind == "prompt"))
    }
    for number in [n for n, v in here.items() if GAP in v.tags]:
        _delete(connection, model.name, number)
        del here[number]
    numbers: dict[str, str] = {}
    by_origin = {v.tags[assets.ORIGIN_VERSION]: v for v in here.values() if assets.ORIGIN_VERSION in v.tags}
    last = max(here, default=0)
    for version in model.versions:
        origin = version_identity(version)
        found = by_origin.get(origin)
        if found is None:
            found = _create_version(connection, model, version, origin, last)
        last = max(last, found.version)
        _update_version(connection, version, found)
        numbers[version.origin_version] = str(found.version)
        for alias in assets.native_aliases(version.aliases)[0]:
            if str((native.aliases or {}).get(alias)) != str(found.version):
                with connection.calling(f"could not set the alias {alias!r} of {model.name!r}"):
                    connection.registry.set_registered_model_alias(model.name, alias, str(found.version))
    return numbers


class _Version:
    """What is compared of a version that is here."""

    def __init__(self, native: Any) -> None:
        self.version = int(native.version)
        self.tags: dict[str, str] = dict(native.tags or {})
        self.stage: str | None = native.current_stage
        self.description: str | None = native.description or None


def version_identity(version: ModelVersion) -> str:
    """What tells a version apart from one of the same number in another registry."""
    created = version.created_at.isoformat() if version.created_at else ""
    return f"{version.origin_version}@{created}"


def _ensure_model(connection: Connection, model: RegisteredModel) -> Any:
    from mlflow.entities.model_registry import RegisteredModelTag

    try:
        native = _get(connection, model.name)
    except Vanished:
        tags = model.tags | {MADE: "true"}
        if model.kind == "prompt":
            tags[assets.IS_PROMPT] = "true"
        with connection.calling(f"could not create the registered model {model.name!r}"):
            connection.registry.create_registered_model(
                model.name, [RegisteredModelTag(k, v) for k, v in tags.items()], model.description
            )
        return _get(connection, model.name)
    if MADE in (native.tags or {}):
        for key, value in model.tags.items():
            if _tags(native).get(key) != value:
                with connection.calling(f"could not write a tag of {model.name!r}"):
                    connection.registry.set_registered_model_tag(model.name, RegisteredModelTag(key, value))
        if model.description and (native.description or None) != model.description:
            with connection.calling(f"could not describe {model.name!r}"):
                connection.registry.update_registered_model(model.name, model.description)
    return native


def _get(connection: Connection, name: str) -> Any:
    with connection.calling(f"could not read the registered model {name!r}"):
        return connection.registry.get_registered_model(name)


def _create_version(
    connection: Connection, model: RegisteredModel, version: ModelVersion, origin: str, last: int
) -> _Version:
    wanted = int(version.version) if version.version.isdigit() else last + 1
    if 0 < wanted - last - 1 <= MOST_GAPS:
        while last < wanted - 1:
            last = _create(connection, model, NOWHERE, None, None, {GAP: "true"}).version
            _delete(connection, model.name, last)
    tags = version.tags | {assets.ORIGIN_VERSION: origin} | assets.native_aliases(version.aliases)[1]
    if model.kind == "prompt":
        return _create(connection, model, version.source or "prompt-template", None, version, tags)
    if version.artifact:
        source = f"models:/{version.artifact}"
        return _create(connection, model, source, version.artifact, version, tags)
    if version.run:
        return _create(connection, model, _run_source(connection, version), None, version, tags)
    try:
        return _create(connection, model, version.source or NOWHERE, None, version, tags)
    except Rejected:  # a path of another machine, a run that was not copied
        return _create(
            connection, model, NOWHERE, None, version, tags | {assets.SOURCE: version.source or ""}
        )


def _run_source(connection: Connection, version: ModelVersion) -> str:
    """The source of a version that is a folder of its run, in the form that it had."""
    path = version.path or ""
    if (version.source or "").startswith("runs:/"):
        return f"runs:/{version.run}/{path}"
    with connection.calling(f"could not read run {version.run}"):
        root = connection.tracking.get_run(version.run).info.artifact_uri
    return f"{root.rstrip('/')}/{path}".rstrip("/")


def _create(
    connection: Connection,
    model: RegisteredModel,
    source: str,
    model_id: str | None,
    version: ModelVersion | None,
    tags: dict[str, str],
) -> _Version:
    from mlflow.entities.model_registry import ModelVersionTag

    if model.kind == "prompt":
        tags = tags | {assets.IS_PROMPT: "true"}
    with connection.calling(f"could not create a version of {model.name!r}"), connection.as_current():
        native = connection.registry.create_model_version(
            model.name,
            source,
            run_id=version.run if version else None,
            tags=[ModelVersionTag(k, v) for k, v in tags.items()],
            description=version.description if version else None,
            model_id=model_id,
        )
    created = _Version(native)
    created.tags = tags
    return created


def _delete(connection: Connection, name: str, version: int) -> None:
    with connection.calling(f"could not delete version {version} of {name!r}"):
        connection.registry.delete_model_version(name, str(version))


def _update_version(connection: Connection, version: ModelVersion, here: _Version) -> None:
    """Bring stage, tags and description up to date. Archives no other version."""
    from mlflow.entities.model_registry import ModelVersionTag

    name, number = version.model, str(here.version)
    with connection.calling(f"could not update version {number} of {name!r}"):
        for key, value in version.tags.items():
            if here.tags.get(key) != value:
                connection.registry.set_model_version_tag(name, number, ModelVersionTag(key, value))
        if version.description and here.description != version.description:
            connection.registry.update_model_version(name, number, version.description)
        if version.stage and here.stage != version.stage:
            connection.registry.transition_model_version_stage(name, number, version.stage, False)
