"""Points, texts and histograms on disk: many small runs share a file, a big run has its own.

A run's rows lie together, and its `Piece`s say where, so that one run is read without the others.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...errors import Corrupt, OutgrowError
from .. import batches
from .manifest import Part
from .storage import writing
from .tables import BULK_TABLES, TableReader

GROUP_ROWS = 131_072
"""Rows after which a row group is written."""
GROUP_BYTES = 32 * 2**20
SPILL_ROWS = 262_144
"""Rows after which an unfinished run gets a file of its own."""
READ_ROWS = 131_072
JOIN_BATCHES = 512
"""Waiting batches after which they are joined: a batch has a cost of its own."""
_EXACT = 2**53

_ENCODING = {"value": "BYTE_STREAM_SPLIT", "time": "DELTA_BINARY_PACKED"}


@dataclass(slots=True)
class Piece:
    """A stretch of one run's rows in one file."""

    table: str
    file: BulkFile | str
    """The path within the archive, or the file that is not there yet."""
    group: int
    groups: int
    offset: int
    rows: int
    integer_steps: bool = False

    def row(self) -> dict[str, Any]:
        path = self.file if isinstance(self.file, str) else self.file.path
        return {
            "table": self.table, "path": path, "group": self.group, "groups": self.groups,
            "offset": self.offset, "rows": self.rows, "integer_steps": self.integer_steps,
        }  # fmt: skip

    def followed_by(self, other: Piece) -> bool:
        """Whether the other begins where this ends, at a row group's start."""
        return (
            self.file is other.file
            and self.group + self.groups == other.group
            and other.offset == 0
            and self.integer_steps == other.integer_steps
        )

    @classmethod
    def of(cls, row: dict[str, Any]) -> Piece:
        fields = {key: value for key, value in row.items() if key != "path"}
        return cls(file=row["path"], **fields)


