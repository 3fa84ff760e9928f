"""Comet's model registry ↔ canonical records.

What Comet has no place for is metadata of a version: `outgrow.version`, and of the first
version `outgrow.model`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...model import ModelVersion, RegisteredModel, from_builtins, to_builtins
from .records import at

if TYPE_CHECKING:
    from .remote import Remote

_THREE = re.compile(r"\d+\.\d+\.\d+")
_FOLDER = "models/"
OWN_VERSION, OWN_MODEL = "outgrow.version", "outgrow.model"
SOURCE_VERSION = "outgrow.source_version"
NO_VERSION = "none"
"""`SOURCE_VERSION` of a version that only stands in for a model without one."""


def semantic(version: str) -> str:
    """A version as Comet's registry and artifacts want it: three numbers. `7` → `7.0.0`.

    Raises `ValueError` for one that has no such form.
    """
    numbers = version.removeprefix("v").split(".")
    if len(numbers) <= 3 and all(part.isdigit() for part in numbers):
        return ".".join([*(str(int(part)) for part in numbers), "0", "0"][:3])
    raise ValueError(f"{version!r} is no version of three numbers")


def ordered(version: str) -> tuple[int, ...]:
    """A key that sorts semantic versions, oldest first."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


# --- archives --------------------------------------------------------------------------------------


def from_messages(payloads: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[RegisteredModel]:
    """Models that archives will register when they are uploaded; `payloads` with their experiment keys."""
    models: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for key, payload in payloads:
        models.setdefault(str(payload["registry_name"]), []).append((key, payload))
    for name, entries in models.items():
        versions = [
            ModelVersion(
                model=name,
                version=str(payload["version"]),
                run=key,
                path=f"{_FOLDER}{payload['model_name']}",
                stage=next(iter(payload.get("stages") or ()), None),
                tags={str(tag): "" for tag in payload.get("tags") or ()},
                description=payload.get("comment"),
                status=payload.get("status"),
            )
            for key, payload in entries
        ]
        versions.sort(key=lambda v: ordered(v.version))
        described = [p.get("description") for _, p in entries if p.get("description")]
        yield RegisteredModel(name=name, description=described[0] if described else None, versions=versions)


# --- the server ------------------------------------------------------------------------------------


def models_of(remote: Remote, workspace: str) -> Iterator[RegisteredModel]:
    """Every registered model of a workspace."""
    for listed in remote.api.get("registry-model", workspaceName=workspace).get("registryModels") or ():
        name = str(listed["modelName"])
        details = remote.api.get("registry-model/details", workspaceName=workspace, modelName=name)
        items = sorted(details.get("versions") or (), key=lambda item: ordered(str(item["version"])))
        kept = [metadata_of(remote, item) for item in items]
        versions = [
            _version(name, item, own)
            for item, own in zip(items, kept, strict=True)
            if own.get(SOURCE_VERSION) != NO_VERSION
        ]
        model = RegisteredModel(
            name=name,
            description=details.get("description") or None,
            created_at=at(details.get("createdAt")),
            modified_at=at(details.get("lastUpdated")),
            versions=versions,
        )
        own = next((_read(one.get(OWN_MODEL), RegisteredModel) for one in kept if one.get(OWN_MODEL)), None)
        if own is not None:
            model = replace(model, tags=own.tags, created_at=own.created_at, modified_at=own.modified_at)
        yield model


def metadata_of(remote: Remote, item: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a version: key → value."""
    found = remote.api.get(f"registry-model/item/{item['registryModelItemId']}/metadata")
    return {str(entry["key"]): entry.get("value") for entry in found.get("metadata") or ()}


def own_version(metadata: Mapping[str, Any]) -> ModelVersion | None:
    """The version as outgrow registered it, if it did."""
    own: ModelVersion | None = _read(metadata.get(OWN_VERSION), ModelVersion)
    return own


def _version(model: str, item: Mapping[str, Any], metadata: dict[str, Any]) -> ModelVersion:
    made = item.get("experimentModel") or {}
    labels = [str(tag) for tag in item.get("tags") or item.get("stages") or ()]
    own = own_version(metadata)
    ours = (OWN_VERSION, OWN_MODEL, SOURCE_VERSION)
    metadata = {key: value for key, value in metadata.items() if key not in ours}
    version = ModelVersion(
        model=model,
        version=str(item["version"]),
        run=made.get("experimentKey"),
        path=f"{_FOLDER}{made['experimentModelName']}" if made.get("experimentModelName") else None,
        stage=item.get("status") or None,
        tags=dict.fromkeys(labels, "") | {key: str(value) for key, value in metadata.items()},
        description=item.get("comment") or None,
        user=item.get("userName"),
        created_at=at(item.get("createdAt")),
        modified_at=at(item.get("lastUpdated")),
    )
    if own is None:
        return version
    return replace(own, model=model, version=version.version, run=own.run and version.run)


def _read(text: object, kind: type[Any]) -> Any:
    if not isinstance(text, str):
        return None
    try:
        return from_builtins(json.loads(text), kind)
    except ValueError:
        return None  # edited on the platform


def experiment_model(version: ModelVersion, model: str) -> str:
    """Name of the experiment's model that a version registers."""
    if version.path and version.path.startswith(_FOLDER) and "/" not in version.path.removeprefix(_FOLDER):
        return version.path.removeprefix(_FOLDER)
    return f"{model}-{version.version}"


def payload_of(
    model: RegisteredModel, version: ModelVersion, key: str, name: str, number: str
) -> dict[str, Any]:
    """What `write/registry-model/item/create` takes."""
    return {
        "experimentKey": key,
        "experimentModelName": name,
        "registryModelName": model.name,
        "registryModelDescription": model.description,
        "version": number,
        "versionComment": version.description,
        "tags": [stage for stage in (version.stage,) if stage],
        "status": None,
        "publicModel": False,
    }


def metadata_for(model: RegisteredModel, version: ModelVersion, source: str) -> list[dict[str, Any]]:
    """What a version's metadata keeps: the whole records, but for ids that follow from the platform."""
    own_model = replace(model, versions=[], extra={})
    own_version = replace(version, extra={"outgrow": {"origin_version": source}})
    return [
        {"key": OWN_VERSION, "value": json.dumps(to_builtins(own_version), sort_keys=True)},
        {"key": OWN_MODEL, "value": json.dumps(to_builtins(own_model), sort_keys=True)},
        {"key": SOURCE_VERSION, "value": source},
    ]
