"""Fitting whole streams: what needs to be known of earlier batches."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outgrow.adapters import batches
from outgrow.adapters.base import Capabilities
from outgrow.adapters.batches import Fingerprint
from outgrow.adapters.fit import fit_run
from outgrow.adapters.fit_stream import Sampler, StreamFitter, chosen, coalesce
from outgrow.adapters.once import Once, _Seen
from outgrow.testing import records

ROWS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0])),
        st.one_of(st.none(), st.sampled_from([records.START])),
        st.sampled_from([0.0, 1.0, float("nan"), float("inf")]),
    ),
    max_size=40,
)


def made(rows):
    keys, steps, times, values = zip(*rows, strict=True) if rows else ((), (), (), ())
    return batches.points(
        list(keys), [None if s is None else float(s) for s in steps], list(times), list(values)
    )


def fitter(again=None, **limits):
    caps = Capabilities(**limits)
    return StreamFitter("points", fit_run(records.run(1), caps), caps, again=again)


def rows_of(batch):
    return [tuple(map(repr, row.values())) for row in batch.to_pylist()]


@given(rows=ROWS, size=st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_duplicates_do_not_depend_on_batches(rows, size):
    whole = fitter(exact_duplicates=False)
    once = whole(made(rows))
    parts = fitter(exact_duplicates=False)
    for batch in batches.split(made(rows), size):
        parts(batch)
    assert len(rows_of(once)) == len(set(rows_of(made(rows))))
    assert parts.written.by_key == whole.written.by_key
    assert parts.inexact == whole.inexact


@given(
    rows=ROWS,
    size=st.integers(1, 7),
    limits=st.sampled_from([{"exact_duplicates": False}, {"repeated_steps": False}]),
)
@settings(max_examples=100, deadline=None)
def test_reading_again_finds_the_same_duplicates_as_holding_them(rows, size, limits):
    """Streams that go forward, go backward, and go forward again."""
    held, reading = fitter(**limits), fitter(again=lambda: parts, **limits)
    parts = list(batches.split(made(sorted(rows, key=lambda row: row[1] or 0)), size))
    parts += batches.split(made(rows), size)
    for batch in parts:
        assert rows_of(held(batch)) == rows_of(reading(batch))


def test_nothing_is_held_of_a_stream_that_goes_forward():
    def again():
        raise AssertionError("the stream was read again")

    fit = fitter(again=again, exact_duplicates=False, repeated_steps=False)
    for start in (0, 10, 20):
        batch = batches.points(["a", "b"] * 10, [start + n // 2 for n in range(20)], [None] * 20, [0.0] * 20)
        times = pa.array(range(20), pa.int64()).cast(batches.TIME)
        assert fit(batch.set_column(2, "time", times)).num_rows == 20


@given(rows=ROWS)
@settings(max_examples=40, deadline=None)
def test_what_is_inexact_is_what_changed(rows):
    fit = fitter(float_steps=False, null_steps=False, nonfinite=frozenset({"nan"}))
    batch = made(rows)
    fit(batch)
    wrong = {
        key for key, step, _, value in rows if step is None or step != int(step) or value == float("inf")
    }
    assert fit.inexact == wrong


def test_the_first_value_of_a_repeated_step_is_kept():
    fit = fitter(repeated_steps=False)
    batch = batches.points(["a", "a", "b", "a"], [1, 1, 1, 2], [None] * 4, [1.0, 2.0, 3.0, 4.0])
    assert fit(batch).column("value").to_pylist() == [1.0, 3.0, 4.0]
    assert [loss.count for loss in fit.losses] == [1]


def test_seen_forgets_nothing_as_it_grows(monkeypatch):
    monkeypatch.setattr(_Seen, "LONGEST", 64)
    seen = Once(["key", "step"], None)
    steps = np.random.default_rng(1).permutation(1000)
    for part in np.array_split(steps, 40):
        assert seen(records_of(part)).num_rows == len(part)
    assert seen(records_of(steps)).num_rows == 0


def records_of(steps):
    count = len(steps)
    return batches.points(["a"] * count, [int(s) for s in steps], [None] * count, [0.0] * count)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 10, 99])
def test_reducing_keeps_ends_and_extremes(limit):
    values = np.random.default_rng(2).standard_normal(1000)
    values[500] = np.nan
    keep = chosen(values, limit)
    assert keep.sum() <= max(limit, 1)
    assert keep[0]
    if limit >= 2:
        assert keep[-1]
    if limit >= 4:
        assert keep[np.nanargmin(values)]
        assert keep[np.nanargmax(values)]


def test_a_sampler_leaves_short_series_alone():
    stream = [records.points(("long",), 500), records.points(("short",), 5)]
    sampler = Sampler(stream, 50)
    kept = Fingerprint.of(sampler(batch) for batch in stream)
    assert kept.by_key["short"][0] == 5
    assert 4 <= kept.by_key["long"][0] <= 50


@given(sizes=st.lists(st.integers(0, 30), max_size=12), rows=st.integers(1, 25))
@settings(max_examples=40, deadline=None)
def test_coalescing_changes_no_row(sizes, rows):
    stream = [records.points(("a", f"k{n}"), size, seed=n) for n, size in enumerate(sizes)]
    joined = list(coalesce(stream, rows))
    assert all(batch.num_rows <= rows for batch in joined)
    assert Fingerprint.of(joined).by_key == Fingerprint.of(stream).by_key
    assert sum(batch.num_rows for batch in joined) == sum(batch.num_rows for batch in stream)


def test_coalescing_joins_columns_and_kinds_of_steps():
    one = batches.points(["a"], [1], [None], [1.0])
    two = batches.points(["a"], [1.5], [None], [2.0])
    with_epoch = one.append_column("epoch", pa.array([3], pa.int64()))
    (joined,) = coalesce([one, two, with_epoch], 10)
    assert joined.column("step").to_pylist() == [1.0, 1.5, 1.0]
    assert joined.column("epoch").to_pylist() == [None, None, 3]
