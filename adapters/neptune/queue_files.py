"""Files that a 2.x queue is to upload: kept in it, or (as the client writes them) by absolute path."""

from __future__ import annotations

import base64
import binascii
import glob
import io
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import Corrupt, Vanished
from ...model import File, Value
from .. import paths
from .queue_replay import Replay, Upload
from .records import key_of

UPLOADS = "upload_path"


def files(found: Replay) -> Iterator[tuple[File, Upload]]:
    """Every file that is still there (or is only pointed at), with the operation that names it."""
    for path, uploads in found.uploads.items():
        for upload in uploads:
            for file in _files_of(path, upload):
                yield file, upload


def _files_of(path: str, upload: Upload) -> Iterator[File]:
    operation, key = upload.operation, key_of("files", path)
    created = None if upload.at is None else datetime.fromtimestamp(upload.at, UTC)
    match operation["type"]:
        case "UploadFile":
            local = _local(upload)
            if local.is_file():
                yield File(
                    path=_named(key, operation.get("ext")), size=local.stat().st_size, created_at=created
                )
        case "UploadFileContent":
            content = _decoded(upload.content()["file_content"], path)
            yield File(path=_named(key, operation.get("ext")), size=len(content), created_at=created)
        case "UploadFileSet":
            for name in _matched(operation["file_globs"]):
                yield File(path=f"{key}/{name}", created_at=created)
        case "TrackFilesToArtifact":
            for source, destination in operation["entries"]:
                name = destination or os.path.basename(source.rstrip("/"))
                yield File(path=f"{key}/{name}", reference=source, created_at=created)
        case "LogImages":
            for step, value, content in _images(upload, path):
                metadata: dict[str, Value] = {
                    name: text for name in ("name", "description") if (text := value.get(name))
                }
                yield File(
                    path=f"{key}/{_step(step)}.png", size=len(content), key=key, step=step,
                    created_at=created, metadata=metadata,
                )  # fmt: skip


def _step(step: float) -> str:
    return str(int(step)) if step.is_integer() else repr(step)


def _named(key: str, extension: str | None) -> str:
    return key if not extension or key.endswith(f".{extension}") else f"{key}.{extension}"


def _local(upload: Upload) -> Path:
    operation = upload.operation
    if operation.get("file_path"):
        return Path(operation["file_path"])
    return paths.inside(upload.folder / UPLOADS, str(operation.get("tmp_file_name")))


def _decoded(text: str, path: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Corrupt(f"the content of {path} in the queue is not base64") from error


def _images(upload: Upload, path: str) -> Iterator[tuple[float, dict[str, Any], bytes]]:
    operation = upload.content()
    count = len(operation["values"])
    last = upload.step if upload.step is not None else count - 1.0
    for n, row in enumerate(operation["values"]):
        step = row.get("step")
        value = row["value"] if isinstance(row["value"], dict) else {"data": row["value"]}
        # The replay numbered the operation's last image; those before it count back from there.
        number = float(step) if step is not None else last - (count - 1 - n)
        yield number, value, _decoded(value.get("data") or "", path)


def _matched(patterns: list[str]) -> dict[str, Path]:
    """Name within the file set → file. Names are relative to what all matches have in common."""
    found: list[Path] = []
    for pattern in patterns:
        for match in sorted(glob.glob(pattern, recursive=True)):
            path = Path(match)
            found += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    if not found:
        return {}
    roots = {str(path.parent) for path in found}
    root = Path(os.path.commonpath(list(roots)))
    return {path.relative_to(root).as_posix(): path for path in found}


def open_file(found: Replay, file: File) -> BinaryIO:
    for candidate, upload in files(found):
        if candidate.path != file.path:
            continue
        operation = upload.operation
        match operation["type"]:
            case "UploadFile":
                return _open(_local(upload), file)
            case "UploadFileContent":
                return io.BytesIO(_decoded(upload.content()["file_content"], file.path))
            case "UploadFileSet":
                for name, path in _matched(operation["file_globs"]).items():
                    if candidate.path.endswith("/" + name):
                        return _open(path, file)
            case "LogImages":
                for step, _, content in _images(upload, file.path):
                    if step == file.step:
                        return io.BytesIO(content)
    raise Vanished(f"the queue does not hold {file.path}", hint="it was moved or deleted since it was logged")


def _open(path: Path, file: File) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise Vanished(f"{file.path} cannot be read: {error.strerror}") from error


def problems(found: Replay) -> Iterator[str]:
    for path, uploads in found.uploads.items():
        for upload in uploads:
            kind = upload.operation["type"]
            if kind == "UploadFile" and not _local(upload).is_file():
                yield f"the file of {path} is gone ({_local(upload).name})"
            elif (
                kind == "UploadFileSet"
                and upload.operation["file_globs"]
                and not _matched(upload.operation["file_globs"])
            ):
                yield f"the files of {path} are gone"
