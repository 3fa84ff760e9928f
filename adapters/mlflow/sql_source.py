"""Reading an MLflow database directly: the tables, not the server.

Records of many runs come by a handful of queries, points as Arrow batches. The database is opened
read-only, and each query is short, so that a server that writes to it is not kept waiting.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from ...errors import Vanished
from ...locations import Location
from ...model import Artifact, EvaluationDataset, Experiment, File, RegisteredModel, Run, Trace
from ..base import RunStats, Source, Throughput
from . import extras, sql_assets, sql_points, sql_runs
from .artifacts import Files, files_at
from .connection import Connection
from .records import PLATFORM
from .sql_database import Database
from .sql_schema import check_schema

if TYPE_CHECKING:
    import pyarrow as pa

    from ...filters import Filter, Parts

PAGE_RUNS = 500
"""Runs whose records are read together, and whose points are counted together."""
PAGE_POINTS = 200_000
"""Points that one query takes: a tenth of a second, during which an SQLite writer waits."""
PAGE_WHOLE, PAGE_PARTS = 2_000, 10_000
"""Runs that are listed together: with every key of them, and with a few."""
PAGES_KEPT = 32


class SqlSource(Source):
    """A database of a schema version in `sql_schema.SCHEMAS`; else `SchemaVersionError`."""

    throughput = Throughput(
        path="direct SQL", points_per_second=1_000_000, files_per_second=1_000, runs_per_second=2_000
    )

    def __init__(self, location: Location) -> None:
        self.location = location
        self.database = Database(location)
        self.workspace = location.options.get("workspace", "default")
        if self.database.plain:
            self.throughput = replace(
                self.throughput,
                points_per_second=250_000,
                advice="this process has the file open: copy in a process of its own, which reads four times as fast",
            )
        try:
            check_schema(self.database)
        except BaseException:
            self.database.close()
            raise
        self._pages: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._stats: dict[str, RunStats] = {}
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._counting = threading.Lock()

    def close(self) -> None:
        self.database.close()

    # --- records ------------------------------------------------------------------------------

    def experiments(self) -> Iterator[Experiment]:
        return sql_runs.experiments(self.database, self.workspace)

    def runs(self, experiment: Experiment, where: Filter | None = None) -> Iterator[Run]:
        ids = sql_runs.run_ids(self.database, int(experiment.id))
        for start in range(0, len(ids), PAGE_RUNS):
            page = tuple(ids[start : start + PAGE_RUNS])
            self._remember(page)
            yield from sql_runs.runs(self.database, page)

    def listed(self, experiment: Experiment, where: Filter | None, parts: Parts) -> Iterator[Run]:
        bounded = None not in (parts.params, parts.summary, parts.tags)
        size = PAGE_PARTS if bounded else PAGE_WHOLE
        for page in sql_runs.listed(self.database, experiment, where, parts, size):
            for start in range(0, len(page), PAGE_RUNS):
                self._remember([run.id for run in page[start : start + PAGE_RUNS]])
            yield from page

    def artifacts(self, run: Run) -> Iterator[Artifact]:
        return sql_assets.logged_models(self.database, [use.artifact for use in run.artifacts])

    # --- points -------------------------------------------------------------------------------

    def points(self, run: Run) -> Iterator[pa.RecordBatch]:
        found = False
        for rows in self._metric_rows(run.id):
            if rows.num_rows:
                found = True
                yield sql_points.canonical(rows)
        if not found and not self.database.tuples("SELECT 1 FROM runs WHERE run_uuid = $1", (run.id,)):
            raise Vanished(
                f"run {run.id} is gone from {self.location}", hint="it was deleted for good while being read"
            )

    def _metric_rows(self, run_id: str) -> Iterator[pa.RecordBatch]:
        if self.database.kind == "postgresql":
            # Streamed in batches of the driver's; readers and writers do not block each other.
            yield from self.database.batches(
                f"SELECT {sql_points.COLUMNS} FROM metrics WHERE run_uuid = $1", (run_id,)
            )
            return
        last = -(2**63)
        with self._lock:
            counted = self._stats.get(run_id)
        size = PAGE_POINTS
        if counted is not None and counted.points is not None:
            size = min(counted.points + 1, PAGE_POINTS)
        while True:
            page = self.database.table(
                f"SELECT {sql_points.COLUMNS}, rowid FROM metrics "
                "WHERE run_uuid = $1 AND rowid > $2 ORDER BY rowid LIMIT $3",
                (run_id, last, size),
                rows=size,
            )
            yield from page.drop_columns(["rowid"]).to_batches()
            if page.num_rows < size:
                return
            last = page.column("rowid")[-1].as_py()

    def stats(self, run: Run) -> RunStats:
        with self._counting:  # a page is counted once, however many ask for its runs
            with self._lock:
                if (known := self._stats.get(run.id)) is not None:
                    return known
                page = self._pages.get(run.id, (run.id,))
            counted = sql_runs.stats(self.database, page)
            with self._lock:
                self._stats.update((id, counted[id]) for id in page if id in self._pages)
            return counted[run.id]

    def _remember(self, page: Sequence[str]) -> None:
        """Which runs were listed together: their counts are taken together."""
        ids = tuple(page)
        with self._lock:
            self._pages.update((id, ids) for id in ids)
            while len(self._pages) > PAGES_KEPT * PAGE_RUNS:
                gone, _ = self._pages.popitem(last=False)
                self._stats.pop(gone, None)

    # --- files --------------------------------------------------------------------------------

    def files(self, run: Run) -> Iterator[File]:
        return self._run_files(run).walk()

    def artifact_files(self, artifact: Artifact) -> Iterator[File]:
        for file in self._artifact_files(artifact.id).walk():
            yield File(path=file.path, size=file.size, artifact=artifact.id)

    def open(self, run: Run, file: File) -> BinaryIO:
        files = self._artifact_files(file.artifact) if file.artifact else self._run_files(run)
        return files.open(file.path)

    def _run_files(self, run: Run) -> Files:
        uri = run.extra.get(PLATFORM, {}).get("artifact_uri")
        if not isinstance(uri, str):
            uri = self._uri("SELECT artifact_uri FROM runs WHERE run_uuid = $1", run.id)
        return files_at(uri, self.location)

    def _artifact_files(self, id: str) -> Files:
        return files_at(
            self._uri("SELECT artifact_location FROM logged_models WHERE model_id = $1", id), self.location
        )

    def _uri(self, sql: str, id: str) -> str:
        rows = self.database.tuples(sql, (id,))
        if not rows or not rows[0][0]:
            raise Vanished(
                f"{id} has no artifact location in {self.location}", hint="it was deleted for good"
            )
        return str(rows[0][0])

    # --- the registry and more ----------------------------------------------------------------

    def registry(self) -> Iterator[RegisteredModel]:
        return sql_assets.registered_models(self.database, self.workspace)

    def traces(self, experiment: Experiment) -> Iterator[Trace]:
        if not self._any("trace_info", "experiment_id = $1", int(experiment.id)):
            return iter(())
        return extras.read_traces(self._through_mlflow(), experiment)

    def evaluation_datasets(self) -> Iterator[EvaluationDataset]:
        if not self._any("evaluation_datasets", "dataset_id <> $1", ""):
            return iter(())
        return extras.read_datasets(self._through_mlflow())

    def _any(self, table: str, condition: str, value: int | str) -> bool:
        if not self.database.columns(table):
            return False
        return bool(self.database.tuples(f"SELECT 1 FROM {table} WHERE {condition} LIMIT 1", (value,)))

    def _through_mlflow(self) -> Connection:
        """MLflow's own store, for what it keeps in forms of its own. Raises `SchemaVersionError` where
        the database is not of the installed MLflow.
        """
        with self._lock:
            if self._connection is None:
                self.database.use_plain()
                self._connection = Connection(self.location, writable=False)
            return self._connection
