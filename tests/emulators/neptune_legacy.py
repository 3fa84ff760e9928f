"""A Neptune 2.x server, as far as the `neptune` and `minfx` clients and `neptune sync` go.

State is plain data in `Server.runs`, for tests to look at. Operations are refused where the real
server refuses them: type conflicts, NaN, integers over 32 bits, steps that do not increase.
"""

from __future__ import annotations

import base64
import json
import math
import re
import time
import uuid
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from emulators.neptune_legacy_files import FileOperations
from emulators.neptune_serving import JSON, Serving, jwt
from emulators.neptune_swagger import SPECS

ATOMS = {"assignFloat": "float", "assignInt": "int", "assignBool": "bool", "assignString": "string"}
READ_ONLY = {"sys/id", "sys/creation_time", "sys/owner", "sys/custom_run_id"}


class Server(Serving):
    def __init__(self, *projects: str) -> None:
        super().__init__()
        self.projects = {name: str(uuid.uuid5(uuid.NAMESPACE_URL, name)) for name in projects}
        self.runs: dict[str, JSON] = {}
        """Container id → {id, type, shortId, project, parent, attributes: {path: {type, …}}, trashed}."""
        self.artifacts: dict[str, list[JSON]] = {}
        self.calls: list[str] = []
        self.fail: dict[str, tuple[int, JSON]] = {}
        """Operation id → (status, body) to answer instead, until taken out."""

    def create(
        self, project_id: str, kind: str = "run", custom: str | None = None, parent: str | None = None
    ) -> JSON:
        with self.lock:
            for run in self.runs.values():
                if custom and run["custom"] == custom and run["projectId"] == project_id:
                    return run
            name = next(name for name, id in self.projects.items() if id == project_id)
            count = sum(run["projectId"] == project_id for run in self.runs.values())
            run = {
                "id": str(uuid.uuid4()), "type": kind, "shortId": f"PRO-{count + 1}", "custom": custom,
                "projectId": project_id, "project": name, "parent": parent, "trashed": False, "attributes": {},
            }  # fmt: skip
            now = _millis()
            for path, type_, value in (
                ("sys/id", "string", run["shortId"]),
                ("sys/creation_time", "datetime", now),
                ("sys/modification_time", "datetime", now),
                ("sys/owner", "string", "ada"),
                ("sys/trashed", "bool", False),
                ("sys/failed", "bool", False),
            ):
                run["attributes"][path] = {"type": type_, "value": value}
            run["attributes"]["sys/state"] = {"type": "experimentState", "value": "idle"}
            if custom:
                run["attributes"]["sys/custom_run_id"] = {"type": "string", "value": custom}
            self.runs[run["id"]] = run
            return run

    def find(self, identifier: str) -> JSON | None:
        if identifier in self.runs:
            return self.runs[identifier]
        for run in self.runs.values():
            if identifier in (f"{run['project']}/{run['shortId']}", run["shortId"]):
                return run
        return None

    def execute(self, run: JSON, operation: JSON) -> str | None:
        """Apply one operation; what is wrong with it, or None."""
        path = operation["path"]
        kind, details = next((k, v) for k, v in operation.items() if k != "path" and v is not None)
        attributes = run["attributes"]
        if path == "sys/state":  # Minfx's client sets it
            attributes[path]["value"] = details.get("value")
            return None
        if path in READ_ONLY:
            return f"{path} is read-only"
        held = attributes.get(path)

        def conflict(type_: str) -> bool:
            return held is not None and held["type"] != type_

        if kind in ATOMS or kind == "assignDatetime":
            type_ = ATOMS.get(kind, "datetime")
            value = details["valueMilliseconds"] if kind == "assignDatetime" else details["value"]
            if conflict(type_):
                return f"{path} is a {held['type']}"
            if kind == "assignFloat" and (value is None or not math.isfinite(value)):
                return f"{path}: the value is not a finite number"
            if kind == "assignInt" and not -(2**31) <= value < 2**31:
                return f"{path}: the value is outside 32 bits"
            attributes[path] = {"type": type_, "value": value}
        elif kind in ("logFloats", "logStrings", "logImages"):
            type_ = {"logFloats": "floatSeries", "logStrings": "stringSeries", "logImages": "imageSeries"}[
                kind
            ]
            if conflict(type_):
                return f"{path} is a {held['type']}"
            return self._log(
                attributes.setdefault(path, {"type": type_, "values": []}), details["entries"], path
            )
        elif kind in ("clearFloatSeries", "clearStringSeries", "clearImageSeries"):
            if held:
                held["values"] = []
        elif kind in ("insertStrings", "removeStrings", "clearStringSet"):
            words = set(held["values"]) if held else set()
            change = set(details.get("values") or ())
            words = words | change if kind == "insertStrings" else words - change if change else set()
            attributes[path] = {"type": "stringSet", "values": sorted(words)}
        elif kind == "deleteAttribute":
            attributes.pop(path, None)
        elif kind == "assignArtifact":
            attributes[path] = {"type": "artifact", "hash": details["hash"]}
        elif kind == "configFloatSeries":
            attributes.setdefault(path, {"type": "floatSeries", "values": []})["config"] = details
        else:
            return f"unknown operation {kind}"
        attributes["sys/modification_time"]["value"] = _millis()
        return None

    def _log(self, attribute: JSON, entries: list[JSON], path: str) -> str | None:
        error = None
        for entry in entries:
            last = attribute["values"][-1]["step"] if attribute["values"] else None
            step = entry.get("step")
            step = (0.0 if last is None else last + 1) if step is None else float(step)
            if last is not None and step <= last:
                error = f"{path}: steps must be strictly increasing, {step} is not above {last}"
                continue
            if attribute["type"] == "floatSeries" and not math.isfinite(entry["value"]):
                error = f"{path}: the value is not a finite number"
                continue
            point = {"step": step, "timestampMillis": entry["timestampMilliseconds"], "value": entry["value"]}
            attribute["values"].append(point)
        return error


