"""Fitting a run's whole stream of points, texts or histograms, batch by batch.

`fit_points` looks at one batch; what needs to be known of earlier batches lives here: repeated
rows (see `adapters.once`), and series that are longer than the target keeps. The same fitter, fed
the same rows, gives the same rows: the copy writes them, the check expects them, and a restored
source tells them from rows that were added since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from . import batches
from .base import Capabilities
from .fit import FittedRun, Loss
from .fit_points import fit_points, fit_rows
from .once import Once
from .replay import row_hashes

Stream = Literal["points", "texts", "histograms"]
STREAMS: tuple[Stream, ...] = ("points", "texts", "histograms")


class Losses:
    """Losses of one run; equal ones are added up."""

    def __init__(self, losses: Iterable[Loss] = ()) -> None:
        self._by_what: dict[tuple[str, str, str], Loss] = {}
        self.add(losses)

    def add(self, losses: Iterable[Loss]) -> None:
        for loss in losses:
            what = (loss.kind, loss.concept, loss.detail)
            before = self._by_what.get(what)
            if before is not None:
                loss = replace(
                    before, count=before.count + loss.count, certain=before.certain or loss.certain
                )
            self._by_what[what] = loss

    def __iter__(self) -> Iterator[Loss]:
        return iter(self._by_what.values())

    def __len__(self) -> int:
        return len(self._by_what)


def fingerprint(stream: Stream, batch: pa.RecordBatch, into: batches.Fingerprint) -> None:
    """Add a batch of any stream to a fingerprint."""
    if stream == "points":
        into.add(batch)
    elif batch.num_rows:
        into.add_rows(batch, row_hashes(batch.drop_columns(["key"])))


class StreamFitter:
    """Fits the rows of one stream of one run, in the source's order.

    Afterwards `original` and `written` are the fingerprints by source key and by target key,
    `losses` what happened, `inexact` the source keys that the target does not hold as they were.
    """

    def __init__(
        self,
        stream: Stream,
        fitted: FittedRun,
        caps: Capabilities,
        sampler: Sampler | None = None,
        again: Callable[[], Iterable[pa.RecordBatch]] | None = None,
    ) -> None:
        """`again` reads the stream from its start; without it, more is held in memory."""
        self.stream, self.fitted, self.caps, self.sampler = stream, fitted, caps, sampler
        self._again, self._rows = again, 0
        self.original = batches.Fingerprint()
        self.written = batches.Fingerprint()
        self.losses = Losses()
        self._columns_lost: set[str] = set()
        points = stream == "points"
        earlier = self._earlier if again is not None else None
        self._once = Once(None, earlier) if points and not caps.exact_duplicates else None
        self._steps = Once(["key", "step"], earlier) if points and not caps.repeated_steps else None
        self._increasing = None if caps.decreasing_steps else _Increasing()

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        fingerprint(self.stream, batch, self.original)
        taken = batch.num_rows
        if self.stream == "points":
            self._note_columns(batch)
            if self.sampler is not None:
                batch = self._count("dropped", self.sampler.detail, batch, self.sampler(batch))
            batch, losses = fit_points(batch, self.fitted, self.caps)
        else:
            batch, losses = fit_rows(batch, self.fitted, self.caps)
            losses = [replace(loss, concept=self.stream) for loss in losses]
        self.losses.add(losses)
        if self._once is not None:
            detail = "identical points are kept once"
            batch = self._count("merged", detail, batch, self._once(batch))
        if self._steps is not None:
            detail = "several values of one key at one step: the first is kept"
            batch = self._count("merged", detail, batch, self._steps(batch))
        if self._increasing is not None:
            batch = self._increase(self._increasing, batch)
        fingerprint(self.stream, batch, self.written)
        self._rows += taken
        return batch

    def _earlier(self) -> Iterator[pa.RecordBatch]:
        """The points before the batch at hand, as they were fitted, read once more."""
        assert self._again is not None
        sampler = None if self.sampler is None else self.sampler.again()
        left = self._rows
        for batch in self._again():
            batch = batch.slice(0, left)
            left -= batch.num_rows
            if sampler is not None:
                batch = sampler(batch)
            yield fit_points(batch, self.fitted, self.caps)[0]
            if not left:
                return

    def _increase(self, increasing: _Increasing, batch: pa.RecordBatch) -> pa.RecordBatch:
        if self.stream == "texts":
            batch, changed = increasing.numbered(batch)
            detail = "texts whose step does not increase are numbered anew"
            self.losses.add([Loss("retyped", "texts", detail, changed)] if changed else [])
            return batch
        kept = increasing.kept(batch)
        if kept.num_rows < batch.num_rows:
            detail = "values at or below an earlier step of their key"
            self.losses.add([Loss("dropped", self.stream, detail, batch.num_rows - kept.num_rows)])
        return kept

    @property
    def inexact(self) -> set[str]:
        names, written = self.fitted.keys.names, self.written.by_key
        return self._columns_lost | {
            key for key, seen in self.original.by_key.items() if written.get(names.get(key, key)) != seen
        }

    def _count(
        self, kind: Literal["merged", "dropped"], detail: str, before: pa.RecordBatch, after: pa.RecordBatch
    ) -> pa.RecordBatch:
        if after.num_rows < before.num_rows:
            self.losses.add([Loss(kind, "points", detail, before.num_rows - after.num_rows)])
        return after

    def _note_columns(self, batch: pa.RecordBatch) -> None:
        for name in batches.OPTIONAL_POINT_COLUMNS:
            if name in batch.schema.names and name not in self.caps.point_columns:
                told = batch.filter(batch.column(name).is_valid())
                self._columns_lost.update(batches.keys_of(told))


class _Increasing:
    """The highest step so far of each key, for platforms whose series only go forward."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def kept(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows above every earlier step of their key."""
        keep = np.ones(batch.num_rows, dtype=bool)
        steps = batch.column("step").to_numpy(zero_copy_only=False)
        for key, rows in batches.rows_by_key(batch):
            highest = np.maximum.accumulate(np.concatenate(([self._last.get(key, -np.inf)], steps[rows])))
            keep[rows] = steps[rows] > highest[:-1]
            self._last[key] = float(highest[-1])
        return batch if keep.all() else batch.filter(pa.array(keep))

    def numbered(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, int]:
        """Every row, those that do not increase one step after the one before; how many these are."""
        steps = batch.column("step").to_numpy(zero_copy_only=False).copy()
        changed = 0
        for key, rows in batches.rows_by_key(batch):
            last = self._last.get(key, -np.inf)
            if not (np.diff(steps[rows], prepend=last) > 0).all():
                for row in rows:
                    if not steps[row] > last:
                        steps[row], changed = np.floor(last) + 1.0, changed + 1
                    last = float(steps[row])
            self._last[key] = float(steps[rows[-1]])
        if not changed:
            return batch, 0
        return batch.set_column(batch.schema.get_field_index("step"), "step", pa.array(steps)), changed


