"""What a sink refuses is set aside with the reason; everything else is delivered."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from outgrow.adapters.base import TextLimit
from outgrow.config import Config
from outgrow.errors import Rejected, Unavailable
from outgrow.testing.memory import Faults, MemorySink, capabilities
from outgrow.tracking.report import report
from outgrow.tracking.start import start_run
from outgrow.tracking.worker import Lane

Settings = Callable[..., Config]


class Fussy(MemorySink):
    """Refuses points of value 3, and a param, in its own way."""

    def begin(self, *arguments: Any, **options: Any) -> Any:
        writer = super().begin(*arguments, **options)
        points, params = writer.points, writer.params

        def refuse_points(batch: Any) -> None:
            if 3.0 in batch.column("value").to_pylist():
                raise Rejected("no threes")
            points(batch)

        def refuse_params(given: Any) -> None:
            if "secret" in given:
                raise Rejected("no secrets")
            params(given)

        writer.points, writer.params = refuse_points, refuse_params
        return writer


def test_refused_values_are_set_aside(settings: Settings, target: Any) -> None:
    target.sink = Fussy()
    with start_run("digits", config=settings(), capture=False) as run:
        run.log_params({"lr": 1, "secret": 2})
        for value in (1, 2, 3, 4, 3, 5):
            run.log({"v": value})
    assert run.folder is not None
    delivery = target.deliver(run.folder)
    assert [value for _, _, value in target.points()] == [1, 2, 4, 5]
    assert delivery.settled
    assert delivery.state.rejected == 3
    lines = [json.loads(line) for line in (run.folder / "rejected.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in lines] == ["no secrets", "no threes", "no threes"]
    assert lines[1]["record"][0]["value"] == 3.0


@pytest.mark.parametrize("call", ["writer.finish", "flush"])
@pytest.mark.parametrize("error", [Unavailable("503"), Rejected("not now")])
def test_what_is_refused_is_told_once(settings: Settings, target: Any, call: str, error: Exception) -> None:
    """However often the delivery is repeated."""
    target.sink = Fussy(faults=Faults().at(call, 1, error))
    with start_run("digits", config=settings(), capture=False) as run:
        run.log({"v": 3})
    assert run.folder is not None
    lane = Lane("archive:nowhere", lambda: target.sink, target.sink.source, threading.Event())
    lane.add(run.folder)
    while not lane.deliver(run.folder):
        pass
    assert len((run.folder / "rejected.jsonl").read_text().splitlines()) == 1
    assert report(run.folder, ["archive:nowhere"]).sinks[0].rejected == 1


class FussyLater(MemorySink):
    """Refuses a file only when it is flushed, as a sink does that writes in transactions."""

    waiting: tuple[str, ...] = ()

    def begin(self, *arguments: Any, **options: Any) -> Any:
        writer = super().begin(*arguments, **options)
        file = writer.file
        self.waiting = ()

        def keep(given: Any, stream: Any) -> None:
            self.waiting = (*self.waiting, given.path)
            if given.path != "bad":
                file(given, stream)

        writer.file = keep
        return writer

    def flush(self) -> None:
        waiting, self.waiting = self.waiting, ()
        if "bad" in waiting:
            raise Rejected("a bad file")
        super().flush()


class Batching(MemorySink):
    """Makes durable what several writers have finished, and refuses one of them, as a database does."""

    def flush(self) -> None:
        time.sleep(0.02)
        with self.lock:
            bad = [run_id for run_id, kept in self._finished.items() if kept.run.name == "bad"]
            for run_id in bad:
                del self._finished[run_id]
        super().flush()
        if bad:
            raise Rejected("a bad run")


def test_runs_that_are_delivered_at_once_are_refused_one_by_one(settings: Settings) -> None:
    config = settings()
    folders = {}
    for name in ("a", "b", "bad", "c", "d", "e"):
        with start_run("digits", name, config=config, capture=False) as run:
            run.log({"loss": 1.0})
        folders[name] = run.folder
    sink = Batching(buffered=True)
    lane = Lane("archive:nowhere", lambda: sink, sink.source, threading.Event())
    for folder in folders.values():
        lane.add(folder)
    lane.step(list(folders.values()))
    assert {data.run.name for data in sink.source().by_run.values()} == {"a", "b", "c", "d", "e"}
    told = {name: report(folder, ["archive:nowhere"]) for name, folder in folders.items()}
    assert [name for name, one in told.items() if not one.complete] == ["bad"]
    assert "a bad run" in str(told["bad"])


def test_a_refusal_at_the_flush_is_isolated_too(settings: Settings, target: Any) -> None:
    target.sink = FussyLater()
    with start_run("digits", config=settings(), capture=False) as run:
        for name in ("a", "bad", "z"):
            run.log_bytes(name, name)
    assert run.folder is not None
    delivery = target.deliver(run.folder)
    assert sorted(target.files()) == ["a", "z"]
    assert delivery.settled
    assert delivery.state.rejected == 1


def test_limits_of_a_sink_are_kept(settings: Settings, target: Any) -> None:
    target.sink = MemorySink(
        capabilities(
            "texts", "histograms", metric_key=TextLimit(allowed=r"[\w/-]"), param_types=frozenset({"str"}),
            float_steps=False, nonfinite=frozenset({"nan"}), point_times="ms",
        )
    )  # fmt: skip
    with start_run("digits", config=settings(), capture=False, params={"lr": 0.5}) as run:
        run.log({"acc@1": 1.0, "acc@5": 2.0, "acc_5": 3.0}, step=1)
        run.log({"acc_1": 4.0, "acc@5": -math.inf}, step=2.5)
        run.log_text("note", "x")
    assert run.folder is not None
    delivery = target.deliver(run.folder)
    points = target.points()
    assert target.run.params == {"lr": "0.5"}
    assert [value for *_, value in points] == [1, 2, 3, 4]
    assert points[0][0] == "acc_1"  # first come, first served: later keys never change earlier ones
    assert len({key for key, *_ in points}) == 4
    assert delivery.state.rejected == 1
