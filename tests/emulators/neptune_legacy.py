"""A Neptune 2.x server, as far as the `neptune` and `minfx` clients and `neptune sync` go.

State is plain data in `Server.runs`, for tests to look at. Operations are refused where the real
server refuses them: type conflicts, NaN, integers over 32 bits, steps that do not increase.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
import tarfile
import threading
import time
import uuid
import zipfile
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from emulators.neptune_swagger import SPECS

JSON = dict[str, Any]
ATOMS = {"assignFloat": "float", "assignInt": "int", "assignBool": "bool", "assignString": "string"}
READ_ONLY = {"sys/id", "sys/creation_time", "sys/owner", "sys/custom_run_id"}


def jwt(claims: JSON) -> str:
    def part(data: JSON) -> str:
        return base64.urlsafe_b64encode(json.dumps(data).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}.c2ln"


def token(url: str) -> str:
    return base64.b64encode(
        json.dumps({"api_address": url, "api_url": url, "api_key": "0-0"}).encode()
    ).decode()


class Server:
    """`with Server("ws/project") as server:` serves on an ephemeral port of this machine."""

    def __init__(self, *projects: str) -> None:
        self.projects = {name: str(uuid.uuid5(uuid.NAMESPACE_URL, name)) for name in projects}
        self.runs: dict[str, JSON] = {}
        """Container id → {id, type, shortId, project, parent, attributes: {path: {type, …}}, trashed}."""
        self.artifacts: dict[str, list[JSON]] = {}
        self.calls: list[str] = []
        self.fail: dict[str, tuple[int, JSON]] = {}
        """Operation id → (status, body) to answer instead, until taken out."""
        self.lock = threading.RLock()

    def __enter__(self) -> Server:
        server = self

        class Handler(_Handler):
            state = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def token(self) -> str:
        return token(self.url)

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


class _Handler(BaseHTTPRequestHandler):
    state: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_DELETE = do_GET

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(parts.path)
        found = re.fullmatch(r"/api/(\w+)/swagger\.json", path)
        if found:
            return self._send(200, SPECS[found[1]](self.state.url))
        if path.endswith("/openid-connect/token"):
            return self._send(200, self._tokens() | {"token_type": "bearer", "expires_in": 3600})
        name = path.rsplit("/", 1)[-1]
        self.state.calls.append(name)
        if name in self.state.fail:
            return self._send(*self.state.fail[name])
        operation = getattr(self, f"op_{name}", None)
        if operation is None:  # such as the client's web socket, without which it goes on
            return self._send(404, {"code": 404, "title": f"{name} is not served here"})
        try:
            with self.state.lock:
                status, answer = operation()
        except _NoExperiment as error:
            status, answer = 404, {"code": 404, "errorType": "EXPERIMENT_NOT_FOUND", "title": str(error)}
        except KeyError as error:
            status, answer = 404, {"code": 404, "title": f"no attribute {error}"}
        self._send(status, answer)

    def _send(self, status: int, answer: Any) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(answer, bytes) else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

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

    def op_fileAtomUpload(self) -> tuple[int, Any]:
        path, ext = self.query["attribute"], self.query.get("ext") or ""
        name = path.rsplit("/", 1)[-1]
        self.run["attributes"][path] = {"type": "file", "ext": ext, "content": self.body, "name": name}
        return 200, {"errors": []}

    def _file_set(self) -> dict[str, bytes]:
        empty: JSON = {"type": "fileSet", "files": {}}
        files: dict[str, bytes] = self.run["attributes"].setdefault(self.query["attribute"], empty)["files"]
        return files

    def op_fileSetFileUpload(self) -> tuple[int, Any]:
        self._file_set()[self.query["subPath"]] = self.body
        return 200, {"errors": []}

    def op_uploadFileSetAttributeTar(self) -> tuple[int, Any]:
        files = self._file_set()
        if self.query.get("reset") == "True":
            files.clear()
        with tarfile.open(fileobj=io.BytesIO(self.body)) as archive:
            for member in archive.getmembers():
                if (stream := archive.extractfile(member)) is not None:
                    files[member.name] = stream.read()
        return 200, {"errors": []}

    def op_downloadAttribute(self) -> tuple[int, Any]:
        return 200, self.attribute["content"]

    def op_prepareForDownloadFileSetAttributeZip(self) -> tuple[int, Any]:
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            for name, content in self.attribute["files"].items():
                archive.writestr(name, content)
        id = str(uuid.uuid4())
        self.state.artifacts[id] = [{"zip": data.getvalue()}]
        return 200, {"id": id}

    def op_getDownloadPrepareRequest(self) -> tuple[int, Any]:
        return 200, {
            "id": self.query["id"],
            "downloadUrl": f"{self.state.url}/api/leaderboard/zip?id={self.query['id']}",
        }

    def op_zip(self) -> tuple[int, Any]:
        return 200, self.state.artifacts[self.query["id"]][0]["zip"]

    def op_createNewArtifact(self) -> tuple[int, Any]:
        digest = self.query.get("hash") or ""
        new = digest not in self.state.artifacts
        self.state.artifacts.setdefault(digest, [])
        return 200, {"artifactHash": digest, "hash": digest, "receivedMetadata": not new, "size": 0}

    def op_uploadArtifactFilesMetadata(self) -> tuple[int, Any]:
        digest = self.query["hash"]
        self.state.artifacts[digest] = json.loads(self.body)["files"]
        return 200, {"artifactHash": digest, "hash": digest, "receivedMetadata": True, "size": 0}

    op_createArtifactVersion = op_uploadArtifactFilesMetadata

    def op_listArtifactFiles(self) -> tuple[int, Any]:
        return 200, {"files": self.state.artifacts[self.query["hash"]]}
