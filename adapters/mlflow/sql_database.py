"""One MLflow database. What SQLite and PostgreSQL do differently is here and in `sql_drivers`.

Statements are written once, with parameters `$1, $2, …` in order of first use. Connections are
pooled, so that every method may be called from several threads.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from ...errors import LocationError
from ...locations import Location
from .place import sqlite_path
from .sql_drivers import (
    Connection,
    Cursor,
    PlainConnection,
    adbc_another,
    adbc_postgresql,
    adbc_sqlite,
    open_here,
    sqlite_uri,
    translated,
)


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
        self.plain = False
        """Whether SQLite is used through Python's own copy (see `sql_drivers`)."""
        self._idle: list[Connection] = []
        self._first: Connection | None = None
        """PostgreSQL: what the others are made from."""
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
            self._uri = sqlite_uri(path, location.public, writable)
            self.plain = writable or open_here(path)
        elif scheme in ("postgresql", "postgres"):
            self.kind = "postgresql"
            self._uri = re.sub(r"^postgres(ql)?(\+\w+)?:", "postgresql:", location.rest)
        else:
            raise LocationError(
                f"no SQL path to {location.public}",
                hint="mlflow:sqlite:///FILE or mlflow:postgresql://HOST/DB; others through the client",
            )

    # --- reading ----------------------------------------------------------------------------

    def table(self, sql: str, parameters: Sequence[Any] = (), rows: int | None = None) -> pa.Table:
        """The whole answer, as one Arrow table. `rows`: how many it has at most."""
        with self.cursor(rows) as cursor:
            cursor.execute(sql, parameters)
            return cursor.table()

    def tuples(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The whole answer, as rows."""
        with self.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.tuples()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The whole answer, as rows by column name."""
        answer: list[dict[str, Any]] = self.table(sql, parameters).to_pylist()
        return answer

    def batches(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[pa.RecordBatch]:
        """The answer as it comes. On SQLite an unfinished answer keeps writers out: take it quickly."""
        with self.cursor() as cursor:
            cursor.execute(sql, parameters)
            yield from cursor.batches()

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
            return json.dumps(list(values))
        return list(values)

    def written(self, table: str) -> str:
        """An ORDER BY term: rows in about the order in which they were written."""
        return f"{table}.rowid" if self.kind == "sqlite" else f"{table}.ctid"

    # --- connections --------------------------------------------------------------------------

    @contextmanager
    def cursor(self, rows: int | None = None) -> Iterator[Cursor]:
        """A cursor of a pooled connection, in autocommit; the driver's errors become ours.

        `rows`: how many an answer has at most.
        """
        connection = self._take()
        try:
            cursor = connection.cursor(rows)
            yield cursor
            cursor.close()
        except GeneratorExit:
            connection.close()
            raise
        except Exception as error:
            connection.close()
            raise translated(error, self.public) from error
        with self._lock:
            keep = self.kind != "sqlite" or self.plain == isinstance(connection, PlainConnection)
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        """A cursor inside one writing transaction: all of it, or nothing."""
        with self.cursor() as cursor:  # an error closes the connection, which rolls back
            cursor.execute(self.begin)
            yield cursor
            cursor.execute("COMMIT")

    @property
    def begin(self) -> str:
        """The statement that begins a transaction which will write."""
        return "BEGIN IMMEDIATE" if self.kind == "sqlite" else "BEGIN"

    def connect(self) -> Connection:
        """A new connection, in autocommit. The caller closes it."""
        try:
            if self.kind == "postgresql":
                with self._lock:
                    if self._first is None:
                        self._first = adbc_postgresql(self._uri, self.writable)
                    return adbc_another(self._first, self.writable)
            return PlainConnection(self._uri) if self.plain else adbc_sqlite(self._uri)
        except Exception as error:
            raise translated(error, self.public) from error

    def use_plain(self) -> None:
        """MLflow itself is about to open the file in this process."""
        self.plain = self.kind == "sqlite"
        self.close()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
            if self._first is not None:
                idle.append(self._first)
                self._first = None
        for connection in idle:
            connection.close()

    def _take(self) -> Connection:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self.connect()
