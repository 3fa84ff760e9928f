"""Arrow schemas of what travels in bulk, and the few operations that every adapter needs.

Steps are int64 or float64, one of the two per run; a null step or time is "not told". Optional
columns of points: `epoch` (int64) and `context` (dictionary<string>), which Comet has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

KEY = pa.dictionary(pa.int32(), pa.string())
TIME = pa.timestamp("us", tz="UTC")

POINTS = pa.schema([("key", KEY), ("step", pa.int64()), ("time", TIME), ("value", pa.float64())])
POINTS_FLOAT_STEPS = POINTS.set(1, pa.field("step", pa.float64()))
TEXTS = pa.schema([("key", KEY), ("step", pa.float64()), ("time", TIME), ("text", pa.large_string())])
HISTOGRAMS = pa.schema(
    [
        ("key", KEY),
        ("step", pa.float64()),
        ("time", TIME),
        ("edges", pa.list_(pa.float64())),
        ("counts", pa.list_(pa.float64())),
    ]
)
"""`edges` has one element more than `counts`."""

OPTIONAL_POINT_COLUMNS = {"epoch": pa.int64(), "context": KEY}


def points(
    keys: Sequence[str],
    steps: Sequence[int | float | None],
    times: Sequence[datetime | int | None],
    values: Sequence[float],
) -> pa.RecordBatch:
    """A batch from columns. Times are `datetime`, or integers in microseconds since 1970 UTC."""
    fractional = any(isinstance(step, float) for step in steps)
    schema = POINTS_FLOAT_STEPS if fractional else POINTS
    return pa.record_batch(
        [
            pa.array(keys, pa.string()).dictionary_encode(),
            pa.array(steps, pa.float64() if fractional else pa.int64()),
            pa.array(times, TIME),
            pa.array(values, pa.float64(), from_pandas=False),
        ],
        schema=schema,
    )


def split(batch: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    """Slices of at most `rows` rows; no copy."""
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def keys_of(batch: pa.RecordBatch) -> list[str]:
    """The distinct keys that occur in a batch, in order of first appearance."""
    column = batch.column("key")
    return [] if not len(column) else [str(k) for k in column.unique().to_pylist()]


def rows_by_key(batch: pa.RecordBatch) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Each key that occurs, with the places of its rows in their order."""
    if not batch.num_rows:
        return
    column = batch.column("key")
    words = column.dictionary.to_pylist()
    index = column.indices.to_numpy(zero_copy_only=False)
    if len(words) <= 2**16:
        index = index.astype(np.uint16)  # which NumPy sorts by radix
    order = np.argsort(index, kind="stable")
    bounds = np.concatenate(([0], np.cumsum(np.bincount(index, minlength=len(words)))))
    for i, word in enumerate(words):
        if bounds[i] < bounds[i + 1]:
            yield str(word), order[bounds[i] : bounds[i + 1]]


def with_steps(batch: pa.RecordBatch, kind: pa.DataType) -> pa.RecordBatch:
    """The batch with its steps as int64 or float64. Raises `pa.ArrowInvalid` for a fractional step."""
    index = batch.schema.get_field_index("step")
    if batch.schema.field(index).type == kind:
        return batch
    return batch.set_column(index, "step", pc.cast(batch.column(index), kind))


def rename(batch: pa.RecordBatch, names: dict[str, str]) -> pa.RecordBatch:
    """The batch with keys replaced; the dictionary is rewritten, not the rows."""
    column = batch.column("key")
    words = column.dictionary.to_pylist()
    if not any(word in names for word in words):
        return batch
    # Two old keys may share a new one: decode, so that the new dictionary is unique.
    renamed = pa.array([names.get(word, word) for word in words], pa.string())
    new = pc.take(renamed, column.indices).dictionary_encode()
    return batch.set_column(batch.schema.get_field_index("key"), pa.field("key", KEY), new)


# --- order-free fingerprints: equal sets of points have equal fingerprints ---------------------

Bits = npt.NDArray[np.uint64]

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(x: Bits) -> Bits:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014), which spreads every input bit."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def value_bits(column: pa.Array) -> Bits:
    """64 bits a row of a column of numbers or times. A float's zero and NaN have one form each; null differs from every value."""
    null = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_timestamp(column.type):
        column = column.cast(TIME).cast(pa.int64())
    if pa.types.is_integer(column.type):
        column = column.fill_null(0)
        raw = column.to_numpy(zero_copy_only=False).astype(np.int64)
        floats = raw.astype(np.float64)
        # Steps compare by value whether they are int64 or float64, as far as a double is exact.
        exact = np.abs(raw) <= 2**53
        bits = np.where(exact, (floats + 0.0).view(np.uint64), raw.view(np.uint64) ^ _GOLDEN)
    else:
        raw = column.fill_null(0.0).to_numpy(zero_copy_only=False).astype(np.float64) + 0.0
        bits = np.where(np.isnan(raw), np.float64("nan"), raw).view(np.uint64)
    result: Bits = np.where(null, _GOLDEN, bits)
    return result


class Fingerprint:
    """Count and order-free hash of the points of each key, fed batch by batch."""

    __slots__ = ("by_key",)

    def __init__(self) -> None:
        self.by_key: dict[str, tuple[int, int]] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Add points: key, step, time and value count, other columns do not."""
        if not batch.num_rows:
            return
        with np.errstate(over="ignore"):
            row = np.full(batch.num_rows, _GOLDEN, dtype=np.uint64)
            for name in ("step", "time", "value"):
                row = mix(row + value_bits(batch.column(name)))
        self.add_rows(batch, row)

    def add_rows(self, batch: pa.RecordBatch, row: Bits) -> None:
        """Add rows of any stream, given 64 bits for each."""
        for key, rows in rows_by_key(batch):
            with np.errstate(over="ignore"):
                total = int(row[rows].sum(dtype=np.uint64))
            count, before = self.by_key.get(key, (0, 0))
            self.by_key[key] = (count + len(rows), (before + total) & (2**64 - 1))

    @classmethod
    def of(cls, batches: Iterable[pa.RecordBatch]) -> Fingerprint:
        result = cls()
        for batch in batches:
            result.add(batch)
        return result

    @property
    def count(self) -> int:
        return sum(count for count, _ in self.by_key.values())
