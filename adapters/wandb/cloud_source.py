"""Reading a project of a W&B server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, BinaryIO, Literal

from ...errors import LocationError, Vanished
from ...filters import Filter
from ...locations import Location
from ...model import Artifact, ArtifactUse, Experiment, File, RegisteredModel, Run, from_builtins
from ..base import Throughput
from . import metric_definitions, queries, registry
from .artifacts import DATASET_KEY, STAND_IN_KEY, artifact_id, restored
from .cloud_history import HistoryReader
from .history import Frame
from .layout import TEXTS_FILE, escape_path
from .place import Project
from .reading import HistorySource
from .records import NativeRun, record_of, time_of, to_run
from .server import Server, pages
from .values import micros

_RUNS_A_PAGE = 100
_EVENT_SAMPLES = 100_000


class ProjectSource(HistorySource):
    """One project. Pages are read one at a time; a run's history in steps of some thousand rows."""

    throughput = Throughput(path="W&B API", points_per_second=100_000, runs_per_second=5, files_per_second=10)

    def __init__(self, location: Location, project: Project, server: Server | None = None) -> None:
        super().__init__()
        self.location = location
        self.project = project
        self.server = server or Server()
        self._history = HistoryReader(self.server)
        self._lock = threading.Lock()
        self._artifacts: dict[str, Mapping[str, Any]] = {}
        """Artifact id → its node, as far as it has been listed."""
        self._urls: dict[str, dict[str, str]] = {}
        self._notes: list[str] = []

    def _of(self, run: Run | str) -> dict[str, str]:
        path = run if isinstance(run, str) else run.id
        parts = path.split("/")
        if len(parts) != 3:
            raise Vanished(f"{path!r} is no run of {self.project.path}")
        return dict(zip(("entity", "project", "run"), parts, strict=True))

    def experiments(self) -> Iterator[Experiment]:
        found = self.server.graphql(
            queries.PROJECT,
            f"reading {self.project.path}",
            entity=self.project.entity,
            project=self.project.name,
        )
        node = found.get("project")
        if node is None:
            raise LocationError(
                f"there is no project {self.project.path} at {self.server.url}",
                hint="check the name, and that your key may read it",
            )
        yield Experiment(
            id=self.project.path, name=self.project.name, created_at=time_of(node.get("createdAt"))
        )

    def runs(self, experiment: Experiment, where: Filter | None = None) -> Iterator[Run]:
        for node in pages(
            self.server,
            queries.RUNS,
            f"listing runs of {self.project.path}",
            ("project", "runs"),
            entity=self.project.entity,
            project=self.project.name,
            perPage=_RUNS_A_PAGE,
            filters="{}",
        ):
            native = native_run(node, self.project, self.server)
            run = to_run(native, experiment.id)
            yield replace(run, artifacts=self._uses(native, node))

    # --- history ---

    def _frames(self, run: Run, text_keys: frozenset[str]) -> Iterator[Frame]:
        yield from self._history.frames(self._of(run), text_keys)
        self._notes += self._history.notes_of(run.id)

    def _record(self, run: Run) -> dict[str, Any]:
        """What a copy keeps of its run; read again, for a `Run` carries it no longer."""
        return record_of(self._section(run)) if run.origin is not None else {}

    def _section(self, run: Run) -> dict[str, Any]:
        found = self.server.graphql(queries.RUN, f"reading run {run.id}", **self._of(run))
        node = (found.get("project") or {}).get("run")
        if node is None:
            raise Vanished(f"run {run.id} is no longer there")
        return NativeRun(id="", config=config_of(node)).section

    def _system(self, run: Run) -> Iterator[tuple[str, int | None, float]]:
        found = self.server.graphql(
            queries.EVENTS, f"reading system metrics of {run.id}", samples=_EVENT_SAMPLES, **self._of(run)
        )
        for line in ((found.get("project") or {}).get("run") or {}).get("events") or []:
            event = json.loads(line)
            time = event.get("_timestamp")
            at = None if time is None else round(float(time) * 1e6)
            for key, value in event.items():
                if key.startswith("system.") and isinstance(value, int | float):
                    yield key.removeprefix("system."), at, float(value)

    def _console(self, run: Run) -> Iterator[tuple[str, int | None, str]]:
        path = ("project", "run", "logLines")
        for node in pages(
            self.server, queries.CONSOLE, f"reading the console of {run.id}", path, **self._of(run)
        ):
            stream = "stderr" if node.get("level") == "error" else "stdout"
            time = time_of(node.get("timestamp"))
            yield stream, None if time is None else micros(time), node.get("line") or ""

    def _side_texts(self, run: Run) -> Iterator[BinaryIO]:
        if (node := self._file_node(run, TEXTS_FILE)) is not None:
            yield self._download(run, node)

    # --- files ---

    def _stored_files(self, run: Run) -> Iterator[tuple[str, int]]:
        path = ("project", "run", "files")
        for node in pages(self.server, queries.FILES, f"listing files of {run.id}", path, **self._of(run)):
            yield node["name"], int(node["sizeBytes"])

    def _file_node(self, run: Run, path: str) -> Mapping[str, Any] | None:
        found = self.server.graphql(
            queries.FILE, f"looking for {path} of {run.id}", names=[path], **self._of(run)
        )
        edges = (((found.get("project") or {}).get("run") or {}).get("files") or {}).get("edges") or []
        return next((edge["node"] for edge in edges if edge["node"]["name"] == path), None)

    def _download(self, run: Run, node: Mapping[str, Any]) -> BinaryIO:
        url = node.get("directUrl") or node["url"]
        what = f"reading {node['name']} of {run.id}"
        return self.server.download(url, what, int(node["sizeBytes"]))

    def open(self, run: Run, file: File) -> BinaryIO:
        if file.artifact is None:
            path = escape_path(file.path) if run.origin is not None else file.path
            node = self._file_node(run, path)
            if node is None:
                raise Vanished(f"{file.path} of run {run.id} is gone since it was listed")
            return self._download(run, node)
        urls = self._artifact_urls(file.artifact)
        if file.path not in urls:
            raise Vanished(f"{file.path} of artifact {file.artifact} is gone since it was listed")
        return self.server.download(
            urls[file.path], f"reading {file.path} of artifact {file.artifact}", file.size
        )

    # --- artifacts ---

    def _uses(self, native: NativeRun, node: Mapping[str, Any]) -> list[ArtifactUse]:
        uses = []
        roles: tuple[tuple[Literal["output", "input"], str, str], ...] = (
            ("output", "outputArtifacts", queries.OUTPUTS),
            ("input", "inputArtifacts", queries.INPUTS),
        )
        for role, name, query in roles:
            held = node[name]
            found = [edge["node"] for edge in held["edges"]]
            if held["pageInfo"]["hasNextPage"]:
                path = ("project", "run", "artifacts")
                found = list(
                    pages(
                        self.server,
                        query,
                        f"listing artifacts of {native.path}",
                        path,
                        **self._of(native.path),
                    )
                )
            for artifact in found:
                if is_content(artifact):
                    uses.append(ArtifactUse(artifact=self._keep(artifact), role=role))
        kept = record_of(native.section).get("uses")
        if isinstance(kept, list):
            exact = [from_builtins(use, ArtifactUse) for use in kept]
            present = {(use.artifact, use.role) for use in uses}
            known = [use for use in exact if (use.artifact, use.role) in present]
            more = [
                use for use in uses if (use.artifact, use.role) not in {(k.artifact, k.role) for k in known}
            ]
            return known + more
        return uses

    def _keep(self, node: Mapping[str, Any]) -> str:
        target = id_of(node)
        with self._lock:
            self._artifacts[target] = node
        return target

    def _node(self, target: str) -> Mapping[str, Any]:
        with self._lock:
            node = self._artifacts.get(target)
        if node is None:
            node = registry.find_artifact(self.server, target)
            self._keep(node)
        return node

    def artifacts(self, run: Run) -> Iterator[Artifact]:
        for use in run.artifacts:
            node = self._node(use.artifact)
            maker = run.id if use.role == "output" else self._maker(node)
            yield artifact_of(node, maker)

    def _maker(self, node: Mapping[str, Any]) -> str | None:
        found = self.server.graphql(queries.CREATED_BY, f"asking who made {id_of(node)}", id=node["id"])
        return registry.maker_of((found.get("artifact") or {}).get("createdBy"))

    def artifact_files(self, artifact: Artifact) -> Iterator[File]:
        node = self._node(artifact.id)
        found = self.server.graphql(queries.MANIFEST, f"reading artifact {artifact.id}", id=node["id"])
        manifest = (found.get("artifact") or {}).get("currentManifest")
        if manifest is None:
            raise Vanished(f"artifact {artifact.id} has no manifest")
        contents = self.server.json(manifest["file"]["directUrl"], f"the manifest of {artifact.id}")[
            "contents"
        ]
        for path, entry in contents.items():
            size = entry.get("size", 0 if "ref" not in entry else None)
            yield File(path=path, size=size, artifact=artifact.id, reference=entry.get("ref"))

    def _artifact_urls(self, target: str) -> dict[str, str]:
        with self._lock:
            urls = self._urls.get(target)
        if urls is None:
            nodes = pages(
                self.server,
                queries.ARTIFACT_FILES,
                f"listing files of artifact {target}",
                ("artifact", "files"),
                id=self._node(target)["id"],
            )
            urls = {node["name"]: node["directUrl"] for node in nodes}
            with self._lock:
                while len(self._urls) >= 16:  # signed URLs expire, and lists of files can be long
                    self._urls.pop(next(iter(self._urls)))
                self._urls[target] = urls
        return urls

    def registry(self) -> Iterator[RegisteredModel]:
        yield from registry.models(self.server, self.project, self._keep)

    def problems(self) -> Iterator[str]:
        yield from dict.fromkeys(self._notes)


