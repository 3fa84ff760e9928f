"""Files of an export: single files, file series, zipped file sets (2.x), tracked artifacts (2.x)."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from ...errors import Corrupt, OutgrowError, Vanished
from ...model import File, Value
from .. import paths
from . import export_rows
from .export_layout import Entity
from .records import key_of


def files(entity: Entity, run: str) -> Iterator[File]:
    """Every file whose bytes (or, for a tracked artifact, whose place) the export has.

    What is missing is told by `problems`. `File.metadata` says which attribute it is, and where
    its bytes are: `source`, relative to the project's files, and `member` within an archive.
    """
    for row in export_rows.file_rows(entity, run):
        path = _local(entity, row)
        if path is None:
            continue
        attribute, kind = str(row["attribute_path"]), str(row["attribute_type"])
        metadata: dict[str, Value] = {"attribute": attribute, "type": kind, "source": _relative(row)}
        key = key_of("files", attribute)
        if kind == "file_set":
            yield from _members(path, key, metadata)
        elif kind == "artifact":
            yield from _tracked(path, key, metadata)
        elif path.is_file():
            series = kind == "file_series"
            yield File(
                path=_name(key, row, path.suffix),
                size=path.stat().st_size,
                key=key if series else None,
                step=row["step"] if series else None,
                created_at=row["timestamp"],
                metadata=metadata,
            )


def _name(key: str, row: dict[str, Any], suffix: str) -> str:
    step = row["step"]
    if row["attribute_type"] == "file_series" and step is not None:
        return f"{key}/{int(step) if float(step).is_integer() else step}{suffix}"
    return key if key.endswith(suffix) else key + suffix


def _relative(row: dict[str, Any]) -> str:
    path = str(row["path"])
    return path if "/" in path else path.replace("\\", "/")  # an export made on Windows


def _local(entity: Entity, row: dict[str, Any]) -> Path | None:
    """Where the exporter put it; None where it did not. Raises `Corrupt` for a path that climbs out."""
    if entity.files is None or not row["path"]:
        return None
    path = paths.inside(entity.files, _relative(row))
    return path if path.exists() else None


def _archives(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _members(folder: Path, key: str, metadata: dict[str, Value]) -> Iterator[File]:
    """The members of a file set: the exporter saves each as one zip in a folder of its own."""
    for path in _archives(folder) if folder.is_dir() else [folder]:
        source = str(metadata["source"])
        inner = f"{source}/{path.relative_to(folder).as_posix()}" if folder.is_dir() else source
        if not zipfile.is_zipfile(path):
            yield File(
                path=f"{key}/{path.relative_to(folder).as_posix()}" if folder.is_dir() else key,
                size=path.stat().st_size,
                metadata=metadata | {"source": inner},
            )
            continue
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    yield File(
                        path=f"{key}/{info.filename}",
                        size=info.file_size,
                        metadata=metadata | {"source": inner, "member": info.filename},
                    )


def _tracked(path: Path, key: str, metadata: dict[str, Value]) -> Iterator[File]:
    """The entries of a 2.x artifact: Neptune held their hashes (SHA-1) and places, never their bytes."""
    try:
        entries = json.loads(path.read_bytes())
        for entry in entries:
            details = {str(item["key"]): str(item["value"]) for item in entry.get("metadata") or ()}
            yield File(
                path=f"{key}/{entry['filePath']}",
                size=entry.get("size"),
                reference=details.get("location") or details.get("file_path") or str(entry["filePath"]),
                metadata=metadata
                | {"sha1": entry.get("fileHash"), "storage": entry.get("type")}
                | dict(details),
            )
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(
            f"{path.name} of {key} is not the exporter's list of files", hint="restore it from a backup"
        ) from error


def open_file(entity: Entity, file: File) -> BinaryIO:
    """The bytes. Raises `Vanished` where they are gone, `Corrupt` for a damaged archive or a hostile path."""
    source = file.metadata.get("source")
    if entity.files is None or not isinstance(source, str) or file.reference is not None:
        raise Vanished(f"the export does not hold the bytes of {file.path}")
    path = paths.inside(entity.files, source)
    member = file.metadata.get("member")
    try:
        if member is None:
            return path.open("rb")
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise Vanished(f"{source} is gone since it was listed") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise Corrupt(f"{source} cannot be read: {error}", hint="restore it from a backup") from error
    try:
        stream = archive.open(str(member))
    except (KeyError, RuntimeError, zipfile.BadZipFile, NotImplementedError) as error:
        archive.close()
        raise Corrupt(
            f"{member} in {source} cannot be read: {error}", hint="restore it from a backup"
        ) from error
    archive.close()  # the file stays open until the member is closed
    return cast(BinaryIO, stream)


def problems(entity: Entity, run: str, name: str) -> Iterator[str]:
    """Files that the export names and does not have, and attributes that share one file."""
    owners: dict[str, str] = {}
    for row in export_rows.file_rows(entity, run):
        attribute = str(row["attribute_path"])
        if not row["path"]:
            yield f"{name}: the file of {attribute} was not exported"
            continue
        try:
            path = _local(entity, row)
        except OutgrowError as error:
            yield f"{name}: {error.message}"
            continue
        if path is None:
            yield f"{name}: the file of {attribute} is missing ({_relative(row)})"
        elif row["attribute_type"] == "file_set" and path.is_dir() and not any(path.iterdir()):
            yield f"{name}: the file set {attribute} is empty"
        relative = _relative(row)
        label = attribute if row["step"] is None else f"{attribute} at step {row['step']:g}"
        if relative in owners and owners[relative] != label:
            yield f"{name}: {owners[relative]} and {label} were exported to one file; only one of them is in it"
        owners.setdefault(relative, label)
