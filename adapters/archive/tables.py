"""The Parquet tables of an archive: schemas, and checked reading.

Flat columns are for people with pandas or DuckDB; `record` is the canonical record as JSON, which
alone is read back. All times are UTC microseconds.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import Corrupt
from ..batches import KEY, TIME
from .manifest import Part
from .storage import Storage, writing

_TEXT = pa.string()
_NAME = KEY  # repeated words: dictionary-encoded

PARTS = pa.list_(
    pa.struct(
        [
            ("table", pa.string()),
            ("path", pa.string()),
            ("group", pa.int32()),
            ("groups", pa.int32()),
            ("offset", pa.int64()),
            ("rows", pa.int64()),
            ("integer_steps", pa.bool_()),
        ]
    )
)
"""Where a run's rows are in the bulk tables: `rows` rows from `offset` on, counted from the first
row of row group `group`, within `groups` row groups."""

RECORD_TABLES: dict[str, pa.Schema] = {
    "experiments": pa.schema(
        [
            ("id", _TEXT), ("name", _TEXT), ("source_id", _TEXT), ("description", _TEXT),
            ("created_at", TIME), ("deleted", pa.bool_()), ("segment", _NAME), ("record", _TEXT),
        ]
    ),
    "runs": pa.schema(
        [
            ("id", _TEXT), ("name", _TEXT), ("status", _NAME), ("experiment", _NAME),
            ("experiment_name", _NAME), ("created_at", TIME), ("started_at", TIME), ("ended_at", TIME),
            ("duration", pa.float64()), ("user_name", _NAME), ("parent", _TEXT), ("group_name", _NAME),
            ("job_type", _NAME), ("labels", pa.list_(_TEXT)), ("deleted", pa.bool_()),
            ("platform", _NAME), ("source_id", _TEXT), ("url", _TEXT), ("mark", _TEXT),
            ("series", pa.int64()), ("points", pa.int64()), ("longest_series", pa.int64()),
            ("fractional_steps", pa.int64()), ("nonfinite", pa.int64()), ("texts", pa.int64()),
            ("histograms", pa.int64()), ("files", pa.int64()), ("file_bytes", pa.int64()),
            ("segment", _NAME), ("parts", PARTS), ("record", pa.large_string()),
        ]
    ),
    "params": pa.schema(
        [
            ("run", _NAME), ("key", _NAME), ("type", _NAME), ("value", pa.large_string()),
            ("number", pa.float64()), ("segment", _NAME),
        ]
    ),
    "metrics": pa.schema(
        [
            ("run", _NAME), ("key", _NAME), ("value", pa.float64()), ("text", pa.large_string()),
            ("points", pa.int64()), ("segment", _NAME),
        ]
    ),
    "tags": pa.schema([("run", _NAME), ("key", _NAME), ("value", pa.large_string()), ("segment", _NAME)]),
    "run_files": pa.schema(
        [
            ("run", _NAME), ("path", _TEXT), ("size", pa.int64()), ("sha256", _TEXT), ("reference", _TEXT),
            ("media_type", _NAME), ("key", _NAME), ("step", pa.float64()), ("created_at", TIME),
            ("segment", _NAME), ("record", _TEXT),
        ]
    ),
    "small_files": pa.schema(
        [("sha256", _TEXT), ("size", pa.int64()), ("data", pa.binary()), ("segment", _NAME)]
    ),
    "artifacts": pa.schema(
        [
            ("id", _TEXT), ("name", _TEXT), ("type", _NAME), ("version", _TEXT), ("run", _TEXT),
            ("created_at", TIME), ("files", pa.int64()), ("file_bytes", pa.int64()),
            ("segment", _NAME), ("record", pa.large_string()),
        ]
    ),
    "artifact_files": pa.schema(
        [
            ("artifact", _NAME), ("path", _TEXT), ("size", pa.int64()), ("sha256", _TEXT),
            ("reference", _TEXT), ("media_type", _NAME), ("created_at", TIME), ("segment", _NAME),
            ("record", _TEXT),
        ]
    ),
    "models": pa.schema(
        [
            ("name", _TEXT), ("kind", _NAME), ("description", _TEXT), ("created_at", TIME),
            ("segment", _NAME), ("record", _TEXT),
        ]
    ),
    "model_versions": pa.schema(
        [
            ("model", _TEXT), ("kind", _NAME), ("version", _TEXT), ("source_version", _TEXT), ("run", _TEXT),
            ("artifact", _TEXT), ("stage", _NAME), ("aliases", pa.list_(_TEXT)), ("created_at", TIME),
            ("segment", _NAME), ("record", _TEXT),
        ]
    ),
    "traces": pa.schema(
        [
            ("id", _TEXT), ("experiment", _NAME), ("run", _TEXT), ("started_at", TIME),
            ("duration_ms", pa.int64()), ("status", _NAME), ("origin", _TEXT), ("segment", _NAME),
            ("record", pa.large_string()),
        ]
    ),
    "evaluation_datasets": pa.schema(
        [
            ("id", _TEXT), ("name", _TEXT), ("digest", _TEXT), ("created_at", TIME), ("segment", _NAME),
            ("record", pa.large_string()),
        ]
    ),
}  # fmt: skip

BULK_TABLES: dict[str, pa.Schema] = {
    "points": pa.schema(
        [
            ("run", KEY), ("key", KEY), ("step", pa.float64()), ("time", TIME), ("value", pa.float64()),
            ("epoch", pa.int64()), ("context", KEY), ("step_int", pa.int64()),
        ]
    ),
    "texts": pa.schema(
        [("run", KEY), ("key", KEY), ("step", pa.float64()), ("time", TIME), ("text", pa.large_string())]
    ),
    "histograms": pa.schema(
        [
            ("run", KEY), ("key", KEY), ("step", pa.float64()), ("time", TIME),
            ("edges", pa.list_(pa.float64())), ("counts", pa.list_(pa.float64())),
        ]
    ),
}  # fmt: skip
"""`points.step_int` is the exact step where a double is not: integers beyond 2^53."""

Row = Sequence[Any]

_CACHE_BYTES = 128 * 2**20


def table_of(name: str, rows: Iterable[Row], segment: str) -> pa.Table:
    """Rows without their `segment` column → a table of the schema of that name."""
    schema = RECORD_TABLES[name]
    listed = list(rows)
    columns = dict(
        zip((f.name for f in schema if f.name != "segment"), zip(*listed, strict=True), strict=True)
    )
    arrays = []
    for field in schema:
        if field.name == "segment":
            arrays.append(pa.array([segment] * len(listed), _TEXT).dictionary_encode())
        elif pa.types.is_dictionary(field.type):
            arrays.append(pa.array(columns[field.name], _TEXT).dictionary_encode())
        else:
            arrays.append(pa.array(columns[field.name], field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def write_table(table: pa.Table, path: Path, where: str) -> None:
    with writing(where):
        pq.write_table(
            table,
            path,
            compression="zstd",
            compression_level=1,
            write_page_checksum=True,
            row_group_size=16_384,
            use_dictionary=[f.name for f in table.schema if pa.types.is_dictionary(f.type)],
            write_statistics=[f.name for f in table.schema if f.name not in ("record", "data", "parts")],
        )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class TableReader:
    """Reads an archive's table files, each checked against its manifest before it is believed."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._checked: set[str] = set()
        self._cache: OrderedDict[tuple[str, tuple[str, ...]], pa.Table] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def open(self, part: Part) -> pa.NativeFile:
        """The file of a part, opened. Raises `Corrupt` naming it where it is missing or differs."""
        where = f"{self._storage.url}/{part.path}"
        try:
            file = self._storage.local(part.path)
        except FileNotFoundError as error:
            raise Corrupt(f"{where} is missing", hint="restore the file from a backup") from error
        if (size := file.size()) != part.size:
            file.close()
            raise Corrupt(
                f"{where} has {size} bytes, not the {part.size} of its manifest",
                hint="restore the file from a backup",
            )
        if part.path not in self._checked:
            found = hashlib.sha256()
            while block := file.read(2**20):
                found.update(block)
            if found.hexdigest() != part.sha256:
                file.close()
                raise Corrupt(
                    f"{where} is damaged: its SHA-256 is not that of its manifest",
                    hint="restore the file from a backup",
                )
            file.seek(0)
            self._checked.add(part.path)
        return file

    def read(self, part: Part, columns: Sequence[str]) -> pa.Table:
        """Some columns of a record table; the most recent ones are kept."""
        slot = (part.path, tuple(columns))
        with self._lock:
            if (table := self._cache.get(slot)) is not None:
                self._cache.move_to_end(slot)
                return table
        with self.open(part) as file:
            try:
                table = pq.read_table(file, columns=list(columns))
            except (pa.ArrowException, OSError) as error:
                raise Corrupt(f"{self._storage.url}/{part.path} is damaged: {error}") from error
        with self._lock:
            if slot not in self._cache:
                self._cache[slot] = table
                self._cached_bytes += table.nbytes
            while self._cached_bytes > _CACHE_BYTES and len(self._cache) > 1:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return table
