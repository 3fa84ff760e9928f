"""The drivers behind `Database`: ADBC for both kinds, and Python's own `sqlite3`.

Two copies of SQLite in one process do not see each other's locks (POSIX locks belong to a process;
https://sqlite.org/howtocorrupt.html, 2.2). MLflow uses Python's copy, so a file that is written, or that this
process has open, is touched through Python's copy alone. ADBC brings a copy of its own, which
reads several times as fast: it reads files that no one else in this process uses.
"""

from __future__ import annotations

import os
import re
import sqlite3
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pyarrow as pa

from ...errors import (
    Corrupt,
    CredentialsError,
    LocationError,
    MissingSDK,
    OutgrowError,
    Rejected,
    TargetFull,
    Unavailable,
)

BUSY_TIMEOUT_MS = 20_000
"""How long to wait for another writer; MLflow itself waits as long."""
ROWS_PER_BATCH = 1_000_000
"""ADBC infers the types of SQLite's columns from the first batch: make that the whole answer. It allots
memory for that many rows to every statement, so a statement whose answer is small should tell."""
CACHE_KIB = 65_536
"""Page cache of a connection that writes: pages that do not fit lock readers out before the commit."""


class Cursor(ABC):
    """One statement after another on one connection, in autocommit until a BEGIN."""

    @abstractmethod
    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None: ...

    @abstractmethod
    def tuples(self) -> list[tuple[Any, ...]]:
        """The whole answer, as rows."""

    @abstractmethod
    def table(self) -> pa.Table:
        """The whole answer, as one Arrow table."""

    @abstractmethod
    def batches(self) -> Iterator[pa.RecordBatch]:
        """The answer as it comes."""

    @abstractmethod
    def load(self, table: str, rows: pa.Table, bulk: bool = False) -> None:
        """Rows into a temporary table of that name, which `unload` empties. `bulk` only outside a transaction."""

    @abstractmethod
    def unload(self) -> None:
        """Empty the temporary tables."""

    @abstractmethod
    def close(self) -> None: ...


class Connection(ABC):
    """`raw` is the driver's connection; a cursor that has loaded tables stays the connection's."""

    raw: Any

    @abstractmethod
    def cursor(self, rows: int | None = None) -> Cursor:
        """`rows`: how many an answer has at most."""

    def close(self) -> None:
        self.raw.close()


# --- ADBC -------------------------------------------------------------------------------------------


