"""Segments: what one flush adds to an archive, made visible by one manifest file.

A writer first puts the segment's tables, then its manifest `segments/<sequence>-<token>.json`,
which names every table file with its size and SHA-256. Tables that no manifest names do not
exist for a reader, so a killed writer leaves nothing half-written. Names are unique, files are
never changed, so writers need no lock. Of two segments with the same run, the later one counts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from ... import __version__
from ...errors import Corrupt, LocationError, SchemaVersionError
from .storage import Storage

FORMAT = "outgrow archive"
VERSION = 1
"""Of the layout. A reader refuses a higher one."""
ROOT_FILE = "archive.json"
FOLDER = "segments"
LISTED_RUNS = 100
"""Runs that a manifest lists at most."""


@dataclass(frozen=True, slots=True)
class Part:
    """One table file of a segment."""

    table: str
    path: str
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Segment:
    name: str
    parts: list[Part]
    after: list[str] = field(default_factory=list)
    """The newest segments known to the writer: a reader that misses one knows that it is lost."""
    replaces: list[str] = field(default_factory=list)
    """Segments whose record tables are all in this one."""
    created_at: str = ""
    runs: list[list[str | None]] | None = None
    """`[id, experiment, mark, url]` of every row of its table of runs, where those are few: an
    archive of many small segments is then listed from the manifests alone."""

    @property
    def sequence(self) -> int:
        return int(self.name.partition("-")[0])

    def parts_of(self, table: str) -> list[Part]:
        return [part for part in self.parts if part.table == table]


def new_name(sequence: int, token: str) -> str:
    return f"{sequence:010d}-{token}"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def dump(segment: Segment) -> bytes:
    body: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "written_by": f"outgrow {__version__}",
        **asdict(segment),
    }
    body["checksum"] = _checksum(body)
    return json.dumps(body, indent=1).encode()


def _checksum(body: dict[str, Any]) -> str:
    plain = {key: value for key, value in body.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def check_version(body: Any, what: str) -> None:
    """Raises `SchemaVersionError` for a newer format, `Corrupt` for what is none of ours."""
    if not isinstance(body, dict) or body.get("format") != FORMAT or not isinstance(body.get("version"), int):
        raise Corrupt(f"{what} is not of an {FORMAT}", hint="restore the file from a backup")
    if body["version"] > VERSION:
        raise SchemaVersionError(
            f"{what} has format version {body['version']}, this release knows up to {VERSION}",
            hint="pip install --upgrade outgrow",
        )


def load(data: bytes, what: str) -> Segment:
    """Raises `Corrupt` that names the manifest, or `SchemaVersionError`."""
    try:
        body = json.loads(data)
    except ValueError as error:
        raise Corrupt(f"{what} is damaged: {error}", hint="restore the file from a backup") from error
    check_version(body, what)
    if body.get("checksum") != _checksum(body):
        raise Corrupt(f"{what} is damaged: its checksum differs", hint="restore the file from a backup")
    return Segment(
        name=body["name"],
        parts=[Part(**part) for part in body["parts"]],
        after=body["after"],
        replaces=body["replaces"],
        created_at=body["created_at"],
        runs=body["runs"],
    )


def check_root(storage: Storage) -> None:
    """Raises `LocationError` where there is no archive, `SchemaVersionError` where it is too new."""
    where = f"{storage.url}/{ROOT_FILE}"
    try:
        data = storage.read(ROOT_FILE)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LocationError(
            f"{storage.url} is not an archive: it has no {ROOT_FILE}",
            hint="name the directory that a copy to archive:DIR made",
        ) from error
    try:
        body = json.loads(data)
    except ValueError as error:
        raise Corrupt(f"{where} is damaged: {error}", hint="restore the file from a backup") from error
    check_version(body, where)


def check_target(storage: Storage) -> bool:
    """Whether there is an archive already. Raises `LocationError` where something else lives."""
    if not storage.exists(ROOT_FILE):
        if storage.empty():
            return False
        if not storage.exists(ROOT_FILE):  # else another writer was quicker
            raise LocationError(
                f"{storage.url} is not empty and not an archive", hint="name an empty or a new directory"
            )
    check_root(storage)
    return True


def ensure_root(storage: Storage) -> None:
    """Make an empty place an archive. Raises as `check_target`."""
    if not check_target(storage):
        body = {"format": FORMAT, "version": VERSION, "written_by": f"outgrow {__version__}"}
        storage.put_bytes(ROOT_FILE, json.dumps(body | {"created_at": now()}, indent=1).encode())


class Segments:
    """The segments of an archive, in order. `refresh` reads only manifests that are new."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: dict[str, Segment] = {}

    @property
    def live(self) -> list[Segment]:
        """Oldest first, without those that a later one replaces."""
        replaced = self._replaced()
        return [self._known[name] for name in sorted(self._known) if name not in replaced]

    def _replaced(self) -> set[str]:
        return {name for segment in self._known.values() for name in segment.replaces}

    def heads(self) -> list[str]:
        followed = {name for segment in self._known.values() for name in segment.after}
        return sorted(self._known.keys() - followed)

    def next_sequence(self) -> int:
        return max((segment.sequence for segment in self._known.values()), default=0) + 1

    def add(self, segment: Segment) -> None:
        self._known[segment.name] = segment

    def refresh(self) -> None:
        """Raises `Corrupt` for a damaged or missing manifest, naming it."""
        for attempt in (1, 2):  # a listing may miss what is written while it runs
            for file in self._storage.names(FOLDER):
                name = file.removesuffix(".json")
                if file.endswith(".json") and name not in self._known:
                    path = f"{FOLDER}/{file}"
                    try:
                        data = self._storage.read(path)
                    except FileNotFoundError:
                        continue  # replaced and removed since it was listed
                    segment = load(data, f"{self._storage.url}/{path}")
                    if segment.name != name:
                        raise Corrupt(f"{self._storage.url}/{path} is the manifest of {segment.name}")
                    self._known[name] = segment
            followed = {name for segment in self._known.values() for name in segment.after}
            missing = followed - self._known.keys() - self._replaced()
            if not missing:
                return
            if attempt == 2:
                raise Corrupt(
                    f"{self._storage.url}/{FOLDER}/{min(missing)}.json is missing",
                    hint="restore the file from a backup; the runs in it cannot be read without it",
                )
