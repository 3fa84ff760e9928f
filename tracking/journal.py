"""The journal: what a run has logged, on the local disk before anything else happens to it.

A journal is a folder named by the run's id:

    records.jsonl    the records, append-only (`tracking.records`)
    files/SHA256     a copy of each logged file, made when it was logged
    sinks/NAME.json  how far each sink has got (`tracking.state`)
    rejected.jsonl   what a sink refused, with its reason
    writer.lock      locked (shared) by every process that may still write
    delivery-*.lock  locked by the process that delivers to that sink

A record whose `append` returned survives the death of the process. It is in the operating
system's cache, not yet on the medium: only `sync` also survives the loss of power.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .records import Finish, Record, frame, salvage, unframe
from .warning import JournalWarning, warn

RECORDS = "records.jsonl"
FILES = "files"
SINKS = "sinks"
WRITER = "writer.lock"
KEPT_IN_MEMORY = 10_000
"""Records that wait in memory while the disk refuses them; older ones are given up."""
_CHUNK = 1 << 20
_LAST = 1 << 10
"""Bytes that the record of a run's end has at most."""
_FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file, copy-on-write


class Journal:
    """The writing side. Safe in threads and after a fork. `append` never raises `OSError`."""

    def __init__(self, folder: Path) -> None:
        """Create the folder, or take up an existing one. Raises `OSError` where neither is possible."""
        self.folder = folder
        self._lock_file = _locked_for_writing(folder)
        (folder / FILES).mkdir(exist_ok=True)
        (folder / SINKS).mkdir(exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(folder / RECORDS, flags, 0o644)
        self._waiting: deque[bytes] = deque(maxlen=KEPT_IN_MEMORY)
        self._trouble = threading.Lock()
        self._warned = False
        self._cut = self._tail_is_cut()
        self.lost = 0
        """Records given up because the disk refused them for too long."""

    def _tail_is_cut(self) -> bool:
        size = os.fstat(self._file).st_size
        return size > 0 and os.pread(self._file, 1, size - 1) != b"\n"

    def append(self, record: Record | tuple[Any, ...]) -> None:
        line = frame(record)
        if self._waiting or self._cut:
            self._append_after_trouble(line)
            return
        try:
            written = os.write(self._file, line)
            if written == len(line):
                return
            self._cut = True
            if written == len(line) - 1:
                return  # whole but for its newline, which the next record brings
            reason: OSError = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            reason = error
        self._keep(line, reason)

    def _keep(self, line: bytes, reason: OSError) -> None:
        with self._trouble:
            self.lost += len(self._waiting) == self._waiting.maxlen
            self._waiting.append(line)
        if not self._warned:
            self._warned = True
            warn(
                f"outgrow cannot write to its journal {self.folder} ({reason.strerror}): the last "
                f"{KEPT_IN_MEMORY:,} records are kept in memory until it can; training goes on",
                JournalWarning,
            )

    def _append_after_trouble(self, line: bytes) -> None:
        with self._trouble:
            self.lost += len(self._waiting) == self._waiting.maxlen
            self._waiting.append(line)
        self._drain()

    def _drain(self) -> bool:
        """Write what waits, oldest first; a newline first ends a line that was cut."""
        with self._trouble:
            try:
                while self._waiting:
                    data = (b"\n" if self._cut else b"") + self._waiting[0]
                    missing = len(data) - os.write(self._file, data)
                    self._cut = missing > 0
                    if missing > 1:
                        return False
                    self._waiting.popleft()
            except OSError:
                return False  # warned before; they go on waiting
        return True

    def after_fork(self) -> None:
        """In a child process: another thread may have held the lock when it was made."""
        self._trouble = threading.Lock()

    @property
    def waiting(self) -> int:
        """Records that the disk has not taken yet."""
        return len(self._waiting)

    def store(self, source: Path | bytes) -> tuple[str, int]:
        """Keep a copy of a file as it is now; its SHA-256 (hex) and size. Raises `OSError`."""
        part = self.folder / FILES / f".part-{os.getpid()}-{threading.get_ident()}"
        digest = hashlib.sha256()
        size = 0
        try:
            with part.open("wb") as target:
                if isinstance(source, bytes):
                    digest.update(source)
                    target.write(source)
                    size = len(source)
                else:
                    with source.open("rb") as stream:
                        cloned = _clone(stream, target)
                        # A clone is frozen now: it, not the original, is what gets hashed.
                        reader = part.open("rb") if cloned else stream
                        with reader:
                            while chunk := reader.read(_CHUNK):
                                digest.update(chunk)
                                size += len(chunk)
                                if not cloned:
                                    target.write(chunk)
            os.replace(part, self.folder / FILES / digest.hexdigest())
        finally:
            part.unlink(missing_ok=True)
        return digest.hexdigest(), size

    def sync(self) -> None:
        """Force the records to the medium, as far as the file system can."""
        self._drain()
        try:
            os.fsync(self._file)
        except OSError as error:
            if not self._warned:
                self._warned = True
                warn(f"outgrow cannot sync {self.folder}: {error}", JournalWarning)

    def close(self) -> None:
        os.close(self._file)
        os.close(self._lock_file)  # releases the lock, unless a forked child still holds it


def _clone(source: BinaryIO, target: BinaryIO) -> bool:
    try:
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError:
        return False  # the file system cannot share blocks: an ordinary copy then
    return True


def _lock(file: int, kind: int) -> bool:
    """Try a lock without waiting. A file system without locks counts as locked by us."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN)
    return True


def make_folder(folder: Path) -> None:
    """Make the folder, unless it is there. `Path.mkdir` also fails for one that is removed meanwhile."""
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if folder.is_dir():
                return
            if os.path.lexists(folder):
                raise  # a file is in the way
        else:
            return


def _locked_for_writing(folder: Path) -> int:
    """Make the folder and lock it, shared. Waits while another process looks at the lock, or removes
    the folder, both of which take moments."""
    while True:
        make_folder(folder)
        try:
            file = os.open(folder / WRITER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            continue  # removed between the two
        for _ in range(1_000):
            if _lock(file, fcntl.LOCK_SH):
                break
            time.sleep(0.001)
        with contextlib.suppress(FileNotFoundError):
            if os.stat(folder / WRITER).st_ino == os.fstat(file).st_ino:
                return file
        os.close(file)


class FileLock:
    """An exclusive lock on a file, held until `release` or the death of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def acquire(self) -> bool:
        """True where it is held now. Never waits. Raises `OSError` where the file cannot be made."""
        if self._file is None:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if not _lock(file, fcntl.LOCK_EX):
                os.close(file)
                return False
            self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def has_writer(folder: Path) -> bool:
    """Whether a process on this machine may still write to the journal."""
    try:
        file = os.open(folder / WRITER, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False  # copied here without its lock
    except OSError:
        file = os.open(folder / WRITER, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return not _lock(file, fcntl.LOCK_EX)
    finally:
        os.close(file)


def read(folder: Path, offset: int = 0, limit: int | None = None) -> Iterator[tuple[Record | None, int]]:
    """Records from a byte offset, each with the offset after it; None for a damaged line.

    Stops before a last line that has no newline yet, and with the line that reaches `limit` bytes.
    """
    with (folder / RECORDS).open("rb") as stream:
        stream.seek(offset)
        end = None if limit is None else offset + limit
        rest = b""
        while (end is None or offset < end) and (chunk := stream.read(_CHUNK)):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            for line in lines:
                offset += len(line) + 1
                if line:
                    yield unframe(line) or salvage(line), offset
                if end is not None and offset >= end:
                    return


def ended(folder: Path) -> bool:
    """Whether the last record says that the run has ended: a cheap look."""
    with (folder / RECORDS).open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - _LAST))
        lines = stream.read().split(b"\n")
    return len(lines) > 1 and not lines[-1] and isinstance(unframe(lines[-2]), Finish)


def size(folder: Path) -> int:
    """Bytes of records, a cut tail included."""
    try:
        return (folder / RECORDS).stat().st_size
    except FileNotFoundError:
        return 0


def journals(root: Path) -> list[Path]:
    """The journals below a folder, oldest first (their names begin with the time)."""
    try:
        entries = (entry for entry in root.iterdir() if not entry.name.startswith("."))
        return sorted(entry for entry in entries if (entry / RECORDS).is_file())
    except FileNotFoundError:
        return []
