"""What the emulated server holds."""

from __future__ import annotations

import base64
import json
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def dumps(value: Any) -> str:
    """JSON as the server writes it: NaN and the infinities are texts."""

    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        pass

    def plain(x: Any) -> Any:
        if isinstance(x, float) and (x != x or x in (float("inf"), float("-inf"))):
            return "NaN" if x != x else "Infinity" if x > 0 else "-Infinity"
        if isinstance(x, dict):
            return {k: plain(v) for k, v in x.items()}
        if isinstance(x, list):
            return [plain(v) for v in x]
        return x

    return json.dumps(plain(value))


def make_id(kind: str, *parts: str) -> str:
    return base64.b64encode(":".join([kind, "v1", *parts]).encode()).decode()


@dataclass
class Run:
    entity: str
    project: str
    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    state: str = "running"
    exit_code: int | None = None
    created_at: str = field(default_factory=now)
    history: list[dict[str, Any]] = field(default_factory=list)
    received_rows: int = 0
    """History lines received in all, repeated ones included."""
    exported_rows: int = 0
    """Rows at the beginning that the server has exported to Parquet."""
    export: bytes = b""
    events: list[str] = field(default_factory=list)
    logs: dict[int, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    outputs: list[Artifact] = field(default_factory=list)
    inputs: list[Artifact] = field(default_factory=list)

    @property
    def id(self) -> str:
        return make_id("Run", self.name, self.project, self.entity)

    def stream(self, name: str, offset: int, lines: list[str]) -> None:
        if name == "wandb-history.jsonl":
            self.received_rows += len(lines)
            rows = [json.loads(line) for line in lines]
            self.history[offset : offset + len(rows)] = rows
        elif name == "wandb-events.jsonl":
            self.events[offset : offset + len(lines)] = lines
        elif name == "wandb-summary.json":
            self.summary = json.loads(lines[-1])
        elif name == "output.log":
            for i, line in enumerate(lines):
                self.logs[offset + i] = line

    @property
    def last_step(self) -> int:
        return max((int(row.get("_step", -1)) for row in self.history), default=-1)


@dataclass
class Collection:
    entity: str
    project: str
    name: str
    type: str
    kind: str = "ArtifactSequence"
    description: str | None = None
    created_at: str = field(default_factory=now)
    tags: list[str] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)

    @property
    def id(self) -> str:
        return make_id(self.kind, self.entity, self.project, self.name)


@dataclass
class Member:
    """One version within a collection."""

    collection: Collection
    artifact: Artifact
    version: int
    aliases: list[str] = field(default_factory=list)
    created_at: str = field(default_factory=now)


@dataclass
class Artifact:
    number: int
    sequence: Collection
    digest: str
    state: str = "PENDING"
    version: int | None = None
    description: str | None = None
    metadata: str | None = None
    tags: list[str] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)
    """Wished for at creation; they apply from the commit on."""
    client_id: str = ""
    created_by: Run | None = None
    created_at: str = field(default_factory=now)
    manifest: dict[str, Any] | None = None
    files: dict[str, str] = field(default_factory=dict)
    """Path → storage key."""

    @property
    def id(self) -> str:
        return make_id("Artifact", str(self.number))


class State:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.runs: dict[tuple[str, str, str], Run] = {}
        self.deleted_runs: set[tuple[str, str, str]] = set()
        self.projects: dict[tuple[str, str], str] = {}
        """(entity, project) → creation time."""
        self.collections: dict[tuple[str, str, str], Collection] = {}
        self.artifacts: list[Artifact] = []
        self.storage: dict[str, bytes] = {}
        self.uploads: dict[str, Any] = {}
        """Storage key → called with the bytes when they have arrived."""
        self._keys = 0

    def project(self, entity: str, name: str) -> None:
        self.projects.setdefault((entity, name), now())

    def run(self, entity: str, project: str, name: str) -> Run | None:
        return self.runs.get((entity, project, name))

    def run_by_id(self, run_id: str) -> Run | None:
        return next((run for run in self.runs.values() if run.id == run_id), None)

    def runs_of(self, entity: str, project: str) -> list[Run]:
        return [run for (e, p, _), run in self.runs.items() if (e, p) == (entity, project)]

    def storage_key(self) -> str:
        with self.lock:
            self._keys += 1
            return f"object-{self._keys}"

    def collection(
        self, entity: str, project: str, name: str, kind: str, typed: str = "ArtifactSequence"
    ) -> Collection:
        self.project(entity, project)
        key = (entity, project, name)
        if key not in self.collections:
            self.collections[key] = Collection(entity, project, name, kind, typed)
        return self.collections[key]

    def add_member(self, collection: Collection, artifact: Artifact, aliases: list[str]) -> Member:
        member = next((m for m in collection.members if m.artifact is artifact), None)
        if member is None:
            version = max((m.version for m in collection.members), default=-1) + 1
            member = Member(collection, artifact, version)
            collection.members.append(member)
        for alias in [*aliases, "latest"]:
            for other in collection.members:
                if alias in other.aliases:
                    other.aliases.remove(alias)
            member.aliases.append(alias)
        return member
