"""What waits to be written to an MLflow database, and how it is written: in one transaction.

Rows are first loaded into temporary tables (Arrow, no lock on the database), and then inserted
from there in the order of their primary keys. A transaction is whole or not there at all.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from . import sql_points
from .assets import NativeDataset
from .sql_database import Database
from .sql_drivers import Connection, Cursor, translated
from .sql_points import LATEST, Native
from .sql_schema import TABLES

Key = tuple[Any, ...]
Row = dict[str, Any]
Conflict = Literal["replace", "keep", "newer"]
"""What an insert does with a row that is there: replace it, keep it, or keep the later point."""

# Where the rows of a run go, in an order that foreign keys allow.
_ORDER = (
    "runs", "params", "tags", "logged_models", "logged_model_params", "logged_model_tags",
    "logged_model_metrics", "inputs",
)  # fmt: skip
_KEEP = {"inputs"}
BULK_FROM = 5_000
"""Rows of `metrics` from which a file between is worth while."""
REBUILD_FROM = 50_000
"""Rows of `metrics` from which rebuilding its secondary indexes may be cheaper than keeping them."""


@dataclass(slots=True)
class RunStage:
    """What waits of one run."""

    rows: dict[str, dict[Key, Row]] = field(default_factory=dict)
    points: list[pa.RecordBatch] = field(default_factory=list)
    latest: dict[str, LATEST] = field(default_factory=dict)
    datasets: dict[tuple[str, str], tuple[int, NativeDataset]] = field(default_factory=dict)
    """By name and digest: the experiment, and the data set that the run read."""

    def put(self, table: str, row: Row) -> None:
        """A row; one with the same primary key is replaced."""
        self.rows.setdefault(table, {})[tuple(row[c] for c in TABLES[table].key)] = row

    def put_points(self, native: Native) -> None:
        self.points.append(native.rows)
        sql_points.merge_latest(self.latest, native.latest)

    def absorb(self, later: RunStage) -> None:
        for table, rows in later.rows.items():
            self.rows.setdefault(table, {}).update(rows)
        self.points += later.points
        sql_points.merge_latest(self.latest, later.latest)
        self.datasets |= later.datasets


@dataclass(slots=True)
class Stage:
    """What waits, by run."""

    runs: dict[str, RunStage] = field(default_factory=dict)
    size: int = 0
    """About how much memory it takes, in points."""

    def run(self, run_id: str) -> RunStage:
        return self.runs.setdefault(run_id, RunStage())

    def absorb(self, later: Stage) -> None:
        """Take in what was put down after this."""
        for run_id, stage in later.runs.items():
            self.run(run_id).absorb(stage)
        self.size += later.size

    def split(self) -> Iterator[Stage]:
        """One stage a run."""
        for run_id, stage in self.runs.items():
            yield Stage({run_id: stage})

    def rows(self, table: str) -> list[Row]:
        return [row for run in self.runs.values() for row in run.rows.get(table, {}).values()]

    def metrics(self) -> pa.Table | None:
        """The points of all runs as rows of `metrics`, in key order."""
        parts = []
        for run_id, stage in self.runs.items():
            if stage.points:
                rows = pa.Table.from_batches(stage.points)
                id_column = pa.DictionaryArray.from_arrays(
                    pa.nulls(rows.num_rows, pa.int32()).fill_null(0), pa.array([run_id])
                )
                parts.append(rows.append_column("run_uuid", id_column))
        if not parts:
            return None
        return sql_points.in_key_order(pa.concat_tables(parts).unify_dictionaries())

    def latest(self) -> list[Row]:
        return [
            {"key": key, "value": value, "timestamp": time, "step": step, "is_nan": nan, "run_uuid": run_id}
            for run_id, stage in self.runs.items()
            for key, (step, time, value, nan) in stage.latest.items()
        ]


class Writer:
    """The one connection of a sink that writes. Not thread-safe: the sink's lock is held."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._connection: Connection | None = None

    def write(self, stage: Stage) -> None:
        """Everything that waits, in one transaction. Raises the typed errors; then nothing is written."""
        metrics = stage.metrics()
        datasets = [d for run in stage.runs.values() for d in run.datasets.values()]
        with self._cursor() as cursor:
            loaded = [table for table in _ORDER if self._load(cursor, table, stage.rows(table))]
            if metrics is not None:
                metrics = metrics.select(TABLES["metrics"].columns.names)
                cursor.load("outgrow_metrics", metrics, bulk=metrics.num_rows >= BULK_FROM)
                self._load(cursor, "latest_metrics", stage.latest())
            if datasets:
                self._load(cursor, "datasets", [_dataset_row(e, d) for e, d in datasets])
            cursor.execute(self.database.begin)
            for table in loaded:
                self._insert(cursor, table, "keep" if table in _KEEP else "replace")
            if datasets:
                self._insert_datasets(cursor, stage)
            if metrics is not None:
                self._insert_metrics(cursor, metrics.num_rows)
                self._insert(cursor, "latest_metrics", "newer")
            cursor.execute("COMMIT")
            cursor.unload()

    def upsert(self, rows: Mapping[str, tuple[list[Row], Conflict]]) -> None:
        """Rows of several tables in one transaction."""
        with self._cursor() as cursor:
            loaded = [(t, c) for t, (found, c) in rows.items() if self._load(cursor, t, found)]
            cursor.execute(self.database.begin)
            for table, conflict in loaded:
                self._insert(cursor, table, conflict)
            cursor.execute("COMMIT")
            cursor.unload()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    @contextmanager
    def _cursor(self) -> Iterator[Cursor]:
        if self._connection is None:
            self._connection = self.database.connect()
        cursor = self._connection.cursor()
        try:
            yield cursor
            cursor.close()
        except BaseException as error:
            self.close()  # rolls back, and drops the temporary tables
            if isinstance(error, Exception):
                raise translated(error, self.database.public) from error
            raise

    # --- inside the transaction -----------------------------------------------------------------

    def _insert_datasets(self, cursor: Cursor, stage: Stage) -> None:
        """A data set that the experiment already has keeps its id, which the inputs then name."""
        self._insert(cursor, "datasets", "keep")
        cursor.execute(
            "SELECT d.experiment_id, d.name, d.digest, d.dataset_uuid FROM datasets d "
            "JOIN outgrow_datasets s ON s.experiment_id = d.experiment_id AND s.name = d.name AND s.digest = d.digest"
        )
        ids = {(e, name, digest): id for e, name, digest, id in cursor.tuples()}
        inputs, tags = [], []
        for run_id, run in stage.runs.items():
            for experiment, native in run.datasets.values():
                dataset = ids[experiment, native.name, native.digest]
                edge = uuid.uuid5(uuid.NAMESPACE_OID, f"{dataset}>{run_id}").hex
                inputs.append(
                    {
                        "input_uuid": edge, "source_type": "DATASET", "source_id": dataset,
                        "destination_type": "RUN", "destination_id": run_id, "step": 0,
                    }
                )  # fmt: skip
                tags += [{"input_uuid": edge, "name": k, "value": v} for k, v in native.tags.items()]
        self._load(cursor, "inputs", inputs)  # beside those of logged models, which are kept
        self._insert(cursor, "inputs", "keep")
        if self._load(cursor, "input_tags", tags):
            self._insert(cursor, "input_tags", "replace")

    def _insert_metrics(self, cursor: Cursor, rows: int) -> None:
        indexes = self._indexes_to_rebuild(cursor, rows)
        for name, _ in indexes:
            cursor.execute(f'DROP INDEX "{name}"')
        self._insert(cursor, "metrics", "keep")
        for _, sql in indexes:
            cursor.execute(sql)

    def _indexes_to_rebuild(self, cursor: Cursor, rows: int) -> list[tuple[str, str]]:
        """Secondary indexes of `metrics`, where writing them anew costs less than adding to them.

        Adding costs about twice as much a row; rebuilding also counts the rows that are there.
        """
        if self.database.kind != "sqlite" or rows < REBUILD_FROM:
            return []
        cursor.execute("SELECT COALESCE(MAX(rowid), 0) FROM metrics")
        if cursor.tuples()[0][0] > rows // 2:
            return []
        cursor.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'metrics' AND sql IS NOT NULL"
        )
        return [(str(name), str(sql)) for name, sql in cursor.tuples()]

    def _load(self, cursor: Cursor, table: str, rows: list[Row]) -> bool:
        """Rows into the temporary table; False where there are none."""
        if rows:
            cursor.load(f"outgrow_{table}", pa.Table.from_pylist(rows, TABLES[table].columns))
        return bool(rows)

    def _insert(self, cursor: Cursor, table: str, conflict: Conflict) -> None:
        spec = TABLES[table]
        names = [n for n in spec.columns.names if n in self.database.columns(table)]
        quoted = ", ".join(f'"{n}"' for n in names)
        values = ", ".join(
            f'CAST("{n}" AS JSON)' if n in spec.json and self.database.kind == "postgresql" else f'"{n}"'
            for n in names
        )
        key = ", ".join(f'"{n}"' for n in spec.key if n in names)
        cursor.execute(
            f"INSERT INTO {table} ({quoted}) SELECT {values} FROM outgrow_{table} WHERE true "
            f"ON CONFLICT ({key}) DO {_action(table, names, conflict)}"
        )


def _action(table: str, names: list[str], conflict: Conflict) -> str:
    rest = [n for n in names if n not in TABLES[table].key]
    if conflict == "keep" or not rest:
        return "NOTHING"
    update = "UPDATE SET " + ", ".join(f'"{n}" = excluded."{n}"' for n in rest)
    if conflict == "newer":
        update += (
            " WHERE (excluded.step, excluded.timestamp, excluded.value) > "
            f"({table}.step, COALESCE({table}.timestamp, 0), {table}.value)"
        )
    return update


def _dataset_row(experiment: int, native: NativeDataset) -> Row:
    return {
        "dataset_uuid": uuid.uuid5(uuid.NAMESPACE_OID, f"{experiment}/{native.name}/{native.digest}").hex,
        "experiment_id": experiment,
        "name": native.name,
        "digest": native.digest,
        "dataset_source_type": native.source_type,
        "dataset_source": native.source,
        "dataset_schema": native.schema,
        "dataset_profile": native.profile,
    }
