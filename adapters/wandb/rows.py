"""Points, texts and histograms → W&B history rows, serialised, in bounded memory.

The rule that loses no point: cells are sorted by step (points without a step last); keys of one
step share a row; a key that repeats at a step opens a further row. A row's `_step` is its step,
where that is a whole number from 0 to 2**53 above the row before; else the next free number, and
the step itself is kept in the column `_outgrow_step`. `_timestamp` is the row's earliest time;
where its cells' times differ they are kept in `_outgrow_time`.

Rows are encoded as protobuf by hand, columnar but for one short loop per row: the generated
classes would make one Python object per point.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.message import Message
from wandb.proto import wandb_internal_pb2 as pb

from .layout import STEP_COLUMN, TIME_COLUMN, escape_key

NO_TIME = np.iinfo(np.int64).min
_LAST = np.iinfo(np.int64).max
_LARGEST_STEP = 2**53
_LARGEST_TIME = 4 * 10**15  # microseconds that a float of seconds still tells apart
_SPILL_CELLS = 500_000

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_CHUNK = pa.schema(
    [
        ("key", pa.int32()),
        ("whole", pa.int64()),
        ("exact", pa.float64()),
        ("time", pa.int64()),
        ("value", pa.float64()),
        ("json", pa.large_binary()),
    ]
)
"""One cell a row. `whole` orders it; `exact` is the step itself where it is no int64 (else NaN),
+inf for no step. `json` is the encoded value of what is not a number."""


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def tag(message: type[Message], field: str) -> bytes:
    """What precedes the length of a field that is a text or a message."""
    return varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2)


Tags = tuple[bytes, bytes, bytes]
"""Of an item within its record, and of its key and its value."""
_HISTORY_ITEM = (
    tag(pb.HistoryRecord, "item"),
    tag(pb.HistoryItem, "nested_key"),
    tag(pb.HistoryItem, "value_json"),
)


def _item(key: bytes, value: bytes) -> bytes:
    """`HistoryRecord.item`."""
    return _prefix(key, len(value), _HISTORY_ITEM) + value


def _prefix(key: bytes, value_length: int, tags: Tags) -> bytes:
    """An item up to its value."""
    item, key_tag, value_tag = tags
    body = key_tag + varint(len(key)) + key + value_tag + varint(value_length)
    return item + varint(len(body) + value_length) + body


class RowSpool:
    """Cells in any order, given back as serialised rows. Beyond 500,000 cells they go to disk."""

    def __init__(self, directory: Path, name: str = "cells") -> None:
        """`name`: of the files on disk."""
        self._directory, self._name = directory, name
        self._keys: dict[str, int] = {}
        self._pending: list[pa.RecordBatch] = []
        self._pending_cells = 0
        self._chunks: list[Path] = []
        self.cells = 0
        self.fractional = False
        """Some step is no whole number."""
        self.last_step = -1
        """`_step` of the last row, once `rows` has ended."""

    def _key_ids(self, column: pa.Array) -> pa.Array:
        ids = [self._keys.setdefault(str(k), len(self._keys)) for k in column.dictionary.to_pylist()]
        return pc.take(pa.array(ids, pa.int32()), column.indices)

    def add(self, batch: pa.RecordBatch, json_values: pa.Array | None = None) -> None:
        """A batch of points, or of texts or histograms with their values as JSON."""
        if not batch.num_rows:
            return
        whole, exact = self._steps(batch.column("step"))
        rows = batch.num_rows
        value = batch.column("value") if json_values is None else pa.nulls(rows, pa.float64())
        chunk = pa.record_batch(
            [
                self._key_ids(batch.column("key")),
                pa.array(whole),
                pa.array(exact),
                pc.fill_null(batch.column("time").cast(pa.int64()), NO_TIME),
                value,
                pa.nulls(rows, pa.large_binary()) if json_values is None else json_values,
            ],
            schema=_CHUNK,
        )
        self._pending.append(chunk)
        self._pending_cells += rows
        self.cells += rows
        if self._pending_cells >= _SPILL_CELLS:
            self._spill()

    def _steps(self, column: pa.Array) -> tuple[Ints, Floats]:
        null = column.is_null().to_numpy(zero_copy_only=False)
        if pa.types.is_integer(column.type):
            whole = column.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
            exact = np.full(len(whole), np.nan)
        else:
            steps = column.fill_null(0.0).to_numpy(zero_copy_only=False).astype(np.float64)
            floor = np.floor(steps)
            held = np.abs(floor) < 2.0**62
            whole = np.where(held, floor, np.copysign(2.0**62, floor)).astype(np.int64)
            exact = np.where(held & (floor == steps), np.nan, steps)
            self.fractional |= bool((floor != steps).any())
        whole[null], exact[null] = _LAST, np.inf
        return whole, exact

    def _sorted(self) -> pa.RecordBatch:
        table = pa.Table.from_batches(self._pending, _CHUNK).combine_chunks()
        self._pending, self._pending_cells = [], 0
        batch = table.to_batches()[0]
        whole = batch.column("whole").to_numpy()
        if len(whole) > 1 and (whole[1:] < whole[:-1]).any():
            batch = batch.take(pa.array(np.argsort(whole, kind="stable")))
        return batch

    def _spill(self) -> None:
        path = self._directory / f"{self._name}-{len(self._chunks)}.arrow"
        batch = self._sorted()
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _CHUNK) as writer:
            writer.write_batch(batch)
        self._chunks.append(path)

    def rows(self, start: int, started_us: int | None) -> Iterator[bytes]:
        """Serialised `Record`s, one a row, `_step` from `start` on. Ends the spool."""
        ranks, keys = self.ranks()
        numbering = Numbering(start, started_us)
        for part in self.parts():
            yield from encode(Cells.of(part, ranks), keys, numbering)
        self.last_step = numbering.next_step - 1

    def ranks(self) -> tuple[Ints, list[bytes]]:
        """The place of each key among the sorted column names, and these."""
        names = [escape_key(key).encode("utf-8") for key in self._keys]
        order = sorted(range(len(names)), key=names.__getitem__)
        ranks = np.empty(len(names), dtype=np.int64)
        ranks[order] = np.arange(len(names))
        return ranks, [names[i] for i in order]

    def parts(self) -> Iterator[pa.RecordBatch]:
        """Batches in step order, no step in two of them, of about `_SPILL_CELLS` cells each."""
        if not self._chunks:
            if self._pending:
                yield self._sorted()
            return
        if self._pending:
            self._spill()
        maps = [_mapped(path) for path in self._chunks]
        try:
            chunks = [pa.ipc.open_file(pa.py_buffer(m)).get_batch(0) for m in maps]
            columns = [chunk.column("whole").to_numpy() for chunk in chunks]
            sample = np.sort(np.concatenate([column[:: 1 + len(column) // 2000] for column in columns]))
            parts = -(-self.cells // _SPILL_CELLS)
            inner = sample[(np.arange(1, parts) * len(sample)) // parts]
            starts = [0] * len(columns)
            for cut in [*np.unique(inner).tolist(), None]:
                pieces = []
                for i, (chunk, column) in enumerate(zip(chunks, columns, strict=True)):
                    begin = starts[i]
                    end = len(column) if cut is None else int(np.searchsorted(column, cut, "left"))
                    starts[i] = end
                    if end > begin:
                        pieces.append(chunk.slice(begin, end - begin))
                if pieces:
                    for m in maps:
                        _forget(m)
                    yield pa.Table.from_batches(pieces, _CHUNK).combine_chunks().to_batches()[0]
        finally:
            for path in self._chunks:
                path.unlink()


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _forget(mapped: mmap.mmap) -> None:
    """Else what has been read of the files would count as memory until the run's end."""
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