def stored(table: str, run: str, batch: pa.RecordBatch) -> pa.Table:
    """A canonical batch in the layout of a bulk table."""
    schema = BULK_TABLES[table]
    rows = batch.num_rows
    columns = {name: batch.column(name) for name in batch.schema.names}
    columns["run"] = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([run]))
    if table == "points":
        columns["step_int"] = _beyond_double(columns["step"])
        columns["step"] = pc.cast(columns["step"], pa.float64(), safe=False)
    # A slice may drag a dictionary along that is much bigger than itself.
    for name in ("key", "context"):
        if name in columns and len(columns[name].dictionary) > max(64, rows // 8):
            columns[name] = pc.cast(columns[name], pa.string()).dictionary_encode()
    arrays = [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(rows, f.type) for f in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _beyond_double(steps: pa.Array) -> pa.Array:
    if not pa.types.is_integer(steps.type) or not len(steps):
        return pa.nulls(len(steps), pa.int64())
    low, high = pc.min_max(steps).as_py().values()
    if low is None or -_EXACT <= low <= high <= _EXACT:
        return pa.nulls(len(steps), pa.int64())
    big = pc.or_(pc.greater(steps, _EXACT), pc.less(steps, -_EXACT))
    return pc.if_else(big, steps, pa.scalar(None, pa.int64()))


def canonical(table: str, stored_batch: pa.RecordBatch, integer_steps: bool) -> pa.RecordBatch:
    """The inverse of `stored`."""
    if table == "texts":
        return stored_batch.select(batches.TEXTS.names).cast(batches.TEXTS)
    if table == "histograms":
        return stored_batch.select(batches.HISTOGRAMS.names).cast(batches.HISTOGRAMS)
    step = stored_batch.column("step")
    fields = {"key": stored_batch.column("key")}
    if integer_steps:
        exact = stored_batch.column("step_int")
        if exact.null_count == len(exact):
            step = pc.cast(step, pa.int64())
        else:
            small = pc.if_else(exact.is_valid(), pa.scalar(0.0), step)
            step = pc.coalesce(exact, pc.cast(small, pa.int64()))
    fields |= {"step": step, "time": stored_batch.column("time"), "value": stored_batch.column("value")}
    for name in batches.OPTIONAL_POINT_COLUMNS:
        column = stored_batch.column(name)
        if column.null_count < len(column):
            fields[name] = column
    return pa.record_batch(list(fields.values()), names=list(fields))


class BulkFile:
    """A Parquet file in the making. Not safe for use by several threads at once."""

    def __init__(self, table: str, folder: Path, where: str) -> None:
        self.table = table
        self.local = folder / f"{uuid.uuid4().hex}.{table}"
        self.path = ""
        """Its path within the archive, once it has one."""
        self.rows = 0
        self.broken: OutgrowError | None = None
        """What once failed: Parquet cannot be continued after an incomplete write."""
        self._where = where
        self._groups = 0
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._waiting_bytes = 0
        schema = BULK_TABLES[table]
        words = [f.name for f in schema if pa.types.is_dictionary(f.type)]
        with writing(where):
            self._writer = pq.ParquetWriter(
                self.local,
                schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=[*words, "step"],
                column_encoding={k: v for k, v in _ENCODING.items() if k in schema.names and k not in words},
                write_statistics=[name for name in schema.names if name in ("run", "key", "step", "time")],
                write_page_checksum=True,
            )

    def append(self, data: pa.Table, integer_steps: bool) -> Piece:
        """Rows of one run; they stay in one row group."""
        piece = Piece(self.table, self, self._groups, 1, self._waiting_rows, data.num_rows, integer_steps)
        self._waiting.append(data)
        self._waiting_rows += data.num_rows
        self._waiting_bytes += data.nbytes
        self.rows += data.num_rows
        if self._waiting_rows >= GROUP_ROWS or self._waiting_bytes >= GROUP_BYTES:
            self._write_group()
        return piece

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Everything that is written, or an error now and at every later call."""
        if self.broken is not None:
            raise self.broken
        try:
            with writing(self._where):
                yield
        except OutgrowError as error:
            self.broken = error
            raise

    def _write_group(self) -> None:
        if self._waiting_rows:
            together = pa.concat_tables(self._waiting).unify_dictionaries()
            with self._whole():
                self._writer.write_table(together, row_group_size=self._waiting_rows)
            self._groups += 1
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0

    def close(self) -> None:
        """Raises `TargetFull` or `Unavailable`; again at every call, once it has."""
        self._write_group()
        with self._whole():
            self._writer.close()

    def discard(self) -> None:
        with suppress(OSError):  # what cannot be written is not wanted
            self._writer.close()
        self.local.unlink(missing_ok=True)


class Tally:
    """What is told of a run's bulk without reading it: `RunStats`, and points a key."""

    def __init__(self) -> None:
        self.keys: Counter[str] = Counter()
        self.fractional = self.nonfinite = self.texts = self.histograms = 0

    def add(self, table: str, batch: pa.RecordBatch) -> None:
        if table != "points":
            setattr(self, table, getattr(self, table) + batch.num_rows)
            return
        column = batch.column("key")
        counts = np.bincount(column.indices.to_numpy(zero_copy_only=False), minlength=len(column.dictionary))
        for word, count in zip(column.dictionary.to_pylist(), counts.tolist(), strict=True):
            if count:
                self.keys[word] += count
        step, value = batch.column("step"), batch.column("value")
        if pa.types.is_floating(step.type):
            self.fractional += pc.sum(pc.not_equal(pc.floor(step), step)).as_py() or 0
        self.nonfinite += len(value) - (pc.sum(pc.is_finite(value)).as_py() or 0)


@dataclass(slots=True)
class BulkWriter:
    """The bulk of one run on its way: in memory while it is small, in a file of its own when not."""

    run_id: str
    folder: Path
    where: str
    pieces: list[Piece] = field(default_factory=list)
    """Of finished files, in order."""
    _waiting: dict[str, list[pa.Table]] = field(default_factory=dict)
    _rows: Counter[str] = field(default_factory=Counter)
    _bytes: Counter[str] = field(default_factory=Counter)
    _integer: dict[str, bool] = field(default_factory=dict)
    _files: dict[str, BulkFile] = field(default_factory=dict)

    def add(self, table: str, batch: pa.RecordBatch) -> None:
        whole = table == "points" and pa.types.is_integer(batch.schema.field("step").type)
        if self._integer.setdefault(table, whole) != whole:
            self._spill(table)
            self._integer[table] = whole
        data = stored(table, self.run_id, batch)
        waiting = self._waiting.setdefault(table, [])
        waiting.append(data)
        self._rows[table] += data.num_rows
        self._bytes[table] += data.nbytes
        if self._rows[table] >= SPILL_ROWS or self._bytes[table] >= GROUP_BYTES:
            self._spill(table)
        elif len(waiting) >= JOIN_BATCHES:  # live logging: many batches of a few rows
            waiting[:] = [pa.concat_tables(waiting).unify_dictionaries().combine_chunks()]

    def _spill(self, table: str) -> None:
        if waiting := self._waiting.pop(table, None):
            if table not in self._files:
                self._files[table] = BulkFile(table, self.folder, self.where)
            piece = self._files[table].append(pa.concat_tables(waiting), self._integer[table])
            last = self.pieces[-1] if self.pieces else None
            if last is not None and last.followed_by(piece):
                last.groups += 1
                last.rows += piece.rows
            else:
                self.pieces.append(piece)
            self._rows[table] = self._bytes[table] = 0

    def finish(self, shared: dict[str, BulkFile]) -> list[BulkFile]:
        """Close the run's own files and return them; what is small goes to `shared`."""
        own = list(self._files.values())
        for table in list(self._waiting):
            if table in self._files:
                self._spill(table)
        for file in own:
            file.close()
        self._files = {}
        for table, waiting in self._waiting.items():
            if table not in shared:
                shared[table] = BulkFile(table, self.folder, self.where)
            self.pieces.append(shared[table].append(pa.concat_tables(waiting), self._integer[table]))
        self._waiting.clear()
        self._rows.clear()
        self._bytes.clear()
        return own

    def discard(self) -> None:
        for file in self._files.values():
            file.discard()
        self._files = {}
        self._waiting.clear()


def read_pieces(
    reader: TableReader, parts: dict[str, Part], pieces: list[Piece], table: str
) -> Iterator[pa.RecordBatch]:
    """The canonical batches of one run. Raises `Corrupt` naming the part."""
    of_table = [piece for piece in pieces if piece.table == table]
    integer = all(piece.integer_steps for piece in of_table)
    for piece in of_table:
        assert isinstance(piece.file, str)
        part = parts.get(piece.file)
        if part is None:
            raise Corrupt(f"the archive names {piece.file} but no manifest does")
        with reader.open(part) as handle:
            try:
                file = pq.ParquetFile(handle, pre_buffer=False, page_checksum_verification=True)
                yield from _slice(file, piece, table, integer)
            except (pa.ArrowException, OSError) as error:
                raise Corrupt(f"{piece.file} of the archive is damaged: {error}") from error


def _slice(file: pq.ParquetFile, piece: Piece, table: str, integer: bool) -> Iterator[pa.RecordBatch]:
    columns = [name for name in BULK_TABLES[table].names if name != "run"]
    groups = range(piece.group, piece.group + piece.groups)
    skip, left = piece.offset, piece.rows
    for batch in file.iter_batches(READ_ROWS, row_groups=list(groups), columns=columns, use_threads=False):
        if skip >= batch.num_rows:
            skip -= batch.num_rows
            continue
        batch = batch.slice(skip, left)
        skip, left = 0, left - batch.num_rows
        yield canonical(table, batch, integer)
        if not left:
            return
    if left:
        raise OSError(f"{left} rows are missing")
