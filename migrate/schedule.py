"""In which order runs are copied: parents before children, makers of artifacts before users."""

from __future__ import annotations

from collections import deque

from ..model import Experiment, Run
from .ids import Ids

Item = tuple[Run, Experiment]


class Schedule:
    """Fed while the source is listed, so that only what has to wait is held.

    A run waits for its parent as long as the parent may still come; once the listing has ended,
    only for a parent that was listed. Runs that use artifact versions not yet in the target wait
    for the end, where their makers go first. A cycle is broken at any of its runs.
    """

    def __init__(self, ids: Ids, *, inputs: bool) -> None:
        self._ids, self._inputs = ids, inputs
        self._ready: deque[Item] = deque()
        self._children: dict[str, list[Item]] = {}
        self._users: list[Item] = []
        self._settled: set[str] = set()
        self._waiting: set[str] = set()
        self._ended = False

    def __bool__(self) -> bool:
        return bool(self._ready or self._children or self._users)

    def add(self, run: Run, experiment: Experiment) -> None:
        if run.parent is not None and run.parent not in self._settled and run.parent != run.id:
            self._children.setdefault(run.parent, []).append((run, experiment))
            self._waiting.add(run.id)
        elif self._inputs and self._missing(run):
            self._users.append((run, experiment))
            self._waiting.add(run.id)
        else:
            self._ready.append((run, experiment))

    def settled(self, run_id: str) -> None:
        """The run was copied, skipped, or has failed: its children may go."""
        self._settled.add(run_id)
        for run, experiment in self._children.pop(run_id, ()):
            self._waiting.discard(run.id)
            self.add(run, experiment)

    def end(self) -> None:
        """Nothing more will be listed."""
        self._ended = True

    def next(self, *, idle: bool) -> Item | None:
        """A run that may be copied now; `idle`: nothing is under way, so nothing will be settled."""
        if not self._ready and self._ended and idle:
            self._release()
        return self._ready.popleft() if self._ready else None

    def _release(self) -> None:
        absent = [parent for parent in self._children if parent not in self._waiting]
        if absent:
            for parent in absent:
                self.settled(parent)
        elif self._users:
            self._release_users()
        elif self._children:
            self.settled(next(iter(self._children)))

    def _release_users(self) -> None:
        made_by_users = {
            use.artifact for run, _ in self._users for use in run.artifacts if use.role == "output"
        }
        first = [item for item in self._users if not self._missing(item[0]) & made_by_users]
        first = first or self._users[:1]
        chosen = {run.id for run, _ in first}
        self._users = [item for item in self._users if item[0].id not in chosen]
        self._waiting -= chosen
        self._ready.extend(first)

    def _missing(self, run: Run) -> set[str]:
        inputs = {use.artifact for use in run.artifacts if use.role == "input"}
        return {artifact for artifact in inputs if self._ids.artifact(artifact) is None}