class AdbcCursor(Cursor):
    def __init__(self, raw: Any, loaded: set[str]) -> None:
        self.raw = raw
        self.loaded = loaded

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        self.raw.execute(sql, tuple(parameters) or None)

    def tuples(self) -> list[tuple[Any, ...]]:
        return list(zip(*(column.to_pylist() for column in self.table().columns), strict=True))

    def table(self) -> pa.Table:
        return self.raw.fetch_arrow_table()

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from self.raw.fetch_record_batch()

    def load(self, table: str, rows: pa.Table, bulk: bool = False) -> None:
        plain = [
            (f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in rows.schema
        ]
        mode = "append" if table in self.loaded else "create"
        self.raw.adbc_ingest(table, rows.cast(pa.schema(plain)), mode=mode, temporary=True)
        self.loaded.add(table)

    def unload(self) -> None:
        for table in self.loaded:
            self.raw.execute(f"DELETE FROM {table}")

    def close(self) -> None:
        self.raw.close()


class AdbcConnection(Connection):
    def __init__(self, raw: Any, rows_option: str | None = None) -> None:
        self.raw = raw
        self.rows_option = rows_option
        self.loaded: set[str] = set()

    def cursor(self, rows: int | None = None) -> Cursor:
        options = {self.rows_option: str(rows or ROWS_PER_BATCH)} if self.rows_option else {}
        return AdbcCursor(self.raw.cursor(adbc_stmt_kwargs=options), self.loaded)


def adbc_sqlite(uri: str) -> Connection:
    import adbc_driver_sqlite.dbapi as driver

    raw = driver.connect(uri, autocommit=True)
    with raw.cursor() as cursor:
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        cursor.fetchall()
    return AdbcConnection(raw, "adbc.sqlite.query.batch_rows")


def adbc_postgresql(uri: str, writable: bool) -> Connection:
    try:
        import adbc_driver_postgresql.dbapi as driver
    except ModuleNotFoundError as error:
        raise MissingSDK(
            "a PostgreSQL location needs adbc-driver-postgresql, which is not installed",
            hint="pip install 'outgrow[postgres]'",
        ) from error
    return _prepared(driver.connect(uri, autocommit=True), writable)


def adbc_another(first: Connection, writable: bool) -> Connection:
    """Another connection like the first. Much cheaper: the types of the database are known."""
    return _prepared(first.raw.adbc_clone(), writable)


def _prepared(raw: Any, writable: bool) -> Connection:
    raw.adbc_connection.set_autocommit(True)
    with raw.cursor() as cursor:
        cursor.execute(f"SET default_transaction_read_only = {'off' if writable else 'on'}")
    return AdbcConnection(raw)


# --- Python's sqlite3 -------------------------------------------------------------------------------


class PlainCursor(Cursor):
    def __init__(self, raw: sqlite3.Connection, loaded: dict[str, str | None]) -> None:
        self.raw = raw.cursor()
        self.loaded = loaded
        """Temporary table → the file that was attached for it, or None for one of the connection's."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        self.raw.execute(re.sub(r"\$(\d+)", r"?\1", sql), tuple(parameters))

    def tuples(self) -> list[tuple[Any, ...]]:
        return self.raw.fetchall()

    def table(self) -> pa.Table:
        names = [column[0] for column in self.raw.description]
        columns = list(zip(*self.raw.fetchall(), strict=True)) or [()] * len(names)
        return pa.table([pa.array(column) for column in columns], names=names)

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from self.table().to_batches()

    def load(self, table: str, rows: pa.Table, bulk: bool = False) -> None:
        if bulk:
            self._attach(table, rows)
            return
        names = ", ".join(f'"{name}"' for name in rows.schema.names)
        self.raw.execute(f"CREATE TEMP TABLE IF NOT EXISTS {table} ({names})")
        self.loaded.setdefault(table, None)
        places = ", ".join("?" * rows.num_columns)
        columns = (column.to_pylist() for column in rows.columns)
        self.raw.executemany(f"INSERT INTO temp.{table} VALUES ({places})", zip(*columns, strict=True))

    def _attach(self, table: str, rows: pa.Table) -> None:
        """Through a file of our own, written by ADBC: no row becomes Python objects."""
        import adbc_driver_sqlite.dbapi as driver

        self.raw.execute(f"DROP TABLE IF EXISTS temp.{table}")
        with tempfile.NamedTemporaryFile(prefix="outgrow-", suffix=".db", delete=False) as file:
            self.loaded[table] = file.name
        with driver.connect(file.name, autocommit=True) as connection, connection.cursor() as cursor:
            for pragma in ("journal_mode = off", "synchronous = off"):
                cursor.execute(f"PRAGMA {pragma}")
                cursor.fetchall()
            cursor.adbc_ingest(table, rows, mode="create")
        self.raw.execute(f"ATTACH ? AS attached_{table}", (file.name,))

    def unload(self) -> None:
        for table, file in list(self.loaded.items()):
            if file is None:
                self.raw.execute(f"DELETE FROM temp.{table}")
            else:
                self.raw.execute(f"DETACH attached_{table}")
                os.unlink(file)
                del self.loaded[table]

    def close(self) -> None:
        self.raw.close()


class PlainConnection(Connection):
    def __init__(self, uri: str) -> None:
        self.raw = sqlite3.connect(
            uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_MS / 1_000, check_same_thread=False
        )
        self.raw.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self.loaded: dict[str, str | None] = {}

    def cursor(self, rows: int | None = None) -> Cursor:
        return PlainCursor(self.raw, self.loaded)

    def close(self) -> None:
        if self.raw.in_transaction:  # closing alone would keep the lock as long as a cursor lives
            self.raw.rollback()
        self.raw.close()
        for file in filter(None, self.loaded.values()):
            Path(file).unlink(missing_ok=True)


def open_here(path: Path) -> bool:
    """Whether this process has the file open."""
    return any(_same(Path(file.path), path) for file in psutil.Process().open_files())


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def sqlite_uri(path: Path, public: str, writable: bool) -> str:
    """The URI to open a file by. Raises `LocationError`, or `Corrupt` for what is no SQLite database."""
    if path.is_dir():
        raise LocationError(f"{public} is a directory", hint="give the SQLite file in it")
    file = "file:" + quote(str(path.absolute()))
    if writable:
        return file + "?mode=rw"
    if not path.is_file():
        raise LocationError(f"{public} does not exist", hint="check the path of the SQLite file")
    if not os.access(path, os.R_OK):
        raise LocationError(f"{public} may not be read", hint="check the permissions of the file")
    with path.open("rb") as stream:
        header = stream.read(100)
    if not header.startswith(b"SQLite format 3\0") or len(header) < 100:
        raise Corrupt(
            f"{public} is not an SQLite database",
            hint="give the file that `mlflow server --backend-store-uri` uses",
        )
    if header[18] != 2:  # a rollback journal, not a write-ahead log: reading leaves nothing behind
        return file + "?mode=ro"
    # With a write-ahead log, even a read-only connection would create the -wal and -shm files.
    log, index = Path(f"{path}-wal"), Path(f"{path}-shm")
    if not log.exists() or log.stat().st_size == 0:
        return file + "?immutable=1"
    if index.exists():
        return file + "?mode=ro&readonly_shm=1"
    raise Corrupt(
        f"{public} has a write-ahead log that a crashed writer left behind",
        hint="open it once with `mlflow server`, or run `sqlite3 FILE 'PRAGMA wal_checkpoint'`",
    )


# --- errors -----------------------------------------------------------------------------------------


def translated(error: Exception, public: str) -> Exception:
    """The driver's error as one of ours; any other error as it is."""
    import adbc_driver_manager

    if not isinstance(error, adbc_driver_manager.Error | sqlite3.Error):
        return error
    text, state = str(error).partition("\n")[0], getattr(error, "sqlstate", None) or ""
    for kind, pattern, states, hint in _ERRORS:
        if (states and re.match(states, state)) or re.search(pattern, str(error)):
            return kind(f"{public}: {text}", hint=hint)
    return OutgrowError(f"{public}: {text}", hint="report this, with the command that led to it")


_ERRORS: tuple[tuple[type[OutgrowError], str, str, str], ...] = (
    (
        Unavailable,
        r"database (table )?is locked|database is busy",
        r"40001|40P01|55P03",
        "another process is writing to it; run the same command again",
    ),
    (TargetFull, r"database or disk is full|No space left", r"53100|53200", "make room, then run it again"),
    (
        CredentialsError,
        r"password authentication failed|no password supplied|role \S+ does not exist|permission denied",
        r"28\w{3}|42501",
        "check the user name and password of the location (or PGUSER, PGPASSWORD)",
    ),
    (LocationError, r"database \S+ does not exist", r"3D000", "create the database first: createdb NAME"),
    (
        Unavailable,
        r"could not connect|Connection refused|could not translate host|server closed the connection"
        r"|timeout expired|No such file or directory.*\n?.*socket",
        r"08\w{3}|57P0\d|53300",
        "check that the database server runs and can be reached from here",
    ),
    (
        Corrupt,
        r"malformed|file is not a database|disk I/O error|file is encrypted",
        r"XX00[12]",
        "restore it from a backup, or try `sqlite3 FILE .recover`",
    ),
    (
        Corrupt,
        r"attempt to write a readonly database|unable to open database file",
        r"25006",
        "a crashed writer left its journal: open it once with `mlflow server`, then repeat",
    ),
    (Rejected, r"constraint failed|value too long", r"22\w{3}|23\w{3}", "leave the run out with --where"),
)