@dataclass(slots=True)
class Cells:
    """The cells of some steps, as columns in arrival order."""

    rank: Ints
    """The key, by its place among the sorted column names."""
    whole: Ints
    exact: Floats
    time: Ints
    value: pa.Array
    json: pa.Array

    @classmethod
    def of(cls, batch: pa.RecordBatch, ranks: Ints) -> Cells:
        return cls(
            ranks[batch.column("key").to_numpy()],
            batch.column("whole").to_numpy(),
            batch.column("exact").to_numpy(),
            batch.column("time").to_numpy(),
            batch.column("value"),
            batch.column("json"),
        )

    def in_rows(self) -> tuple[Cells, Ints]:
        """The cells ordered by row and key, and the index of each row's first cell."""
        whole, rank = self.whole, self.rank
        exact = np.nan_to_num(self.exact, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
        simple = not np.isfinite(exact).any() and not (exact == np.inf).any()
        order = np.lexsort((rank, whole) if simple else (rank, exact, whole))
        whole, rank, exact = whole[order], rank[order], exact[order]
        new_step = np.ones(len(order), dtype=bool)
        new_step[1:] = (whole[1:] != whole[:-1]) | (exact[1:] != exact[:-1])
        new_cell = new_step.copy()
        new_cell[1:] |= rank[1:] != rank[:-1]
        new_row = new_step
        if not new_cell.all():
            index = np.arange(len(order))
            occurrence = index - np.maximum.accumulate(np.where(new_cell, index, 0))
            group = np.cumsum(new_step)
            again = np.lexsort((rank, occurrence, group))
            order, occurrence, group = order[again], occurrence[again], group[again]
            new_row = np.ones(len(order), dtype=bool)
            new_row[1:] = (group[1:] != group[:-1]) | (occurrence[1:] != occurrence[:-1])
        take = pa.array(order)
        cells = Cells(
            self.rank[order],
            self.whole[order],
            self.exact[order],
            self.time[order],
            self.value.take(take),
            self.json.take(take),
        )
        return cells, np.flatnonzero(new_row)


class Numbering:
    """Gives rows their `_step` and number, across the parts of one run."""

    def __init__(self, start: int, started_us: int | None) -> None:
        self.next_step = start
        self.number = 0
        self.started_us = started_us

    def steps(self, whole: Ints, exact: Floats) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """`_step` of each row, and whether it differs from the row's own step."""
        index = np.arange(len(whole))
        plain = np.isnan(exact) & (whole >= 0) & (whole <= _LARGEST_STEP)
        wished = np.where(plain, whole, -1)
        lead = np.maximum.accumulate(np.maximum(wished - index, self.next_step))
        steps = lead + index
        self.next_step = int(steps[-1]) + 1
        return steps, ~plain | (steps != whole)


def encode(cells: Cells, keys: list[bytes], numbering: Numbering) -> Iterator[bytes]:
    """Serialised `Record`s of one part."""
    cells, starts = cells.in_rows()
    ends = np.append(starts[1:], len(cells.rank))
    steps, moved = numbering.steps(cells.whole[starts], cells.exact[starts])
    first, side = _times(cells, starts, ends)
    data, cuts = items(cells, keys, starts, _HISTORY_ITEM)
    own_steps = [
        ("" if e == np.inf else repr(e) if e == e else str(w)) if m else None
        for m, w, e in zip(
            moved.tolist(), cells.whole[starts].tolist(), cells.exact[starts].tolist(), strict=True
        )
    ]
    number, started = numbering.number, numbering.started_us
    for i, (step, time, own) in enumerate(zip(steps.tolist(), first.tolist(), own_steps, strict=True)):
        text = str(step).encode()
        parts = [data[cuts[i] : cuts[i + 1]], _item(b"_step", text)]
        if time != NO_TIME:
            parts.append(_item(b"_timestamp", b"%d.%06d" % divmod(time, 1_000_000)))
            if started is not None and time >= started:
                parts.append(_item(b"_runtime", b"%d.%06d" % divmod(time - started, 1_000_000)))
        if own is not None:
            parts.append(_item(STEP_COLUMN.encode(), b'"%s"' % own.encode()))
        if side is not None and (told := side[i]) is not None:
            parts.append(_item(TIME_COLUMN.encode(), b'"%s"' % told.encode()))
        inner = b"\x08" + varint(step)
        parts.append(b"\x12" + varint(len(inner)) + inner)
        body = b"".join(parts)
        number += 1
        yield b"\x08" + varint(number) + b"\x12" + varint(len(body)) + body
    numbering.number = number


def _times(cells: Cells, starts: Ints, ends: Ints) -> tuple[Ints, list[str | None] | None]:
    """Each row's `_timestamp` (microseconds), and its `_outgrow_time` where its cells differ."""
    time = cells.time
    known = time != NO_TIME
    low = np.minimum.reduceat(np.where(known, time, _LAST), starts)
    high = np.maximum.reduceat(np.where(known, time, NO_TIME), starts)
    every = np.logical_and.reduceat(known, starts)
    some = low != _LAST
    fits = some & (low >= 0) & (low <= _LARGEST_TIME)
    first = np.where(fits, low, NO_TIME)
    differs = some & ~((low == high) & every & fits)
    if not differs.any():
        return first, None
    base = np.repeat(np.where(fits, low, 0), ends - starts)
    texts = pc.fill_null(pc.cast(pa.array(time - base, mask=~known), pa.string()), "")
    lists = pa.ListArray.from_arrays(pa.array(np.append(starts, len(time)), pa.int32()), texts)
    joined = pc.binary_join(lists, ",").to_pylist()
    return first, [text if differ else None for text, differ in zip(joined, differs.tolist(), strict=True)]


def items(cells: Cells, keys: list[bytes], starts: Ints, tags: Tags) -> tuple[bytes, list[int]]:
    """The cells' items one after the other, and where those of each row begin, and the last end."""
    every = _items(cells, keys, tags)
    offsets = np.frombuffer(every.buffers()[1], np.int64, len(every) + 1, every.offset * 8)
    return every.buffers()[2].to_pybytes(), [*offsets[starts].tolist(), int(offsets[-1])]


def _items(cells: Cells, keys: list[bytes], tags: Tags) -> pa.Array:
    """One serialised item a cell, as a large_binary array."""
    values = number_texts(cells.value)
    lengths = pc.binary_length(values).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    kinds, which = np.unique(cells.rank * 64 + lengths, return_inverse=True)
    prefixes = [_prefix(keys[kind // 64], kind % 64, tags) for kind in kinds.tolist()]
    prefix = pc.take(pa.array(prefixes, pa.large_binary()), pa.array(which))
    empty = pa.scalar(b"", pa.large_binary())
    every = pc.binary_join_element_wise(prefix, values.cast(pa.large_binary()), empty)
    if cells.json.null_count < len(cells.json):
        told = cells.json.is_valid()
        ranks = cells.rank[told.to_numpy(zero_copy_only=False)].tolist()
        own = [_item(keys[r], v) for r, v in zip(ranks, cells.json.drop_null().to_pylist(), strict=True)]
        every = pc.replace_with_mask(every, told, pa.array(own, pa.large_binary()))
    return every


def number_texts(values: pa.Array) -> pa.Array:
    """Floats as the shortest JSON that reads back the same; NaN and infinities as W&B writes them."""
    texts = pc.cast(values, pa.string())
    finite = pc.is_finite(values)
    if pc.all(finite).as_py() is not False:
        return texts
    special = pc.if_else(
        pc.is_nan(values), "NaN", pc.if_else(pc.greater(values, 0.0), "Infinity", "-Infinity")
    )
    return pc.if_else(finite, texts, special)


def text_json(texts: pa.Array) -> pa.Array:
    """Texts as JSON strings."""
    return pa.array([json.dumps(text).encode() for text in texts.to_pylist()], pa.large_binary())


def histogram_json(edges: pa.Array, counts: pa.Array) -> pa.Array:
    """Histograms as W&B logs them (wandb/sdk/data_types/histogram.py)."""
    rows = zip(edges.to_pylist(), counts.to_pylist(), strict=True)
    values: list[dict[str, Any]] = [{"_type": "histogram", "bins": b, "values": v} for b, v in rows]
    return pa.array([json.dumps(value).encode() for value in values], pa.large_binary())
