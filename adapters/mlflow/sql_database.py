"""One MLflow database through ADBC. What SQLite and PostgreSQL do differently is all here.

Statements are written once, with parameters `$1, $2, …` in order of first use. Connections are
pooled, so that every method may be called from several threads.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

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
from ...locations import Location
from .place import sqlite_path

BUSY_TIMEOUT_MS = 20_000
"""How long to wait for another writer; MLflow itself waits as long."""
ROWS_PER_BATCH = 1_000_000
"""The SQLite driver infers a column's type from its first batch: make that the whole answer."""


class Database:
    """A database of MLflow's, opened for reading only unless `writable`.

    Raises `LocationError` for a file or URI that is no database, `Corrupt` for a damaged one,
    `Unavailable` for a server that does not answer, `CredentialsError` where it refuses.
    """

    def __init__(self, location: Location, *, writable: bool = False) -> None:
        self.public = location.public
        self.url = location.rest
        self.writable = writable
        self.kind: Literal["sqlite", "postgresql"]
        self.path: Path | None = None
        """The file of an SQLite database."""
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        self._columns: dict[str, frozenset[str]] = {}
        scheme = location.rest.partition(":")[0].partition("+")[0]
        if scheme == "sqlite":
            self.kind = "sqlite"
            if (path := sqlite_path(location)) is None:
                raise LocationError(
                    f"{location.public} names no file",
                    hint="write mlflow:sqlite:///relative/path.db or mlflow:sqlite:////absolute/path.db",
                )
            self.path = path
            self._uri = _sqlite_uri(path, location, writable)
        elif scheme in ("postgresql", "postgres"):
            self.kind = "postgresql"
            self._uri = re.sub(r"^postgres(ql)?(\+\w+)?:", "postgresql:", location.rest)
        else:
            raise LocationError(
                f"no SQL path to {location.public}",
                hint="mlflow:sqlite:///FILE or mlflow:postgresql://HOST/DB; others through the client",
            )

    # --- reading ----------------------------------------------------------------------------

    def table(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """The whole answer, as one Arrow table."""
        with self.cursor() as cursor:
            cursor.execute(sql, tuple(parameters) or None)
            return cursor.fetch_arrow_table()

    def tuples(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The whole answer, as rows."""
        columns = [column.to_pylist() for column in self.table(sql, parameters).columns]
        return list(zip(*columns, strict=True))

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The whole answer, as rows by column name."""
        answer: list[dict[str, Any]] = self.table(sql, parameters).to_pylist()
        return answer

    def batches(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[pa.RecordBatch]:
        """The answer as it comes. On SQLite an unfinished answer keeps writers out: take it quickly."""
        with self.cursor() as cursor:
            cursor.execute(sql, tuple(parameters) or None)
            yield from cursor.fetch_record_batch()

    def columns(self, table: str) -> frozenset[str]:
        """The columns of a table; none where there is no such table."""
        if table not in self._columns:
            if self.kind == "sqlite":
                found = self.tuples("SELECT name FROM pragma_table_info($1)", (table,))
            else:
                found = self.tuples(
                    "SELECT column_name::text FROM information_schema.columns "
                    "WHERE table_name = $1 AND table_schema = ANY(current_schemas(false))",
                    (table,),
                )
            self._columns[table] = frozenset(str(name) for (name,) in found)
        return self._columns[table]

    def forget_columns(self) -> None:
        """The tables have changed."""
        self._columns.clear()

    def among(self, column: str, parameter: str) -> str:
        """A condition: the column's value is in the list bound to the parameter (see `listed`)."""
        if self.kind == "sqlite":
            return f"{column} IN (SELECT value FROM json_each({parameter}))"
        return f"{column} = ANY({parameter})"

    def listed(self, values: Sequence[str]) -> Any:
        """A list as a parameter for `among`."""
        if self.kind == "sqlite":
            import json

            return json.dumps(list(values))
        return list(values)

    def written(self, table: str) -> str:
        """An ORDER BY term: rows in about the order in which they were written."""
        return f"{table}.rowid" if self.kind == "sqlite" else f"{table}.ctid"

    # --- connections --------------------------------------------------------------------------

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        """A cursor of a pooled connection, in autocommit; the driver's errors become ours."""
        connection = self._take()
        try:
            with connection.cursor(adbc_stmt_kwargs=self._statement_options()) as cursor:
                yield cursor
        except GeneratorExit:
            connection.close()
            raise
        except Exception as error:
            connection.close()
            raise self.translated(error) from error
        with self._lock:
            self._idle.append(connection)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """A cursor inside one writing transaction: all of it, or nothing."""
        with self.cursor() as cursor:  # an error closes the connection, which rolls back
            cursor.execute("BEGIN IMMEDIATE" if self.kind == "sqlite" else "BEGIN")
            yield cursor
            cursor.execute("COMMIT")

    def connect(self) -> Any:
        """A new connection, in autocommit. The caller closes it."""
        try:
            if self.kind == "sqlite":
                import adbc_driver_sqlite.dbapi as driver

                connection = driver.connect(self._uri, autocommit=True)
                setup = f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}"
            else:
                try:
                    import adbc_driver_postgresql.dbapi as driver
                except ModuleNotFoundError as error:
                    raise MissingSDK(
                        "a PostgreSQL location needs adbc-driver-postgresql, which is not installed",
                        hint="pip install 'outgrow[postgres]'",
                    ) from error
                connection = driver.connect(self._uri, autocommit=True)
                setup = f"SET default_transaction_read_only = {'off' if self.writable else 'on'}"
            with connection.cursor() as cursor:
                cursor.execute(setup)
                if self.kind == "sqlite":
                    cursor.fetchall()
        except OutgrowError:
            raise
        except Exception as error:
            raise self.translated(error) from error
        return connection

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> Any:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self.connect()

    def _statement_options(self) -> dict[str, str]:
        return {"adbc.sqlite.query.batch_rows": str(ROWS_PER_BATCH)} if self.kind == "sqlite" else {}

    def translated(self, error: Exception) -> Exception:
        """The driver's error as one of ours; any other error as it is."""
        import adbc_driver_manager

        if not isinstance(error, adbc_driver_manager.Error):
            return error
        text = str(error).partition("\n")[0]
        for kind, pattern, state, hint in _ERRORS:
            if (state and re.match(state, error.sqlstate or "")) or re.search(pattern, str(error)):
                return kind(f"{self.public}: {text}", hint=hint)
        return OutgrowError(f"{self.public}: {text}", hint="report this, with the command that led to it")


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


def _sqlite_uri(path: Path, location: Location, writable: bool) -> str:
    if path.is_dir():
        raise LocationError(f"{location.public} is a directory", hint="give the SQLite file in it")
    file = "file:" + quote(str(path.absolute()))
    if writable:
        return file + "?mode=rw"
    if not path.is_file():
        raise LocationError(f"{location.public} does not exist", hint="check the path of the SQLite file")
    if not os.access(path, os.R_OK):
        raise LocationError(f"{location.public} may not be read", hint="check the permissions of the file")
    with path.open("rb") as stream:
        header = stream.read(100)
    if not header.startswith(b"SQLite format 3\0") or len(header) < 100:
        raise Corrupt(
            f"{location.public} is not an SQLite database",
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
        f"{location.public} has a write-ahead log that a crashed writer left behind",
        hint="open it once with `mlflow server`, or run `sqlite3 FILE 'PRAGMA wal_checkpoint'`",
    )