def _millis() -> int:
    return int(time.time() * 1000)


def _iso(millis: int) -> str:
    return (
        datetime.fromtimestamp(millis / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def described(run: JSON) -> JSON:
    workspace, _, project = run["project"].partition("/")
    return {
        "id": run["id"], "type": run["type"], "shortId": run["shortId"], "organizationName": workspace,
        "projectName": project, "trashed": run["trashed"],
    }  # fmt: skip


def properties(path: str, attribute: JSON) -> JSON:
    kind = attribute["type"]
    held: JSON = {"attributeName": path, "attributeType": kind}
    if "value" in attribute:
        held["value"] = _iso(attribute["value"]) if kind == "datetime" else attribute["value"]
    elif kind == "stringSet":
        held["values"] = attribute["values"]
    elif kind in ("floatSeries", "stringSeries", "imageSeries"):
        last = attribute["values"][-1] if attribute["values"] else {}
        held |= {"last": last.get("value"), "lastStep": last.get("step"), "config": attribute.get("config")}
    elif kind == "file":
        held |= {"name": attribute["name"], "ext": attribute["ext"], "size": len(attribute["content"])}
    elif kind == "fileSet":
        held |= {"size": sum(map(len, attribute["files"].values()))}
    elif kind == "artifact":
        held |= {"hash": attribute["hash"]}
    return {"name": path, "type": kind, f"{kind}Properties": held}


class _NoExperiment(Exception):
    pass


class _Handler(FileOperations):
    state: Server

    def answer(self) -> tuple[int, Any]:
        parts = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        path = unquote(parts.path)
        found = re.fullmatch(r"/api/(\w+)/swagger\.json", path)
        if found:
            return 200, SPECS[found[1]](self.state.url)
        if path.endswith("/openid-connect/token"):
            return 200, self._tokens() | {"token_type": "bearer", "expires_in": 3600}
        name = path.rsplit("/", 1)[-1]
        self.state.calls.append(name)
        if name in self.state.fail:
            return self.state.fail[name]
        operation = getattr(self, f"op_{name}", None)
        if operation is None:  # such as the client's web socket, without which it goes on
            return 404, {"code": 404, "title": f"{name} is not served here"}
        try:
            with self.state.lock:
                answered: tuple[int, Any] = operation()
        except _NoExperiment as error:
            return 404, {"code": 404, "errorType": "EXPERIMENT_NOT_FOUND", "title": str(error)}
        except KeyError as error:
            return 404, {"code": 404, "title": f"no attribute {error}"}
        return answered

    def _tokens(self) -> JSON:
        claims = {"exp": int(time.time()) + 3600, "azp": "neptune-cli", "iss": f"{self.state.url}/auth"}
        access = jwt(claims)
        return {
            "accessToken": access,
            "refreshToken": access,
            "access_token": access,
            "refresh_token": access,
        }

    @property
    def run(self) -> JSON:
        name = self.query.get("experimentId") or self.query.get("experimentIdentifier") or ""
        run = self.state.find(name)
        if run is None:
            raise _NoExperiment(name)
        return run

    @property
    def attribute(self) -> JSON:
        return self.run["attributes"][self.query["attribute"]]

    def op_getClientConfig(self) -> tuple[int, Any]:
        versions = {"minRecommendedVersion": None, "minCompatibleVersion": None, "maxCompatibleVersion": None}
        return 200, {
            "apiUrl": self.state.url,
            "applicationUrl": self.state.url,
            "pyLibVersions": versions,
            "artifacts": {"enabled": True, "apiVersion": 2},
            "multiPartUpload": {"enabled": False},
        }

    def op_exchangeApiToken(self) -> tuple[int, Any]:
        return 200, self._tokens()

    def op_getProject(self) -> tuple[int, Any]:
        name = self.query["projectIdentifier"]
        by_id = {id: name for name, id in self.state.projects.items()}
        name = by_id.get(name, name)
        if name not in self.state.projects:
            return 404, {"code": 404, "title": f"no project {name}"}
        workspace, _, project = name.partition("/")
        return 200, {
            "id": self.state.projects[name], "name": project, "organizationName": workspace, "version": 2,
            "projectKey": "PRO",
        }  # fmt: skip

    def op_listProjects(self) -> tuple[int, Any]:
        entries = []
        for name, id in self.state.projects.items():
            workspace, _, project = name.partition("/")
            entries.append({"id": id, "name": project, "organizationName": workspace, "projectKey": "PRO"})
        return 200, {"entries": entries}

    def op_listOrganizations(self) -> tuple[int, Any]:
        return 200, [{"id": w, "name": w} for w in {name.partition("/")[0] for name in self.state.projects}]

    def op_createExperiment(self) -> tuple[int, Any]:
        asked = json.loads(self.body)
        made = self.state.create(
            asked["projectIdentifier"], asked["type"], asked.get("customId"), asked.get("parentId")
        )
        return 200, described(made)

    def op_getExperiment(self) -> tuple[int, Any]:
        for id in self.state.projects.values():
            if self.query.get("experimentId") == id:
                return 200, {
                    "id": id,
                    "type": "project",
                    "shortId": "PRO",
                    "organizationName": "",
                    "projectName": "",
                    "trashed": False,
                }
        return 200, described(self.run)

    def op_ping(self) -> tuple[int, Any]:
        return 200, {}

    def op_executeOperations(self) -> tuple[int, Any]:
        errors = [self.state.execute(self.run, operation) for operation in json.loads(self.body)]
        return 200, [{"errorDescription": error} for error in errors if error]

    def op_getExperimentAttributes(self) -> tuple[int, Any]:
        if self.query.get("experimentId") in self.state.projects.values():
            return 200, {"attributes": []}
        run = self.run
        return 200, {"attributes": [properties(p, a) for p, a in run["attributes"].items()]}

    def _property(self) -> tuple[int, Any]:
        path = self.query["attribute"]
        described_ = properties(path, self.attribute)
        return 200, described_[f"{described_['type']}Properties"]

    op_getFloatAttribute = op_getIntAttribute = op_getBoolAttribute = op_getStringAttribute = _property
    op_getDatetimeAttribute = op_getStringSetAttribute = op_getFileAttribute = _property
    op_getFloatSeriesAttribute = op_getStringSeriesAttribute = op_getArtifactAttribute = _property

    def _values(self) -> tuple[int, Any]:
        values = self.attribute["values"]
        offset, limit = int(self.query.get("offset", 0)), int(self.query.get("limit", 1000))
        return 200, {"totalItemCount": len(values), "values": values[offset : offset + limit]}

    op_getFloatSeriesValues = op_getStringSeriesValues = op_getImageSeriesValues = _values

    def op_getImageSeriesValue(self) -> tuple[int, Any]:
        return 200, base64.b64decode(self.attribute["values"][int(self.query["index"])]["value"]["data"])

    def op_searchLeaderboardEntries(self) -> tuple[int, Any]:
        asked = json.loads(self.body)
        wanted = {f["path"] for f in asked.get("attributeFilters") or ()}
        kinds = set(parse_qs(urlsplit(self.path).query).get("type") or ["run"])
        found = []
        for run in self.state.runs.values():
            project = self.query["projectIdentifier"]
            if project in (run["projectId"], run["project"]) and run["type"] in kinds:
                held = [properties(p, a) for p, a in run["attributes"].items() if not wanted or p in wanted]
                found.append({"experimentId": run["id"], "type": run["type"], "attributes": held})
        query = (asked.get("query") or {}).get("query") or ""
        after = re.search(r"`sys/id`:string\s*>\s*\"([^\"]*)\"", query)
        if after:
            found = [f for f in found if self.state.runs[f["experimentId"]]["shortId"] > after[1]]
        found.sort(key=lambda f: self.state.runs[f["experimentId"]]["shortId"])
        page = asked.get("pagination") or {"offset": 0, "limit": 100}
        entries = found[page["offset"] : page["offset"] + page["limit"]]
        return 200, {"matchingItemCount": len(found), "entries": entries}

    def op_searchLeaderboardAttributes(self) -> tuple[int, Any]:
        return 200, {"entries": [{"name": "sys/id", "type": "string"}]}


Server.handler = _Handler
