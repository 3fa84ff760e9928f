"""Files of runs and of logged models, wherever an artifact URI says they are.

Three ways: a directory of this machine, a tracking server that serves them, and anything else
(S3, GCS, Azure, Databricks…) through MLflow's own repositories.

A tracking server decodes names before it uses them (`handlers.validate_path_is_safe`): `a%20b`
would be written as `a b`, and `#` is refused. Such names are declared unfit for a target, and
refused when read, since the server would answer with another file.
"""

from __future__ import annotations

import io
import os
import posixpath
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit

import msgspec

from ...errors import Corrupt, Rejected, Unsupported, Vanished
from ...model import File
from .. import paths
from ..base import TextLimit
from .errors import clean, translated
from .http import API, Http
from .place import local_path, served_root, split_userinfo

if TYPE_CHECKING:
    from ...locations import Location

PROXY = "/api/2.0/mlflow-artifacts/artifacts"
CHUNK = 1 << 20
PARTIAL = ".outgrow-part-"
"""Prefix of a file that is still being written in a directory; no file of the run."""
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")

PROXIED_PATH = TextLimit(length=1_000, allowed=r"[^#%\\\x00-\x1f\x7f]", empty=False, path_like=True)
"""What survives a tracking server, tried on MLflow 3.17; length: a URL of 8 kB with every byte quoted."""
DIRECT_PATH = TextLimit(length=900, allowed=r"[^\\\x00-\x1f\x7f]", empty=False, path_like=True, bytes=True)
"""In a directory or an object store; an S3 key has at most 1,024 bytes, the prefix included."""


class Files(ABC):
    """The files under one artifact URI."""

    @abstractmethod
    def walk(self) -> Iterator[File]:
        """Every file, with its size where it is told; folders are walked."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """The bytes of a file. Raises `Vanished`, `Corrupt` for a path that climbs out."""

    def check(self, path: str) -> None:
        """Raises `Corrupt` for a path that climbs out, `Rejected` for one that would not come back."""
        paths.checked(path)

    @abstractmethod
    def put(self, path: str, stream: BinaryIO) -> None:
        """Write a file, whole or not at all."""


def files_at(uri: str, location: Location, http: Http | None = None, run_id: str | None = None) -> Files:
    """The files under an artifact URI. `http` is the tracking server that told it, if one did;
    `run_id` lets that server hand out what only it can reach.
    """
    parts = urlsplit(uri)
    if parts.scheme == "mlflow-artifacts" or (parts.scheme in ("http", "https") and f"{PROXY}/" in uri):
        path = parts.path.strip("/").removeprefix(PROXY.strip("/")).strip("/")
        if parts.netloc:
            return ProxiedFiles(path, _server(parts.scheme, parts.netloc, http))
        if http is not None:
            return ProxiedFiles(path, http)
        return files_at(f"{served_root(location).rstrip('/')}/{path}", location)
    if parts.scheme in ("", "file") or len(parts.scheme) == 1:
        if http is not None and urlsplit(location.rest).hostname not in _THIS_MACHINE:
            return ServedFiles(uri, http, run_id)
        return DirectoryFiles(local_path(uri))
    return RepositoryFiles(uri, split_userinfo(location.rest)[0])


def _server(scheme: str, netloc: str, http: Http | None) -> Http:
    """The server named in an artifact URI, with MLflow's credentials for it."""
    from mlflow.utils.credentials import get_default_host_creds

    if http is not None and urlsplit(http.url).netloc == netloc:
        return http
    url = f"{scheme if scheme != 'mlflow-artifacts' else 'http'}://{netloc}"
    return Http(url, lambda: get_default_host_creds(url))


