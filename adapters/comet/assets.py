"""Comet's assets ↔ files of a run, for archives and the online API alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from ...model import File, Value, from_builtins, to_builtins
from ..base import ORIGIN_FOLDER
from .records import PLATFORM, at, millis

OWN_FOLDER = f"{ORIGIN_FOLDER}/{PLATFORM}/"
"""Assets of our own, hidden from a run's files."""
TEXTS = f"{OWN_FOLDER}texts.parquet"

ASSET = "asset"
MODEL_ELEMENT = "model-element"
_MODELS = "models"
_UNNAMED = "auto-generated-in-the-backend"
_TYPE = "comet.type"
REGISTERED = "outgrow.registered"
"""Metadata of a second copy of a file, which Comet's registry needs; hidden from a run's files."""
_SHA256, _KEY, _STEP = "outgrow.sha256", "outgrow.key", "outgrow.step"
_MEDIA_TYPE, _CREATED = "outgrow.media_type", "outgrow.created_at"


@dataclass(slots=True)
class Asset:
    """An asset as Comet has it."""

    id: str
    name: str
    type: str = ASSET
    group: str | None = None
    """Name of the model that it is an element of."""
    size: int | None = None
    step: int | None = None
    created: int | None = None
    link: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    member: str | None = None
    """Its file in an archive."""


def own(asset: Asset) -> bool:
    """Whether an asset is ours and no file of the run."""
    return asset.name.startswith(OWN_FOLDER) or REGISTERED in asset.metadata


def metadata_of(raw: object) -> dict[str, Any]:
    """Metadata as the server or an archive gives it: an object, or its JSON text."""
    if isinstance(raw, str):
        try:
            raw = json.loads(raw) if raw else {}
        except ValueError:
            return {"text": raw}
    return dict(raw) if isinstance(raw, Mapping) else {}


def files_of(assets: Iterable[Asset]) -> Iterator[tuple[File, Asset]]:
    """A run's files; two assets of one name get different paths."""
    taken: set[str] = set()
    for asset in assets:
        path = _path(asset)
        if path in taken:
            pure = PurePosixPath(path)
            mark = f"-{asset.step}" if asset.step is not None else ""
            path = str(pure.with_name(f"{pure.stem}{mark}{pure.suffix}"))
        if path in taken:
            pure = PurePosixPath(path)
            path = str(pure.with_name(f"{pure.stem}-{asset.id[:8]}{pure.suffix}"))
        taken.add(path)
        yield _file(asset, path), asset


def _path(asset: Asset) -> str:
    # Comet's SDK logs source code under its absolute path: only the leading slash is taken off,
    # any other way out of the folder is left for `paths.checked` to refuse.
    name = asset.name.lstrip("/")
    if not name or name == _UNNAMED:
        name = f"{asset.type}/{asset.id}"
    if asset.type == MODEL_ELEMENT and asset.group:
        return f"{_MODELS}/{asset.group}/{name}"
    return name


def _file(asset: Asset, path: str) -> File:
    try:
        kept: dict[str, Value] = from_builtins(dict(asset.metadata), dict[str, Any])
    except ValueError:  # another tool's metadata that looks like one of our tagged values
        kept = dict(asset.metadata)
    step = kept.pop(_STEP, asset.step)
    created = kept.pop(_CREATED, None)
    sha256, key, media = kept.pop(_SHA256, None), kept.pop(_KEY, None), kept.pop(_MEDIA_TYPE, None)
    if asset.type not in (ASSET, MODEL_ELEMENT):
        kept[_TYPE] = asset.type
    return File(
        path=path,
        size=None if asset.link else asset.size,
        sha256=str(sha256) if sha256 else None,
        reference=asset.link,
        media_type=str(media) if media else None,
        key=str(key) if key else None,
        step=float(step) if isinstance(step, int | float) else None,
        created_at=created if isinstance(created, datetime) else None if sha256 else at(asset.created),
        metadata=kept,
    )


def asset_of(file: File, run_key: str, sha256: str | None = None) -> Asset:
    """A file as the asset that it becomes. Its id follows from its path and the experiment's key."""
    kept = dict(file.metadata)
    kind = str(kept.pop(_TYPE, ASSET))
    name, group = file.path, None
    parts = file.path.split("/", 2)
    if kind == ASSET and len(parts) == 3 and parts[0] == _MODELS:
        kind, group, name = MODEL_ELEMENT, parts[1], parts[2]
    step = None
    if file.step is not None:
        if file.step.is_integer() and abs(file.step) < 2**53:
            step = int(file.step)
        else:
            kept[_STEP] = file.step
    facts = ((_SHA256, sha256 or file.sha256), (_KEY, file.key), (_MEDIA_TYPE, file.media_type))
    kept |= {name: value for name, value in facts if value}
    if file.created_at is not None:
        kept[_CREATED] = file.created_at
    return Asset(
        id=hashlib.sha256(f"{run_key}/{file.path}".encode("utf-8", "surrogatepass")).hexdigest()[:32],
        name=name,
        type=kind,
        group=group,
        size=file.size,
        step=step,
        created=millis(file.created_at),
        link=file.reference,
        metadata=to_builtins(kept),
    )


def additional_params(asset: Asset) -> dict[str, Any]:
    """What the SDK sends beside an asset's bytes."""
    params: dict[str, Any] = {
        "assetId": asset.id,
        "context": None,
        "fileName": asset.name,
        "overwrite": asset.name.startswith(OWN_FOLDER),
        "runId": None,
        "step": asset.step,
    }
    if suffix := PurePosixPath(asset.name).suffix:
        params["extension"] = suffix[1:]
    if asset.type != ASSET:
        params["type"] = asset.type
    if asset.group:
        params["groupingName"] = asset.group
    if asset.link:
        params["isRemote"] = True
    return params


def upload_message(asset: Asset, timestamp: int) -> tuple[str, dict[str, Any]]:
    """Type and payload of the message that uploads an asset (`offline-file-upload-msg.schema.json`)."""
    payload: dict[str, Any] = {
        "additional_params": additional_params(asset),
        "metadata": dict(asset.metadata),
        "upload_type": asset.type,
    }
    if asset.link:
        return "remote_file", payload | {"remote_uri": asset.link}
    return "file_upload", payload | {"clean": True, "file_path": asset.member, "local_timestamp": timestamp}


def asset_in(kind: str, payload: Mapping[str, Any]) -> Asset:
    """The inverse of `upload_message`; the size is not in a message. Raises `ValueError`, `TypeError`."""
    params = payload.get("additional_params") or {}
    step = params.get("step")
    return Asset(
        id=str(params.get("assetId") or payload.get("file_path") or ""),
        name=str(params.get("fileName") or params.get("figName") or ""),
        type=str(payload.get("upload_type") or ASSET),
        group=None if params.get("groupingName") is None else str(params["groupingName"]),
        step=None if step is None else int(step),
        created=payload.get("local_timestamp") if isinstance(payload.get("local_timestamp"), int) else None,
        link=str(payload["remote_uri"]) if kind == "remote_file" else None,
        metadata=metadata_of(payload.get("metadata")),
        member=str(payload["file_path"]) if kind == "file_upload" else None,
    )
