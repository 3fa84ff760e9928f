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
from .upload import upload

UPLOADERS = 2
"""Uploader processes at a time; each holds a core while it reads metrics."""
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


class Delivery:
    def __init__(self, remote: Remote, project: Project) -> None:
        self.remote, self.api, self.project = remote, remote.api, project

    def deliver(self, staged: Sequence[Staged]) -> list[OutgrowError]:
        """The errors of those that could not be completed; all others are complete and marked."""
        groups = [group for i in range(UPLOADERS) if (group := list(staged[i::UPLOADERS]))]
        with ThreadPoolExecutor(len(groups)) as pool:
            return [error for found in pool.map(self._group, groups) for error in found]

    def _group(self, group: list[Staged]) -> list[OutgrowError]:
        errors: list[OutgrowError] = []
        todo: dict[Staged, Path] = {}
        lacks: dict[Staged, Missing] = {}
        complaints: list[str] = []
        try:
            for one in group:
                todo[one] = one.path
                if self.remote.metadata(one.key) is not None:
                    self._look(one, todo, lacks, errors)
            for _ in range(ATTEMPTS):
                if not todo:
                    break
                complaints = upload(
                    list(todo.values()), self.project.workspace, self.project.name, self.api.server
                )
                for wait in SETTLE[:2] if complaints else SETTLE:
                    if todo:
                        time.sleep(wait)
                    for one in list(todo):
                        self._look(one, todo, lacks, errors)
            for one in todo:
                errors.append(
                    Rejected(
                        f"Comet did not take {lacks[one]} of run {one.key}",
                        hint="; ".join(complaints[:3]) or "copy again, or see the server's log",
                    )
                )
        except OutgrowError as error:
            errors.append(error)
        finally:
            for one in group:
                shutil.rmtree(one.path.parent, ignore_errors=True)
        return errors

    def _look(
        self,
        one: Staged,
        todo: dict[Staged, Path],
        lacks: dict[Staged, Missing],
        errors: list[OutgrowError],
    ) -> None:
        """Whether a run is whole on the server; then it is finished, else what lacks is to do."""
        try:
            lacks[one] = found = missing(self.remote, one.path, one.path.parent)
            if found.archive is not None:
                todo[one] = found.archive
                return
            self._finish(one)
        except OutgrowError as error:
            errors.append(error)
        todo.pop(one)

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
