"""The contract suite itself: adapters that lie are found out, and faults are where they were asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from outgrow.errors import Rejected, Unavailable
from outgrow.model import Origin, Run
from outgrow.testing import hostile, records
from outgrow.testing.compare import Difference, compare
from outgrow.testing.drive import write
from outgrow.testing.memory import Faults, MemorySink, MemorySource, capabilities
from outgrow.testing.place import Gaps


def runs_changed(change: Callable[[Run], Run]) -> Callable[[MemorySource], None]:
    def lie(source: MemorySource) -> None:
        for data in source.by_run.values():
            data.run = change(data.run)

    return lie


def points_changed(change: Callable[[pa.RecordBatch], pa.RecordBatch]) -> Callable[[MemorySource], None]:
    def lie(source: MemorySource) -> None:
        for data in source.by_run.values():
            data.points = [change(batch) for batch in data.points]  # type: ignore[union-attr]

    return lie


def bytes_changed(source: MemorySource) -> None:
    for data in source.by_run.values():
        data.files = [(file, (data_ or b"") + b"!") for file, data_ in data.files]


def artifact_lost(source: MemorySource) -> None:
    for data in source.by_artifact.values():
        data.files.pop()


def alias_lost(source: MemorySource) -> None:
    source.models = [
        replace(model, versions=[replace(v, aliases=[]) for v in model.versions]) for model in source.models
    ]


def version_lost(source: MemorySource) -> None:
    source.models = [replace(model, versions=model.versions[1:]) for model in source.models]


def value_changed(batch: pa.RecordBatch) -> pa.RecordBatch:
    column = pc.add(batch.column("value"), 1e-12)
    return batch.set_column(3, "value", column)


LIES: dict[str, tuple[str, Callable[[MemorySource], Any]]] = {
    "a param retyped": ("run.params", runs_changed(lambda r: replace(r, params=r.params | {"epochs": "11"}))),
    "a tag lost": ("run.tags", runs_changed(lambda r: replace(r, tags={}))),
    "a time rounded": ("run.started_at", runs_changed(lambda r: replace(r, started_at=r.started_at and r.started_at.replace(microsecond=0)))),
    "no origin": ("run.origin", runs_changed(lambda r: replace(r, origin=None))),
    "a run lost": ("run", lambda s: s.by_run.popitem()),
    "a value off by 1e-12": ("points", points_changed(value_changed)),
    "a point lost": ("points", points_changed(lambda b: b.slice(1))),
    "a point twice": ("points", points_changed(lambda b: pa.Table.from_batches([b, b.slice(0, 1)]).combine_chunks().to_batches()[0])),
    "a text lost": ("texts", lambda s: [setattr(d, "texts", []) for d in s.by_run.values()]),
    "a histogram lost": ("histograms", lambda s: [setattr(d, "histograms", []) for d in s.by_run.values()]),
    "bytes changed": ("files", bytes_changed),
    "a file of an artifact lost": ("artifacts", artifact_lost),
    "an alias lost": ("registry", alias_lost),
    "a version lost": ("registry", version_lost),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_lie_is_found_out(lie: str) -> None:
    aspect, tell = LIES[lie]
    sink = MemorySink()
    expected = write(records.history(2), sink)
    back = sink.source()
    assert compare(expected, back, sink) == []
    tell(back)
    assert {difference.aspect for difference in compare(expected, back, sink)} >= {aspect}


def test_epochs_are_compared() -> None:
    sink = MemorySink()
    expected = write(hostile.load("point_columns"), sink)
    back = sink.source()
    points_changed(lambda batch: batch.drop_columns(["epoch"]))(back)
    assert [d.aspect for d in compare(expected, back, sink)] == ["points.columns"]


def test_known_gaps() -> None:
    gaps = Gaps({"steps:points": "no negative steps", "*:run.user": "one user"})
    gaps.judge("bare", [])
    with pytest.raises(pytest.xfail.Exception, match="no negative steps; one user"):
        gaps.judge("steps", [Difference("points", "x"), Difference("run.user", "y")])
    with pytest.raises(pytest.fail.Exception, match="files: lost"):
        gaps.judge("steps", [Difference("points", "x"), Difference("files", "lost")])
    with pytest.raises(pytest.fail.Exception, match="no gap any more"):
        gaps.judge("steps", [])


def test_faults() -> None:
    faults = Faults().at("writer.points", 2, Unavailable("down"), times=2).at("op*", 1, OSError("gone"))
    source = records.history(3)
    source.faults = faults
    sink = MemorySink(faults=faults)
    with pytest.raises(OSError, match="gone"):
        write(source, sink)
    for _ in range(2):
        with pytest.raises(Unavailable, match="down"):
            write(source, sink)
    expected = write(source, sink)
    assert compare(expected, sink.source(), sink) == []
    assert faults.calls["writer.finish"] >= 3


def test_a_buffered_sink_loses_what_is_not_flushed() -> None:
    sink = MemorySink(buffered=True, faults=Faults().at("flush", 1, Unavailable("down")))
    with pytest.raises(Unavailable):
        write(records.history(2), sink)
    sink.crash()
    assert list(sink.copies()) == []
    expected = write(records.history(2), sink)
    assert compare(expected, sink.source(), sink) == []


def test_a_strict_sink_refuses_what_is_not_fitted() -> None:
    sink = MemorySink(capabilities(float_steps=False, param_types=frozenset({"str"})))
    experiment = sink.experiment(records.experiment())
    writer = sink.begin(records.run(experiment=experiment), Origin(platform="x", run_id="1"))
    with pytest.raises(Rejected):
        writer.params({"lr": 0.1})
    fractional = records.points(("a",), 2).set_column(1, "step", pa.array([0.5, 1.5]))
    with pytest.raises(Rejected):
        writer.points(fractional)
