"""Which run made the production model, and where a data set, a commit or a file went."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..adapters.base import Source
from ..errors import LocationError
from ..filters import Parts
from ..model import Artifact, File, ModelVersion, RegisteredModel, Run
from ..reading import open_location, resolve_model, select

NodeKind = Literal["model version", "run", "artifact", "data set", "commit", "environment", "file"]
CHUNK = 1 << 20
_LOOKED_AT = Parts(
    fields=frozenset(
        {"name", "status", "started_at", "code", "environment", "datasets", "parent", "fork", "artifacts"}
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    kind: NodeKind
    id: str
    """Unique among nodes of its kind."""
    label: str
    facts: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """The subject with all that it came from and all that came from it.

    An edge (a, b, word) reads: b was made from a.
    """

    subjects: list[Node]
    nodes: list[Node]
    edges: list[tuple[Node, Node, str]]

    def upstream(self, node: Node) -> list[tuple[Node, str]]:
        """What it was made from, directly."""
        return [(a, word) for a, b, word in self.edges if b.key == node.key]

    def downstream(self, node: Node) -> list[tuple[Node, str]]:
        """What was made from it, directly."""
        return [(b, word) for a, b, word in self.edges if a.key == node.key]


class Graph:
    """Every node and edge of a location, built by one pass over its records."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.nodes: dict[tuple[str, str], Node] = {}
        self.up: dict[tuple[str, str], list[tuple[tuple[str, str], str]]] = defaultdict(list)
        self.down: dict[tuple[str, str], list[tuple[tuple[str, str], str]]] = defaultdict(list)
        self.models: list[RegisteredModel] = []

    @classmethod
    def of(cls, source: Source, runs: Iterable[Run] | None = None) -> Graph:
        """The graph of these runs, by default of all, and of the registry."""
        graph = cls(source)
        for run in (
            runs if runs is not None else (run for _, run in select(source, deleted=True, parts=_LOOKED_AT))
        ):
            graph._add_run(run)
        for model in source.registry():
            graph.models.append(model)
            for version in model.versions:
                graph._add_version(version)
        return graph

    def node(self, node: Node) -> Node:
        return self.nodes.setdefault(node.key, node)

    def link(self, made_from: Node, made: Node, word: str) -> None:
        one, other = made_from.key, made.key
        known = self.up[other]
        if (one, word) not in known:
            known.append((one, word))
            self.down[one].append((other, word))

    def _add_run(self, run: Run) -> None:
        facts = {"status": run.status.value}
        if run.started_at:
            facts["started"] = run.started_at.isoformat()
        node = Node(kind="run", id=run.id, label=run.name or run.id, facts=facts)
        # A run named before it was met (as a parent) is only a stub: its facts win now.
        self.nodes[node.key] = node
        if run.code and run.code.commit:
            commit = self.nodes.get(("commit", run.code.commit)) or self.node(
                Node(kind="commit", id=run.code.commit, label=run.code.commit[:12])
            )
            self.link(commit, node, "code (dirty)" if run.code.dirty else "code")
        for use in run.datasets:
            name = f"{use.name}@{use.digest or use.version or '?'}"
            data = self.nodes.get(("data set", name))
            if data is None:
                facts = {k: v for k, v in {"digest": use.digest, "source": use.source}.items() if v}
                data = self.node(Node(kind="data set", id=name, label=use.name, facts=facts))
            self.link(data, node, use.context or "data")
        if run.environment and (run.environment.image or run.environment.packages):
            packages = run.environment.packages
            label = (
                run.environment.image or f"Python {run.environment.python or '?'}, {len(packages)} packages"
            )
            digest = hashlib.sha256(repr((label, sorted(packages.items()))).encode()).hexdigest()[:12]
            self.link(self.node(Node(kind="environment", id=digest, label=label)), node, "environment")
        for parent, word in ((run.parent, "parent"), (run.fork.run if run.fork else None, "fork")):
            if parent:
                self.link(self.node(Node(kind="run", id=parent, label=parent)), node, word)
        for link in run.artifacts:
            artifact = self.node(Node(kind="artifact", id=link.artifact, label=link.used_as or link.artifact))
            if link.role == "input":
                self.link(artifact, node, "used")
            else:
                self.link(node, artifact, "made")

    def _add_version(self, version: ModelVersion) -> None:
        facts = {"aliases": ", ".join(version.aliases), "stage": version.stage or ""}
        node = self.node(
            Node(
                kind="model version",
                id=f"{version.model}/{version.version}",
                label=f"{version.model} version {version.version}",
                facts={k: v for k, v in facts.items() if v},
            )
        )
        if version.artifact:
            self.link(
                self.node(Node(kind="artifact", id=version.artifact, label=version.artifact)),
                node,
                "registered",
            )
        if version.run:
            self.link(self.node(Node(kind="run", id=version.run, label=version.run)), node, "registered")

    # --- what a subject names ------------------------------------------------------------------

    def subjects(self, text: str) -> list[Node]:
        """A model (`NAME`, `NAME@ALIAS`, `NAME/VERSION`), a run, a data set, a commit, a local file
        or a SHA-256. Raises `LocationError` where nothing of that name is known."""
        found = (
            self._model(text)
            or [n for n in self.nodes.values() if n.kind == "run" and text in (n.id, n.label)]
            or self._begun(text)
            or [
                n
                for n in self.nodes.values()
                if n.kind == "data set" and text in (n.id, n.label, n.facts.get("digest"))
            ]
            or [
                n
                for n in self.nodes.values()
                if n.kind == "commit" and len(text) >= 7 and n.id.startswith(text)
            ]
            or [n for n in self.nodes.values() if n.kind == "artifact" and text in (n.id, n.label)]
            or self._file(text)
        )
        if not found:
            names = {n.label for n in self.nodes.values() if n.kind in ("run", "data set", "artifact")}
            close = difflib.get_close_matches(text, names | {m.name for m in self.models}, n=3)
            raise LocationError(
                f"nothing in {self.source.location} is called {text!r}",
                hint=f"did you mean {' or '.join(close)}?"
                if close
                else "name a model (NAME, NAME@ALIAS, NAME/VERSION), a run, a data set, a commit, a file or a SHA-256",
            )
        return found

    def _begun(self, text: str) -> list[Node]:
        """The run whose id alone begins so."""
        runs = [
            n for n in self.nodes.values() if n.kind == "run" and len(text) >= 8 and n.id.startswith(text)
        ]
        return runs if len(runs) == 1 else []

    def _model(self, text: str) -> list[Node]:
        """A bare name is all its versions: each of them may be what is asked about."""
        named = [m for m in self.models if m.name == text]
        if not named:
            _, version = resolve_model(self.models, text)
            versions = [version] if version else []
        else:
            versions = named[0].versions
        return [self.nodes["model version", f"{v.model}/{v.version}"] for v in versions]

    def _file(self, text: str) -> list[Node]:
        path = Path(text)
        if path.is_file():
            with path.open("rb") as stream:
                digest, size = hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size
        elif re.fullmatch(r"[0-9a-fA-F]{64}", text):
            digest, size = text.lower(), None
        else:
            return []
        found = [self._file_node(run, file, digest) for run, file in self._holders(digest, size)]
        if not found:
            raise LocationError(
                f"no run in {self.source.location} holds a file with SHA-256 {digest}",
                hint="every file of every run was compared",
            )
        return found

    def _file_node(self, run: Run, file: File, digest: str) -> Node:
        node = self.node(
            Node(kind="file", id=f"{run.id}:{file.path}", label=file.path, facts={"sha256": digest})
        )
        self.link(self.node(Node(kind="run", id=run.id, label=run.name or run.id)), node, "made")
        return node

    def _holders(self, digest: str, size: int | None) -> Iterator[tuple[Run, File]]:
        """Runs with that file. Bytes are read only where the platform tells no SHA-256 and the size fits."""
        for _, run in select(self.source, deleted=True):
            artifacts: list[Artifact] = list(self.source.artifacts(run))
            files = [*self.source.files(run), *(f for a in artifacts for f in self.source.artifact_files(a))]
            for file in files:
                if file.sha256:
                    if file.sha256 == digest:
                        yield run, file
                elif file.reference is None and (size is None or file.size in (None, size)):
                    with self.source.open(run, file) as stream:
                        hasher = hashlib.sha256()
                        while chunk := stream.read(CHUNK):
                            hasher.update(chunk)
                    if hasher.hexdigest() == digest:
                        yield run, file


def lineage(location: str | Source, subject: str) -> Lineage:
    """Everything that `subject` came from, and everything that came from it."""
    graph = Graph.of(open_location(location))
    subjects = graph.subjects(subject)
    edges: dict[tuple[tuple[str, str], tuple[str, str], str], None] = {}
    for direction, forwards in ((graph.up, False), (graph.down, True)):
        queue = [node.key for node in subjects]
        seen = set(queue)
        while queue:
            key = queue.pop()
            for other, word in direction.get(key, ()):
                edges[(key, other, word) if forwards else (other, key, word)] = None
                if other not in seen:
                    seen.add(other)
                    queue.append(other)
    met = {node.key: node for node in subjects}
    for a, b, _ in edges:
        met.setdefault(a, graph.nodes[a])
        met.setdefault(b, graph.nodes[b])
    return Lineage(
        subjects=[graph.nodes[node.key] for node in subjects],
        nodes=list(met.values()),
        edges=[(graph.nodes[a], graph.nodes[b], word) for a, b, word in edges],
    )
