"""Fitting batches of points to what a target can hold (see `adapters.fit`). Columnar throughout."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..model import Run
from . import batches
from .base import Capabilities
from .fit import UNITS, FittedRun, Loss, fit_time


def fit_points(
    batch: pa.RecordBatch, fitted: FittedRun, caps: Capabilities
) -> tuple[pa.RecordBatch, list[Loss]]:
    """A batch of points as the target can hold them. Fewer rows only where a value has no form there."""
    losses: list[Loss] = []
    rows = batch.num_rows
    if not rows:
        return batch, losses
    for key in batches.keys_of(batch):
        fitted.keys(key)
    batch = batches.rename(batch, fitted.keys.changed)
    batch = _fit_columns(batch, caps, losses)
    batch = _fit_steps(batch, caps, losses)
    batch = _fit_point_times(batch, fitted.run, caps, losses)
    return _fit_values(batch, caps, losses), losses


def fit_rows(
    batch: pa.RecordBatch, fitted: FittedRun, caps: Capabilities
) -> tuple[pa.RecordBatch, list[Loss]]:
    """A batch of texts or histograms with keys, steps and times as the target can hold them."""
    losses: list[Loss] = []
    if not batch.num_rows:
        return batch, losses
    for key in batches.keys_of(batch):
        fitted.keys(key)
    batch = _fit_steps(batches.rename(batch, fitted.keys.changed), caps, losses)
    batch = batches.with_steps(batch, pa.float64())
    if caps.max_text is not None and "text" in batch.schema.names:
        batch = _fit_texts(batch, caps.max_text, losses)
    return _fit_point_times(batch, fitted.run, caps, losses), losses


def _fit_texts(batch: pa.RecordBatch, length: int, losses: list[Loss]) -> pa.RecordBatch:
    texts = batch.column("text")
    long = pc.greater(pc.utf8_length(texts), length)
    count = pc.sum(long).as_py() or 0
    if not count:
        return batch
    losses.append(Loss("truncated", "texts", f"texts longer than {length} characters", count))
    marks = (pa.scalar("…", texts.type), pa.scalar("", texts.type))
    cut = pc.binary_join_element_wise(pc.utf8_slice_codeunits(texts, 0, length - 1), *marks)
    return _set(batch, "text", pc.if_else(long, cut, texts))


def _set(batch: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    return batch.set_column(batch.schema.get_field_index(name), pa.field(name, column.type), column)


def _fit_columns(batch: pa.RecordBatch, caps: Capabilities, losses: list[Loss]) -> pa.RecordBatch:
    for name in batches.OPTIONAL_POINT_COLUMNS:
        if name in batch.schema.names and name not in caps.point_columns:
            told = batch.num_rows - batch.column(name).null_count
            if told:
                losses.append(Loss("moved", "points", f"the points' {name}: only in the origin record", told))
            batch = batch.drop_columns([name])
    return batch


def _fit_steps(batch: pa.RecordBatch, caps: Capabilities, losses: list[Loss]) -> pa.RecordBatch:
    steps = batch.column("step")
    if pa.types.is_floating(steps.type):
        bad = pc.invert(pc.is_finite(steps)).fill_null(False)
        if pc.any(bad).as_py():
            losses.append(Loss("dropped", "points", "steps that are not a number", pc.sum(bad).as_py()))
            steps = pc.if_else(bad, pa.scalar(None, steps.type), steps)
        if not caps.float_steps:
            floor = pc.floor(steps)
            changed = pc.sum(pc.not_equal(floor, steps)).as_py() or 0
            if changed:
                losses.append(Loss("rounded", "points", "fractional steps are rounded down", changed))
            floor = pc.if_else(pc.greater(pc.abs(floor), 2.0**62), pa.scalar(None, floor.type), floor)
            steps = pc.cast(floor, pa.int64())
        elif caps.step_decimals is not None:
            near = pc.round(steps, caps.step_decimals)
            changed = pc.sum(pc.not_equal(near, steps)).as_py() or 0
            if changed:
                detail = f"steps are kept to {caps.step_decimals} decimal places"
                losses.append(Loss("rounded", "points", detail, changed))
                steps = near
    if caps.max_step is not None:
        beyond = pc.or_(pc.greater_equal(steps, caps.max_step), pc.less_equal(steps, -caps.max_step))
        beyond = beyond.fill_null(False)
        if pc.any(beyond).as_py():
            detail = f"values with a step of {caps.max_step:,} or more"
            losses.append(Loss("dropped", "points", detail, pc.sum(beyond).as_py()))
            batch, steps = batch.filter(pc.invert(beyond)), steps.filter(pc.invert(beyond))
    if not caps.negative_steps:
        below = pc.less(steps, 0).fill_null(False)
        if pc.any(below).as_py():
            losses.append(Loss("dropped", "points", "points with a negative step", pc.sum(below).as_py()))
            batch, steps = batch.filter(pc.invert(below)), steps.filter(pc.invert(below))
    if not caps.null_steps and steps.null_count:
        losses.append(Loss("retyped", "points", "points without a step get step 0", steps.null_count))
        steps = steps.fill_null(0)
    return _set(batch, "step", steps)


def _fit_point_times(
    batch: pa.RecordBatch, run: Run, caps: Capabilities, losses: list[Loss]
) -> pa.RecordBatch:
    times = batch.column("time")
    if caps.point_times == "none":
        told = len(times) - times.null_count
        if told:
            losses.append(Loss("dropped", "points", "points have no time there", told))
        return _set(batch, "time", pa.nulls(len(times), batches.TIME))
    if caps.point_times != "us":
        unit = UNITS[caps.point_times]
        raw = pc.cast(times, pa.int64())
        known = raw.drop_null().to_numpy()
        changed = int(np.count_nonzero(known % unit))
        if changed:
            losses.append(Loss("rounded", "points", f"point times are kept in {caps.point_times}", changed))
            floored = raw.fill_null(0).to_numpy() // unit * unit
            times = pc.if_else(
                times.is_null(), pa.scalar(None, batches.TIME), pa.array(floored).cast(batches.TIME)
            )
    if not caps.null_point_times and times.null_count:
        losses.append(
            Loss("retyped", "points", "points without a time get the run's start", times.null_count)
        )
        start = fit_time(run.started_at or run.created_at, caps.point_times) or datetime.fromtimestamp(0, UTC)
        times = times.fill_null(pa.scalar(start, batches.TIME))
    if not caps.times_before_1970:
        epoch = pa.scalar(0, pa.int64()).cast(batches.TIME)
        early = pc.less(times, epoch).fill_null(False)
        if count := pc.sum(early).as_py():
            losses.append(Loss("rounded", "points", "points of before 1970 get its first moment", count))
            times = pc.if_else(early, epoch, times)
    return _set(batch, "time", times)


def _fit_values(batch: pa.RecordBatch, caps: Capabilities, losses: list[Loss]) -> pa.RecordBatch:
    if len(caps.nonfinite) == 3:
        return batch
    values = batch.column("value")
    if pc.all(pc.is_finite(values)).as_py():
        return batch
    tests = {"nan": pc.is_nan(values), "inf": pc.equal(values, np.inf), "-inf": pc.equal(values, -np.inf)}
    keep = pa.array(np.ones(len(values), dtype=bool))
    for name, test in tests.items():
        count = pc.sum(test).as_py() or 0
        if count and name not in caps.nonfinite:
            losses.append(Loss("dropped", "points", f"values that are {name}", count))
            keep = pc.and_(keep, pc.invert(test))
    return batch.filter(keep)
