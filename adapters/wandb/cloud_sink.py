"""Writing into a project of a W&B server: run folders, uploaded by the vendor's sync, then read back.

A run is complete when the server has every row, file and artifact of it; only then is the mark
written into its config. An upload that was cut off is continued: rows that arrived are not sent
again.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import Rejected, Unavailable, Vanished
from ...locations import Location
from ...model import Experiment, Origin, RegisteredModel, Run
from ..base import NATIVE_MARK, Capabilities, Copy, RunWriter, Sink, Throughput
from . import queries, registry
from .capabilities import CLOUD
from .cloud_source import ProjectSource, config_of, id_of
from .folder import FolderWriter, Target
from .layout import SECTION
from .place import Project, run_id_for
from .records import NativeRun, mark_of, origin_section, record_of, to_run, with_mark
from .run_folders import RunFolders
from .server import Server, pages, typed
from .upload import Uploader

_SETTLE_SECONDS, _SETTLE_TIMES = 1.0, 30
_SAID = re.compile(r"(?:ERROR|error|failed|Failed|refused).*")


class ProjectSink(Sink):
    """One project. Folders wait in a temporary directory, which `close` removes."""

    throughput = Throughput(path="W&B sync", points_per_second=40_000, runs_per_second=4, files_per_second=20)

    def __init__(self, location: Location, project: Project) -> None:
        self.location = location
        self.project = project
        self.server = Server()
        self._home = Path(tempfile.mkdtemp(prefix="outgrow-wandb-"))
        self.folders = RunFolders(self._home / "runs")
        self.folders.root.mkdir()
        self.uploader = Uploader(self._home / "sync", self.server.url)
        self.source = ProjectSource(location, project, self.server)

    @property
    def capabilities(self) -> Capabilities:
        return CLOUD

    def close(self) -> None:
        self.uploader.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def copies(self) -> Iterator[Copy]:
        nodes = pages(
            self.server,
            queries.COPIES,
            f"listing runs of {self.project.path}",
            ("project", "runs"),
            entity=self.project.entity,
            project=self.project.name,
            perPage=200,
        )
        for node in nodes:
            copy = self._copy(node)
            if copy.mark != NATIVE_MARK:
                yield copy

    def _copy(self, node: Mapping[str, Any]) -> Copy:
        path = f"{self.project.path}/{node['name']}"
        url = f"{self.server.app_url}/{self.project.path}/runs/{node['name']}"
        section = NativeRun(id="", config=config_of(node)).section
        if not section:
            return Copy(identity=f"{self.location.platform}:{path}", run_id=path, mark=NATIVE_MARK, url=url)
        return Copy(identity=str(section["origin"]), run_id=path, mark=mark_of(section), url=url)

    def copy_of(self, identity: str) -> Copy | None:
        platform, _, run_id = identity.partition(":")
        node = self.node(run_id_for(Origin(platform=platform, run_id=run_id)))
        return None if node is None else self._copy(node)

    def native(self, run_id: str) -> Copy | None:
        project, _, short = run_id.rpartition("/")
        node = self.node(short) if project == self.project.path else None
        copy = None if node is None else self._copy(node)
        return copy if copy is not None and copy.mark == NATIVE_MARK else None

    def node(self, short: str) -> Mapping[str, Any] | None:
        """The run of that id, or None."""
        found = self.server.graphql(
            queries.RUN,
            f"looking for run {short}",
            entity=self.project.entity,
            project=self.project.name,
            run=short,
        )
        node: Mapping[str, Any] | None = (found.get("project") or {}).get("run")
        return node

    def experiment(self, experiment: Experiment) -> str:
        """The project and, behind `#`, which no project name has, the experiment's name."""
        return f"{self.project.path}#{experiment.name}"

    def begin(self, run: Run, origin: Origin, existing: Copy | None = None) -> RunWriter:
        short = run_id_for(origin)
        node = self.node(short)
        if existing is not None and node is None:
            raise Vanished(f"run {existing.run_id} is no longer there", hint="copy again")
        name = run.experiment.partition("#")[2]
        shown = name if name != self.project.name else ""
        target = Target(self.project.entity, self.project.name, short, shown or None)
        first_step = 0
        if node is not None:
            here = self._copy(node)
            if here.identity != origin.identity and here.mark != NATIVE_MARK:
                raise Rejected(
                    f"run {here.run_id} is a copy of {here.identity}, not of {origin.identity}",
                    hint="copy into another project",
                )
            if here.mark is None:
                node = self._settled(short, node)
            first_step = last_step_of(node) + 1
        else:
            self._create(target, origin)
        writer = ProjectWriter(self, target, run, origin, first_step, node)
        if node is not None:
            self._continue(writer, target, node, origin)
        return writer

    def _settled(self, short: str, node: Mapping[str, Any]) -> Mapping[str, Any]:
        """A run whose copy was cut off, once nothing arrives any more: requests of a process that was
        killed may still be on their way."""
        for _ in range(_SETTLE_TIMES):
            time.sleep(_SETTLE_SECONDS)
            again = self.node(short)
            if again is None:
                raise Vanished(f"run {short} is no longer there", hint="copy again")
            if again == node:
                break
            node = again
        return node

    def _create(self, target: Target, origin: Origin) -> None:
        """Make the run, so that concurrent copies see it, and an id that is refused is told at once."""
        self.server.graphql(
            queries.CREATE_RUN,
            f"creating run {target.path}",
            entity=target.entity,
            project=target.project,
            run=target.run_id,
            config=json.dumps({SECTION: {"value": origin_section(origin)}}),
        )

    def _continue(
        self, writer: ProjectWriter, target: Target, node: Mapping[str, Any], origin: Origin
    ) -> None:
        """Tell the writer what the server has of the run already."""
        native = NativeRun(
            id=target.run_id, entity=target.entity, project=target.project, config=config_of(node)
        )
        run = replace(to_run(native, self.project.path), origin=origin)
        writer.continues(record_of(native.section))
        writer.already("points", self.source.points(run))
        writer.already("texts", self.source.texts(run))
        writer.already("histograms", self.source.histograms(run))
        writer.already("media", self.source.media(run))
        if node.get("eventsLineCount"):
            writer.without("stats")
        if node.get("logLineCount"):
            writer.without("console")

    def register(self, model: RegisteredModel) -> Mapping[str, str]:
        return registry.register(self.server, self.project, model)


