"""A Neptune 3.x server, as far as `neptune-scale` and its `neptune sync` go: log in, ingest, upload.

State is plain data in `Server.runs`. Operations are refused where the real server refuses them:
steps that do not increase, type conflicts, a missing fork parent. Reading is
`emulators.neptune_reading`.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from emulators import neptune_reading
from emulators.neptune_serving import JSON, Handler, Serving, jwt
from neptune_api.proto.google_rpc.code_pb2 import Code
from neptune_api.proto.neptune_pb.ingest.v1.ingest_pb2 import IngestCode
from neptune_api.proto.neptune_pb.ingest.v1.pub.client_pb2 import (
    BulkRequestStatus,
    RequestIdList,
    SubmitResponse,
)
from neptune_api.proto.neptune_pb.ingest.v1.pub.ingest_pb2 import RunOperation
from neptune_api.proto.neptune_pb.ingest.v1.pub.request_status_pb2 import RequestStatus


class Server(Serving):
    def __init__(self, *projects: str) -> None:
        super().__init__()
        self.projects = set(projects)
        self.runs: dict[tuple[str, str], JSON] = {}
        """(project, run id) → {create, attributes: {path: value}, series: {path: [(step, micros, value)]}}."""
        self.files: dict[str, bytes] = {}
        self.errors: list[int] = []
        """Every ingest code that was not OK."""
        self.references: dict[str, tuple[int, str]] = {}
        """Path in the file store → (bytes, media type), as announced."""
        self.fail: dict[str, int] = {}
        """Path of a request → HTTP status to answer instead."""
        self._statuses: dict[str, list[int]] = {}

    def ingest(self, operation: RunOperation) -> list[str]:
        """Apply an operation; the ids under which its outcome can be asked for."""
        if operation.project not in self.projects:
            codes = [IngestCode.PROJECT_NOT_FOUND]
        elif operation.HasField("create"):
            codes = [self._create(operation)]
        else:
            updates = operation.update_batch.snapshots or [operation.update]
            codes = [self._update(operation, update) for update in updates]
        ids = [str(uuid.uuid4()) for _ in codes]
        self._statuses |= {id: [code] for id, code in zip(ids, codes, strict=True)}
        # Only the last id is asked for by the client: it answers for the whole batch.
        self._statuses[ids[-1]] = codes
        self.errors += [code for code in codes if code != IngestCode.OK]
        return ids

    def _create(self, operation: RunOperation) -> int:
        create = operation.create
        key = (operation.project, operation.run_id)
        if create.HasField("fork_point"):
            parent = (operation.project, create.fork_point.parent_run_id)
            if parent not in self.runs:
                return int(IngestCode.RUN_FORK_PARENT_NOT_FOUND)
        if key in self.runs:
            return int(IngestCode.RUN_DUPLICATE)
        began = create.creation_time.seconds * 1_000_000 + create.creation_time.nanos // 1_000
        number = len(self.runs) + 1
        attributes = {
            "sys/id": ("string", f"RUN-{number}"),
            "sys/custom_run_id": ("string", operation.run_id),
            "sys/creation_time": ("timestamp", began or time.time_ns() // 1_000),
        }
        if create.experiment_id:
            attributes["sys/name"] = ("string", create.experiment_id)
        if create.HasField("fork_point"):
            step = create.fork_point.step.whole + create.fork_point.step.micro / 1e6
            attributes["sys/forking/parent"] = ("string", create.fork_point.parent_run_id)
            attributes["sys/forking/step"] = ("float64", step)
        self.runs[key] = {"create": create, "attributes": attributes, "series": {}, "kinds": {}}
        return int(IngestCode.OK)

    def _update(self, operation: RunOperation, update: Any) -> int:
        run = self.runs.get((operation.project, operation.run_id))
        if run is None:
            return int(IngestCode.RUN_NOT_FOUND)
        code = int(IngestCode.OK)
        for path, value in update.assign.items():
            kind = value.WhichOneof("value")
            held = run["attributes"].get(path)
            if path in run["series"] or (held is not None and held[0] != kind):
                code = int(IngestCode.FIELD_TYPE_CONFLICTING)
                continue
            run["attributes"][path] = (kind, self._keep(value))
        for path, change in update.modify_sets.items():
            words = set(run["attributes"].get(path, ("string_set", []))[1])
            for word, action in change.string.values.items():
                words = words | {word} if action == 1 else words - {word}
            run["attributes"][path] = ("string_set", sorted(words))
        for path, value in update.append.items():
            if path in run["attributes"]:
                code = int(IngestCode.FIELD_TYPE_CONFLICTING)
                continue
            step = update.step.whole + update.step.micro / 1e6
            micros = update.timestamp.seconds * 1_000_000 + update.timestamp.nanos // 1_000
            series = run["series"].setdefault(path, [])
            if series and step <= series[-1][0]:
                code = int(IngestCode.SERIES_STEP_NON_INCREASING)
                continue
            run["kinds"][path] = value.WhichOneof("value")
            series.append((step, micros, self._keep(value)))
        return code

    def _keep(self, value: Any) -> Any:
        if value.WhichOneof("value") == "file_ref":
            reference = value.file_ref
            self.references[reference.path] = (reference.size_bytes, reference.mime_type)
        return _plain(value)

    def status(self, id: str) -> RequestStatus:
        status = RequestStatus()
        codes = self._statuses.get(id, [int(IngestCode.RUN_NOT_FOUND)])
        for code in sorted(set(codes)):
            status.code_by_count.add(
                code=Code.OK if code == IngestCode.OK else Code.INVALID_ARGUMENT,
                count=codes.count(code),
                detail=code,
            )
        return status


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    held = getattr(value, kind)
    if kind == "timestamp":
        return held.seconds * 1_000_000 + held.nanos // 1_000
    if kind == "string_set":
        return sorted(held.values)
    if kind == "histogram":
        return list(held.bin_edges), list(getattr(held, held.WhichOneof("values")).values)
    return held.path if kind == "file_ref" else held


class _Handler(Handler):
    state: Server
    binary = "application/x-protobuf"

    def answer(self) -> tuple[int, Any]:
        self.query = parse_qs(urlsplit(self.path).query)
        with self.state.lock:
            return self._answer(unquote(urlsplit(self.path).path))

    def more_headers(self) -> dict[str, str]:
        """What a store of S3's kind says of an upload."""
        return {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'} if self.command == "PUT" else {}

    def _answer(self, path: str) -> tuple[int, Any]:
        url = self.state.url
        if path in self.state.fail:
            return self.state.fail[path], {"code": self.state.fail[path], "message": "", "errorType": ""}
        if path.startswith("/api/leaderboard/"):
            project = self.query.get("projectIdentifier", [None])[0]
            return neptune_reading.answer(self.state, path, project, json.loads(self.body))
        match path:
            case "/api/backend/v1/clients/config":
                security = {"clientId": "neptune", "openIdDiscovery": f"{url}/openid"}
                return 200, {"apiUrl": url, "applicationUrl": url, "pyLibVersions": {}, "security": security}
            case "/openid":
                return 200, {"authorization_endpoint": f"{url}/auth", "token_endpoint": f"{url}/token"}
            case "/api/backend/v1/authorization/oauth-token" | "/token":
                access = jwt({"exp": int(time.time()) + 3600, "azp": "neptune", "iss": url})
                tokens = {"accessToken": access, "refreshToken": access, "username": "ada"}
                return 200, tokens | {"access_token": access, "refresh_token": access}
            case "/api/client/v1/ingest":
                ids = self.state.ingest(RunOperation.FromString(self.body))
                return 200, SubmitResponse(request_id=ids[-1], request_ids=ids).SerializeToString()
            case "/api/client/v1/ingest/check":
                asked = RequestIdList.FromString(self.body).ids
                statuses = [self.state.status(id.value) for id in asked]
                return 200, BulkRequestStatus(statuses=statuses).SerializeToString()
            case "/api/storagebridge/v1/signedUrl":
                files = json.loads(self.body)["files"]
                signed = [
                    {
                        "path": file["path"],
                        "project_identifier": file["project_identifier"],
                        "provider": "aws",
                        "url": f"{url}/blob/{file['path']}",
                    }
                    for file in files
                ]
                return 200, {"files": signed}
            case _ if path.startswith("/blob/") and self.command == "GET":
                name = path.removeprefix("/blob/")
                return (200, self.state.files[name]) if name in self.state.files else (404, {})
            case _ if path.startswith("/blob/"):
                self.state.files[path.removeprefix("/blob/")] = self.body
                return 200, {}
        return 404, {"code": 404, "message": f"{path} is not served here", "title": "", "errorType": ""}


Server.handler = _Handler
