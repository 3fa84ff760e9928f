"""The ledger: what copies have done, run by run, in one SQLite file.

A convenience and a memory of failures, never the truth: completion marks are in the target, so
losing the ledger loses nothing but the answers of `outgrow status` and `outgrow where`. Several
processes may use one file.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import ConfigError, SchemaVersionError

LEDGER_VERSION = 1
DEFAULT_PATH = Path(".outgrow/ledger.db")
_BUSY_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run of one copy. Times are ISO 8601, UTC."""

    source: str
    target: str
    identity: str
    source_run: str
    source_url: str | None = None
    experiment: str = ""
    name: str | None = None
    state: str
    """As `report.RunState`."""
    run_id: str | None = None
    url: str | None = None
    mark: str | None = None
    points: int = 0
    files: int = 0
    bytes: int = 0
    attempts: int = 0
    """Attempts in all copies so far."""
    error_type: str | None = None
    error: str | None = None
    hint: str | None = None
    updated_at: str = ""


_COLUMNS = [f.name for f in fields(Row)]
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS runs ({", ".join(_COLUMNS)}, PRIMARY KEY (source, target, identity));
CREATE INDEX IF NOT EXISTS runs_by_target ON runs (run_id);
CREATE TABLE IF NOT EXISTS maps (
    source TEXT, target TEXT, kind TEXT, key TEXT, value TEXT, PRIMARY KEY (source, target, kind, key)
);
"""
_KEPT = {"source", "target", "identity", "attempts"}
_UPSERT = (
    f"INSERT INTO runs ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
    " ON CONFLICT (source, target, identity) DO UPDATE SET attempts = runs.attempts + excluded.attempts, "
    + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name not in _KEPT)
)


class Ledger:
    """One ledger file; safe for several threads and processes."""

    def __init__(self, path: str | Path = DEFAULT_PATH, *, create: bool = True) -> None:
        """Raises `ConfigError` for a file that is no ledger, `SchemaVersionError` for a later one's."""
        self.path = Path(path)
        self._lock = threading.Lock()
        if not create and not self.path.exists():
            raise ConfigError(
                f"there is no ledger at {self.path}",
                hint="run this where `outgrow copy` was run, or name the file with --ledger",
            )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, check_same_thread=False)
            self._open()
        except (sqlite3.DatabaseError, OSError) as error:
            raise ConfigError(
                f"{self.path} cannot be used as a ledger: {error}",
                hint="name another file with --ledger, or delete it: nothing in a target depends on it",
            ) from error

    def _open(self) -> None:
        self._db.execute("PRAGMA synchronous=NORMAL")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > LEDGER_VERSION:
            raise SchemaVersionError(
                f"the ledger {self.path} has version {version}; this release knows up to {LEDGER_VERSION}",
                hint="upgrade outgrow, or name another file with --ledger",
            )
        if version == LEDGER_VERSION:
            return
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.executescript(_SCHEMA)
        self._db.execute(f"PRAGMA user_version={LEDGER_VERSION}")
        self._db.commit()

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def record(self, rows: Iterable[Row]) -> None:
        """Write rows in one transaction; attempts add up."""
        with self._lock, self._db:
            self._db.executemany(_UPSERT, [astuple(row) for row in rows])

    def rows(
        self, source: str | None = None, target: str | None = None, state: str | None = None
    ) -> Iterator[Row]:
        """Rows, oldest change first, optionally of one source, target, state."""
        given = {"source": source, "target": target, "state": state}
        terms = {name: value for name, value in given.items() if value is not None}
        where = " AND ".join(f"{name} = ?" for name in terms) or "1"
        yield from self._rows(f"{where} ORDER BY updated_at, identity", tuple(terms.values()))

    def find(self, word: str) -> list[Row]:
        """Rows whose identity, old or new id or URL, or name is that word."""
        names = ("identity", "source_run", "source_url", "run_id", "url", "name")
        where = " OR ".join(f"{name} = ?" for name in names)
        return list(self._rows(f"{where} ORDER BY updated_at", (word,) * len(names)))

    def _rows(self, where: str, values: tuple[str, ...]) -> Iterator[Row]:
        with self._lock, closing(self._db.cursor()) as cursor:
            found = cursor.execute(f"SELECT {', '.join(_COLUMNS)} FROM runs WHERE {where}", values).fetchall()
        for values_ in found:
            yield Row(**dict(zip(_COLUMNS, values_, strict=True)))

    def remember(self, source: str, target: str, kind: str, values: dict[str, str]) -> None:
        """Keep id maps and digests (`kind`: artifact, model, trace…)."""
        with self._lock, self._db:
            self._db.executemany(
                "INSERT OR REPLACE INTO maps VALUES (?, ?, ?, ?, ?)",
                [(source, target, kind, key, value) for key, value in values.items()],
            )

    def forget(self, source: str, target: str) -> None:
        """Drop what `remember` kept of a target."""
        with self._lock, self._db:
            self._db.execute("DELETE FROM maps WHERE source = ? AND target = ?", (source, target))

    def remembered(self, source: str, target: str, kind: str) -> dict[str, str]:
        with self._lock:
            found = self._db.execute(
                "SELECT key, value FROM maps WHERE source = ? AND target = ? AND kind = ?",
                (source, target, kind),
            )
            return dict(found.fetchall())
