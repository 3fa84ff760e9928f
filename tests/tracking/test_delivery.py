"""From the journal to a sink: everything, once, in the end; what is refused is set aside."""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outgrow.adapters.base import LIVE_MARK
from outgrow.config import Config
from outgrow.errors import CredentialsError, Unavailable
from outgrow.locations import open_sink, open_source
from outgrow.model import Status
from outgrow.testing.memory import Faults, MemorySink, capabilities
from outgrow.tracking import journal, state
from outgrow.tracking.delivery import Delivery
from outgrow.tracking.report import report
from outgrow.tracking.start import start_run
from outgrow.tracking.sync import sync
from outgrow.tracking.worker import Lane

Settings = Callable[..., Config]


def trained(settings: Settings, **options: Any) -> Path:
    """A whole small run; its journal."""
    config = options.pop("config", None) or settings()
    with start_run("digits", "first", config=config, capture=False, **options) as run:
        run.log_params({"lr": 1e-3, "model": {"layers": [64, 32], "bias": True}})
        run.set_tags({"owner": "ml"}, "baseline")
        for step in range(20):
            run.log({"train/loss": 1 / (step + 1)}, step=step)
        run.log({"eval": {"accuracy": 0.9, "bad": float("nan"), "worse": -math.inf}}, step=20)
        run.log_text("sample", "a cat", step=1)
        run.log_histogram("weights", [0, 1, 2], [3, 4], step=1)
        run.log_bytes(b"hello", "notes/hello.txt")
    assert run.folder is not None
    return run.folder


def test_everything_arrives(settings: Settings, target: Any) -> None:
    delivery = target.deliver(trained(settings))
    run = target.run
    assert run.name == "first"
    assert run.status is Status.FINISHED
    assert run.params == {"lr": 1e-3, "model/layers": [64, 32], "model/bias": True}
    assert run.tags == {"owner": "ml"}
    assert run.labels == ["baseline"]
    assert run.origin.identity == f"outgrow:{delivery.folder.name}"
    assert run.summary["eval/accuracy"] == 0.9
    points = target.points()
    assert points[:20] == [("train/loss", step, 1 / (step + 1)) for step in range(20)]
    assert points[20][2] == 0.9
    assert math.isnan(points[21][2])
    assert points[22] == ("eval/worse", 20, -math.inf)
    (texts,) = target.source.texts(run)
    assert texts.column("text").to_pylist() == ["a cat"]
    (histograms,) = target.source.histograms(run)
    assert histograms.column("counts").to_pylist() == [[3.0, 4.0]]
    assert target.files() == {"notes/hello.txt": b"hello"}
    assert delivery.settled
    (kept,) = target.sink.kept.values()
    assert kept.mark == LIVE_MARK


def test_repeating_it_adds_nothing(settings: Settings, target: Any) -> None:
    folder = trained(settings)
    target.deliver(folder)
    before = target.points()
    calls = target.sink.faults.calls.total()
    target.deliver(folder)
    assert target.sink.faults.calls.total() == calls
    for lost in (folder / "sinks").iterdir():  # as on a machine that never delivered it
        lost.unlink()
    target.deliver(folder)
    assert len(target.sink.kept) == 1
    assert repr(target.points()) == repr(before)


def test_a_running_run_is_delivered_as_it_grows(settings: Settings, target: Any) -> None:
    run = start_run("digits", config=settings(), capture=False)
    folder = run.folder
    assert folder is not None
    run.log({"loss": 1.0})
    delivery = target.deliver(folder)
    assert target.run.status is Status.RUNNING
    assert not delivery.settled
    run.log({"loss": 0.5})
    run.log({"loss": 0.4}, step=1.5)
    target.deliver(folder)
    assert target.points() == [("loss", 0, 1.0), ("loss", 1, 0.5), ("loss", 1.5, 0.4)]
    run.finish()
    target.deliver(folder)
    assert target.run.status is Status.FINISHED


def test_a_sink_that_takes_only_ended_runs_waits(settings: Settings, target: Any) -> None:
    target.sink = MemorySink(capabilities(live=False))
    run = start_run("digits", config=settings(), capture=False)
    run.log({"loss": 1.0})
    assert run.folder is not None
    target.deliver(run.folder)
    assert not target.sink.kept
    run.finish()
    target.deliver(run.folder)
    assert target.points() == [("loss", 0, 1.0)]


@pytest.mark.parametrize("call", ["find", "experiment", "begin", "writer.params", "writer.points", "writer.file", "writer.finish", "flush"])  # fmt: skip
@pytest.mark.parametrize("buffered", [False, True])
def test_a_fault_anywhere_loses_and_doubles_nothing(
    settings: Settings, target: Any, call: str, buffered: bool
) -> None:
    target.sink = MemorySink(
        faults=Faults().at(call, 1, Unavailable("503", retry_after=0.01)), buffered=buffered
    )
    folder = trained(settings)
    with pytest.raises(Unavailable):
        target.deliver(folder)
    target.sink.crash()
    delivery = target.deliver(folder)
    assert delivery.settled
    assert len(target.sink.kept) == 1
    assert [point[1] for point in target.points() if point[0] == "train/loss"] == list(range(20))
    assert target.files() == {"notes/hello.txt": b"hello"}


