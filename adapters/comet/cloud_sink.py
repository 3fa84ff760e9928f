"""Writing a project of a Comet server: archives, the vendor's uploader, and a look at what arrived."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import OutgrowError, PartlyFailed, Transient, Vanished
from ...locations import Location
from ...model import Artifact, ArtifactUse, Experiment, File, Origin, RegisteredModel, Run
from ..base import NATIVE_MARK, ORIGIN_KEY, Capabilities, Copy, RunWriter, Sink, Throughput
from .api import Api
from .artifacts import Artifacts
from .building import Builder
from .capabilities import ONLINE
from .delivery import Delivery, Staged
from .keys import experiment_key, is_ours
from .location import Project
from .records import PLATFORM, mark_of
from .registration import Registration
from .remote import Remote, ahead
from .writer import ArchiveWriter


class CloudSink(Sink):
    """A run is staged as an archive; `flush` uploads, verifies and marks what is staged."""

    throughput = Throughput(
        path="archives and `comet upload`",
        points_per_second=3_000,
        files_per_second=10,
        bytes_per_second=10e6,
        runs_per_second=0.5,
    )

    def __init__(self, location: Location, project: Project) -> None:
        self.location, self.project = location, project
        self.remote = Remote(Api())
        self.api = self.remote.api
        self.artifacts = Artifacts(self.remote, project)
        self._folder = tempfile.TemporaryDirectory(prefix="outgrow-comet-")
        self._lock = threading.Lock()
        self._staged: list[Staged] = []
        self._refused: dict[str, OutgrowError] = {}
        """Of runs whose flush is not over."""
        self._count = 0

    def close(self) -> None:
        self.remote.close()
        self._folder.cleanup()

    @property
    def capabilities(self) -> Capabilities:
        return ONLINE

    @property
    def folder(self) -> Path:
        return Path(self._folder.name)

    # --- what is there ------------------------------------------------------------------------

    def copies(self) -> Iterator[Copy]:
        """Our keys are told by their form, so only our own experiments are asked for their others."""
        keys = (str(one["experimentKey"]) for one in self.remote.listing(self.project))
        for copy in ahead(self.remote.pool, self._copy, (key for key in keys if is_ours(key))):
            if copy is not None:
                yield copy

    def _copy(self, key: str) -> Copy | None:
        try:
            others = self.remote.others(key)
        except Vanished:
            return None
        if ORIGIN_KEY not in others:
            return None
        return Copy(identity=str(others[ORIGIN_KEY]), run_id=key, mark=mark_of(others), url=self._url(key))

    def copy_of(self, identity: str) -> Copy | None:
        key = experiment_key(identity, self.project.id)
        if self.remote.metadata(key) and (copy := self._copy(key)):
            return copy
        return None

    def native(self, run_id: str) -> Copy | None:
        found = self.remote.metadata(run_id) if run_id.isalnum() else None
        place = (self.project.workspace, self.project.name)
        if not found or (found.get("workspaceName"), found.get("projectName")) != place:
            return None
        if self._copy(run_id):
            return None
        identity = f"{PLATFORM}:{run_id}"
        return Copy(identity=identity, run_id=run_id, mark=NATIVE_MARK, url=self._url(run_id))

    def _url(self, key: str) -> str:
        return f"{self.api.server}/{self.project.id}/{key}"

    def experiment(self, experiment: Experiment) -> str:
        """The one project; Comet makes it with the first run."""
        return self.project.id

    # --- writing ------------------------------------------------------------------------------

    def begin(self, run: Run, origin: Origin, existing: Copy | None = None) -> RunWriter:
        key = existing.run_id if existing else experiment_key(origin.identity, self.project.id)
        with self._lock:
            self._count += 1
            folder = self.folder / str(self._count)
        writer = CloudWriter(self, Builder(folder, key), run, origin)
        writer.url = self._url(key)
        if existing is not None:
            writer.take_up_texts(self.remote.texts(key))
        return writer

    def stage(self, staged: Staged) -> None:
        with self._lock:
            self._staged.append(staged)

    def register(self, model: RegisteredModel) -> Mapping[str, str]:
        return Registration(self.remote, self.artifacts, self.project).register(model)

    def flush(self) -> None:
        """Upload what is staged, read it back, mark it.

        Raises `Unavailable` while a repeat may help: what is left stays staged. Then `PartlyFailed`
        for the runs that the server did not take.
        """
        with self._lock:
            staged, self._staged = self._staged, []
        if not staged:
            return
        failed = Delivery(self.remote, self.project).deliver(staged)
        again = {one: error for one, error in failed.items() if isinstance(error, Transient)}
        for one in staged:
            if one not in again:
                one.remove()
        with self._lock:
            self._refused |= {one.key: error for one, error in failed.items() if one not in again}
            self._staged += again
            if again:
                raise next(iter(again.values()))
            refused, self._refused = self._refused, {}
        if refused:
            raise PartlyFailed(refused)


class CloudWriter(ArchiveWriter):
    """An archive in the making; artifact versions go to the server at once, which they need."""

    def __init__(self, sink: CloudSink, builder: Builder, run: Run, origin: Origin) -> None:
        project = sink.project
        super().__init__(
            builder,
            run,
            origin,
            self._stage,
            project=project.name,
            workspace=project.workspace,
            strategy="get_or_create",
            mark_inside=False,
        )
        self._sink = sink

    def artifact(
        self, artifact: Artifact, use: ArtifactUse, files: Iterable[tuple[File, BinaryIO | None]]
    ) -> str:
        self._sink.remote.create(self.run_id, self._sink.project)
        return self._sink.artifacts.write(self.run_id, artifact, use, self.origin, files)

    def _stage(
        self,
        builder: Builder,
        meta: Mapping[str, Any],
        comment: Mapping[str, Any],
        run: Run,
        mark: str | None,
    ) -> None:
        path = builder.folder / f"{builder.key}.zip"
        builder.finish(meta, comment, path)
        self._sink.stage(Staged(path, run, mark, meta["start_time"], meta["stop_time"]))
