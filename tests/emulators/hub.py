"""A Hugging Face Hub on loopback, as far as publishing a card needs one.

Completed by the unmodified huggingface_hub client: create, commit with a parent, LFS, pull
requests, downloads, and the Hub's refusals (401, gated 403, 412 on a stale parent, 429, 500).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "e" * 34
LFS_FROM = 1024
"""Bytes from which a binary file goes through LFS."""


@dataclass
class Commit:
    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repo:
    kind: str
    name: str
    private: bool
    branches: dict[str, list[Commit]] = field(default_factory=dict)
    pull_requests: dict[int, str] = field(default_factory=dict)
    gated: bool = False

    def head(self, revision: str) -> Commit:
        if revision in self.branches:
            return self.branches[revision][-1]
        for commits in self.branches.values():
            for commit in commits:
                if commit.oid == revision:
                    return commit
        raise KeyError(revision)


class Hub:
    """The state behind the server. `fail_next` answers the coming requests with those statuses."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.fail_next: list[int] = []
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        self.url = ""

    def commit(self, repo: Repo, branch: str, message: str, files: dict[str, bytes]) -> Commit:
        with self.lock:
            count = sum(len(c) for c in repo.branches.values())
            oid = hashlib.sha1(f"{repo.kind}/{repo.name}/{count}/{message}".encode()).hexdigest()
            commit = Commit(oid, message, files)
            repo.branches.setdefault(branch, []).append(commit)
            return commit


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: object = None, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if "Content-Type" not in (headers or {}):
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def refuse(self, status: int, code: str, message: str) -> None:
        self.answer(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        with self.hub.lock:
            self.hub.requests.append((self.command, path))
            failure = self.hub.fail_next.pop(0) if self.hub.fail_next else None
        if failure is not None:
            self.body()
            self.answer(failure, {"error": "as asked"}, {"Retry-After": "0"} if failure == 429 else None)
            return
        for method, pattern, name in ROUTES:
            if method == self.command and (found := re.fullmatch(pattern, path)):
                data = self.body()
                if not path.startswith("/lfs/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    self.refuse(401, "RepoNotFound", "Invalid credentials")
                    return
                getattr(self, name)(data, query, **found.groupdict())
                return
        self.body()
        self.answer(404, {"error": f"no such route: {self.command} {path}"})

    do_GET = do_POST = do_PUT = do_HEAD = handle_request

    def repo(self, type: str, id: str) -> Repo | None:
        found = self.hub.repos.get((type.rstrip("s"), id))
        if found is None:
            self.refuse(404, "RepoNotFound", "Repository not found")
        elif found.gated:
            self.refuse(403, "GatedRepo", "Access to this repository is restricted")
            return None
        return found

    # --- routes ---------------------------------------------------------------------------------

    def whoami(self, data: bytes, query: dict[str, list[str]]) -> None:
        self.answer(200, {"type": "user", "name": "ada", "fullname": "Ada", "orgs": []})

    def validate_yaml(self, data: bytes, query: dict[str, list[str]]) -> None:
        """As the Hub: no head is a warning, a head that is no mapping an error, unknown keys pass."""
        import yaml

        content = json.loads(data)["content"]
        found = re.match(r"---\r?\n(.*?)\r?\n---", content, re.DOTALL)
        if found is None:
            self.answer(
                200, {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
            )
            return
        try:
            head = yaml.safe_load(found.group(1))
        except yaml.YAMLError as error:
            self.answer(400, {"errors": [{"message": str(error)}], "warnings": []})
            return
        good = isinstance(head, dict)
        self.answer(
            200 if good else 400, {"errors": [] if good else [{"message": "not a mapping"}], "warnings": []}
        )

    def create(self, data: bytes, query: dict[str, list[str]]) -> None:
        asked = json.loads(data)
        kind = asked.get("type") or "model"
        name = f"{asked.get('organization') or 'ada'}/{asked['name']}"
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        private = bool(asked.get("private") or asked.get("visibility") == "private")
        if (kind, name) in self.hub.repos:
            self.answer(409, {"error": "You already created this repo", "url": url})
            return
        repo = self.hub.repos[kind, name] = Repo(kind, name, private)
        self.hub.commit(repo, "main", "initial commit", {".gitattributes": b"*.bin filter=lfs\n"})
        self.answer(200, {"url": url, "name": name, "id": name})

    def info(self, data: bytes, query: dict[str, list[str]], type: str, id: str, rev: str = "main") -> None:
        if (repo := self.repo(type, id)) is None:
            return
        try:
            head = repo.head(rev)
        except KeyError:
            self.refuse(404, "RevisionNotFound", f"no revision {rev}")
            return
        files = [{"rfilename": p, "size": len(d)} for p, d in sorted(head.files.items())]
        facts = {
            "id": id,
            "modelId": id,
            "sha": head.oid,
            "private": repo.private,
            "tags": [],
            "downloads": 0,
            "likes": 0,
        }
        self.answer(200, facts | {"siblings": files})

    def preupload(self, data: bytes, query: dict[str, list[str]], type: str, id: str, rev: str) -> None:
        if (repo := self.repo(type, id)) is None:
            return
        files = []
        for asked in json.loads(data)["files"]:
            sample = base64.b64decode(asked.get("sample") or "")
            binary = b"\x00" in sample or asked["path"].endswith((".bin", ".safetensors", ".pkl", ".png"))
            mode = "lfs" if binary and asked["size"] >= LFS_FROM else "regular"
            held = repo.head("main").files.get(asked["path"])
            oid = hashlib.sha1(b"blob %d\x00" % len(held) + held).hexdigest() if held is not None else None
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer(200, {"files": files})

    def lfs_batch(self, data: bytes, query: dict[str, list[str]], id: str) -> None:
        objects = []
        for wanted in json.loads(data)["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"], "authenticated": True}
            if wanted["oid"] not in self.hub.blobs:
                answer["actions"] = {
                    "upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}", "header": {}},
                    "verify": {"href": f"{self.hub.url}/lfs/verify", "header": {}},
                }
            objects.append(answer)
        self.answer(
            200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"}
        )

    def lfs_put(self, data: bytes, query: dict[str, list[str]], oid: str) -> None:
        if hashlib.sha256(data).hexdigest() != oid:
            self.answer(422, {"error": "the bytes do not have that SHA-256"})
            return
        self.hub.blobs[oid] = data
        self.answer(200, {})

    def lfs_verify(self, data: bytes, query: dict[str, list[str]]) -> None:
        wanted = json.loads(data)
        good = len(self.hub.blobs.get(wanted["oid"], b"")) == wanted["size"]
        self.answer(200 if good else 404, {})

    def commit(self, data: bytes, query: dict[str, list[str]], type: str, id: str, rev: str) -> None:
        if (repo := self.repo(type, id)) is None:
            return
        lines = [json.loads(line) for line in data.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        pull_request = query.get("create_pr") == ["1"]
        with self.hub.lock:
            head = repo.head(rev)
            parent = header.get("parentCommit")
            if parent is not None and parent != head.oid:
                self.refuse(412, "", "A commit has happened since. Please refresh and try again.")
                return
            files = dict(head.files)
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    if value["oid"] not in self.hub.blobs:
                        self.answer(422, {"error": "LFS object missing"})
                        return
                    files[value["path"]] = self.hub.blobs[value["oid"]]
                elif line["key"] == "deletedFile":
                    files.pop(value["path"], None)
            branch = rev
            if pull_request:
                number = len(repo.pull_requests) + 1
                branch = repo.pull_requests[number] = f"refs/pr/{number}"
            made = self.hub.commit(repo, branch, header["summary"], files)
        prefix = "datasets/" if repo.kind == "dataset" else ""
        answer = {
            "success": True,
            "commitOid": made.oid,
            "commitUrl": f"{self.hub.url}/{prefix}{id}/commit/{made.oid}",
        }
        if pull_request:
            answer["pullRequestUrl"] = f"{self.hub.url}/{prefix}{id}/discussions/{len(repo.pull_requests)}"
        self.answer(200, answer)

    def resolve(
        self, data: bytes, query: dict[str, list[str]], id: str, rev: str, path: str, prefix: str = ""
    ) -> None:
        if (repo := self.repo("datasets" if prefix else "models", id)) is None:
            return
        try:
            head = repo.head(rev)
        except KeyError:
            self.refuse(404, "RevisionNotFound", f"no revision {rev}")
            return
        if path not in head.files:
            self.refuse(404, "EntryNotFound", f"no file {path}")
            return
        content = head.files[path]
        headers = {
            "X-Repo-Commit": head.oid,
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
        }
        self.answer(200, content, headers)


_ID = r"(?P<id>[^/]+/[^/]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", rf"/api/(?P<type>models|datasets)/{_ID}/preupload/(?P<rev>.+)", "preupload"),
    ("POST", rf"/api/(?P<type>models|datasets)/{_ID}/commit/(?P<rev>.+)", "commit"),
    ("GET", rf"/api/(?P<type>models|datasets)/{_ID}/revision/(?P<rev>.+)", "info"),
    ("GET", rf"/api/(?P<type>models|datasets)/{_ID}", "info"),
    ("POST", rf"/(?:datasets/)?{_ID}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("POST", r"/lfs/verify", "lfs_verify"),
    ("HEAD", rf"/(?P<prefix>datasets/){_ID}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
    ("GET", rf"/(?P<prefix>datasets/){_ID}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
    ("HEAD", rf"/{_ID}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
    ("GET", rf"/{_ID}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
]


@contextmanager
def serve() -> Iterator[Hub]:
    """A running hub; its `url` is the endpoint."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
