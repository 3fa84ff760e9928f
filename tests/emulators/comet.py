"""A Comet server in this process: what the vendor's unmodified SDK and uploader need to complete.

State is in memory. `faults` makes chosen requests fail: with a status, or with a dropped connection.
"""

from __future__ import annotations

import email.parser
import email.policy
import gzip
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

VERSION = "4.40.0"
API_KEY = "emulated-key"


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(slots=True)
class Fault:
    """The next `times` requests whose path matches fail; `after` of them pass first."""

    path: str
    status: int = 500
    times: int = 1
    after: int = 0
    drop: bool = False
    retry_after: float | None = None
    body: bytes = b""
    """Only requests whose body holds this."""
    action: Callable[[], None] | None = None
    """Called with each failing request, before its answer."""
    seen: int = 0


@dataclass(slots=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    body: bytes
    fields: dict[str, bytes] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def __getitem__(self, name: str) -> str:
        """A parameter, from the query or the JSON body."""
        if name in self.query:
            return self.query[name]
        return self.json[name]


Handler = Callable[["State", Request], Any]
ROUTES: list[tuple[str, re.Pattern[str], Handler]] = []


def route(method: str, pattern: str) -> Callable[[Handler], Handler]:
    """Register a handler; the pattern is matched against the path without its leading slash."""

    def register(handler: Handler) -> Handler:
        ROUTES.append((method, re.compile(pattern), handler))
        return handler

    return register


@dataclass(slots=True)
class Experiment:
    key: str
    workspace: str
    project: str
    start: int
    end: int | None = None
    running: bool = True
    crashed: bool = False
    archived: bool = False
    error: str | None = None
    tags: list[str] = field(default_factory=list)
    metrics: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    output: list[str] = field(default_factory=list)
    system: dict[str, Any] = field(default_factory=dict)
    git: dict[str, Any] = field(default_factory=dict)
    packages: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    assets: list[dict[str, Any]] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)


@dataclass
class State:
    """Everything that the server holds."""

    limit: int = 15_000
    """Values of one metric that it stores; the rest is refused silently, as Comet does."""
    experiments: dict[str, Experiment] = field(default_factory=dict)
    projects: dict[tuple[str, str], str] = field(default_factory=dict)
    bytes: dict[str, bytes] = field(default_factory=dict)
    """Asset id → its bytes."""
    artifacts: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    models: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def experiment(self, key: str) -> Experiment:
        try:
            return self.experiments[key]
        except KeyError:
            raise Refused(400, f"no experiment {key}", 90404) from None

    def fault(self, path: str, body: bytes = b"") -> Fault | None:
        with self.lock:
            self.requests.append(path)
            for fault in self.faults:
                if re.search(fault.path, path) and fault.body in body:
                    fault.seen += 1
                    if fault.after < fault.seen <= fault.after + fault.times:
                        return fault
        return None


def now() -> int:
    return int(time.time() * 1000)


class _Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True
    state: State

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _answer(self, method: str) -> None:
        parts = urlsplit(self.path)
        path = re.sub("/+", "/", unquote(parts.path)).strip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunked()
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if fault := self.state.fault(path, body):
            if fault.action is not None:
                fault.action()
            if fault.drop:
                self.close_connection = True
                self.connection.close()
                return
            extra = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            self._send(fault.status, {"msg": "a fault on demand"}, extra)
            return
        query = {k: v[-1] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        request = Request(method, path, query, body, self._fields(body))
        try:
            self._authorise(request)
            with self.state.lock:
                status, result = 200, self._dispatch(request)
        except Refused as error:
            status, result = error.status, {"msg": error.message, "sdk_error_code": error.code}
        self._send(status, result)

    def _chunked(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _authorise(self, request: Request) -> None:
        key = self.headers.get("Authorization") or self.headers.get("Comet-Sdk-Api-Key")
        if key is None and request.body[:1] == b"{":
            key = request.json.get("apiKey") or request.json.get("api_key")
        key = key or request.query.get("apiKey")
        if key != API_KEY and "isAlive" not in request.path and "ping" not in request.path:
            raise Refused(401, "the API key is not known", 90401)

    def _dispatch(self, request: Request) -> Any:
        for method, pattern, handler in ROUTES:
            if method == request.method and pattern.fullmatch(request.path):
                return handler(self.state, request)
        raise Refused(404, f"no route for {request.method} {request.path}")

    def _fields(self, body: bytes) -> dict[str, bytes]:
        kind = self.headers.get("Content-Type") or ""
        if not kind.startswith("multipart/"):
            return {}
        head = f"Content-Type: {kind}\r\n\r\n".encode()
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
        found = {}
        for part in message.iter_parts():
            name = part.get_param("name", header="content-disposition")
            found[str(name)] = _raw(body, kind, str(name))
        return found

    def _send(self, status: int, result: Any, headers: dict[str, str] | None = None) -> None:
        data = result if isinstance(result, bytes) else json.dumps(result).encode()
        kind = "application/octet-stream" if isinstance(result, bytes) else "application/json"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _raw(body: bytes, kind: str, name: str) -> bytes:
    """The exact bytes of a part: the e-mail parser may touch line ends of binary data."""
    match = re.search(r'boundary="?([^";]+)', kind)
    assert match is not None
    for part in body.split(b"--" + match[1].encode())[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        if f'name="{name}"'.encode() in head:
            return data[:-2]
    return b""


class CometServer:
    """`with CometServer() as server:` — `server.url` is what COMET_URL_OVERRIDE wants."""

    def __init__(self) -> None:
        from . import comet_read, comet_registry, comet_write  # noqa: F401 (they register their routes)

        self.state = State()
        handler = type("Handler", (_Server,), {"state": self.state})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def reset(self) -> None:
        """Forget everything."""
        self.state.__init__()  # type: ignore[misc]

    def __enter__(self) -> CometServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)
