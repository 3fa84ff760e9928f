"""Artifact versions: canonical ↔ `ArtifactRecord`, with their bytes staged in the run folder.

An artifact's id is `[ENTITY/]PROJECT/NAME@DIGEST`: W&B makes no second version of a collection for
equal content, so name and manifest digest name a version before the server has numbered it.
What W&B has no field for is in the artifact's metadata under `outgrow`, as one JSON text.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from wandb.proto import wandb_internal_pb2 as pb

from ...model import Artifact, ArtifactUse, DatasetUse, File, Value, from_json, to_builtins, to_json
from ..fit import fit_key
from ..paths import inside
from .capabilities import ARTIFACT_NAME
from .layout import SECTION
from .values import shown

_DIGEST_HEADER = b"wandb-artifact-manifest-v1\n"
_RESERVED_TYPES = ("wandb-", "job", "run_table", "code")
DATASET_KEY = "outgrow_dataset"
"""Metadata key of the artifacts that stand for dataset inputs."""
STAND_IN_KEY = "outgrow_version"
"""Metadata key of the artifacts that stand for model versions which are no artifact."""
VERSIONS_KEY = "outgrow_registry"
"""Metadata key of a linked artifact: the exact records of its registry versions."""
_MAX_METADATA = 100


def artifact_id(entity: str, project: str, name: str, digest: str) -> str:
    return "/".join(part for part in (entity, project, f"{name}@{digest}") if part)


def manifest_digest(entries: Mapping[str, str]) -> str:
    """Digest of a manifest, from path → entry digest (wandb/sdk/artifacts: `ArtifactManifestV1.digest`)."""
    hasher = hashlib.md5(_DIGEST_HEADER, usedforsecurity=False)
    for path in sorted(entries):
        hasher.update(f"{path}:{entries[path]}\n".encode())
    return hasher.hexdigest()


def native_name(artifact: Artifact) -> str:
    return fit_key(artifact.name, ARTIFACT_NAME)


def native_type(kind: str) -> str:
    """The type, unless W&B reserves it (wandb/sdk/artifacts/_validators.py)."""
    kind = fit_key(kind, ARTIFACT_NAME)
    return f"outgrow-{kind}" if kind.startswith(_RESERVED_TYPES[0]) or kind in _RESERVED_TYPES[1:] else kind


def metadata_of(artifact: Artifact) -> dict[str, Any]:
    """Metadata as W&B shows it, and the exact record under `outgrow`."""
    visible = {k: shown(v) for k, v in list(artifact.metadata.items())[: _MAX_METADATA - 1] if k != SECTION}
    return visible | {SECTION: json.dumps(to_builtins(artifact))}


def restored(native: Artifact) -> Artifact:
    """An artifact as it was before it was copied here; what was edited since stays edited."""
    text = native.metadata.get(SECTION)
    if not isinstance(text, str):
        return native
    try:
        was = from_json(text, Artifact)
    except ValueError:
        return native
    visible: dict[str, Value] = {k: v for k, v in native.metadata.items() if k not in (SECTION, VERSIONS_KEY)}
    edited = {k: v for k, v in visible.items() if k not in was.metadata or shown(was.metadata[k]) != v}
    aliases = [alias for alias in native.aliases if alias != "latest" or alias in was.aliases]
    return replace(
        was,
        id=native.id,
        name=was.name if native.name == native_name(was) else native.name,
        type=was.type if native.type == native_type(was.type) else native.type,
        version=native.version or was.version,
        digest=native.digest,
        aliases=was.aliases if sorted(aliases) == sorted(was.aliases) else aliases,
        description=native.description,
        metadata=was.metadata | edited,
        created_by=native.created_by or was.created_by,
    )


class Staging:
    """The folder of artifact bytes of one run. `final` is where it will be when the run is done."""

    def __init__(self, folder: Path, final: Path, entity: str, project: str, run_id: str) -> None:
        self._folder, self._final = folder, final
        self._entity, self._project, self._run_id = entity, project, run_id
        self.records: list[pb.ArtifactRecord] = []

    def add(
        self,
        artifact: Artifact,
        use: ArtifactUse,
        files: Iterable[tuple[File, BinaryIO | None]],
    ) -> str:
        """Stage one version; its id. Raises `Corrupt` for a path that could climb out."""
        name = native_name(artifact)
        record = self._record(name, native_type(artifact.type), use.role == "input")
        folder = f"{len(self.records):04d}"
        digests: dict[str, str] = {}
        for file, stream in files:
            digests[file.path] = self._entry(record.manifest, folder, file, stream)
        record.digest = manifest_digest(digests)
        record.aliases.extend(sorted({_alias(a) for a in artifact.aliases} - {""}))
        if artifact.description:
            record.description = artifact.description
        record.metadata = json.dumps(metadata_of(artifact))
        return self._keep(record)

    def ids(self) -> list[str]:
        return [artifact_id(self._entity, self._project, r.name, r.digest) for r in self.records]

    def dataset(self, use: DatasetUse) -> str:
        """A dataset input, as an artifact of type `dataset` that the run used."""
        text = to_json(use).encode("utf-8", "surrogatepass")
        name = fit_key(f"dataset-{use.name}", ARTIFACT_NAME)
        record = self._record(name, "dataset", used=True)
        folder = f"{len(self.records):04d}"
        path = self._folder / folder / "dataset.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
        digest = base64.b64encode(hashlib.md5(text, usedforsecurity=False).digest()).decode()
        local = self._final / folder / "dataset.json"
        record.manifest.contents.add(
            path="dataset.json", digest=digest, size=len(text), local_path=str(local)
        )
        record.digest = manifest_digest({"dataset.json": digest})
        visible = {"digest": use.digest, "source": use.source, "context": use.context, "rows": use.rows}
        record.metadata = json.dumps({DATASET_KEY: use.name, **{k: v for k, v in visible.items() if v}})
        return self._keep(record)

    def _record(self, name: str, kind: str, used: bool) -> pb.ArtifactRecord:
        record = pb.ArtifactRecord(
            run_id=self._run_id,
            entity=self._entity,
            project=self._project,
            name=name,
            type=kind,
            user_created=used,
            use_after_commit=used,
            finalize=True,
            sequence_client_id=client_id(self._run_id, name),
        )
        record.manifest.version = 1
        record.manifest.storage_policy = "wandb-storage-policy-v1"
        record.manifest.storage_policy_config.add(key="storageLayout", value_json='"V2"')
        return record

    def _entry(self, manifest: pb.ArtifactManifest, folder: str, file: File, stream: BinaryIO | None) -> str:
        if stream is None:
            reference = file.reference or ""
            digest = hashlib.md5(reference.encode(), usedforsecurity=False).hexdigest()
            manifest.contents.add(path=file.path, digest=digest, ref=reference, size=file.size or 0)
            return digest
        root = self._folder / folder
        root.mkdir(parents=True, exist_ok=True)
        path = inside(root, file.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        hasher = hashlib.md5(usedforsecurity=False)
        with path.open("wb") as out:
            shutil.copyfileobj(_Hashing(stream, hasher), out, 1 << 20)
        digest = base64.b64encode(hasher.digest()).decode()
        local = self._final / folder / file.path
        manifest.contents.add(path=file.path, digest=digest, size=path.stat().st_size, local_path=str(local))
        return digest

    def _keep(self, record: pb.ArtifactRecord) -> str:
        record.client_id = client_id(self._run_id, record.name, record.digest)
        self.records.append(record)
        return artifact_id(self._entity, self._project, record.name, record.digest)


class _Hashing:
    """A stream that hashes what is read from it."""

    def __init__(self, stream: BinaryIO, hasher: Any) -> None:
        self._stream, self._hasher = stream, hasher

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._hasher.update(data)
        return data


def _alias(alias: str) -> str:
    return alias.replace("/", "_").replace(":", "_")


def client_id(*parts: str) -> str:
    """128 characters, as the SDK's random ids, but the same for the same run and content."""
    return hashlib.blake2b("\x00".join(parts).encode(), digest_size=64).hexdigest()
