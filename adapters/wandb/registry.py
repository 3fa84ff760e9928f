"""The model registry of an organization: collections of linked artifact versions."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ...errors import Rejected, Unsupported, Vanished
from ...model import ModelVersion, RegisteredModel, from_builtins, to_builtins
from . import queries
from .artifacts import STAND_IN_KEY, VERSIONS_KEY, client_id, manifest_digest
from .place import Project
from .records import time_of
from .server import Server, pages

PREFIX = "wandb-registry-"
TARGET = "wandb-registry-model"
"""The registry that every organization has for models."""


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
        kept = [_kept(member["artifact"], name) for member in held]
        yield RegisteredModel(
            name=name,
            description=collection.get("description") or None,
            tags=next((record["tags"] for record in kept if "tags" in record), {}),
            created_at=time_of(collection.get("createdAt")),
            versions=[
                version
                for member, record in zip(held, kept, strict=True)
                for version in _versions(server, name, member, record.get("versions") or (), keep)
            ],
        )


def _kept(node: Mapping[str, Any], model: str) -> dict[str, Any]:
    """What `register` kept of a model in the metadata of a linked artifact."""
    text = (json.loads(node.get("metadata") or "{}") or {}).get(VERSIONS_KEY)
    try:
        record = json.loads(text).get(model) if isinstance(text, str) else None
    except ValueError:
        record = None
    return record if isinstance(record, dict) else {}


def _versions(
    server: Server,
    model: str,
    member: Mapping[str, Any],
    records: Iterable[Any],
    keep: Callable[[Mapping[str, Any]], str],
) -> list[ModelVersion]:
    """The versions behind one link: one, or those that were copied here with equal content."""
    node = member["artifact"]
    number = f"v{member['versionIndex']}"
    aliases = [a["alias"] for a in member["aliases"] if a["alias"] not in (number, "latest")]
    found = server.graphql(queries.CREATED_BY, f"asking who made {model}:{number}", id=node["id"])
    maker = maker_of((found.get("artifact") or {}).get("createdBy"))
    native = ModelVersion(
        model=model,
        version=number,
        run=maker,
        artifact=keep(node),
        aliases=aliases,
        created_at=time_of(member.get("createdAt")),
    )
    exact = [from_builtins(record, ModelVersion) for record in records]
    stands_in = STAND_IN_KEY in (json.loads(node.get("metadata") or "{}") or {})
    return [
        replace(
            version,
            model=model,
            run=version.run or maker,
            artifact=None if stands_in else native.artifact,
            aliases=[a for a in version.aliases if a in aliases]
            + [a for a in aliases if len(exact) == 1 and a not in version.aliases],
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

    A version that is no artifact (a folder of a run's files) gets one that only points there.
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
            node = stand_in(server, project, model.name, version)
        else:
            node = find_artifact(server, version.artifact)
        _keep_record(server, node, model, version)
        found = server.graphql(
            queries.LINK,
            f"linking {model.name} {version.version}",
            input={
                "artifactID": node["id"],
                "artifactPortfolioName": model.name,
                "entityName": org[1],
                "projectName": TARGET,
                "aliases": [{"artifactCollectionName": model.name, "alias": a} for a in version.aliases],
            },
        )
        linked = found.get("linkArtifact")
        if linked is None or linked.get("versionIndex") is None:
            raise Rejected(f"the registry did not take {model.name} {version.version}")
        _describe(server, (linked.get("artifactMembership") or {}).get("artifactCollection"), model)
        numbers[version.origin_version] = version.version
    return numbers


def stand_in(server: Server, project: Project, model: str, version: ModelVersion) -> Mapping[str, Any]:
    """An artifact of one reference, to where the version is; made once."""
    where = version.source or f"{server.app_url}/{version.run or project.path}/{version.path or ''}"
    reference = where if "://" in where else f"file://{where}"
    told = json.dumps([model, version.version, version.run, version.path])
    digest = hashlib.md5(told.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
    entry = {"digest": digest, "ref": reference, "size": 0}
    run = (version.run or "").rpartition("/")[2]
    home = {"entityName": project.entity, "projectName": project.name}
    what = f"registering {model} {version.version}"
    wanted: dict[str, Any] = {
        **home,
        "artifactTypeName": "model",
        "artifactCollectionName": model,
        "digest": manifest_digest({"version": digest}),
        "digestAlgorithm": "MANIFEST_MD5",
        "enableDigestDeduplication": True,
        "clientID": client_id(model, digest),
        "sequenceClientID": client_id(model),
        "metadata": json.dumps({STAND_IN_KEY: version.version}),
    }
    if run:
        wanted["runName"] = run
    made = server.graphql(queries.CREATE_ARTIFACT, what, input=wanted)["createArtifact"]["artifact"]
    if made["state"] != "COMMITTED":
        manifest = {
            "version": 1,
            "storagePolicy": "wandb-storage-policy-v1",
            "storagePolicyConfig": {"storageLayout": "V2"},
            "contents": {"version": entry},
        }
        data = json.dumps(manifest).encode()
        checksum = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        upload = {"artifactID": made["id"], "name": "wandb_manifest.json", "digest": checksum, "type": "FULL"}
        file = server.graphql(queries.CREATE_MANIFEST, what, input={**home, **upload, "runName": run})
        target = file["createArtifactManifest"]["artifactManifest"]["file"]
        server.upload(target["uploadUrl"], data, target.get("uploadHeaders") or (), what)
        server.graphql(queries.COMMIT_ARTIFACT, what, artifactID=made["id"])
    return find_artifact(server, f"{project.path}/{model}@{wanted['digest']}")


def _describe(server: Server, collection: Mapping[str, Any] | None, model: RegisteredModel) -> None:
    if collection and model.description and not collection.get("description"):
        server.graphql(
            queries.DESCRIBE,
            f"describing {model.name}",
            input={"artifactPortfolioID": collection["id"], "description": model.description},
        )


def _keep_record(
    server: Server, node: Mapping[str, Any], model: RegisteredModel, version: ModelVersion
) -> None:
    metadata = json.loads(node.get("metadata") or "{}") or {}
    earlier = _kept(node, model.name).get("versions") or []
    records = [record for record in earlier if record["version"] != version.version]
    records.append(to_builtins(replace(version, artifact=None)))
    every = json.loads(metadata.get(VERSIONS_KEY) or "{}")
    told = json.dumps({**every, model.name: {"tags": model.tags, "versions": records}}, sort_keys=True)
    if metadata.get(VERSIONS_KEY) != told:
        server.graphql(
            queries.UPDATE_ARTIFACT,
            f"keeping the record of {model.name} {version.version}",
            input={"artifactID": node["id"], "metadata": json.dumps({**metadata, VERSIONS_KEY: told})},
        )
