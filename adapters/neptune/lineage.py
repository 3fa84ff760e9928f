"""Forked runs: whose points a run inherits, and up to which step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

T = TypeVar("T")


def chain(
    run: T, name: str, parent_of: Callable[[T], tuple[T, str, float] | None]
) -> list[tuple[T, str, float]]:
    """(ancestor, its name, last inherited step), the eldest first.

    A step inherited through several forks must lie below each of them. A circle ends the chain.
    """
    found: list[tuple[T, str, float]] = []
    seen, limit = {name}, float("inf")
    while (parent := parent_of(run)) is not None and parent[1] not in seen:
        run, name, step = parent
        limit = min(limit, step)
        seen.add(name)
        found.append((run, name, limit))
    return found[::-1]


def until(batches: Iterable[pa.RecordBatch], step: float) -> Iterator[pa.RecordBatch]:
    """The rows at or below a step."""
    for batch in batches:
        kept = batch.filter(pc.fill_null(pc.less_equal(batch.column("step"), step), True))
        if kept.num_rows:
            yield kept