class DirectoryFiles(Files):
    """A directory of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def walk(self) -> Iterator[File]:
        for folder, folders, names in os.walk(self.root):
            folders.sort()
            here = Path(folder)
            for name in sorted(names):
                if name.startswith(PARTIAL):
                    continue
                path = here / name
                try:
                    size = path.lstat().st_size
                except FileNotFoundError:
                    continue
                yield File(
                    path=path.relative_to(self.root).as_posix(), size=None if path.is_symlink() else size
                )

    def open(self, path: str) -> BinaryIO:
        target = paths.inside(self.root, path)
        try:
            return target.open("rb")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Vanished(f"the artifact {path!r} is no longer there") from error

    def put(self, path: str, stream: BinaryIO) -> None:
        target = paths.inside(self.root, path)
        with translated(f"could not write the artifact {path!r}"):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile(dir=target.parent, prefix=PARTIAL, delete=False) as file:
                    try:
                        shutil.copyfileobj(stream, file, CHUNK)
                        file.close()
                        os.chmod(file.name, 0o644)
                        os.replace(file.name, target)
                    except BaseException:
                        os.unlink(file.name)
                        raise
            except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
                raise Rejected(f"the artifact {path!r} is both a file and a folder") from error
            except OSError as error:
                if error.errno in (36, 22):  # ENAMETOOLONG, EINVAL
                    raise Rejected(
                        f"the artifact name {path!r} is not possible here: {error.strerror}"
                    ) from error
                raise


class _Info(msgspec.Struct, gc=False):
    path: str
    is_dir: bool = False
    file_size: int | str | None = None


class _Listing(msgspec.Struct):
    files: list[_Info] = []
    next_page_token: str | None = None


def _walk(list_folder: Callable[[str], list[_Info]]) -> Iterator[File]:
    """Every file below the root, given what one folder holds (names, or paths from the root)."""
    folders = [""]
    while folders:
        folder = folders.pop()
        for info in list_folder(folder):
            path = posixpath.join(folder, posixpath.basename(info.path.rstrip("/")))
            if info.is_dir:
                if path != folder:
                    folders.append(path)
            else:
                yield File(path=path, size=None if info.file_size is None else int(info.file_size))


def _served_name(path: str) -> str:
    if "#" in path or unquote(path) != path:
        raise Corrupt(
            f"the tracking server cannot hand out {path!r}: it decodes '%' and refuses '#' in names",
            hint="rename that file in the artifact store, or read the database directly: mlflow:sqlite:///… or postgresql://…",
        )
    return path


class ProxiedFiles(Files):
    """Artifacts that a tracking server serves (`mlflow-artifacts:`)."""

    def __init__(self, root: str, http: Http) -> None:
        self.root, self.http = root, http

    def walk(self) -> Iterator[File]:
        # The server leaves out the size of an empty file, as protobuf does with a zero.
        return (replace(file, size=file.size or 0) for file in _walk(self._folder))

    def _folder(self, folder: str) -> list[_Info]:
        if folder:
            _served_name(folder)
        try:
            answer = self.http.get(
                PROXY, {"path": posixpath.join(self.root, folder).rstrip("/")}, "listing artifacts"
            )
        except Vanished:
            return []  # nothing was ever logged there
        return msgspec.json.decode(answer, type=_Listing, strict=False).files

    def _endpoint(self, path: str) -> str:
        return f"{PROXY}/{quote(posixpath.join(self.root, paths.checked(path)))}"

    def open(self, path: str) -> BinaryIO:
        endpoint = self._endpoint(_served_name(path))
        doing = f"reading the artifact {path!r}"
        return _body(self.http.request("GET", endpoint, doing, stream=True), doing)

    def check(self, path: str) -> None:
        super().check(path)
        if "#" in path or unquote(path) != path:
            raise Rejected(f"the tracking server would damage the artifact name {path!r}")

    def put(self, path: str, stream: BinaryIO) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        doing = f"writing the artifact {path!r}"
        self.check(path)
        self.http.request("PUT", self._endpoint(path), doing, data=_sized(stream), extra_headers=headers)


class ServedFiles(Files):
    """Artifacts in a place that only the tracking server reaches; it hands them out, for reading."""

    def __init__(self, uri: str, http: Http, run_id: str | None) -> None:
        self.uri, self.http = uri, http
        self.run_id = run_id

    def walk(self) -> Iterator[File]:
        return _walk(self._folder)

    def _folder(self, folder: str) -> list[_Info]:
        found: list[_Info] = []
        token: str | None = None
        while True:
            params = {"run_id": self._run(), "path": folder, "page_token": token}
            answer = self.http.get(
                f"{API}/artifacts/list", {k: v for k, v in params.items() if v}, "listing artifacts"
            )
            page = msgspec.json.decode(answer, type=_Listing, strict=False)
            found += page.files
            if not (token := page.next_page_token):
                return found

    def open(self, path: str) -> BinaryIO:
        params = {"run_uuid": self._run(), "path": _served_name(paths.checked(path))}
        doing = f"reading the artifact {path!r}"
        return _body(self.http.request("GET", "/get-artifact", doing, params=params, stream=True), doing)

    def put(self, path: str, stream: BinaryIO) -> None:
        raise Unsupported(
            f"the server keeps artifacts in {self.uri}, a directory of its own machine",
            hint="start it with --serve-artifacts, or give it an artifact root that both can reach",
        )

    def _run(self) -> str:
        if self.run_id is None:
            raise Unsupported(
                f"the files of logged models in {self.uri} are out of reach: it is a directory of the server",
                hint="read the database there directly, or mount that directory here under the same path",
            )
        return self.run_id


class RepositoryFiles(Files):
    """Any other place, through MLflow's own artifact repositories. One file at a time on local disk."""

    def __init__(self, uri: str, tracking_uri: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self.uri = uri
        with translated(f"could not open the artifacts in {clean(uri)}"):
            self.repository: Any = get_artifact_repository(uri, tracking_uri=tracking_uri)

    def walk(self) -> Iterator[File]:
        return _walk(self._folder)

    def _folder(self, folder: str) -> list[_Info]:
        with translated(f"listing artifacts in {clean(self.uri)}"):
            infos = self.repository.list_artifacts(folder or None)
        return [_Info(i.path, bool(i.is_dir), i.file_size) for i in infos]

    def open(self, path: str) -> BinaryIO:
        path = paths.checked(path)
        with tempfile.TemporaryDirectory(prefix="outgrow-", ignore_cleanup_errors=True) as spool:
            local = os.path.join(spool, "file")
            with translated(f"reading the artifact {path!r} of {clean(self.uri)}"):
                self.repository._download_file(path, local)
            return open(local, "rb")  # stays readable after its name is gone

    def put(self, path: str, stream: BinaryIO) -> None:
        folder, name = posixpath.split(paths.checked(path))
        with tempfile.TemporaryDirectory(prefix="outgrow-") as spool:
            local = os.path.join(spool, name)
            with open(local, "wb") as file:
                shutil.copyfileobj(stream, file, CHUNK)
            with translated(f"writing the artifact {path!r} to {clean(self.uri)}"):
                self.repository.log_artifact(local, folder or None)


class _Body(io.RawIOBase):
    """A response's body, whose errors are typed."""

    def __init__(self, response: Any, doing: str) -> None:
        self.response, self.doing = response, doing
        response.raw.decode_content = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with translated(self.doing):
            data: bytes = self.response.raw.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.response.close()
        super().close()


def _body(response: Any, doing: str) -> BinaryIO:
    return io.BufferedReader(_Body(response, doing), CHUNK)


def read_up_to(stream: BinaryIO, size: int) -> bytes:
    """That many bytes, or all that there are; a raw stream may give fewer at a time."""
    parts = []
    while size > 0 and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _sized(stream: BinaryIO) -> bytes | BinaryIO:
    """The stream as something whose length is known, as an upload's must be."""
    if isinstance(stream, io.BufferedReader) and isinstance(stream.raw, io.FileIO):
        return stream
    head = read_up_to(stream, CHUNK + 1)
    if len(head) <= CHUNK:
        return head
    spool = tempfile.TemporaryFile(prefix="outgrow-")  # noqa: SIM115
    spool.write(head)
    shutil.copyfileobj(stream, spool, CHUNK)
    spool.seek(0)
    return spool
