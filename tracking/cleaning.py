"""Removing journals that are no longer needed. Only whole ones, and only where nothing can be lost."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from . import journal, state
from .delivery import targets

DAY = 86_400.0
_OWN = {journal.RECORDS, journal.FILES, journal.SINKS, journal.WRITER}


def clean(folders: Iterable[Path], locations: Collection[str], keep_days: float = 0.0) -> list[Path]:
    """Remove journals; those removed.

    A journal is removed where its run has ended, no process may write to it, and every location
    that it names, and every one of `locations` (public forms), has all of it and refused nothing;
    and that for `keep_days`. One that names no location stays, and so does one with foreign files.
    """
    folders = list(folders)
    for root in {folder.parent for folder in folders}:
        for cut in root.glob(".*.removed"):  # by a process that was killed meanwhile
            shutil.rmtree(cut, ignore_errors=True)
    return [folder for folder in folders if _removed(folder, locations, keep_days)]


def _removed(folder: Path, locations: Collection[str], keep_days: float) -> bool:
    try:
        lock = os.open(folder / journal.WRITER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        return False  # not ours to remove, or gone
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no process can take the run up meanwhile
        if not _needless(folder, locations, keep_days):
            return False
        gone = folder.with_name(f".{folder.name}.removed")
        folder.rename(gone)  # at once: half a journal is never seen
    except OSError:
        return False  # somebody writes to it, there are no locks here, or it was removed by another
    finally:
        os.close(lock)
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _needless(folder: Path, locations: Collection[str], keep_days: float) -> bool:
    named = list(targets(folder))
    if not named or any(not _own(entry.name) for entry in folder.iterdir()):
        return False
    size = journal.size(folder)
    newest = (folder / journal.RECORDS).stat().st_mtime
    for location in {*named, *locations}:
        at = state.load(folder, location)
        if not at.done or at.offset < size or at.rejected or at.error:
            return False
        newest = max(newest, state.saved_at(folder, location))
    return time.time() - newest >= keep_days * DAY


def _own(name: str) -> bool:
    # `rejected.jsonl` is none of them: what was refused is here only.
    return name in _OWN or (name.startswith("delivery-") and name.endswith(".lock"))
