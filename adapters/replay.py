"""Telling rows that are sent again from rows that are new, for sinks whose platform only appends.

A crashed copy and a growing run both send rows that the target already has. Rows are compared as
multisets: of `n` equal rows here and `m` equal rows sent, `max(n, m)` remain, so that two identical
points stay two however often they are sent. Rows are compared by a 64-bit hash of all columns; no
row becomes a Python object but for texts and histograms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .batches import mix, value_bits

Hashes = npt.NDArray[np.uint64]


def _word_hash(word: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(word, digest_size=8).digest(), "little")


def _text_hashes(column: pa.Array) -> Hashes:
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    words = [_word_hash(str(word).encode("utf-8", "surrogatepass")) for word in column.dictionary.to_pylist()]
    table = np.array([*words, 0], dtype=np.uint64)
    result: Hashes = table[column.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)]
    return result


def _list_hashes(column: pa.Array) -> Hashes:
    rows = (b"" if row is None else np.asarray(row, np.float64).tobytes() for row in column.to_pylist())
    return np.fromiter((_word_hash(row) for row in rows), np.uint64, len(column))


def row_hashes(batch: pa.RecordBatch) -> Hashes:
    """64 bits a row over all columns, whatever their order. A null adds nothing, so that an absent column is one of nulls."""
    total = np.full(batch.num_rows, 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for name in batch.schema.names:
            column = batch.column(name)
            if column.null_count == len(column):
                continue
            if pa.types.is_dictionary(column.type) or pa.types.is_large_string(column.type):
                bits = _text_hashes(column)
            elif pa.types.is_list(column.type):
                bits = _list_hashes(column)
            else:
                bits = value_bits(column)
            bits = mix(bits + np.uint64(_word_hash(name.encode())))
            if column.null_count:
                bits = np.where(column.is_null().to_numpy(zero_copy_only=False), np.uint64(0), bits)
            total += bits
        return mix(total)


class Replay:
    """The rows that a target already has of one run; tells which of the rows sent are new."""

    __slots__ = ("_counts", "_hashes", "_used")

    def __init__(self, present: Iterable[pa.RecordBatch] = ()) -> None:
        hashes = [row_hashes(batch) for batch in present]
        every = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
        self._hashes, self._counts = np.unique(every, return_counts=True)
        self._used = np.zeros(len(self._hashes), dtype=np.int64)

    def __bool__(self) -> bool:
        return bool(len(self._hashes))

    def new(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of a batch that the target does not have yet, in their order."""
        if not len(self._hashes) or not batch.num_rows:
            return batch
        hashes = row_hashes(batch)
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        occurrence = np.arange(len(ordered)) - np.searchsorted(ordered, ordered, "left")
        place = np.minimum(np.searchsorted(self._hashes, ordered), len(self._hashes) - 1)
        known = (self._hashes[place] == ordered) & (self._used[place] + occurrence < self._counts[place])
        self._used += np.bincount(place[known], minlength=len(self._used))
        keep = np.empty(len(ordered), dtype=bool)
        keep[order] = ~known
        return batch if keep.all() else batch.filter(pa.array(keep))