def last_step_of(node: Mapping[str, Any]) -> int:
    keys = node.get("historyKeys")
    return int(keys.get("lastStep", -1)) if isinstance(keys, dict) else -1


class ProjectWriter(FolderWriter):
    """Writes the folder, uploads it, reads back, and marks."""

    def __init__(
        self,
        sink: ProjectSink,
        target: Target,
        run: Run,
        origin: Origin,
        first_step: int,
        node: Mapping[str, Any] | None,
    ) -> None:
        super().__init__(target, run, origin, sink.folders, first_step=first_step)
        self._sink = sink
        self._rows_before = int((node or {}).get("historyLineCount") or 0)
        self.url = f"{sink.server.app_url}/{sink.project.path}/runs/{target.run_id}"

    def finish(self, run: Run, mark: str | None) -> None:
        self.write(run, None)
        self.publish()
        try:
            said = self._sink.uploader.upload(self.folder)
            node = self._read_back(said)
            self._mark(node, mark)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _read_back(self, said: str) -> Mapping[str, Any]:
        """The run as the server has it. Raises where anything is missing."""
        node = self._sink.node(self.target.run_id)
        if node is None:
            lines = [line for line in said.splitlines() if _SAID.search(line)]
            text = " ".join(lines[-3:]) or "the upload ended without the run being there"
            raise typed(text, f"uploading run {self.run_id}")
        expected = self._rows_before + self.rows_written
        held = int(node.get("historyLineCount") or 0)
        missing = []
        if held < expected:
            missing.append(f"{expected - held} of {expected} history rows")
        missing += self._missing_files() + self._missing_artifacts()
        if missing:
            raise Unavailable(
                f"the upload of {self.run_id} is incomplete: {', '.join(missing[:5])}",
                hint="copy again: what has arrived is not sent again",
            )
        return node

    def _missing_files(self) -> list[str]:
        if not self._files:
            return []
        of = {"entity": self.target.entity, "project": self.target.project, "run": self.target.run_id}
        path = ("project", "run", "files")
        what = f"listing files of {self.run_id}"
        held = {
            n["name"]: int(n["sizeBytes"]) for n in pages(self._sink.server, queries.FILES, what, path, **of)
        }
        folder = self.folder / "files"
        return [f"file {name}" for name in self._files if held.get(name) != (folder / name).stat().st_size]

    def _missing_artifacts(self) -> list[str]:
        wanted = self._staging.ids()
        if not wanted:
            return []
        of = {"entity": self.target.entity, "project": self.target.project, "run": self.target.run_id}
        path = ("project", "run", "artifacts")
        held = set()
        for query in (queries.OUTPUTS, queries.INPUTS):
            what = f"listing artifacts of {self.run_id}"
            for node in pages(self._sink.server, query, what, path, **of):
                if node["state"] == "COMMITTED":
                    held.add(id_of(node))
        return [f"artifact {target}" for target in wanted if target not in held]

    def _mark(self, node: Mapping[str, Any], mark: str | None) -> None:
        config = json.loads(node["config"])
        config[SECTION] = {"value": with_mark(config[SECTION]["value"], mark)}
        self._sink.server.graphql(
            queries.SET_CONFIG, f"marking run {self.run_id}", id=node["id"], config=json.dumps(config)
        )
