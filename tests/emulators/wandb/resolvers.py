"""Queries and mutations of runs and projects; those of artifacts are in `artifact_resolvers`."""

from __future__ import annotations

import fnmatch
import json
from bisect import bisect_left
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .artifact_resolvers import ArtifactResolvers
from .graphql import FieldError, connection
from .state import Run, dumps, make_id, now

if TYPE_CHECKING:
    from .server import WandbServer

Node = dict[str, Any]


class Resolvers(ArtifactResolvers):
    def __init__(self, server: WandbServer) -> None:
        self.server = server
        self.state = server.state

    @property
    def org(self) -> str:
        return f"{self.server.entity}-org"

    # --- roots ---

    def query(self) -> Node:
        return {
            "__typename": "Query",
            "viewer": self.viewer(),
            "serverInfo": {
                "__typename": "ServerInfo",
                "features": [{"name": name, "isEnabled": True} for name in self.features()],
                "cliVersionInfo": "{}",
                "latestLocalVersionInfo": None,
            },
            "project": self.project,
            "model": self.project,
            "entity": self.entity,
            "organization": self.organization,
            "artifact": lambda id: self.artifact_node(self.artifact_by_id(id)),
            "clientIDMapping": self.client_id_mapping,
        }

    def features(self) -> list[str]:
        return ["TOTAL_COUNT_IN_FILE_CONNECTION", "CLIENT_IDS"]

    def mutation(self) -> Node:
        return {"__typename": "Mutation", **self.run_mutations(), **self.artifact_mutations()}

    def viewer(self) -> Node:
        user = self.server.entity
        return {
            "__typename": "User",
            "id": make_id("User", user),
            "entity": user,
            "name": user,
            "username": user,
            "email": f"{user}@example.org",
            "admin": False,
            "flags": "{}",
            "deletedAt": None,
            "apiKeys": {"edges": []},
            "teams": {"edges": []},
            "entities": {"edges": [{"node": {"name": user}}]},
            "defaultEntity": self.entity(user),
            "organizations": [self.org_info()],
        }

    def org_info(self) -> Node:
        return {"__typename": "Organization", "name": self.org, "orgEntity": {"name": self.org}}

    def entity(self, name: str) -> Node:
        return {
            "__typename": "Entity",
            "id": make_id("Entity", name),
            "name": name,
            "organization": self.org_info(),
            "user": None,
            "projects": lambda **args: self._projects(name, **args),
        }

    def _projects(self, entity: str, first: int | None = None, after: str | None = None, **_: Any) -> Node:
        names = [p for e, p in self.state.projects if e == entity]
        return connection(names, lambda p: self.project(name=p, entityName=entity) or {}, first, after)

    # --- projects ---

    def project(self, name: str, entityName: str | None = None) -> Node | None:
        entity = entityName or self.server.entity
        if (entity, name) not in self.state.projects:
            return None
        return {
            **self.project_info(entity, name),
            "createdAt": self.state.projects[entity, name],
            "isBenchmark": False,
            "readOnly": False,
            "runCount": lambda filters=None: len(self._filtered(entity, name, filters)),
            "runs": lambda **args: self.runs(entity, name, **args),
            "run": lambda name, _project=name: self.run_node(self.state.run(entity, _project, name)),
            "bucket": lambda name, _project=name, **_: self.run_node(self.state.run(entity, _project, name)),
            "sweeps": lambda **_: connection([], dict, None, None),
            "totalSweeps": 0,
            **self.project_artifacts(entity, name),
        }

    def project_info(self, entity: str, name: str) -> Node:
        return {
            "__typename": "Project",
            "id": make_id("Project", name, entity),
            "internalId": make_id("ProjectInternalId", name, entity),
            "name": name,
            "entityName": entity,
            "entity": self.entity(entity),
        }

    def _filtered(self, entity: str, project: str, filters: str | None) -> list[Run]:
        condition = json.loads(filters or "{}")
        return [run for run in self.state.runs_of(entity, project) if _matches(run, condition)]

    def runs(
        self,
        entity: str,
        project: str,
        filters: str | None = None,
        after: str | None = None,
        first: int | None = 50,
        order: str | None = None,
    ) -> Node:
        found = self._filtered(entity, project, filters)
        found.sort(key=lambda run: (run.created_at, run.name), reverse=(order or "").startswith("-"))
        return connection(found, lambda run: self.run_node(run) or {}, first, after)

    # --- runs ---

    def run_node(self, run: Run | None) -> Node | None:
        if run is None:
            return None
        fields = run.fields
        return {
            "__typename": "Run",
            "id": run.id,
            "projectId": lambda: str(1 + list(self.state.projects).index((run.entity, run.project))),
            "name": run.name,
            "displayName": fields.get("displayName") or run.name,
            "description": fields.get("description"),
            "notes": fields.get("notes"),
            "tags": fields.get("tags") or [],
            "group": fields.get("groupName"),
            "jobType": fields.get("jobType"),
            "sweepName": fields.get("sweep"),
            "commit": fields.get("commit"),
            "host": fields.get("host"),
            "state": run.state,
            "readOnly": False,
            "createdAt": run.created_at,
            "heartbeatAt": run.created_at,
            "config": lambda: dumps(run.config),
            "wandbConfig": lambda keys: dumps(
                {k: v for k, v in run.config.get("_wandb", {}).get("value", {}).items() if k in keys}
            ),
            "summaryMetrics": lambda: dumps(run.summary),
            "systemMetrics": run.events[-1] if run.events else "{}",
            "historyLineCount": len(run.history),
            "eventsLineCount": len(run.events),
            "logLineCount": len(run.logs),
            "historyTail": lambda: json.dumps([dumps(row) for row in run.history[-1:]]),
            "eventsTail": json.dumps(run.events[-1:]),
            "historyKeys": lambda: _history_keys(run),
            "user": {"__typename": "User", "name": self.server.entity, "username": self.server.entity},
            "project": self.project_info(run.entity, run.project),
            "stopped": False,
            "history": lambda **args: self.history(run, **args),
            "sampledHistory": lambda specs: [self.sampled(run, json.loads(spec)) for spec in specs],
            "parquetHistory": lambda liveKeys: self.parquet_history(run),
            "events": lambda samples=500: _sample(run.events, samples),
            "logLines": lambda **args: self.log_lines(run, **args),
            "fileCount": len(run.files),
            "files": lambda **args: self.files(run, **args),
            "outputArtifacts": lambda after=None, first=None: self.artifact_connection(
                run.outputs, first, after
            ),
            "inputArtifacts": lambda after=None, first=None: self.artifact_connection(
                run.inputs, first, after
            ),
        }

    def history(
        self,
        run: Run,
        samples: int = 500,
        minStep: int = 0,
        maxStep: int = 2**62,
    ) -> list[str]:
        rows = sorted(run.history, key=_step)
        first, last = bisect_left(rows, minStep, key=_step), bisect_left(rows, maxStep, key=_step)
        return [dumps(row) for row in _sample(rows[first:last], samples)]

    def sampled(self, run: Run, spec: dict[str, Any]) -> list[dict[str, Any]]:
        low, high = spec.get("minStep", 0), spec.get("maxStep", 2**62)
        rows = [r for r in run.history if low <= r["_step"] <= high and all(k in r for k in spec["keys"])]
        return [
            json.loads(dumps({k: row[k] for k in spec["keys"]})) for row in _sample(rows, spec["samples"])
        ]

    def parquet_history(self, run: Run) -> Node:
        live = run.history[run.exported_rows :]
        url = f"{self.server.url}/parquet/{run.entity}/{run.project}/{run.name}"
        return {
            "parquetUrls": [url] if run.exported_rows else [],
            "liveData": [{"_step": row["_step"]} for row in live[:1]],
        }

    def log_lines(
        self, run: Run, first: int | None = None, after: str | None = None, last: int | None = None, **_: Any
    ) -> Node:
        lines = sorted(run.logs.items())
        if last is not None:
            lines = lines[-last:]
        return connection(lines, _log_line, first, after)

    def files(
        self,
        run: Run,
        names: list[str] | None = None,
        after: str | None = None,
        first: int | None = 50,
        pattern: str | None = None,
    ) -> Node:
        wild = pattern.replace("%", "*") if pattern else "*"
        found = [n for n in sorted(run.files) if (not names or n in names) and fnmatch.fnmatchcase(n, wild)]
        return connection(found, lambda name: self._file(run, name), first, after)

    def _file(self, run: Run, name: str) -> Node:
        url = f"{self.server.url}/run-files/{run.entity}/{run.project}/{run.name}/{quote(name)}"
        return {
            "__typename": "File",
            "id": make_id("File", run.name, name),
            "name": name,
            "url": lambda upload=False: url,
            "directUrl": url,
            "sizeBytes": len(run.files[name]),
            "mimetype": "application/octet-stream",
            "updatedAt": now(),
            "md5": None,
        }

    # --- mutations of runs ---

    def run_mutations(self) -> Node:
        return {
            "upsertBucket": self.upsert_bucket,
            "createRunFiles": self.create_run_files,
            "markRunFilesUploaded": lambda input: {"success": True},
            "deleteRun": self.delete_run,
            "upsertModel": self.upsert_project,
        }

    def upsert_project(self, input: dict[str, Any]) -> Node:
        entity = input.get("entityName") or self.server.entity
        self.state.project(entity, input["name"])
        project = self.project(name=input["name"], entityName=entity)
        return {"model": project, "project": project, "inserted": True}

    def upsert_bucket(self, input: dict[str, Any]) -> Node:
        if input.get("id") and (run := self.state.run_by_id(input["id"])):
            inserted = False
        else:
            entity = input.get("entityName") or self.server.entity
            key = (entity, input.get("modelName") or "uncategorized", input["name"])
            if key in self.state.deleted_runs:
                raise FieldError(
                    f"run {'/'.join(key)} was previously created and deleted; try a new run name", 409
                )
            inserted = key not in self.state.runs
            self.state.project(*key[:2])
            run = self.state.runs.setdefault(key, Run(*key))
            run.state = "running"
        for name, value in input.items():
            if value is None:
                continue
            if name == "config":
                run.config = json.loads(value)
            elif name == "summaryMetrics":
                run.summary = json.loads(value)
            else:
                run.fields[name] = value
        return {"bucket": self.run_node(run), "inserted": inserted}

    def create_run_files(self, input: dict[str, Any]) -> Node:
        run = self.state.run(input["entityName"], input["projectName"], input["runName"])
        if run is None:
            raise FieldError("run not found", 404)
        made = []
        for name in input["files"]:
            key = self.state.storage_key()
            self.state.uploads[key] = lambda data, name=name: run.files.__setitem__(name, data)
            made.append({"name": name, "uploadUrl": f"{self.server.url}/storage/{key}"})
        return {"runID": run.id, "uploadHeaders": [], "files": made}

    def delete_run(self, input: dict[str, Any]) -> Node:
        run = self.state.run_by_id(input["id"])
        if run is None:
            raise FieldError("run not found", 404)
        self.server.delete(f"{run.entity}/{run.project}/{run.name}")
        return {"clientMutationId": None}


