"""Run folders of a local target: begun aside, moved into place when complete, and what copy each is."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ...errors import LocationError, TargetFull
from ..base import Copy

SIDECAR = "outgrow.json"
"""Beside a run's queue or log: which copy it is. The vendor's tools do not look at it."""
STAGING = "outgrow-partial"
"""Folder within `.neptune` for runs that are being written; `neptune sync` does not look there."""

_ATTEMPTS = 100


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raises `TargetFull` for a full disk or quota, `LocationError` for a folder that cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TargetFull(
                f"no room left at {path}", hint="free some room and run the command again"
            ) from error
        raise LocationError(f"cannot write to {path}: {error.strerror or error}") from error


def save(stream: BinaryIO, target: Path) -> int:
    """The stream's bytes as a file; their number. An error of the stream itself is raised as it is."""
    size = 0
    with disk_errors(target):
        out = target.open("wb")
    with out:
        while chunk := stream.read(2**20):
            with disk_errors(target):
                out.write(chunk)
            size += len(chunk)
    return size


@dataclass(frozen=True, slots=True)
class Staged:
    """A run's folder while it is written (`path`), and where it goes (`final`)."""

    path: Path
    final: Path
    identity: str
    run_id: str

    @classmethod
    def begin(cls, base: Path, final: Path, identity: str, run_id: str) -> Staged:
        path = base / STAGING / final.name
        with disk_errors(base):
            shutil.rmtree(path, ignore_errors=True)
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    path.mkdir(parents=True)
                    break
                except (FileNotFoundError, FileExistsError):  # the end of another run removes the parent
                    if attempt == _ATTEMPTS:
                        raise
        return cls(path, final, identity, run_id)

    def publish(self, mark: str | None) -> None:
        """Move the folder into place. An earlier one there goes away first: a crash leaves no half of either."""
        with disk_errors(self.final):
            text = json.dumps({"identity": self.identity, "run_id": self.run_id, "mark": mark})
            with (self.path / SIDECAR).open("w") as sidecar:
                sidecar.write(text)
                sidecar.flush()
                os.fsync(sidecar.fileno())
            self.final.parent.mkdir(parents=True, exist_ok=True)
            if self.final.exists():
                old = self.path.with_name(self.path.name + ".old")
                shutil.rmtree(old, ignore_errors=True)
                self.final.rename(old)
                self.path.rename(self.final)
                shutil.rmtree(old)
            else:
                self.path.rename(self.final)
            _sync_folder(self.final.parent)
            with contextlib.suppress(OSError):  # others may be in it
                self.path.parent.rmdir()

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copies(base: Path) -> Iterator[Copy]:
    """Every complete folder that outgrow wrote below `.neptune`."""
    for pattern in (f"offline/*/{SIDECAR}", f"async/*/{SIDECAR}", f"*/{SIDECAR}"):
        for path in sorted(base.glob(pattern)):
            if path.parent.parent.name != STAGING and (copy := copy_at(path.parent)) is not None:
                yield copy


def copy_at(folder: Path) -> Copy | None:
    try:
        told = json.loads((folder / SIDECAR).read_text())
        return Copy(identity=str(told["identity"]), run_id=str(told["run_id"]), mark=told["mark"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or not ours


def full(path: Path, error: Exception) -> TargetFull | LocationError:
    """The typed form of SQLite's word for a disk that takes no more."""
    if "full" in str(error) or "disk I/O" in str(error):
        return TargetFull(f"no room left at {path}", hint="free some room and run the command again")
    return LocationError(f"cannot write to {path}: {error}")