def config_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config without the `{"value": …}` around each entry."""
    told = node.get("config") or "{}"
    config = json.loads(told) if isinstance(told, str) else told
    return {k: v["value"] for k, v in config.items() if isinstance(v, dict) and "value" in v}


def native_run(node: Mapping[str, Any], project: Project, server: Server) -> NativeRun:
    config = config_of(node)
    internal = config.get("_wandb")
    writers = internal.get("e") if isinstance(internal, dict) else None
    metadata: dict[str, Any] = next(iter(writers.values()), {}) if isinstance(writers, dict) else {}
    if node.get("commit") and "git" not in metadata:
        metadata = {**metadata, "git": {"commit": node["commit"]}}
    return NativeRun(
        id=node["name"],
        entity=project.entity,
        project=project.name,
        name=node.get("displayName"),
        group=node.get("group") or None,
        job_type=node.get("jobType") or None,
        notes=node.get("notes") or None,
        labels=list(node.get("tags") or ()),
        config=config,
        summary=json.loads(node.get("summaryMetrics") or "{}"),
        state=node.get("state") or "running",
        created_at=time_of(node.get("createdAt")),
        heartbeat_at=time_of(node.get("heartbeatAt")),
        user=(node.get("user") or {}).get("username"),
        sweep=node.get("sweepName") or None,
        metadata=metadata,
        metrics=metric_definitions.of_config(internal),
        url=f"{server.app_url}/{project.path}/runs/{node['name']}",
    )


def is_content(node: Mapping[str, Any]) -> bool:
    """Whether an artifact is a user's: not W&B's own bookkeeping, not a stand-in of ours."""
    kind = node["artifactType"]["name"]
    metadata = json.loads(node.get("metadata") or "{}") or {}
    return not kind.startswith("wandb-") and kind != "job" and not {DATASET_KEY, STAND_IN_KEY} & set(metadata)


def id_of(node: Mapping[str, Any]) -> str:
    sequence = node["artifactSequence"]
    project = sequence["project"]
    return artifact_id(project["entity"]["name"], project["name"], sequence["name"], node["digest"])


def artifact_of(node: Mapping[str, Any], maker: str | None) -> Artifact:
    sequence = node["artifactSequence"]["name"]
    version = None if node["versionIndex"] is None else f"v{node['versionIndex']}"
    aliases = [a["alias"] for a in node["aliases"] if (a["artifactCollection"] or {}).get("name") == sequence]
    return restored(
        Artifact(
            id=id_of(node),
            name=sequence,
            type=node["artifactType"]["name"],
            version=version,
            aliases=[alias for alias in aliases if alias != version],
            tags={tag["name"]: "" for tag in node["tags"]},
            metadata=json.loads(node.get("metadata") or "{}") or {},
            description=node.get("description") or None,
            digest=node["digest"],
            created_by=maker,
            created_at=time_of(node.get("createdAt")),
            modified_at=time_of(node.get("updatedAt")),
        )
    )
