"""Points on disk and back, and rows that are sent again."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outgrow.adapters import batches
from outgrow.adapters.archive import bulk
from outgrow.adapters.archive.bulk import canonical, stored
from outgrow.adapters.replay import Replay
from outgrow.errors import TargetFull
from outgrow.locations import open_sink, open_source
from outgrow.model import Origin
from outgrow.testing import records
from outgrow.testing.compare import compare
from outgrow.testing.drive import write
from outgrow.testing.memory import MemorySource, RunData

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
keys = st.sampled_from(["loss", "", "größe/🔥", "a" * 300])
times = st.none() | st.integers(-(2**50), 2**50).map(lambda us: EPOCH + timedelta(microseconds=us))
values = st.floats() | st.sampled_from([float("nan"), float("inf"), -0.0])
integers = st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5)
fractions = st.none() | st.floats(allow_nan=False, allow_infinity=False)


def rows_of(batch: pa.RecordBatch) -> list[tuple[str, ...]]:
    columns = [batch.column(name).to_pylist() for name in ("key", "step", "time", "value")]
    return [tuple(map(repr, row)) for row in zip(*columns, strict=True)]


def batch_of(rows: list[tuple[str, int | float | None, datetime | None, float]]) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    return batches.points(*columns)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(keys, integers, times, values)) | st.lists(st.tuples(keys, fractions, times, values))
)
def test_stored_and_back(rows: list[tuple[str, int | float | None, datetime | None, float]]) -> None:
    batch = batch_of(rows)
    table = stored("points", "run", batch)
    whole = pa.types.is_integer(batch.schema.field("step").type)
    back = [canonical("points", part, whole) for part in table.to_batches()]
    assert [row for part in back for row in rows_of(part)] == rows_of(batch)
    assert all(part.schema.field("step").type == batch.schema.field("step").type for part in back)


small = st.tuples(
    st.sampled_from(["a", "b"]),
    st.sampled_from([1, 2, None]),
    st.just(None),
    st.sampled_from([1.0, float("nan")]),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(small)), st.lists(st.lists(small)))
def test_replay_keeps_the_greater_number_of_equal_rows(
    present: list[list[tuple]], sent: list[list[tuple]]
) -> None:  # type: ignore[type-arg]
    replay = Replay(batch_of(rows) for rows in present)
    added = Counter(row for rows in sent for row in rows_of(replay.new(batch_of(rows))))
    here = Counter(row for rows in present for row in rows_of(batch_of(rows)))
    again = Counter(row for rows in sent for row in rows_of(batch_of(rows)))
    assert here + added == here | again


def test_replay_of_optional_columns_does_not_depend_on_the_batch() -> None:
    batch = records.points(("loss",), 4)
    epochs = pa.array([None, None, 1, 2], pa.int64())
    whole = batch.append_column(pa.field("epoch", pa.int64()), epochs)
    replay = Replay([whole])
    assert [replay.new(part).num_rows for part in batches.split(whole, 1)] == [0, 0, 0, 0]
    assert Replay([whole]).new(batch).num_rows == 2


@pytest.mark.parametrize("spill", [10, 64, 100_000])
def test_pieces(spill: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Big and small runs side by side, in shared and own files: every run gives its own rows back, in order."""
    monkeypatch.setattr(bulk, "SPILL_ROWS", spill)
    monkeypatch.setattr(bulk, "GROUP_ROWS", 50)
    sizes = [1, 7, 49, 50, 51, 130, 3, 400]
    parts = {
        number: list(batches.split(records.points(("a", "b"), size, seed=number), 23))
        for number, size in enumerate(sizes)
    }
    runs = [RunData(records.run(number), list(rows)) for number, rows in parts.items()]
    with open_sink(f"archive:{tmp_path / 'a'}") as sink:
        write(MemorySource([records.experiment()], runs), sink)
    with open_source(f"archive:{tmp_path / 'a'}") as source:
        for experiment in source.experiments():
            for run in source.runs(experiment):
                number = int(run.id[-5:])
                got = [row for batch in source.points(run) for row in rows_of(batch)]
                assert got == [row for batch in parts[number] for row in rows_of(batch)]
                assert source.stats(run).points == 2 * sizes[number]


