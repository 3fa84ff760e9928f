"""Writing a directory of offline archives: one zip a run, named by its experiment key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import Corrupt
from ...locations import Location
from ...model import Experiment, Origin, Run
from ..base import MARK_KEY, NATIVE_MARK, ORIGIN_KEY, Capabilities, Copy, RunWriter, Sink, Throughput
from .archives import Archive
from .building import Builder, sweep
from .capabilities import OFFLINE
from .keys import experiment_key, is_ours
from .messages import contents
from .records import PLATFORM
from .writer import ArchiveWriter

WORKSPACE_OPTION = "workspace"


class ArchiveSink(Sink):
    """Zips that `comet upload` takes. `?outgrow.workspace=NAME` writes the workspace into them."""

    throughput = Throughput(
        path="offline zips",
        points_per_second=400_000,
        files_per_second=1_000,
        advice="`comet upload DIR/*.zip` sends them; comet:WORKSPACE/PROJECT uploads and reads back",
    )

    def __init__(self, location: Location, folder: Path) -> None:
        self.location, self.folder = location, folder
        self._workspace = location.options.get(WORKSPACE_OPTION)

    @property
    def capabilities(self) -> Capabilities:
        return OFFLINE

    def copies(self) -> Iterator[Copy]:
        for path in sorted(self.folder.glob("*.zip")):
            if is_ours(path.stem) and (copy := self._copy(path)):
                yield copy

    def _copy(self, path: Path) -> Copy | None:
        """A zip of ours tells its identity and mark in its comment; one packed anew, in its messages."""
        try:
            with Archive(path) as archive:
                try:
                    told = json.loads(archive.comment)
                    identity, mark = str(told["identity"]), told["mark"]
                except (ValueError, KeyError, TypeError):
                    others = contents(archive).native.others
                    if ORIGIN_KEY not in others:
                        return None
                    identity, mark = str(others[ORIGIN_KEY]), others.get(MARK_KEY)
        except (Corrupt, FileNotFoundError):
            return None  # not whole: it is written anew
        return Copy(identity=identity, run_id=path.stem, mark=mark, url=None)

    def copy_of(self, identity: str) -> Copy | None:
        path = self._path(experiment_key(identity))
        if path.exists() and (copy := self._copy(path)):
            return copy
        return None

    def native(self, run_id: str) -> Copy | None:
        path = self._path(run_id)
        if not run_id.isalnum() or not path.exists() or self._copy(path):
            return None
        return Copy(identity=f"{PLATFORM}:{run_id}", run_id=run_id, mark=NATIVE_MARK)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.zip"

    def experiment(self, experiment: Experiment) -> str:
        """A project needs no creating: each zip names its own."""
        return experiment.name

    def begin(self, run: Run, origin: Origin, existing: Copy | None = None) -> RunWriter:
        key = existing.run_id if existing else experiment_key(origin.identity)
        path = self._path(key)
        sweep(self.folder, key)
        before = path if path.exists() and self._copy(path) else None
        return ArchiveWriter(
            Builder(self.folder, key),
            run,
            origin,
            self._publish,
            project=run.experiment,
            workspace=self._workspace,
            before=before,
        )

    def _publish(
        self, builder: Builder, meta: Mapping[str, Any], comment: Mapping[str, Any], *_: object
    ) -> None:
        builder.finish(meta, comment, self._path(builder.key))