class Sampler:
    """Reduces series that are too long to their first, last, lowest and highest points.

    Made from one pass over the points (8 bytes a point), applied in a second one.
    """

    def __init__(self, stream: Iterable[pa.RecordBatch], limit: int) -> None:
        self.detail = f"series longer than {limit} points are reduced (first, last, lowest, highest kept)"
        values: dict[str, list[npt.NDArray[np.float64]]] = {}
        for batch in stream:
            for key, rows in batches.rows_by_key(batch):
                column = batch.column("value").to_numpy(zero_copy_only=False)
                values.setdefault(key, []).append(column[rows])
        self._keep: dict[str, npt.NDArray[np.bool_]] = {}
        for key, parts in values.items():
            if sum(map(len, parts)) > limit:
                self._keep[key] = chosen(np.concatenate(parts), limit)
        self._seen: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._keep)

    def again(self) -> Sampler:
        """The same choice, for another pass from the start."""
        other = copy(self)
        other._seen = {}
        return other

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        keep = np.ones(batch.num_rows, dtype=bool)
        for key, rows in batches.rows_by_key(batch):
            if (mask := self._keep.get(key)) is not None:
                start = self._seen.get(key, 0)
                self._seen[key] = start + len(rows)
                # A series that grew since the first pass: its new points are kept.
                part = mask[start : start + len(rows)]
                keep[rows[: len(part)]] = part
        return batch if keep.all() else batch.filter(pa.array(keep))


def chosen(values: npt.NDArray[np.float64], limit: int) -> npt.NDArray[np.bool_]:
    """Which of a series' points to keep, `limit` at most: the ends, and each stretch's lowest and highest."""
    keep = np.zeros(len(values), dtype=bool)
    keep[[0, -1][:limit]] = True
    stretches = (limit - 2) // 2
    if stretches < 1:
        return keep
    edges = np.linspace(1, len(values) - 1, stretches + 1).astype(int)
    low = np.where(np.isnan(values), np.inf, values)
    high = np.where(np.isnan(values), -np.inf, values)
    for start, end in pairwise(edges):
        if start < end:
            keep[start + int(np.argmin(low[start:end]))] = True
            keep[start + int(np.argmax(high[start:end]))] = True
    return keep


def coalesce(stream: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of `rows` at most, small ones joined."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in stream:
        for part in batches.split(batch, rows):
            if count + part.num_rows > rows:
                yield _joined(held)
                held, count = [], 0
            held.append(part)
            count += part.num_rows
            if count == rows:
                yield _joined(held)
                held, count = [], 0
    if held:
        yield _joined(held)


def _joined(held: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(held) == 1:
        return held[0]
    schema = held[0].schema
    if any(batch.schema != schema for batch in held):
        # Optional columns come and go, and steps may turn fractional, between batches.
        schema = pa.unify_schemas([batch.schema for batch in held], promote_options="permissive")
        held = [_with_schema(batch, schema) for batch in held]
    table = pa.Table.from_batches(held, schema).unify_dictionaries().combine_chunks()
    batch: pa.RecordBatch = table.to_batches()[0]
    return batch


def _with_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = [
        pc.cast(batch.column(field.name), field.type)
        if field.name in batch.schema.names
        else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.record_batch(columns, schema=schema)
