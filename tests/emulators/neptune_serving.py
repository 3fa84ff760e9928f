"""What the emulated servers of Neptune 2.x and 3.x have in common: how they run, tokens, requests."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self

JSON = dict[str, Any]


def jwt(claims: JSON) -> str:
    def part(data: JSON) -> str:
        return base64.urlsafe_b64encode(json.dumps(data).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}.c2ln"


def token(url: str) -> str:
    return base64.b64encode(
        json.dumps({"api_address": url, "api_url": url, "api_key": "0-0"}).encode()
    ).decode()


class _Listener(ThreadingHTTPServer):
    request_queue_size = 64  # the 3.x client uploads 50 files at once
    daemon_threads = True


class Serving:
    """`with Server("ws/project") as server:` serves on an ephemeral port of this machine."""

    handler: ClassVar[type[Handler]]

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def __enter__(self) -> Self:
        self._http = _Listener(("127.0.0.1", 0), type("Bound", (self.handler,), {"state": self}))
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


class Handler(BaseHTTPRequestHandler):
    state: Any
    """The `Serving`."""
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    binary = "application/octet-stream"
    """Media type of an answer that is bytes."""
    body: bytes

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, answer = self.answer()
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", self.binary if isinstance(answer, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in self.more_headers().items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_PUT = do_DELETE = do_GET

    def answer(self) -> tuple[int, Any]:
        """Status, and JSON or bytes."""
        raise NotImplementedError

    def more_headers(self) -> dict[str, str]:
        return {}
