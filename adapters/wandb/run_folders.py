"""The run folders of one root: found by run id, begun aside, renamed into place."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import uuid
from pathlib import Path

_RUN = "offline-run-"
_PARTIAL = ".outgrow-"


class RunFolders:
    """Lists the root once: a look at it for every run would take longer with every run that is there.

    A folder that another process puts in place meanwhile is met by its name, which is the same.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._listed = False
        self._complete: dict[str, set[Path]] = {}
        self._partial: dict[str, list[Path]] = {}

    def _list(self) -> None:
        if self._listed:
            return
        self._listed = True
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.root):
                if name.startswith(_RUN):
                    run_id = name.removeprefix(_RUN).partition("-")[2]
                    self._complete.setdefault(run_id, set()).add(self.root / name)
                elif name.startswith(_PARTIAL):
                    run_id = name.removeprefix(_PARTIAL).partition("-")[0]
                    self._partial.setdefault(run_id, []).append(self.root / name)

    def of(self, run_id: str) -> list[Path]:
        """The folders of a run, whatever their time."""
        with self._lock:
            self._list()
            return sorted(path for path in self._complete.get(run_id, ()) if path.is_dir())

    def begin(self, run_id: str) -> Path:
        """A new name beside the final one. Those that dead processes left are removed."""
        with self._lock:
            self._list()
            left = self._partial.pop(run_id, [])
        for path in left:
            process = path.name.removeprefix(f"{_PARTIAL}{run_id}-").split("-")[0]
            if process.isdigit() and not _alive(int(process)):
                shutil.rmtree(path, ignore_errors=True)
        return self.root / f"{_PARTIAL}{run_id}-{os.getpid()}-{uuid.uuid4().hex[:8]}"

    def publish(self, partial: Path, folder: Path, run_id: str) -> None:
        """Move a folder to its final place, in the stead of earlier ones of the same run."""
        earlier = {*self.of(run_id), *([folder] if folder.is_dir() else ())}
        aside = [partial.with_name(f"{partial.name}-old{number}") for number in range(len(earlier))]
        for path, old in zip(sorted(earlier), aside, strict=True):
            path.rename(old)
        partial.rename(folder)
        with self._lock:
            self._complete[run_id] = {folder}
        for old in aside:
            shutil.rmtree(old)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
