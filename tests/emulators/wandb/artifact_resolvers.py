"""Queries and mutations of artifacts, collections and the registry."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .graphql import FieldError, connection
from .state import Artifact, Collection, Member, Run, State, make_id

if TYPE_CHECKING:
    from .server import WandbServer

Node = dict[str, Any]


class ArtifactResolvers:
    server: WandbServer
    state: State

    def project_info(self, entity: str, name: str) -> Node:
        raise NotImplementedError

    def run_node(self, run: Run | None) -> Node | None:
        raise NotImplementedError

    @property
    def org(self) -> str:
        raise NotImplementedError

    # --- reading ---

    def artifact_by_id(self, artifact_id: str) -> Artifact | None:
        return next((a for a in self.state.artifacts if a.id == artifact_id), None)

    def client_id_mapping(self, clientID: str) -> Node | None:
        found = next((a for a in self.state.artifacts if a.client_id == clientID), None)
        return found and {"serverID": found.id}

    def members(self, artifact: Artifact) -> list[Member]:
        return [m for c in self.state.collections.values() for m in c.members if m.artifact is artifact]

    def artifact_node(self, artifact: Artifact | None) -> Node | None:
        if artifact is None:
            return None
        members = self.members(artifact)
        contents = (artifact.manifest or {}).get("contents", {})
        return {
            "__typename": "Artifact",
            "id": artifact.id,
            "artifactSequence": self.collection_node(artifact.sequence),
            "versionIndex": artifact.version,
            "artifactType": {"name": artifact.sequence.type},
            "description": artifact.description,
            "metadata": artifact.metadata,
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [{"__typename": "Tag", "id": make_id("Tag", t), "name": t} for t in artifact.tags],
            "historyStep": None,
            "state": artifact.state,
            "size": sum(e.get("size", 0) for e in contents.values()),
            "digest": artifact.digest,
            "digestAlgorithm": "MANIFEST_MD5",
            "commitHash": artifact.digest[:20],
            "fileCount": len(contents),
            "createdAt": artifact.created_at,
            "updatedAt": artifact.created_at,
            "aliases": [
                {**alias, "artifactCollection": self.collection_node(m.collection)}
                for m in members
                for alias in self.alias_nodes(m)
            ],
            "createdBy": lambda: self.run_node(artifact.created_by),
            "usedBy": connection(
                [r for r in self.state.runs.values() if artifact in r.inputs],
                lambda run: self.run_node(run) or {},
                None,
                None,
            ),
            "currentManifest": artifact.manifest and {"file": {"directUrl": self.manifest_url(artifact)}},
            "artifactMemberships": connection(members, self.member_node, None, None),
            "files": lambda **args: self.artifact_files(artifact, **args),
        }

    def manifest_url(self, artifact: Artifact) -> str:
        return f"{self.server.url}/storage/{artifact.files['']}"

    def alias_nodes(self, member: Member) -> list[Node]:
        names = [f"v{member.version}", *member.aliases]
        return [
            {"__typename": "ArtifactAlias", "id": make_id("Alias", member.collection.id, n), "alias": n}
            for n in names
        ]

    def member_node(self, member: Member) -> Node:
        return {
            "__typename": "ArtifactCollectionMembership",
            "id": make_id("Member", member.collection.id, str(member.version)),
            "versionIndex": member.version,
            "createdAt": member.created_at,
            "aliases": self.alias_nodes(member),
            "artifactCollection": self.collection_node(member.collection),
            "artifact": lambda: self.artifact_node(member.artifact),
            "files": lambda **args: self.artifact_files(member.artifact, **args),
        }

    def artifact_connection(self, artifacts: list[Artifact], first: int | None, after: str | None) -> Node:
        return connection(artifacts, lambda a: self.artifact_node(a) or {}, first, after)

    def artifact_files(
        self,
        artifact: Artifact,
        after: str | None = None,
        first: int | None = None,
        names: list[str] | None = None,
    ) -> Node:
        contents = (artifact.manifest or {}).get("contents", {})
        found = [n for n in contents if n in artifact.files and (not names or n in names)]

        def node(name: str) -> Node:
            url = f"{self.server.url}/storage/{artifact.files[name]}"
            entry = contents[name]
            return {
                "__typename": "File",
                "id": make_id("File", artifact.id, name),
                "name": name,
                "url": lambda upload=False: url,
                "directUrl": url,
                "sizeBytes": entry.get("size", 0),
                "mimetype": None,
                "updatedAt": artifact.created_at,
                "digest": entry["digest"],
                "md5": entry["digest"],
                "storagePath": artifact.files[name],
            }

        return connection(found, node, first, after)

    def collection_node(self, collection: Collection) -> Node:
        tags = [{"__typename": "Tag", "id": make_id("Tag", t), "name": t} for t in collection.tags]
        return {
            "__typename": collection.kind,
            "id": collection.id,
            "name": collection.name,
            "description": collection.description,
            "createdAt": collection.created_at,
            "updatedAt": collection.created_at,
            "state": "READY",
            "project": self.project_info(collection.entity, collection.project),
            "defaultArtifactType": {"name": collection.type},
            "tags": connection(tags, dict, None, None),
            "latestArtifact": lambda: self.artifact_node(
                collection.members[-1].artifact if collection.members else None
            ),
            "artifactMembership": lambda aliasName: next(
                (self.member_node(m) for m in collection.members if _named(m, aliasName)), None
            ),
            "aliases": lambda **_: connection(
                [a for m in collection.members for a in self.alias_nodes(m)], dict, None, None
            ),
            "artifacts": lambda after=None, first=None, **_: connection(
                list(reversed(collection.members)),
                lambda m: self.artifact_node(m.artifact) or {},
                first,
                after,
                edge=lambda m: {"version": f"v{m.version}"},
            ),
        }

    def project_artifacts(self, entity: str, project: str) -> Node:
        here = [c for (e, p, _), c in self.state.collections.items() if (e, p) == (entity, project)]

        def collections(kind: str | None = None, after: Any = None, first: Any = None, **_: Any) -> Node:
            found = [c for c in here if kind is None or c.type == kind]
            return connection(found, self.collection_node, first, after)

        def named(name: str) -> Node | None:
            return next((self.collection_node(c) for c in here if c.name == name), None)

        def typed(name: str) -> Node:
            return {
                "__typename": "ArtifactType",
                "id": make_id("ArtifactType", entity, project, name),
                "name": name,
                "description": None,
                "createdAt": self.state.projects[entity, project],
                "artifactCollections": lambda **args: collections(name, **args),
                "artifactCollection": lambda name: named(name),
            }

        def membership(name: str) -> Node | None:
            collection, _, alias = name.partition(":")
            for candidate in here:
                if candidate.name == collection:
                    return next(
                        (self.member_node(m) for m in candidate.members if _named(m, alias or "latest")), None
                    )
            return None

        kinds = list(dict.fromkeys(c.type for c in here))
        return {
            "artifactTypes": lambda **args: connection(kinds, typed, args.get("first"), args.get("after")),
            "artifactType": lambda name: typed(name) if name in kinds else None,
            "artifactCollections": lambda **args: collections(**args),
            "artifactCollection": named,
            "artifactCollectionMembership": membership,
        }

    # --- the registry: portfolios in projects `wandb-registry-*` of the organization's entity ---

    def organization(self, name: str) -> Node:
        return {
            "__typename": "Organization",
            "name": name,
            "orgEntity": {
                "__typename": "Entity",
                "name": self.org,
                "projects": self._registries,
                "artifactCollections": self._registry_collections,
                "artifactMemberships": self._registry_members,
            },
        }

    def _registries(self, after: Any = None, first: Any = None, **_: Any) -> Node:
        names = [p for e, p in self.state.projects if e == self.org and p.startswith("wandb-registry-")]
        more = {"description": "", "access": "PRIVATE", "allowAllArtifactTypesInRegistry": True}

        def node(name: str) -> Node:
            created = self.state.projects[self.org, name]
            kinds = connection([{"name": "model"}], dict, None, None)
            return {
                **self.project_info(self.org, name),
                **more,
                "createdAt": created,
                "updatedAt": created,
                "artifactTypes": lambda **_: kinds,
            }

        return connection(names, node, first, after)

    def _portfolios(self, projects: str | None, collections: str | None = None) -> list[Collection]:
        project = json.loads(projects or "{}").get("name")
        wanted = json.loads(collections or "{}").get("name")
        return [
            c
            for c in self.state.collections.values()
            if c.kind == "ArtifactPortfolio"
            and (project is None or c.project == project)
            and (wanted is None or c.name == wanted)
        ]

    def _registry_collections(
        self,
        projectFilters: str | None = None,
        filters: str | None = None,
        after: Any = None,
        first: Any = None,
        **_: Any,
    ) -> Node:
        return connection(self._portfolios(projectFilters, filters), self.collection_node, first, after)

    def _registry_members(
        self,
        projectFilters: str | None = None,
        collectionFilters: str | None = None,
        after: Any = None,
        first: Any = None,
        **_: Any,
    ) -> Node:
        found = [m for c in self._portfolios(projectFilters, collectionFilters) for m in c.members]
        return connection(found, self.member_node, first, after)

    # --- writing ---

    def artifact_mutations(self) -> Node:
        return {
            "createArtifact": self.create_artifact,
            "createArtifactManifest": self.create_manifest,
            "createArtifactFiles": self.create_files,
            "commitArtifact": self.commit,
            "useArtifact": self.use_artifact,
            "updateArtifact": self.update_artifact,
            "linkArtifact": self.link_artifact,
            "addAliases": self.add_aliases,
            "deleteAliases": self.delete_aliases,
            "updateArtifactPortfolio": self.update_portfolio,
        }

    def _artifact(self, artifact_id: str) -> Artifact:
        artifact = self.artifact_by_id(artifact_id)
        if artifact is None:
            raise FieldError(f"artifact {artifact_id} not found", 404)
        return artifact

    def create_artifact(self, input: dict[str, Any]) -> Node:
        entity, project = input["entityName"], input["projectName"]
        name, kind = input["artifactCollectionName"], input["artifactTypeName"]
        collection = self.state.collection(entity, project, name, kind)
        if collection.type != kind:
            raise FieldError(f"collection {name} is of type {collection.type}, not {kind}")
        run = self.state.run(entity, project, input.get("runName") or "")
        found = next((m.artifact for m in collection.members if m.artifact.digest == input["digest"]), None)
        aliases = [a["alias"] for a in input.get("aliases") or ()]
        if found is None:
            found = Artifact(len(self.state.artifacts) + 1, collection, input["digest"], created_by=run)
            found.aliases = aliases
            found.client_id = input.get("clientID") or ""
            found.description, found.metadata = input.get("description"), input.get("metadata")
            found.tags = [t["tagName"] for t in input.get("tags") or ()]
            self.state.artifacts.append(found)
        else:
            self.state.add_member(collection, found, aliases)
        if run is not None and found not in run.outputs:
            run.outputs.append(found)
        return {"artifact": self.artifact_node(found)}

    def create_manifest(self, input: dict[str, Any]) -> Node:
        artifact = self._artifact(input["artifactID"])
        key = self.state.storage_key()

        def arrived(data: bytes) -> None:
            artifact.manifest = json.loads(data)
            artifact.files[""] = key

        self.state.uploads[key] = arrived
        url = f"{self.server.url}/storage/{key}"
        file = {"id": make_id("File", key), "uploadUrl": url, "uploadHeaders": [], "directUrl": url}
        return {"artifactManifest": {"id": make_id("Manifest", key), "file": file}}

    def create_files(self, input: dict[str, Any]) -> Node:
        nodes = []
        for spec in input["artifactFiles"]:
            artifact = self._artifact(spec["artifactID"])
            key = artifact.files.setdefault(spec["name"], self.state.storage_key())
            nodes.append(
                {
                    "storagePath": key,
                    "uploadUrl": f"{self.server.url}/storage/{key}",
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "artifact": {"id": artifact.id},
                }
            )
        return {"files": connection(nodes, dict, None, None)}

    def commit(self, input: dict[str, Any]) -> Node:
        artifact = self._artifact(input["artifactID"])
        missing = [
            name
            for name, entry in (artifact.manifest or {}).get("contents", {}).items()
            if "ref" not in entry and artifact.files.get(name) not in self.state.storage
        ]
        if artifact.manifest is None or missing:
            raise FieldError(f"artifact {artifact.sequence.name} lacks {missing or 'its manifest'}")
        if artifact.state != "COMMITTED":
            artifact.state = "COMMITTED"
            artifact.version = self.state.add_member(artifact.sequence, artifact, artifact.aliases).version
        return {"artifact": self.artifact_node(artifact)}

    def use_artifact(self, input: dict[str, Any]) -> Node:
        artifact = self._artifact(input["artifactID"])
        run = self.state.run(input["entityName"], input["projectName"], input["runName"])
        if run is not None and artifact not in run.inputs:
            run.inputs.append(artifact)
        return {"artifact": self.artifact_node(artifact)}

    def update_artifact(self, input: dict[str, Any]) -> Node:
        artifact = self._artifact(input["artifactID"])
        if input.get("description") is not None:
            artifact.description = input["description"]
        if input.get("metadata") is not None:
            artifact.metadata = input["metadata"]
        return {"artifact": self.artifact_node(artifact)}

    def link_artifact(self, input: dict[str, Any]) -> Node:
        client = input.get("clientID")
        found = (
            next((a for a in self.state.artifacts if a.client_id == client), None)
            if client
            else self.artifact_by_id(input["artifactID"])
        )
        if found is None:
            raise FieldError("artifact not found", 404)
        name = input["artifactPortfolioName"]
        collection = self.state.collection(
            input["entityName"], input["projectName"], name, found.sequence.type, "ArtifactPortfolio"
        )
        member = self.state.add_member(collection, found, [a["alias"] for a in input.get("aliases") or ()])
        return {"versionIndex": member.version, "artifactMembership": self.member_node(member)}

    def add_aliases(self, input: dict[str, Any]) -> Node:
        artifact = self._artifact(input["artifactID"])
        for alias in input["aliases"]:
            for member in self.members(artifact):
                if member.collection.name == alias["artifactCollectionName"]:
                    self.state.add_member(member.collection, artifact, [alias["alias"]])
        return {"success": True}

    def delete_aliases(self, input: dict[str, Any]) -> Node:
        artifact = self._artifact(input["artifactID"])
        for alias in input["aliases"]:
            for member in self.members(artifact):
                if member.collection.name == alias["artifactCollectionName"]:
                    member.aliases = [a for a in member.aliases if a != alias["alias"]]
        return {"success": True}

    def update_portfolio(self, input: dict[str, Any]) -> Node:
        for collection in self.state.collections.values():
            if collection.id == input["artifactPortfolioID"]:
                collection.description = input.get("description", collection.description)
                return {"artifactCollection": self.collection_node(collection)}
        raise FieldError("collection not found", 404)


def _named(member: Member, alias: str) -> bool:
    return alias in (f"v{member.version}", *member.aliases)
