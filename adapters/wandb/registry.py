"""The model registry of an organization: collections of linked artifact versions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ...errors import Rejected, Unsupported, Vanished
from ...model import ModelVersion, RegisteredModel, from_builtins, to_builtins
from . import queries
from .place import Project
from .records import time_of
from .server import Server, pages

PREFIX = "wandb-registry-"
TARGET = "wandb-registry-model"
"""The registry that every organization has for models."""
VERSIONS_KEY = "outgrow_registry"
"""Metadata key of a linked artifact: the exact records of its registry versions."""


def organization(server: Server, entity: str) -> tuple[str, str] | None:
    """Name and entity of the organization that an entity belongs to."""
    found = server.graphql(queries.ORGANIZATION, f"asking for the organization of {entity}", entity=entity)
    node = found.get("entity") or {}
    choices = [node.get("organization"), *((node.get("user") or {}).get("organizations") or ())]
    for choice in choices:
        if choice and choice.get("orgEntity"):
            return choice["name"], choice["orgEntity"]["name"]
    return None


def models(
    server: Server, project: Project, keep: Callable[[Mapping[str, Any]], str]
) -> Iterator[RegisteredModel]:
    """The models with versions that link to artifacts of this project, oldest version first."""
    org = organization(server, project.entity)
    if org is None:
        return
    path = ("organization", "orgEntity", "artifactMemberships")
    members: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for member in pages(server, queries.REGISTRY, "reading the registry", path, organization=org[0]):
        source = (member["artifact"] or {}).get("artifactSequence", {}).get("project") or {}
        home = (member["artifactCollection"].get("project") or {}).get("name", "")
        from_here = ((source.get("entity") or {}).get("name"), source.get("name"))
        if home.startswith(PREFIX) and from_here == (project.entity, project.name):
            members.setdefault((home, member["artifactCollection"]["name"]), []).append(member)
    for (_, name), held in sorted(members.items()):
        held.sort(key=lambda member: member["versionIndex"])
        collection = held[0]["artifactCollection"]
        versions = [version for member in held for version in _versions(server, name, member, keep)]
        yield RegisteredModel(
            name=name,
            description=collection.get("description") or None,
            created_at=time_of(collection.get("createdAt")),
            versions=versions,
        )


def _versions(
    server: Server, model: str, member: Mapping[str, Any], keep: Callable[[Mapping[str, Any]], str]
) -> list[ModelVersion]:
    """The versions behind one link: one, or those that were copied here with equal content."""
    node = member["artifact"]
    number = f"v{member['versionIndex']}"
    aliases = [a["alias"] for a in member["aliases"] if a["alias"] not in (number, "latest")]
    maker = maker_of(
        (
            server.graphql(queries.CREATED_BY, f"asking who made {model}:{number}", id=node["id"]).get(
                "artifact"
            )
            or {}
        ).get("createdBy")
    )
    native = ModelVersion(
        model=model,
        version=number,
        run=maker,
        artifact=keep(node),
        aliases=aliases,
        created_at=time_of(member.get("createdAt")),
    )
    kept = (json.loads(node.get("metadata") or "{}") or {}).get(VERSIONS_KEY)
    records = json.loads(kept).get(model, []) if isinstance(kept, str) else []
    exact = [from_builtins(record, ModelVersion) for record in records]
    return [
        replace(
            version,
            model=model,
            run=maker or version.run,
            artifact=native.artifact,
            aliases=[a for a in aliases if len(exact) == 1 or a in version.aliases],
        )
        for version in exact
    ] or [native]


def maker_of(node: Mapping[str, Any] | None) -> str | None:
    if not node or node.get("__typename") != "Run":
        return None
    project = node["project"]
    return f"{project['entity']['name']}/{project['name']}/{node['name']}"


def find_artifact(server: Server, target: str) -> Mapping[str, Any]:
    """The node of an artifact by our id `ENTITY/PROJECT/NAME@DIGEST`. Raises `Vanished`."""
    head, _, digest = target.rpartition("@")
    parts = head.split("/", 2)
    if len(parts) == 3:
        found = pages(
            server,
            queries.COLLECTION,
            f"looking for artifact {target}",
            ("project", "artifactCollection", "artifacts"),
            entity=parts[0],
            project=parts[1],
            collection=parts[2],
        )
        for node in found:
            if node["digest"] == digest:
                return node
    raise Vanished(f"artifact {target} is no longer there")


def register(server: Server, project: Project, model: RegisteredModel) -> dict[str, str]:
    """Link the versions' artifacts to a collection of the registry; source version → version there.

    A version without an artifact has nothing to link and is left out of the answer.
    """
    org = organization(server, project.entity)
    if org is None:
        raise Unsupported(
            f"{project.entity} belongs to no organization, so it has no registry",
            hint="copy into a team of an organization",
        )
    numbers: dict[str, str] = {}
    for version in model.versions:
        if version.artifact is None:
            continue
        node = find_artifact(server, version.artifact)
        _keep_record(server, node, model.name, version)
        name = model.name
        found = server.graphql(
            queries.LINK,
            f"linking {name} {version.version}",
            input={
                "artifactID": node["id"],
                "artifactPortfolioName": name,
                "entityName": org[1],
                "projectName": TARGET,
                "aliases": [{"artifactCollectionName": name, "alias": a} for a in version.aliases],
            },
        )
        linked = found.get("linkArtifact")
        if linked is None or linked.get("versionIndex") is None:
            raise Rejected(f"the registry did not take {name} {version.version}")
        origin = version.extra.get("outgrow", {}).get("origin_version", version.version)
        numbers[str(origin)] = version.version
    return numbers


def _keep_record(server: Server, node: Mapping[str, Any], model: str, version: ModelVersion) -> None:
    metadata = json.loads(node.get("metadata") or "{}") or {}
    kept = json.loads(metadata.get(VERSIONS_KEY) or "{}")
    records = [r for r in kept.get(model, []) if r["version"] != version.version]
    kept[model] = [*records, to_builtins(replace(version, run=None, artifact=None))]
    told = json.dumps(kept)
    if metadata.get(VERSIONS_KEY) != told:
        server.graphql(
            queries.UPDATE_ARTIFACT,
            f"keeping the record of {model} {version.version}",
            input={"artifactID": node["id"], "metadata": json.dumps({**metadata, VERSIONS_KEY: told})},
        )
