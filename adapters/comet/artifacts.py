"""Comet Artifacts (versioned sets of files of a workspace) ↔ artifact versions of a run.

What Comet has no place for is one entry of the version's metadata, `outgrow.artifact`.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO, cast

from ...errors import Rejected, Vanished
from ...model import Artifact, ArtifactUse, File, Origin, from_builtins, to_builtins
from .api import Refused
from .assets import Asset, additional_params, asset_of, files_of, metadata_of
from .capabilities import KEY_LENGTH
from .location import Project
from .records import at
from .registry import ordered, semantic
from .remote import Remote, ahead
from .remote import asset_of as native_asset

OWN = "outgrow.artifact"
_IN_MEMORY = 16 << 20
_CHUNK = 1 << 20
_CLOSED = "CLOSED"


class Artifacts:
    """The artifact versions of a workspace. One at a time is written, by one thread."""

    def __init__(self, remote: Remote, project: Project) -> None:
        self.remote, self.api, self.project = remote, remote.api, project
        self._lock = threading.RLock()
        self._index: dict[str, dict[str, Any]] | None = None
        self._files: tuple[str, dict[str, Asset]] | None = None

    # --- reading --------------------------------------------------------------------------------

    def index(self) -> dict[str, dict[str, Any]]:
        """Artifact version id → its details, of the whole workspace, oldest first."""
        with self._lock:
            if self._index is None:
                listed = self.api.get("artifacts/get-all", workspace=self.project.workspace)
                names = [str(one["name"]) for one in listed.get("artifacts") or ()]
                found: dict[str, dict[str, Any]] = {}
                for versions in ahead(self.remote.pool, self._versions, names):
                    for details in ahead(self.remote.pool, self._details, versions):
                        found[str(details["artifactVersionId"])] = details
                self._index = found
            return self._index

    def _versions(self, name: str) -> list[str]:
        found = self.api.get("artifacts/get", workspace=self.project.workspace, artifactName=name)
        versions = sorted(found.get("versions") or (), key=lambda v: ordered(str(v["version"])))
        return [str(one["artifactVersionId"]) for one in versions]

    def _details(self, identifier: str) -> dict[str, Any]:
        return self.api.get("artifacts/version", versionId=identifier)

    def _known(self, identifier: str) -> dict[str, Any]:
        details = self.index().get(identifier)
        if details is None:
            raise Vanished(f"the artifact version {identifier} is not in {self.project.workspace}")
        return details

    def uses(self, key: str) -> list[ArtifactUse]:
        """An experiment's artifact versions: those that it made, then those that it read."""
        index = self.index()
        made = [i for i, details in index.items() if details.get("experimentKey") == key]
        uses = [ArtifactUse(artifact=i, role="output") for i in made]
        if index:
            lineage = self.api.get("get/artifacts", experimentKey=key, filter="input")
            read = dict.fromkeys(i for i in _version_ids(lineage) if i in index)
            uses += [ArtifactUse(artifact=i, role="input") for i in read]
        return uses

    def artifact(self, identifier: str) -> Artifact:
        details = self._known(identifier)
        metadata = metadata_of(details.get("metadata"))
        own = metadata.pop(OWN, None)
        native = Artifact(
            id=identifier,
            name=str(details["artifact"]["artifactName"]),
            type=str(details["artifact"]["artifactType"]),
            version=str(details["artifactVersion"]),
            aliases=[str(alias) for alias in details.get("alias") or ()],
            tags={str(tag): "" for tag in details.get("tags") or ()},
            metadata=_builtins(metadata),
            status=None if details.get("state") == _CLOSED else details.get("state"),
            created_by=details.get("experimentKey"),
            created_at=at(details.get("added")),
        )
        try:
            kept = from_builtins(json.loads(own), Artifact) if isinstance(own, str) else None
        except ValueError:
            kept = None  # edited on the platform
        if kept is None:
            return native
        return replace(
            native,
            name=kept.name,
            version=kept.version,
            tags=kept.tags,
            params=kept.params,
            description=kept.description,
            digest=kept.digest,
            status=kept.status,
            created_by=kept.created_by and native.created_by,
            created_at=kept.created_at,
            modified_at=kept.modified_at,
        )

    def _assets(self, identifier: str) -> dict[str, Asset]:
        with self._lock:
            if self._files and self._files[0] == identifier:
                return self._files[1]
        found = {file.path: asset for file, asset in self._listed(identifier)}
        with self._lock:
            self._files = identifier, found
        return found

    def _listed(self, identifier: str) -> Iterator[tuple[File, Asset]]:
        details = self._known(identifier)
        answer = self.api.get(
            "artifacts/version/files",
            workspace=self.project.workspace,
            artifactName=details["artifact"]["artifactName"],
            version=details["artifactVersion"],
        )
        yield from files_of(native_asset(one) for one in answer.get("files") or ())

    def files(self, identifier: str) -> Iterator[File]:
        for file, _ in self._listed(identifier):
            yield replace(file, artifact=identifier)

    def open(self, file: File) -> BinaryIO:
        identifier = str(file.artifact)
        asset = self._assets(identifier).get(file.path)
        if asset is None:
            raise Vanished(f"{file.path!r} is not in the artifact version {identifier}")
        return self.remote.bytes(str(self._known(identifier)["experimentKey"]), asset.id, identifier)

    # --- writing --------------------------------------------------------------------------------

    def write(
        self,
        key: str,
        artifact: Artifact,
        use: ArtifactUse,
        origin: Origin,
        files: Iterable[tuple[File, BinaryIO | None]],
    ) -> str:
        """One version, made or completed; its id. `key` is the experiment that made or read it."""
        with self._lock:
            identity = f"{origin.platform}:{artifact.id}"
            details = self._written(identity) or self.index().get(use.artifact)
            if details is None:
                details = self._make(key, artifact, identity)
            identifier = str(details["artifactVersionId"])
            if details.get("state") != _CLOSED:
                self._fill(identifier, key, files)
                self.api.post(
                    "write/artifacts/state",
                    {"artifactVersionId": identifier, "experimentKey": key, "state": _CLOSED},
                )
                self.index()[identifier] = self._details(identifier)
            else:
                for _ in files:  # the caller learns from being asked which files there are
                    continue
            if use.role == "input":
                self.api.get(
                    "artifacts/version",
                    versionId=identifier,
                    experimentKey=key,
                    consumerExperimentKey=key,
                )
            return identifier

    def _written(self, identity: str) -> dict[str, Any] | None:
        for details in self.index().values():
            own = metadata_of(details.get("metadata")).get(f"{OWN}.of")
            if own == identity:
                return details
        return None

    def _make(self, key: str, artifact: Artifact, identity: str) -> dict[str, Any]:
        own = replace(artifact, metadata={}, metrics=[], aliases=[], extra={})
        kept = to_builtins(artifact.metadata)
        kept |= {OWN: json.dumps(to_builtins(own), sort_keys=True), f"{OWN}.of": identity}
        payload = {
            "artifactName": artifact.name[:KEY_LENGTH],
            "artifactType": artifact.type,
            "experimentKey": key,
            "versionMetadata": json.dumps(kept),
            "version": self._version(artifact),
            "alias": artifact.aliases,
            "versionTags": sorted(artifact.tags),
        }
        try:
            made = self.api.post("write/artifacts/upsert", payload)
        except Refused as error:
            raise Rejected(f"artifact {artifact.name!r}: {error.message}", hint=error.hint) from error
        identifier = str(made["artifactVersionId"])
        self.index()[identifier] = self._details(identifier)
        return self.index()[identifier]

    def _version(self, artifact: Artifact) -> str | None:
        """The version as three numbers, where it has such a form and nobody took it; None: Comet counts."""
        try:
            wanted = semantic(artifact.version or "")
        except ValueError:
            return None
        name = artifact.name[:KEY_LENGTH]
        taken = {d["artifactVersion"] for d in self.index().values() if d["artifact"]["artifactName"] == name}
        return None if wanted in taken else wanted

    def _fill(self, identifier: str, key: str, files: Iterable[tuple[File, BinaryIO | None]]) -> None:
        there = {file.path: file.size for file, _ in self._listed(identifier)}
        for file, stream in files:
            if stream is None:
                if file.path not in there:
                    self._send(identifier, key, asset_of(file, identifier), str(file.reference))
                continue
            with spooled(stream) as (data, size, sha256):
                if there.get(file.path) != size:
                    asset = asset_of(replace(file, reference=None), identifier, sha256)
                    self._send(identifier, key, asset, data)

    def _send(self, identifier: str, key: str, asset: Asset, data: BinaryIO | str) -> None:
        send_asset(self.remote, key, asset, data, identifier)


