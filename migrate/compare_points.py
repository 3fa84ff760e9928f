"""Comparing the rows of a run with those of its copy: hashes first, single rows where they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from ..adapters.base import Source
from ..adapters.batches import Fingerprint
from ..adapters.fit_stream import Stream, fingerprint
from ..adapters.replay import Replay
from ..model import Run
from .report import Difference
from .streams import FittedStream, ahead_of, reader

SHOWN_KEYS = 5
SHOWN_ROWS = 3

Rows = Callable[[], Iterable[pa.RecordBatch]]


def fingerprint_of(stream: Stream, rows: Iterator[pa.RecordBatch], about: int | None = None) -> Fingerprint:
    """Reads the rows, `about` so many, to their end."""
    seen = Fingerprint()
    with ahead_of(rows, about) as ahead:
        for batch in ahead:
            fingerprint(stream, batch, seen)
    return seen


def compare_stream(
    stream: Stream, expected: Callable[[], FittedStream], target: Source, twin: Run
) -> tuple[FittedStream, list[Difference]]:
    """Every row that the target should hold against every row that it gives back.

    `expected` makes the fitted rows of the source; what it was asked for first is returned, read.
    """
    wanted = expected()
    for _ in wanted:
        pass
    here = fingerprint_of(stream, reader(target, stream)(twin), wanted.fitter.written.count)
    want, have = wanted.fitter.written.by_key, here.by_key
    bad = sorted(key for key in want.keys() | have.keys() if want.get(key) != have.get(key))
    shown = set(bad[:SHOWN_KEYS])
    examples: dict[str, str] = {}
    if shown:
        examples = _examples(shown, lambda: expected(), lambda: reader(target, stream)(twin))
    differences = []
    for key in bad:
        rows, found = want.get(key, (0, 0))[0], have.get(key, (0, 0))[0]
        sign = "-" if not found else "+" if not rows else "*"
        detail = f"{rows} rows expected, {found} found" + examples.get(key, "")
        differences.append(Difference(sign=sign, what=f"{stream}/{key}", detail=detail))  # type: ignore[arg-type]
    return wanted, differences


def _examples(keys: set[str], expected: Rows, found: Rows) -> dict[str, str]:
    """A few rows of each key that only one side has."""
    wanted = pa.array(sorted(keys), pa.string())

    def of_keys(rows: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in rows:
            part = batch.filter(pc.is_in(pc.cast(batch.column("key"), pa.string()), wanted))
            if part.num_rows:
                yield part.select([name for name in part.schema.names if name not in ("epoch", "context")])

    result = dict.fromkeys(keys, "")
    for title, here, other in (("missing", expected, found), ("not in the source", found, expected)):
        known = Replay(of_keys(other()))
        shown: dict[str, list[str]] = {}
        for batch in of_keys(here()):
            for row in islice(known.new(batch).to_pylist(), 1000):
                if len(shown.setdefault(row["key"], [])) < SHOWN_ROWS:
                    shown[row["key"]].append(_told(row))
        for key, rows in shown.items():
            result[key] += f"; {title}: {', '.join(rows)}"
    return result


def _told(row: dict[str, object]) -> str:
    value = row.get("value", row.get("text", row.get("counts")))
    time = row.get("time")
    return f"(step {row['step']}, {time.isoformat() if hasattr(time, 'isoformat') else time}, {str(value)[:60]!s})"