def test_many_small_batches(tmp_path: Path) -> None:
    """Live logging, a row at a time, of more and more keys."""
    rows = [(f"key {n % 37}", n // 37, None, float(n)) for n in range(3_000)]
    with open_sink(f"archive:{tmp_path / 'a'}") as sink:
        run = records.run(1, experiment=sink.experiment(records.experiment()))
        writer = sink.begin(run, Origin(platform="x", run_id="1"))
        for row in rows:
            writer.points(batch_of([row]))
        assert len(writer._bulk._waiting["points"]) < bulk.JOIN_BATCHES  # type: ignore[attr-defined]
        writer.finish(run, None)
    with open_source(f"archive:{tmp_path / 'a'}") as source:
        (run,) = [r for e in source.experiments() for r in source.runs(e)]
        assert [row for batch in source.points(run) for row in rows_of(batch)] == rows_of(batch_of(rows))


def test_a_table_that_could_not_be_written_is_never_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = f"archive:{tmp_path / 'a'}"
    write_table = bulk.pq.ParquetWriter.write_table
    failures = [OSError(28, "No space left on device")]

    def failing(self: bulk.pq.ParquetWriter, *args: object, **options: object) -> None:
        if failures:
            raise failures.pop()
        write_table(self, *args, **options)

    monkeypatch.setattr(bulk.pq.ParquetWriter, "write_table", failing)
    source = records.history(2)
    sink = open_sink(location)
    for action in (lambda: write(source, sink), sink.flush, sink.close):
        with pytest.raises(TargetFull):
            action()
    with open_sink(location) as sink:
        assert list(sink.copies()) == []
        expected = write(source, sink)
    with open_source(location) as back:
        assert compare(expected, back, sink) == []


def test_steps_that_turn_fractional_midway(tmp_path: Path) -> None:
    with open_sink(f"archive:{tmp_path / 'a'}") as sink:
        run = records.run(1, experiment=sink.experiment(records.experiment()))
        writer = sink.begin(run, Origin(platform="x", run_id="1"))
        writer.points(batches.points(["a"], [1], [None], [1.0]))
        writer.points(batches.points(["a"], [1.5], [None], [2.0]))
        writer.points(batches.points(["a"], [2], [None], [3.0]))
        writer.finish(run, "mark")
    with open_source(f"archive:{tmp_path / 'a'}") as source:
        (run,) = [r for e in source.experiments() for r in source.runs(e)]
        assert [s for b in source.points(run) for s in b.column("step").to_pylist()] == [1.0, 1.5, 2.0]


def test_one_run_is_read_without_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = f"archive:{tmp_path / 'a'}"
    monkeypatch.setattr(bulk, "GROUP_ROWS", 20_000)
    runs = [RunData(records.run(n), [records.points(KEYS, 5_000, seed=n)]) for n in range(12)]
    with open_sink(location) as sink:
        write(MemorySource([records.experiment()], runs), sink)
    read = []
    original = bulk.canonical

    def counting(table: str, batch: pa.RecordBatch, integer: bool) -> pa.RecordBatch:
        read.append(batch.num_rows)
        return original(table, batch, integer)

    monkeypatch.setattr(bulk, "canonical", counting)
    with open_source(location) as source:
        (experiment,) = source.experiments()
        run = list(source.runs(experiment))[7]
        opened = []
        iter_batches = bulk.pq.ParquetFile.iter_batches
        monkeypatch.setattr(
            bulk.pq.ParquetFile,
            "iter_batches",
            lambda self, size, **options: (
                opened.append((options["row_groups"], self.num_row_groups))
                or iter_batches(self, size, **options)
            ),
        )
        assert sum(batch.num_rows for batch in source.points(run)) == 10_000 * len(KEYS) // 2
    assert sum(read) == 10_000 * len(KEYS) // 2
    ((groups, of),) = opened
    assert (len(groups), of) == (1, 6)


KEYS = ("a", "b")
