"""`neptune:DIR` as a target: 2.x queues or neptune-scale logs that `neptune sync` uploads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from ...errors import ConfigError, LocationError, OutgrowError
from ...locations import Location
from ...model import Experiment, Origin, Run
from ..base import NATIVE_MARK, Capabilities, Copy, RunWriter, Sink, Throughput
from . import local
from .capabilities import capabilities
from .export_layout import Layout, sanitized
from .places import PROJECT, Place
from .queue_output import QueueOutput
from .queues import queue_folders
from .records import PLATFORM
from .scale_logs import log_files
from .scale_output import ScaleOutput
from .scale_replay import metadata_of
from .writer import AttributeWriter, container_id, native_id


class FolderSink(Sink):
    """Runs become durable, and visible, one by one, when they are finished."""

    def __init__(self, location: Location, place: Place) -> None:
        assert place.path is not None
        self.location, self.api = location, place.api
        self.base = place.path if place.path.name == ".neptune" else place.path / ".neptune"
        self.project = place.project
        if place.path.is_dir() and Layout.recognises(place.path):
            raise LocationError(
                f"{location} holds a Neptune export, which outgrow only reads", hint="name another folder"
            )
        if self.api == "3" and self.project is None:
            raise ConfigError(
                f"{location} needs to know the project that the logs are for",
                hint=f"add ?outgrow.project=WORKSPACE/PROJECT, or set {PROJECT}",
            )
        form = "2.x queue (JSON lines)" if self.api == "2" else "neptune-scale log (SQLite)"
        rate = 800_000 if self.api == "2" else 150_000
        self.throughput = Throughput(
            path=f"Neptune {form}, to be uploaded by `neptune sync`", points_per_second=rate
        )

    @property
    def capabilities(self) -> Capabilities:
        return capabilities(self.api)

    def copies(self) -> Iterator[Copy]:
        yield from local.copies(self.base)

    def copy_of(self, identity: str) -> Copy | None:
        platform, _, run_id = identity.partition(":")
        copy = local.copy_at(self._folder(Origin(platform=platform, run_id=run_id)))
        return copy if copy is not None and copy.identity == identity else None

    def native(self, run_id: str) -> Copy | None:
        if run_id not in self._natives and run_id.rpartition("/")[2] not in self._natives:
            return None
        return Copy(identity=f"{PLATFORM}:{run_id}", run_id=run_id, mark=NATIVE_MARK)

    @cached_property
    def _natives(self) -> frozenset[str]:
        """The runs of logs and the containers of queues that were here first and are no copies.

        Reading this folder tells of a damaged log.
        """
        found = {container.id for container in queue_folders(self.base)}
        for path in log_files(self.base):
            with contextlib.suppress(OutgrowError):
                found.add("/".join(metadata_of(path)))
        copied = {copy.run_id for copy in local.copies(self.base)}
        return frozenset(found - copied - {run_id.rpartition("/")[2] for run_id in copied})

    def _folder(self, origin: Origin) -> Path:
        """Where a run's copy goes."""
        if self.api == "2":
            return self.base / "offline" / f"run__{container_id(origin)}__0__outgrow0"
        return self.base / f"{sanitized(self.project or '')}_{native_id(origin)}_1"

    def experiment(self, experiment: Experiment) -> str:
        return experiment.name

    def begin(self, run: Run, origin: Origin, existing: Copy | None = None) -> RunWriter:
        """Writes the run anew, whole, and then replaces an earlier copy by it."""
        folder = self._folder(origin)
        if self.api == "2":
            container = container_id(origin)
            id = f"{run.experiment}/{container}"
            staged = local.Staged.begin(self.base, folder, origin.identity, id)
            return AttributeWriter(QueueOutput(staged, container), run, origin, id, scale=False)
        assert self.project is not None
        native = native_id(origin)
        id = f"{self.project}/{native}"
        staged = local.Staged.begin(self.base, folder, origin.identity, id)
        output = ScaleOutput(staged, self.project, native, run)
        return AttributeWriter(output, run, origin, id, scale=True)
