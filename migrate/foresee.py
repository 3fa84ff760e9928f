"""Losses of points, texts and histograms that a plan can tell without reading them.

The words are those of `adapters.fit_points` and `adapters.fit_stream`, so that what was only
possible and what has happened are one line.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..adapters.base import Capabilities, RunStats
from ..adapters.fit import Loss, LossKind
from ..adapters.fit_stream import STREAMS, Stream


def possible_losses(stats: RunStats, caps: Capabilities) -> Iterator[Loss]:
    """What may happen, or will where the source tells enough."""
    for stream in STREAMS[1:]:
        rows: int | None = getattr(stats, stream)
        if not caps.native(stream) and rows != 0:
            yield only_in_origin(stream, rows)
    if stats.texts != 0 and caps.native("texts") and caps.max_text is not None:
        detail = f"texts longer than {caps.max_text} characters"
        yield Loss("truncated", "texts", detail, certain=False)
    if stats.points != 0:
        yield from _values(stats, caps)
        yield from _steps(stats, caps)
        yield from _times(caps)


def only_in_origin(stream: Stream, rows: int | None) -> Loss:
    detail = f"{stream}: only in the origin record"
    return Loss("moved", stream, detail, rows or 1, certain=rows is not None)


def _values(stats: RunStats, caps: Capabilities) -> Iterator[Loss]:
    if stats.nonfinite != 0:
        every = stats.nonfinite if len({"nan", "inf", "-inf"} - caps.nonfinite) == 3 else None
        for name in sorted({"nan", "inf", "-inf"} - caps.nonfinite):
            yield _possible("dropped", f"values that are {name}", every)
    limit = caps.max_points_per_series
    if limit is not None and (stats.longest_series is None or stats.longest_series > limit):
        detail = f"series longer than {limit} points are reduced (first, last, lowest, highest kept)"
        yield _possible("dropped", detail, stats.longest_series and stats.longest_series - limit)
    if not caps.exact_duplicates:
        yield _possible("merged", "identical points are kept once")
    if not caps.repeated_steps:
        yield _possible("merged", "several values of one key at one step: the first is kept")


def _steps(stats: RunStats, caps: Capabilities) -> Iterator[Loss]:
    if not caps.float_steps and stats.fractional_steps != 0:
        yield _possible("rounded", "fractional steps are rounded down", stats.fractional_steps)
    if caps.float_steps and caps.step_decimals is not None and stats.fractional_steps != 0:
        yield _possible("rounded", f"steps are kept to {caps.step_decimals} decimal places")
    if caps.max_step is not None:
        yield _possible("dropped", f"values with a step of {caps.max_step:,} or more")
    if not caps.negative_steps:
        yield _possible("dropped", "points with a negative step")
    if not caps.decreasing_steps:
        yield _possible("dropped", "values at or below an earlier step of their key")
    if not caps.null_steps:
        yield _possible("retyped", "points without a step get step 0")


def _times(caps: Capabilities) -> Iterator[Loss]:
    if caps.point_times == "none":
        yield _possible("dropped", "points have no time there")
        return
    if caps.point_times != "us":
        yield _possible("rounded", f"point times are kept in {caps.point_times}")
    if not caps.null_point_times:
        yield _possible("retyped", "points without a time get the run's start")
    if not caps.times_before_1970:
        yield _possible("rounded", "points of before 1970 get its first moment")


def _possible(kind: LossKind, detail: str, rows: int | None = None) -> Loss:
    return Loss(kind, "points", detail, rows or 1, certain=rows is not None)