@pytest.mark.parametrize("call", ["writer.texts", "writer.file", "writer.finish", "flush"])
def test_a_sink_that_appends_gets_nothing_twice(settings: Settings, target: Any, call: str) -> None:
    faults = Faults().at(call, 1, Unavailable("503"), times=2)
    target.sink = MemorySink(capabilities(replay="append"), faults=faults)
    folder = trained(settings)
    for _ in range(2):
        with pytest.raises(Unavailable):
            target.deliver(folder)
    assert target.deliver(folder).settled
    assert [point[1] for point in target.points() if point[0] == "train/loss"] == list(range(20))
    assert sum(batch.num_rows for batch in target.source.texts(target.run)) == 1


def test_a_sink_that_appends_gets_nothing_twice_without_the_cursor(settings: Settings, target: Any) -> None:
    """As where the journal was carried elsewhere without its `sinks` folder."""
    target.sink = MemorySink(capabilities(replay="append"))
    folder = trained(settings)
    target.deliver(folder)
    before = target.points()
    for lost in (folder / "sinks").iterdir():
        lost.unlink()
    assert target.deliver(folder).settled
    assert repr(target.points()) == repr(before)


def test_artifacts_and_versions_arrive(settings: Settings, target: Any) -> None:
    config = settings()
    folders = []
    for _ in range(2):
        with start_run("digits", config=config, capture=False) as run:
            weights = config.base / "weights.safetensors"
            weights.write_bytes(b"w")
            run.log_model(weights, "classifier", register="digits", aliases=["champion"])
        folders.append(run.folder)
        target.deliver(run.folder)
        target.deliver(run.folder)
    (model,) = target.source.registry()
    assert [v.version for v in model.versions] == [v.version for v in model.versions]
    assert len(model.versions) == 2
    artifacts = list(target.sink.artifacts.values())
    assert {a.artifact.type for a in artifacts} == {"model"}
    assert all(v.artifact in target.sink.artifacts for v in model.versions)
    assert all(v.run in target.sink.kept for v in model.versions)


def test_a_registered_version_is_durable_when_its_run_is(settings: Settings, tmp_path: Path) -> None:
    """Also where the delivery process dies right afterwards, before the sink is closed."""
    config = settings()
    (config.base / "w.bin").write_bytes(b"w")
    with start_run("digits", config=config, capture=False) as run:
        run.log_model(config.base / "w.bin", "net", register="digits")
    location = f"archive:{tmp_path / 'history'}"
    sink = open_sink(location)
    delivery = Delivery(run.folder, location, lambda: sink, lambda: open_source(location))
    while delivery.deliver():
        pass
    assert delivery.settled
    with open_source(location) as source:
        (model,) = source.registry()
        assert len(model.versions) == 1
    sink.close()


def test_a_sink_without_versions_gets_loose_files(settings: Settings, target: Any) -> None:
    target.sink = MemorySink(capabilities("artifacts", "aliases"))
    config = settings()
    with start_run("digits", config=config, capture=False) as run:
        (config.base / "w.bin").write_bytes(b"w")
        run.log_model(config.base / "w.bin", "net", register="digits")
    target.deliver(run.folder)
    assert target.files() == {"artifacts/net/0/w.bin": b"w"}
    (model,) = target.source.registry()
    assert model.versions[0].path == "artifacts/net/0"


def test_a_child_run_finds_its_parent(settings: Settings, target: Any) -> None:
    config = settings()
    parent = start_run("digits", config=config, capture=False)
    child = start_run("digits", config=config, capture=False, parent=parent)
    child.finish()
    parent.finish()
    waiting = target.deliver(child.folder)
    assert waiting.waiting
    assert not target.sink.kept
    target.deliver(parent.folder)
    target.deliver(child.folder)
    runs = {d.run.origin.run_id: d.run for d in target.source.by_run.values()}
    assert runs[child.id].parent == runs[parent.id].id