def _history_keys(run: Run) -> Node | None:
    if not run.history:
        return None
    count = {"typeCounts": [{"type": "number", "count": 1}], "monotonic": False}
    return {"keys": {k: count for row in run.history for k in row}, "lastStep": run.last_step, "sets": []}


def _log_line(line: tuple[int, str]) -> Node:
    """Lines arrive as `[ERROR ]TIMESTAMP TEXT` (core/internal/runconsolelogs)."""
    number, text = line
    level = ""
    if text.startswith("ERROR "):
        level, text = "error", text.removeprefix("ERROR ")
    time, _, content = text.partition(" ")
    return {"number": number, "timestamp": time, "level": level, "label": "", "line": content}


def _step(row: dict[str, Any]) -> int:
    return int(row["_step"])


def _sample(items: list[Any], count: int) -> list[Any]:
    if len(items) <= count:
        return items
    return [items[i * len(items) // count] for i in range(count)]


def _matches(run: Run, condition: dict[str, Any]) -> bool:
    """The part of the filter language (MongoDB's) that callers use."""
    for key, wanted in condition.items():
        if key == "$and":
            if not all(_matches(run, c) for c in wanted):
                return False
            continue
        if key == "$or":
            if not any(_matches(run, c) for c in wanted):
                return False
            continue
        held: Any = {"state": run.state, "name": run.name, **run.fields}.get(key)
        if key.startswith(("config.", "summary_metrics.")):
            first, *path = key.split(".")
            held = run.config if first == "config" else run.summary
            for part in path:
                held = held.get(part) if isinstance(held, dict) else None
        if isinstance(wanted, dict):
            checks = {
                "$exists": lambda w, held=held: (held is not None) == w,
                "$ne": lambda w, held=held: held != w,
                "$in": lambda w, held=held: held in w,
            }
            if not all(checks[op](value) for op, value in wanted.items()):
                return False
        elif held != wanted:
            return False
    return True
