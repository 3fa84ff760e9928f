"""What became of the source's ids in the target."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Literal

from ..adapters.base import Copy, Sink
from ..model import Origin, Run

MAP_KINDS: tuple[Literal["artifact", "loose"], ...] = ("artifact", "loose")


def origin_of(run: Run, platform: str, location: str) -> Origin:
    """Where the run was first recorded: carried on, or here."""
    return run.origin or Origin(platform=platform, run_id=run.id, location=location, url=run.url)


class Ids:
    """Source ids → target ids of runs and artifact versions. Safe for several threads."""

    def __init__(self, sink: Sink, platform: str, known: dict[str, dict[str, str]]) -> None:
        """`known`: what earlier copies made, by kind (`MAP_KINDS`)."""
        self._sink, self._platform = sink, platform
        self._lock = threading.Lock()
        self._identities: dict[str, str] = {}
        self._copies: dict[str, Copy] = {}
        self._runs: dict[str, str] = {}
        self._maps = {kind: dict(known.get(kind, {})) for kind in MAP_KINDS}
        self._news: dict[str, dict[str, str]] = {kind: {} for kind in MAP_KINDS}
        self._artifact_locks: dict[str, threading.Lock] = {}

    def load(self, copies: Iterable[Copy]) -> None:
        """What is in the target before the copy."""
        self._copies = {copy.identity: copy for copy in copies}

    def listed(self, run: Run, identity: str) -> None:
        with self._lock:
            self._identities[run.id] = identity

    def identity(self, source_run: str) -> str:
        """A run's identity by its id in the source; that of a run recorded there, if it was not listed."""
        return self._identities.get(source_run, f"{self._platform}:{source_run}")

    def existing(self, identity: str) -> Copy | None:
        """The run's copy in the target, or the run itself where it was recorded there."""
        if (copy := self._copies.get(identity)) is not None:
            return copy
        platform, _, run_id = identity.partition(":")
        return self._sink.native(run_id) if platform == self._sink.location.platform else None

    def begun(self, identity: str, run_id: str) -> None:
        with self._lock:
            self._runs[identity] = run_id

    def twin(self, source_run: str) -> Copy | None:
        """What the target had of a run, by its id in the source, before the copy."""
        return self.existing(self.identity(source_run))

    def run(self, source_run: str | None) -> str | None:
        """The target's id of a run, if it is there."""
        if source_run is None:
            return None
        if (here := self._runs.get(self.identity(source_run))) is not None:
            return here
        twin = self.twin(source_run)
        return None if twin is None else twin.run_id

    def artifact(self, source_artifact: str) -> str | None:
        return self._maps["artifact"].get(source_artifact)

    def loose(self, source_artifact: str) -> str | None:
        """The folder, among a run's files, of an artifact version in a target that has none."""
        return self._maps["loose"].get(source_artifact)

    def made(self, kind: Literal["artifact", "loose"], source_artifact: str, target: str) -> None:
        with self._lock:
            self._maps[kind][source_artifact] = self._news[kind][source_artifact] = target

    def news(self) -> dict[str, dict[str, str]]:
        """What `made` was told since the last call, by kind."""
        with self._lock:
            news, self._news = self._news, {kind: {} for kind in MAP_KINDS}
            return {kind: values for kind, values in news.items() if values}

    def artifact_lock(self, source_artifact: str) -> threading.Lock:
        """Held while the version is written, so that two runs do not both make it."""
        with self._lock:
            return self._artifact_locks.setdefault(source_artifact, threading.Lock())
