"""Writing one offline archive: under a temporary name, renamed when it is whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from ...errors import TargetFull
from .archives import MESSAGES, META

_COPY = 1 << 20
_TEMPORARY = ".tmp"


class Builder:
    """A zip of Comet's offline form in the making. Raises `TargetFull` where the disk is full."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        self._count = 0
        stem = f".{key}.{os.getpid()}.{secrets.token_hex(4)}"
        self._path = folder / f"{stem}.zip{_TEMPORARY}"
        self._spool_path = folder / f"{stem}.messages{_TEMPORARY}"
        with _disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._zip = zipfile.ZipFile(self._path, "w", zipfile.ZIP_STORED, allowZip64=True)
            self._spool = self._spool_path.open("w+b", buffering=_COPY)

    def raw(self, lines: bytes) -> None:
        """Whole lines of `messages.json`."""
        with _disk(self.folder):
            self._spool.write(lines)

    def message(self, kind: str, payload: Mapping[str, Any]) -> None:
        line = json.dumps({"payload": payload, "type": kind}, separators=(",", ":"), allow_nan=False)
        self.raw(line.encode() + b"\n")

    def member(self, stream: BinaryIO) -> tuple[str, int, str]:
        """Store a stream; its name in the archive, its size in bytes, its SHA-256."""
        self._count += 1
        name = f"file-{self._count:06d}"
        digest, size = hashlib.sha256(), 0
        with _disk(self.folder), self._zip.open(zipfile.ZipInfo(name), "w", force_zip64=True) as target:
            while data := stream.read(_COPY):
                digest.update(data)
                size += len(data)
                target.write(data)
        return name, size, digest.hexdigest()

    def finish(self, meta: Mapping[str, Any], comment: Mapping[str, Any], path: Path) -> None:
        """Complete the zip and give it its name; only then does it exist for any reader."""
        with _disk(self.folder):
            self._zip.writestr(zipfile.ZipInfo(META), json.dumps(meta))
            info = zipfile.ZipInfo(MESSAGES)
            info.compress_type = zipfile.ZIP_DEFLATED
            info._compresslevel = 1  # type: ignore[attr-defined]
            self._spool.seek(0)
            with self._zip.open(info, "w", force_zip64=True) as target:
                shutil.copyfileobj(self._spool, target, _COPY)
            self._zip.comment = json.dumps(comment).encode()
            self._zip.close()
            with self._path.open("rb") as whole:
                os.fsync(whole.fileno())
            self._path.replace(path)
        self.abort()

    def abort(self) -> None:
        """Remove what is not finished."""
        self._spool.close()
        with contextlib.suppress(ValueError, OSError):
            self._zip.close()
        for path in (self._path, self._spool_path):
            path.unlink(missing_ok=True)


def sweep(folder: Path, key: str) -> None:
    """Remove what a killed process left of this key."""
    for path in folder.glob(f".{key}.*{_TEMPORARY}"):
        process = path.name.removeprefix(f".{key}.").partition(".")[0]
        if not process.isdigit() or not psutil.pid_exists(int(process)):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise TargetFull(f"no room left in {folder}", hint="make room and copy again") from error
        raise
