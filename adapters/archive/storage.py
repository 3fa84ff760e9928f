"""Where an archive's bytes are: a local directory, or any fsspec file system.

Both sides only need one promise: `put` makes a whole file appear at once or not at all. A local
directory keeps it by a temporary file, fsync and rename; an object store by its PUT.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import socket
import tempfile
import threading
import uuid
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from ...errors import CredentialsError, LocationError, MissingSDK, OutgrowError, TargetFull, Unavailable
from ...locations import Location

try:
    import fcntl
except ImportError:  # no flock on Windows: leftovers of killed writers stay until deleted by hand
    fcntl = None  # type: ignore[assignment]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SCRATCH = ".writing"
_HOST = hashlib.blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()
_CACHED_FILES = 8
_SYNC_THREADS = 8
_ONE_REQUEST = 8 * 2**20
"""Bytes up to which a file is sent or fetched in one request."""
_IN_ARROW = {"s3", "gs", "gcs"}
"""Object stores that pyarrow reaches by itself, where fsspec's own package is not installed."""


_DENIED = ("ACCESS_DENIED", "AccessDenied", "Forbidden", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH")


@contextlib.contextmanager
def writing(where: str) -> Iterator[None]:
    """Turns the errors of writing to `where` into typed ones."""
    try:
        yield
    except OutgrowError:
        raise
    except OSError as error:
        raise _typed(error, where, "writing to") from error


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
    """The same for reading; `FileNotFoundError` stays, the caller knows what it means."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, OutgrowError):
        raise
    except OSError as error:
        raise _typed(error, where, "reading") from error


def _typed(error: OSError, where: str, doing: str) -> OutgrowError:
    text = str(error)
    if isinstance(error, PermissionError) or any(word in text for word in _DENIED):
        return CredentialsError(
            f"{doing} {where} is not allowed: {text}", hint="check the credentials and the rights"
        )
    if "NO_SUCH_BUCKET" in text or "NoSuchBucket" in text:
        return LocationError(f"{where}: there is no such bucket", hint="create the bucket, or name another")
    if error.errno in _FULL or "No space left" in text:
        return TargetFull(f"no room left in {where}: {text}", hint="make room, then repeat the same command")
    return Unavailable(f"{doing} {where} failed: {text}", hint="repeat the command: what is complete is kept")


class Storage(ABC):
    """Files by `/`-separated relative names, which are ours: nothing of a platform is ever a name."""

    url: str
    """For messages; without credentials."""
    on_dead: Callable[[str], None] = staticmethod(lambda token: None)
    """Called with the token of a killed writer before its scratch folder is removed."""

    @abstractmethod
    def exists(self, name: str) -> bool: ...

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes. Raises `FileNotFoundError`."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Raises `FileNotFoundError`."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Raises `FileNotFoundError`."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Names of the files directly in a folder, as far as it exists."""

    @abstractmethod
    def empty(self) -> bool:
        """Nothing is here yet."""

    @abstractmethod
    def put(self, name: str, local: Path) -> None:
        """Make `local` the file of that name, atomically; durable after `settle`. `local` is used up."""

    @abstractmethod
    def settle(self) -> None:
        """Make every file that was put durable."""

    @abstractmethod
    def remove(self, name: str) -> None: ...

    @abstractmethod
    def local(self, name: str) -> pa.NativeFile:
        """A local file with these bytes, opened. Raises `FileNotFoundError`."""

    @abstractmethod
    def scratch(self) -> Path:
        """A folder of this writer for files in the making."""

    @property
    def token(self) -> str:
        """A word that only this writer has."""
        return self.scratch().name.partition("-")[2]

    @abstractmethod
    def close(self) -> None: ...

    def put_bytes(self, name: str, data: bytes) -> None:
        """Atomically, and durable at once."""
        path = self.scratch() / uuid.uuid4().hex
        with writing(self.url):
            path.write_bytes(data)
            self.put(name, path)
            self.settle()


class LocalStorage(Storage):
    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)
        self._scratch: Path | None = None
        self._held = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._unsynced: dict[Path, set[Path]] = {}
        """Folder → its files that may not have reached the disk."""

    def exists(self, name: str) -> bool:
        return (self.root / name).exists()

    def size(self, name: str) -> int:
        return (self.root / name).stat().st_size

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def open(self, name: str) -> BinaryIO:
        return (self.root / name).open("rb")

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self.root / folder) if entry.is_file())
        except FileNotFoundError:
            return []

    def empty(self) -> bool:
        if self.root.exists() and not self.root.is_dir():
            raise LocationError(f"{self.root} is a file, not a directory", hint="name another directory")
        return not self.root.exists() or not any(e.name != _SCRATCH for e in os.scandir(self.root))

    def put(self, name: str, local: Path) -> None:
        target = self.root / name
        with writing(self.url):
            with self._lock:
                known = target.parent in self._unsynced
                self._unsynced.setdefault(target.parent, set()).add(target)
            if not known:
                target.parent.mkdir(parents=True, exist_ok=True)
            local.replace(target)

    def settle(self) -> None:
        """Files together, because a file system commits many waiting ones at once."""
        with self._lock:
            unsynced, self._unsynced = self._unsynced, {}
        with writing(self.url):
            try:
                with ThreadPoolExecutor(_SYNC_THREADS) as pool:
                    list(pool.map(_sync, [file for files in unsynced.values() for file in files]))
                    list(pool.map(_sync, {*unsynced, *(folder.parent for folder in unsynced)}))
            except BaseException:
                with self._lock:
                    for folder, files in unsynced.items():
                        self._unsynced.setdefault(folder, set()).update(files)
                raise

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def local(self, name: str) -> pa.NativeFile:
        return pa.OSFile(str(self.root / name))

    def scratch(self) -> Path:
        with self._lock:
            if self._scratch is None:
                with writing(self.url):
                    parent = self.root / _SCRATCH
                    parent.mkdir(parents=True, exist_ok=True)
                    with _locked(parent, wait=True):
                        self._sweep(parent)
                        self._scratch = parent / f"{_HOST}-{uuid.uuid4().hex[:16]}"
                        self._scratch.mkdir()
                        self._held = contextlib.ExitStack()
                        self._held.enter_context(_locked(self._scratch))
            return self._scratch

    def _sweep(self, parent: Path) -> None:
        """Remove what killed writers of this machine left: folders whose lock nobody holds any more."""
        for folder in parent.glob(f"{_HOST}-*") if fcntl is not None else ():
            with contextlib.suppress(BlockingIOError), _locked(folder):
                self.on_dead(folder.name.partition("-")[2])
                shutil.rmtree(folder)

    def close(self) -> None:
        with self._lock:
            if self._scratch is not None:
                shutil.rmtree(self._scratch, ignore_errors=True)
                self._held.close()
                self._scratch = None


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds a folder's lock, which the death of a process releases. Raises `BlockingIOError`."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class RemoteStorage(Storage):
    """Any fsspec file system whose upload of a file is atomic, as object stores' are."""

    def __init__(self, fs: Any, root: str, url: str) -> None:
        self.fs, self.root, self.url = fs, root.rstrip("/"), url
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._cache: OrderedDict[str, Path] = OrderedDict()
        self._lock = threading.Lock()

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        with reading(self.url):
            return bool(self.fs.exists(self._path(name)))

    def size(self, name: str) -> int:
        with reading(self.url):
            return int(self.fs.size(self._path(name)))

    def read(self, name: str) -> bytes:
        with reading(self.url):
            return bytes(self.fs.cat_file(self._path(name)))

    def open(self, name: str) -> BinaryIO:
        with reading(self.url):
            if self.fs.size(self._path(name)) <= _ONE_REQUEST:
                return io.BytesIO(self.fs.cat_file(self._path(name)))
            stream: BinaryIO = self.fs.open(self._path(name), "rb")
            return stream

    def names(self, folder: str) -> list[str]:
        self.fs.invalidate_cache()
        try:
            with reading(self.url):
                entries = self.fs.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return []
        return sorted(e["name"].rsplit("/", 1)[-1] for e in entries if e["type"] == "file")

    def empty(self) -> bool:
        try:
            with reading(self.url):
                return not self.fs.ls(self.root, detail=False)
        except FileNotFoundError:
            return True

    def put(self, name: str, local: Path) -> None:
        target = self._path(name)
        with writing(self.url):
            try:
                self._upload(local, target)
            except FileNotFoundError:
                self.fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
                self._upload(local, target)
        local.unlink()

    def _upload(self, local: Path, target: str) -> None:
        if local.stat().st_size <= _ONE_REQUEST:
            self.fs.pipe_file(target, local.read_bytes())
        else:
            self.fs.put_file(str(local), target)

    def settle(self) -> None:
        """An object store's PUT is durable when it returns."""

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self._path(name))

    def local(self, name: str) -> pa.NativeFile:
        """Downloads the file; the last few are kept. On POSIX an open file outlives its removal."""
        with self._lock:
            if name in self._cache:
                self._cache.move_to_end(name)
                return pa.OSFile(str(self._cache[name]))
        path = self.scratch() / uuid.uuid4().hex
        with reading(self.url):
            if self.fs.size(self._path(name)) <= _ONE_REQUEST:
                path.write_bytes(self.fs.cat_file(self._path(name)))
            else:
                self.fs.get_file(self._path(name), str(path))
        with self._lock:
            self._cache[name] = path
            while len(self._cache) > _CACHED_FILES:
                self._cache.popitem(last=False)[1].unlink(missing_ok=True)
            return pa.OSFile(str(path))

    def scratch(self) -> Path:
        """Files here are uploaded when they are complete."""
        with self._lock:
            if self._scratch is None:
                self._scratch = tempfile.TemporaryDirectory(prefix="outgrow-", suffix=uuid.uuid4().hex[:16])
            return Path(self._scratch.name)

    def close(self) -> None:
        with self._lock:
            self._cache.clear()
            if self._scratch is not None:
                self._scratch.cleanup()
                self._scratch = None


def storage(location: Location) -> Storage:
    """The storage of an archive's location. Raises `LocationError`, or `MissingSDK` for a missing fsspec package."""
    rest = location.rest
    if "://" not in rest:
        return LocalStorage(Path(rest).expanduser().absolute())
    fs, root = _filesystem(rest, location)
    if "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)):
        return LocalStorage(Path(root))
    return RemoteStorage(fs, root, str(location))


def _filesystem(url: str, location: Location) -> tuple[Any, str]:
    import fsspec

    protocol = url.partition("://")[0]
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        if protocol in _IN_ARROW:
            from fsspec.implementations.arrow import ArrowFSWrapper
            from pyarrow.fs import FileSystem

            inner, root = FileSystem.from_uri(url)
            return ArrowFSWrapper(inner), root
        raise MissingSDK(
            f"{location} needs a package that fsspec loads: {error}",
            hint=f"install it, for example: pip install 'fsspec[{protocol}]'",
        ) from error
    except ValueError as error:
        raise LocationError(f"{location} is no location of an archive: {error}") from error
    return fs, root