def send_asset(
    remote: Remote, key: str, asset: Asset, data: BinaryIO | str, version: str | None = None
) -> None:
    """Upload one asset of an experiment, or of an artifact version that it makes."""
    params = additional_params(asset) | {
        "experimentId": key,
        "artifactVersionId": version,
        "type": asset.type,
        "runId": key,
    }
    remote.api.upload(params, json.dumps(asset.metadata) if asset.metadata else None, data)


@contextmanager
def spooled(stream: BinaryIO) -> Iterator[tuple[BinaryIO, int, str]]:
    """A stream as a seekable file with its size and SHA-256, in memory as long as it is small."""
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as whole:
        digest, size = hashlib.sha256(), 0
        while data := stream.read(_CHUNK):
            digest.update(data)
            size += len(data)
            whole.write(data)
        whole.seek(0)
        yield cast(BinaryIO, whole), size, digest.hexdigest()


def _builtins(metadata: dict[str, Any]) -> dict[str, Any]:
    metadata.pop(f"{OWN}.of", None)
    try:
        return from_builtins(metadata, dict[str, Any])
    except ValueError:
        return metadata


def _version_ids(lineage: object) -> Iterator[str]:
    """Every artifact version id in a lineage answer, whose shape Comet does not document."""
    if isinstance(lineage, dict):
        if isinstance(found := lineage.get("artifactVersionId"), str):
            yield found
        for value in lineage.values():
            yield from _version_ids(value)
    elif isinstance(lineage, list):
        for value in lineage:
            yield from _version_ids(value)
