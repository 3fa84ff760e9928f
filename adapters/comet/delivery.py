"""Uploading staged archives, reading back what arrived, and marking the complete ones, last."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ...errors import OutgrowError, Rejected
from ...model import Run, Status
from ..base import MARK_KEY
from .delta import Missing, missing
from .location import Project
from .remote import Remote
from .upload import uploader

THREADS = 4
"""Runs delivered at a time."""
ATTEMPTS = 3
SETTLE = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Seconds to wait before each look: the server takes data in after it has answered."""


@dataclass(slots=True, eq=False)
class Staged:
    """A run that is written as an archive and not yet uploaded. Times in milliseconds since 1970 UTC."""

    path: Path
    run: Run
    mark: str | None
    start: int
    end: int

    @property
    def key(self) -> str:
        return self.path.stem

    def remove(self) -> None:
        """Remove the archive, and what was made of it."""
        shutil.rmtree(self.path.parent, ignore_errors=True)


class Delivery:
    def __init__(self, remote: Remote, project: Project) -> None:
        self.remote, self.api, self.project = remote, remote.api, project

    def deliver(self, staged: Sequence[Staged]) -> dict[Staged, OutgrowError]:
        """Those that are not complete, with their errors; all others are complete and marked."""
        with ThreadPoolExecutor(THREADS) as pool:
            errors = pool.map(self._one, staged)
            return {one: error for one, error in zip(staged, errors, strict=True) if error is not None}

    def _one(self, one: Staged) -> OutgrowError | None:
        try:
            self._complete(one)
        except OutgrowError as error:
            return error
        return None

    def _complete(self, one: Staged) -> None:
        lacks: Missing | None = None
        if self.remote.metadata(one.key) is not None:
            lacks = self._look(one)
        complaints: list[str] = []
        for _ in range(ATTEMPTS):
            if lacks is not None and not lacks:
                break
            archive = one.path if lacks is None or lacks.archive is None else lacks.archive
            complaints = uploader(self.api.server).upload(
                [archive], self.project.workspace, self.project.name
            )
            for wait in SETTLE[:2] if complaints else SETTLE:
                time.sleep(wait)
                if not (lacks := self._look(one)):
                    break
        if lacks:
            raise Rejected(
                f"Comet did not take {lacks} of run {one.key}",
                hint="; ".join(complaints[:3]) or "copy again, or see the server's log",
            )
        self._finish(one)

    def _look(self, one: Staged) -> Missing:
        return missing(self.remote, one.path, one.path.parent)

    def _finish(self, one: Staged) -> None:
        key, run = one.key, one.run
        there = self.remote.metadata(key) or {}
        if (there.get("startTimeMillis"), there.get("endTimeMillis")) != (one.start, one.end):
            times = {"experimentKey": key, "startTimeMillis": one.start, "endTimeMillis": one.end}
            self.api.post("write/experiment/set-start-end-time", times)
        status = {
            "experimentKey": key,
            "isAlive": run.status is Status.RUNNING,
            "error": None,
            "hasCrashed": run.status in (Status.FAILED, Status.KILLED),
        }
        if (there.get("running"), there.get("hasCrashed")) != (status["isAlive"], status["hasCrashed"]):
            self.api.post("write/experiment/update-status", status)
        if run.deleted and not there.get("archived"):
            self.api.get("write/experiment/archive", experimentKey=key)
        if one.mark is not None:
            self.api.post(
                "write/experiment/log-other", {"experimentKey": key, "key": MARK_KEY, "value": one.mark}
            )