def test_a_child_does_not_wait_for_a_parent_that_is_still_running(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sink that takes only ended runs gets the parent last: the trials of a sweep go on meanwhile."""
    sink = MemorySink(capabilities(live=False))
    config = settings(delivery="process")
    monkeypatch.setattr("outgrow.tracking.start.ensure_delivery", lambda _: None)
    monkeypatch.setattr("outgrow.tracking.report.ensure_delivery", lambda _: None)
    lane = Lane("archive:nowhere", lambda: sink, sink.source, threading.Event())

    def at_work(_: float) -> None:
        assert not state.load(child.folder, "archive:nowhere").held_back, "it waits in vain"
        lane.step([child.folder])

    parent = start_run("digits", "parent", config=config, capture=False)
    child = start_run("digits", "child", config=config, capture=False, parent=parent)
    child.log({"loss": 1.0})
    assert child.folder is not None
    assert parent.folder is not None
    lane.add(child.folder)
    lane.add(parent.folder)
    monkeypatch.setattr("outgrow.tracking.report.time.sleep", at_work)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = child.finish(timeout=60)
    assert not told.delivered
    assert "to follow its parent run" in str(told)
    parent.finish(timeout=0)
    for _ in range(2):
        lane.step([child.folder, parent.folder])
    assert report(child.folder, ["archive:nowhere"]).complete
    runs = {data.run.name: data.run for data in sink.source().by_run.values()}
    assert runs["child"].parent == runs["parent"].id


def test_a_run_is_taken_up_again_elsewhere(settings: Settings, target: Any, tmp_path: Path) -> None:
    here = trained(settings, id="long-run")
    target.deliver(here)
    there = settings(journal="other/journal")
    with start_run("digits", id="long-run", config=there, capture=False) as run:
        run.log({"train/loss": 0.01}, step=20)
    target.deliver(run.folder)
    assert len(target.sink.kept) == 1
    assert len([p for p in target.points() if p[0] == "train/loss"]) == 21


def test_steps_go_on_after_a_restart(settings: Settings, target: Any) -> None:
    config = settings()
    with start_run("digits", id="again", config=config, capture=False) as run:
        run.log({"loss": 1})
        run.log({"loss": 2})
    with start_run("other", id="again", config=config, capture=False, tags={"try": 2}) as run:
        run.log({"loss": 3})
        run.log_params({"lr": 1})
        with pytest.raises(ValueError, match="set once"):
            run.log_params({"lr": 2})
    target.deliver(run.folder)
    assert target.points() == [("loss", 0, 1), ("loss", 1, 2), ("loss", 2, 3)]
    assert target.run.tags == {"try": "2"}
    assert target.run.status is Status.FINISHED


def test_a_killed_process_of_another_machine_is_not_called_dead(
    settings: Settings, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = os.fork()
    if not child:
        start_run("digits", id="far", config=settings(), capture=False).log({"loss": 1})
        os._exit(9)
    os.waitpid(child, 0)
    folder = settings().journal / "far"
    monkeypatch.setattr("socket.gethostname", lambda: "login-node")
    assert not target.deliver(folder).settled
    assert target.run.status is Status.RUNNING
    assert target.deliver(folder, ended=True).settled
    assert target.run.status is Status.KILLED


def test_two_sinks_do_not_wait_for_each_other(settings: Settings) -> None:
    config = settings(to=["archive:slow", "archive:quick"])
    folder = trained(settings, config=config)
    release = threading.Event()
    slow = MemorySink(faults=Faults().at("begin", 1, lambda: release.wait(20)))
    quick = MemorySink()
    sinks = {"archive:slow": slow, "archive:quick": quick}
    done = threading.Thread(target=sync, args=([folder], config), kwargs={"openers": sinks})
    done.start()
    try:
        for _ in range(500):
            if state.load(folder, "archive:quick").done:
                break
            threading.Event().wait(0.01)
        assert state.load(folder, "archive:quick").done
        assert not state.load(folder, "archive:slow").done
    finally:
        release.set()
        done.join()
    assert state.load(folder, "archive:slow").done


def test_a_lane_retries_what_is_transient(settings: Settings) -> None:
    folder = trained(settings)
    sink = MemorySink(faults=Faults().at("begin", 1, Unavailable("503", retry_after=0.01), times=3))
    lane = Lane("archive:nowhere", lambda: sink, sink.source, threading.Event())
    lane.add(folder)
    assert lane.deliver(folder)
    assert sink.faults.calls["begin"] == 4
    assert report(folder, ["archive:nowhere"]).delivered


def test_what_cannot_be_delivered_is_told(settings: Settings) -> None:
    folder = trained(settings)
    sink = MemorySink(faults=Faults().at("find", 1, CredentialsError("wrong key"), times=9))
    lane = Lane("archive:nowhere", lambda: sink, sink.source, threading.Event())
    lane.add(folder)
    assert not lane.deliver(folder)
    told = report(folder, ["archive:nowhere"])
    assert not told.delivered
    assert "wrong key" in str(told)
    assert "outgrow sync" in str(told)
    records = sum(1 for _ in journal.read(folder))
    assert told.sinks[0].pending == records


def test_a_corrupt_tail_does_not_stop_what_was_intact(settings: Settings, target: Any) -> None:
    folder = trained(settings)
    path = folder / journal.RECORDS
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b'"end"')])
    delivery = target.deliver(folder)
    assert delivery.settled
    assert target.run.status is Status.KILLED
    assert len([p for p in target.points() if p[0] == "train/loss"]) == 20


def test_only_one_process_delivers_at_a_time(settings: Settings, target: Any) -> None:
    folder = trained(settings)
    first = Delivery(folder, "archive:nowhere", lambda: target.sink, target.sink.source)
    assert first._lock.acquire()
    second = Delivery(folder, "archive:nowhere", lambda: target.sink, target.sink.source)
    assert not second.deliver()
    assert second.busy
    first._lock.release()
    while second.deliver():
        pass
    assert second.settled
