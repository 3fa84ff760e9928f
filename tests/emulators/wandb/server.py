"""The emulated server over HTTP, with faults on demand."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .graphql import FieldError, execute, operation_name
from .resolvers import Resolvers
from .state import Run, State

API_KEY = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Fault:
    """The next `times` requests whose name matches `on` are answered with `status`, or dropped (0)."""

    on: str
    status: int
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False
    """True: the request takes effect before its answer is lost."""


class WandbServer:
    """`entity` is the user's; an organization of the name `entity + "-org"` holds the registry."""

    def __init__(self, entity: str = "ada") -> None:
        self.entity = entity
        self.state = State()
        self.faults: list[Fault] = []
        self.requests: Counter[str] = Counter()
        """Requests by name: an operation, `file_stream`, `PUT storage`, `GET storage`."""
        self.resolvers = Resolvers(self)
        self.hook: Callable[[str], None] | None = None
        """Called with the name of each request before it is served."""
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"emulator": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> WandbServer:
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """The variables with which the SDK talks to this server and writes only below `home`."""
        home.mkdir(parents=True, exist_ok=True)
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": API_KEY,
            "WANDB_DIR": str(home),
            "WANDB_CACHE_DIR": str(home / "cache"),
            "WANDB_DATA_DIR": str(home / "data"),
            "WANDB_CONFIG_DIR": str(home / "config"),
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_SILENT": "true",
            "WANDB_CONSOLE": "off",
        }

    def run(self, path: str) -> Run:
        entity, project, name = path.split("/")
        return self.state.runs[entity, project, name]

    def delete(self, path: str) -> None:
        """Delete a run as a user does: its id is refused from then on."""
        entity, project, name = path.split("/")
        del self.state.runs[entity, project, name]
        self.state.deleted_runs.add((entity, project, name))

    def export_history(self, rows: int | None = None) -> None:
        """Let every run's history, or its first `rows` rows, be offered as Parquet."""
        for run in self.state.runs.values():
            run.exported_rows = len(run.history) if rows is None else min(rows, len(run.history))
            run.export = parquet(run) if run.exported_rows else b""

    def fault_for(self, name: str) -> Fault | None:
        with self.state.lock:
            for fault in self.faults:
                if fault.times > 0 and re.fullmatch(fault.on, name):
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    emulator: WandbServer

    def log_message(self, *args: Any) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(6, 1, 1)  # TCP_NODELAY: answers are written in two parts

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            data = b"".join(parts)
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def _answer(self, status: int, data: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _serve(self, name: str, work: Callable[[], tuple[int, bytes, str]]) -> None:
        server = self.emulator
        with server.state.lock:
            server.requests[name] += 1
        if server.hook is not None:
            server.hook(name)
        fault = server.fault_for(name)
        if fault is not None:
            if fault.after:
                work()
            if fault.status == 0:
                self.close_connection = True
                self.connection.close()
                return
            self._answer(fault.status, b'{"error": "fault"}', **fault.headers)
            return
        try:
            status, data, kind = work()
        except FieldError as error:
            status, kind = error.status, "application/json"
            data = json.dumps({"data": None, "errors": [{"message": str(error)}]}).encode()
        self._answer(status, data, kind)

    def do_POST(self) -> None:
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        if path == "/graphql":
            wanted = "Basic " + base64.b64encode(f"api:{API_KEY}".encode()).decode()
            if self.headers.get("Authorization") != wanted:
                self._answer(401, b'{"error": "unauthorized"}')
                return
            request = json.loads(body)
            query, variables = request["query"], request.get("variables") or {}
            self._serve(operation_name(query), lambda: self._graphql(query, variables))
        elif match := re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", path):
            self._serve("file_stream", lambda: self._file_stream(match.groups(), json.loads(body)))
        else:
            self._answer(404, b"{}")

    def _graphql(self, query: str, variables: dict[str, Any]) -> tuple[int, bytes, str]:
        resolvers = self.emulator.resolvers
        with self.emulator.state.lock:
            data = execute(query, variables, {"query": resolvers.query(), "mutation": resolvers.mutation()})
        return 200, json.dumps({"data": data}).encode(), "application/json"

    def _file_stream(self, names: tuple[str, ...], request: dict[str, Any]) -> tuple[int, bytes, str]:
        with self.emulator.state.lock:
            run = self.emulator.state.runs.get(names)  # type: ignore[arg-type]
            if run is None:
                return 404, b'{"error": "run not found"}', "application/json"
            for name, part in (request.get("files") or {}).items():
                run.stream(name, part["offset"], part["content"])
            if request.get("complete"):
                run.exit_code = request.get("exitcode", 0)
                run.state = "failed" if run.exit_code else "finished"
        return 200, b"{}", "application/json"

    def do_PUT(self) -> None:
        body = self._body()
        key = urlsplit(self.path).path.removeprefix("/storage/")

        def store() -> tuple[int, bytes, str]:
            state = self.emulator.state
            with state.lock:
                state.storage[key] = body
                if arrived := state.uploads.pop(key, None):
                    arrived(body)
            return 200, b"", "text/plain"

        self._serve("PUT storage", store)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self._serve("GET storage", lambda: self._object(path))

    do_HEAD = do_GET

    def _object(self, path: str) -> tuple[int, bytes, str]:
        state = self.emulator.state
        with state.lock:
            if path.startswith("/storage/"):
                data = state.storage.get(path.removeprefix("/storage/"))
            elif match := re.fullmatch(r"/parquet/([^/]+)/([^/]+)/([^/]+)", path):
                data = state.runs[match[1], match[2], match[3]].export
            elif match := re.fullmatch(r"/run-files/([^/]+)/([^/]+)/([^/]+)/(.+)", path):
                data = state.runs[match[1], match[2], match[3]].files.get(match[4])
            elif path.startswith("/artifactsV2/"):
                data = self._artifact_bytes(path)
            else:
                data = None
        if data is None:
            return 404, b"not found", "text/plain"
        return 200, data, "application/octet-stream"

    def _artifact_bytes(self, path: str) -> bytes | None:
        digest = path.split("/")[-2]
        for artifact in self.emulator.state.artifacts:
            for entry in (artifact.manifest or {}).get("contents", {}).values():
                if "ref" not in entry and base64.b64decode(entry["digest"]).hex() == digest:
                    name = next(n for n, e in artifact.manifest["contents"].items() if e is entry)  # type: ignore[index]
                    return self.emulator.state.storage.get(artifact.files[name])
        return None


def parquet(run: Run) -> bytes:
    """The exported rows as W&B writes them: one column per key, absent cells null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = run.history[: run.exported_rows]
    names = list(dict.fromkeys(key for row in rows for key in row))
    columns = {name: pa.array([row.get(name) for row in rows], from_pandas=False) for name in names}
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()
