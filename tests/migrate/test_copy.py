"""The copy engine between two platforms in memory: once, whole, in order, whatever happens."""

from __future__ import annotations

import shutil
import subprocess
import threading
from dataclasses import replace

import pytest
from migrating import POOR, add_points, change, points_in, source_of, written
from outgrow import migrate
from outgrow.adapters.base import Capabilities, RunStats
from outgrow.errors import (
    ConfigError,
    CredentialsError,
    Rejected,
    TargetFull,
    Unavailable,
    Vanished,
)
from outgrow.migrate import Event
from outgrow.model import ArtifactUse, File, Status
from outgrow.testing import records
from outgrow.testing.memory import ArtifactData, MemorySink, MemorySource, RunData, capabilities


@pytest.fixture(params=["idempotent", "append", "buffered", "poor"])
def sink(request):
    match request.param:
        case "append":
            return MemorySink(capabilities(replay="append", flush_runs=3))
        case "buffered":
            return MemorySink(capabilities(flush_runs=4, flush_points=10_000), buffered=True)
        case "poor":
            return MemorySink(POOR)
    return MemorySink()


def states(report):
    return {run.source_run: run.state for run in report.runs}


def test_copies_everything_and_nothing_twice(sink):
    source = records.history(runs=5)
    first = migrate.copy(source, sink)
    assert first.counts == {"copied": 5}
    assert first.exit_code == 0
    assert points_in(sink) == {f"memory:run{n:05d}": 20 for n in range(1, 6)}
    before = written(sink)
    second = migrate.copy(source, sink)
    assert second.counts == {"unchanged": 5}
    assert written(sink) == before
    assert (second.points, second.files, second.models) == (0, 0, 0)
    assert migrate.check(source, sink, deep=True).exit_code == 0


def test_losing_the_ledger_is_harmless(sink, tmp_path):
    source = records.history(runs=3)
    migrate.copy(source, sink, ledger=tmp_path / "one.db")
    again = migrate.copy(source, sink, ledger=tmp_path / "other.db")
    assert again.counts == {"unchanged": 3}
    assert len(points_in(sink)) == 3
    with migrate.Ledger(tmp_path / "other.db") as ledger:
        assert {row.state for row in ledger.rows()} == {"copied"}


def test_a_finished_unchanged_run_is_skipped_without_reading_its_points(sink):
    source = records.history(runs=2)
    migrate.copy(source, sink)
    source.faults.clear()
    migrate.copy(source, sink)
    assert not source.faults.calls["points"]
    assert not source.faults.calls["open"]


def test_new_points_of_a_running_run_are_added_once(sink):
    source = source_of(records.run(1, status=Status.RUNNING, ended_at=None), records.run(2))
    assert migrate.copy(source, sink).counts == {"copied": 2}
    assert migrate.copy(source, sink).counts == {"unchanged": 2}
    add_points(source, "run00001", 5, first_step=10)
    assert states(migrate.copy(source, sink)) == {"run00001": "copied", "run00002": "unchanged"}
    assert points_in(sink)["memory:run00001"] == 30
    change(source, "run00001", status=Status.FINISHED)
    assert states(migrate.copy(source, sink)) == {"run00001": "copied", "run00002": "unchanged"}
    assert points_in(sink)["memory:run00001"] == 30
    assert migrate.copy(source, sink).counts == {"unchanged": 2}
    assert migrate.check(source, sink, deep=True).exit_code == 0


def test_a_finished_run_that_was_changed_is_completed():
    sink, source = MemorySink(), records.history(runs=1)
    migrate.copy(source, sink)
    change(source, "run00001", description="Looked at again.")
    assert migrate.copy(source, sink).counts == {"copied": 1}
    (run,) = (data.run for data in sink.source().by_run.values())
    assert run.description == "Looked at again."


def test_a_target_that_was_deleted_is_filled_again(tmp_path):
    source, target = records.history(runs=2), f"archive:{tmp_path / 'archive'}"
    ledger = tmp_path / "ledger.db"
    migrate.copy(source, target, ledger=ledger)
    shutil.rmtree(tmp_path / "archive")
    again = migrate.copy(source, target, ledger=ledger)
    assert (again.counts, again.models, again.versions) == ({"copied": 2}, 1, 2)
    assert migrate.check(source, target, deep=True).exit_code == 0


def test_a_file_added_to_a_finished_run_is_found_and_copied_when_asked(sink, monkeypatch):
    source = records.history(runs=2)
    monkeypatch.setattr(source, "stats", lambda run: RunStats())  # no count of files, as in MLflow
    migrate.copy(source, sink)
    source.by_run["run00001"].files.append(records.file("late/notes.txt", b"found later"))
    assert migrate.copy(source, sink).counts == {"unchanged": 2}
    missing = migrate.check(source, sink)
    assert missing.exit_code == 1
    assert "late/notes.txt" in str(missing.runs)
    done = migrate.copy(source, sink, again=True, where='id == "run00001"')
    assert done.counts == {"copied": 1}
    assert points_in(sink) == {f"memory:run{n:05d}": 20 for n in (1, 2)}
    assert migrate.check(source, sink, deep=True).exit_code == 0
    assert migrate.copy(source, sink).counts == {"unchanged": 2}


def test_parents_come_before_children_whatever_the_listing_says():
    runs = [records.run(n, parent=f"run{n + 1:05d}" if n < 5 else None) for n in range(1, 6)]
    sink = MemorySink()
    assert migrate.copy(source_of(*runs), sink).counts == {"copied": 5}
    target = {d.run.origin.run_id: d.run for d in sink.source().by_run.values() if d.run.origin}
    for run in runs:
        parent = target[run.parent].id if run.parent else None
        assert target[run.id].parent == parent


def test_parents_in_another_experiment_and_cycles_are_copied_too():
    experiments = (records.experiment(1, "a"), records.experiment(2, "b"))
    runs = [
        records.run(1, "1", parent="run00002"),
        records.run(2, "2"),
        records.run(3, "1", parent="run00004"),
        records.run(4, "1", parent="run00003"),
        records.run(5, "1", parent="run00005"),
        records.run(6, "1", parent="never listed"),
    ]
    sink = MemorySink()
    assert migrate.copy(source_of(*runs, experiments=experiments), sink).counts == {"copied": 6}
    target = {d.run.origin.run_id: d.run for d in sink.source().by_run.values() if d.run.origin}
    assert target["run00001"].parent == target["run00002"].id


def test_a_child_copied_without_its_parent_gets_it_later():
    source, sink = source_of(records.run(1), records.run(2, parent="run00001")), MemorySink()
    migrate.copy(source, sink, where='id == "run00002"')
    migrate.copy(source, sink)
    target = {d.run.origin.run_id: d.run for d in sink.source().by_run.values() if d.run.origin}
    assert target["run00002"].parent == target["run00001"].id
    assert migrate.copy(source, sink).counts == {"unchanged": 2}


def test_an_artifact_is_made_once_and_used_by_others():
    maker = records.run(9, artifacts=[ArtifactUse(artifact="m1", role="output")])
    users = [records.run(n, artifacts=[ArtifactUse(artifact="m1", role="input")]) for n in (1, 2, 3)]
    source = MemorySource(
        [records.experiment()], [RunData(r) for r in (*users, maker)], [records.model(1, maker)]
    )
    sink = MemorySink()
    assert migrate.copy(source, sink).counts == {"copied": 4}
    assert len(sink.artifacts) == 1
    (made,) = sink.artifacts.values()
    target = {d.run.origin.run_id: d.run for d in sink.source().by_run.values() if d.run.origin}
    assert made.artifact.created_by == target["run00009"].id
    assert {use.artifact for run in target.values() for use in run.artifacts} == {made.artifact.id}


def test_a_failing_run_stops_no_other_and_is_tried_again(sink):
    source = records.history(runs=4)
    sink.faults.at("writer.params", 2, Rejected("no", hint="rename it"))
    report = migrate.copy(source, sink, workers=1)
    assert report.counts == {"copied": 3, "failed": 1}
    assert report.exit_code == 3
    (failed,) = (run for run in report.runs if run.state == "failed")
    assert (failed.error.type, failed.error.message, failed.error.hint) == ("Rejected", "no", "rename it")
    again = migrate.copy(source, sink, retry_failed=True)
    assert states(again) == {failed.source_run: "copied"}
    assert migrate.check(source, sink, deep=True).exit_code == 0


def test_an_unknown_error_is_one_runs_failure():
    source, sink = records.history(runs=3), MemorySink()
    source.faults.at("points", 2, KeyError("attribute"))
    report = migrate.copy(source, sink, workers=1)
    assert report.counts == {"copied": 2, "failed": 1}
    assert [run.error.type for run in report.runs if run.error] == ["KeyError"]


def test_transient_errors_are_retried_as_long_as_the_server_asks(monkeypatch):
    source, sink = records.history(runs=2), MemorySink()
    sink.faults.at("writer.points", 1, Unavailable("busy", retry_after=0.01), times=2)
    events: list[Event] = []
    report = migrate.copy(source, sink, workers=1, on_event=events.append)
    assert report.counts == {"copied": 2}
    assert sum(event.kind == "retry" for event in events) == 2
    assert max(run.attempts for run in report.runs) == 3
    assert points_in(sink) == {"memory:run00001": 20, "memory:run00002": 20}


def test_retries_double_nothing_where_sending_again_appends():
    source, sink = (
        records.history(runs=2, steps=50),
        MemorySink(capabilities(replay="append", batch_points=30)),
    )
    sink.faults.at("writer.points", 3, Unavailable("reset"), times=1)
    assert migrate.copy(source, sink, workers=1).counts == {"copied": 2}
    assert set(points_in(sink).values()) == {100}


def test_a_target_that_is_gone_ends_the_copy():
    source, sink = records.history(runs=20), MemorySink()
    sink.faults.at("begin", 1, Unavailable("connection refused"), times=10_000)
    report = migrate.copy(source, sink, workers=1)
    assert (report.state, report.exit_code) == ("stopped", 4)
    assert report.stopped_by.type == "Unavailable"
    assert len(report.runs) < 20


@pytest.mark.parametrize("error", [TargetFull("disk full"), CredentialsError("expired")])
def test_a_full_target_or_refused_credentials_end_the_copy(error):
    source, sink = records.history(runs=20), MemorySink()
    sink.faults.at("writer.finish", 4, error, times=10_000)
    report = migrate.copy(source, sink, workers=1)
    assert report.state == "stopped"
    assert report.counts["copied"] == 3
    assert report.exit_code == 3
    sink.faults.clear()
    assert migrate.copy(source, sink).counts == {"copied": 17, "unchanged": 3}
    assert migrate.check(source, sink, deep=True).exit_code == 0


def test_file_room_ends_and_comes_back():
    source, sink = records.history(runs=6), MemorySink(room=20_000)
    assert migrate.copy(source, sink, workers=2).state == "stopped"
    sink.room = None
    assert migrate.copy(source, sink).state == "done"
    assert migrate.check(source, sink, deep=True).exit_code == 0


def test_a_flush_that_fails_records_none_of_its_runs():
    source = records.history(runs=4)
    sink = MemorySink(capabilities(flush_runs=2, flush_points=10**9), buffered=True)
    sink.faults.at("flush", 1, Rejected("constraint"), times=2)
    report = migrate.copy(source, sink, workers=1)
    assert report.counts == {"failed": 4}
    sink.crash()
    assert migrate.copy(source, sink).counts == {"copied": 4}
    assert migrate.check(source, sink, deep=True).exit_code == 0


def test_a_run_that_vanishes_while_it_is_read():
    source, sink = records.history(runs=3), MemorySink()
    source.faults.at("texts", 2, lambda: source.by_run.pop("run00002"))
    report = migrate.copy(source, sink, workers=1)
    assert states(report)["run00001"] == states(report)["run00003"] == "copied"
    assert states(report)["run00002"] in ("failed", "partial")
    assert report.exit_code == 3


def test_a_file_that_cannot_be_read_is_refused_alone_and_tried_again():
    source, sink = records.history(runs=1), MemorySink()
    source.faults.at("open", 1, Vanished("gone"))
    report = migrate.copy(source, sink)
    assert report.counts == {"partial": 1}
    assert report.runs[0].refused == ["split.json: gone"]
    assert report.runs[0].mark is None
    assert migrate.copy(source, sink).counts == {"copied": 1}


@pytest.mark.parametrize("path", ["../../x", "/etc/passwd", "a/../../x", "a\x00b", "C:\\x", "a//b", ""])
def test_hostile_paths_are_refused_and_the_rest_is_copied(path, sink):
    hostile = (File(path=path, size=3), b"bad")
    source = source_of(
        RunData(records.run(1), [records.points()], files=[hostile, records.file("fine.txt", b"fine")])
    )
    report = migrate.copy(source, sink)
    assert report.counts == {"partial": 1}
    assert report.exit_code == 3
    assert "could reach outside" in report.runs[0].refused[0]
    held = [f.path for data in sink.source().by_run.values() for f, _ in data.files]
    assert "fine.txt" in held
    assert path not in held
    before = written(sink)
    assert migrate.copy(source, sink).exit_code == 3
    assert written(sink) == before
    found = migrate.check(source, sink)
    assert found.exit_code == 1
    assert [d.what for d in found.runs[0].differences if not d.expected] == [f"files/{path}"]


def test_a_run_recorded_in_the_target_stays_alone():
    sink = MemorySink()
    here = sink.experiment(records.experiment())
    sink.native_run(records.run(1, here), [records.points()])
    before = written(sink)
    report = migrate.copy(source_of(records.run(1), records.run(2)), sink)
    assert states(report) == {"run00001": "home", "run00002": "copied"}
    assert written(sink)["begin"] == before["begin"] + 1


def test_selections():
    experiments = (records.experiment(1, "a"), records.experiment(2, "b"))
    source = source_of(*(records.run(n, str(1 + n % 2)) for n in range(1, 7)), experiments=experiments)
    assert migrate.copy(source, MemorySink(name="x"), experiments=["a"]).counts == {"copied": 3}
    assert migrate.copy(source, MemorySink(name="y"), where='params["epochs"] > 12').counts == {"copied": 4}
    assert migrate.copy(source, MemorySink(name="z"), experiments=["?"]).counts == {"copied": 6}
    with pytest.raises(ConfigError, match="no experiment 'c'"):
        migrate.copy(source, MemorySink(), experiments=["c"])
    with pytest.raises(ConfigError, match="--where"):
        migrate.copy(source, MemorySink(), where="__import__('os')")


def test_registry_versions_outside_the_selection_are_listed():
    source, sink = records.history(runs=3), MemorySink()
    report = migrate.copy(source, sink, where='id != "run00002"')
    assert (report.models, report.versions) == (1, 2)
    assert report.versions_omitted == ["digits-classifier version 2: its run run00002 is not in the target"]
    later = migrate.copy(source, sink)
    assert later.versions == 3
    assert not later.versions_omitted
    assert migrate.check(source, sink).exit_code == 0


def test_empty_experiments_are_made():
    sink = MemorySink()
    migrate.copy(source_of(experiments=(records.experiment(1, "empty"),)), sink)
    assert [e.name for e in sink.source().experiments()] == ["empty"]


def test_interrupted_by_the_keyboard_then_finished(sink):
    source = records.history(runs=6)
    source.faults.at("runs", 4, KeyboardInterrupt())
    report = migrate.copy(source, sink, workers=1)
    assert (report.state, report.exit_code) == ("interrupted", 3)
    assert len(report.runs) < 6
    assert migrate.copy(source, sink).state == "done"
    assert migrate.check(source, sink, deep=True).exit_code == 0


def test_progress_adds_up():
    seen: list[migrate.Progress] = []
    migrate.copy(records.history(runs=3), MemorySink(), progress=seen.append)
    assert (seen[-1].listed, seen[-1].settled, seen[-1].copied) == (3, 3, 3)
    assert seen[-1].points == 60


def test_writers_are_limited_by_the_target():
    at_once, most = 0, 0
    lock = threading.Lock()

    class One(MemorySink):
        def begin(self, *args, **kwargs):
            nonlocal at_once, most
            with lock:
                at_once += 1
                most = max(most, at_once)
            writer = super().begin(*args, **kwargs)
            finish = writer.finish

            def finished(*given):
                nonlocal at_once
                finish(*given)
                with lock:
                    at_once -= 1

            writer.finish = finished
            return writer

    migrate.copy(records.history(runs=6), One(capabilities(writers=1)), workers=8)
    assert most == 1


def test_summary_values_without_a_series_become_points_where_there_is_no_summary():
    run = records.run(1, summary={"train/loss": 0.5, "best": 0.75, "note": "text"})
    source, sink = source_of(RunData(run, [records.points(("train/loss",))])), MemorySink(POOR)
    report = migrate.copy(source, sink)
    assert any(line.concept == "summary" and line.count == 1 for line in report.losses)
    assert points_in(sink) == {"memory:run00001": 11}
    assert migrate.check(source, sink, deep=True).unexpected == 0


def test_a_source_is_only_read():
    source = records.history(runs=3)
    before = {run_id: replace(data.run) for run_id, data in source.by_run.items()}
    names = {name for name in dir(source) if not name.startswith("_")}
    migrate.plan(source, MemorySink())
    migrate.copy(source, MemorySink())
    assert {run_id: data.run for run_id, data in source.by_run.items()} == before
    assert {name for name in dir(source) if not name.startswith("_")} == names


def test_reports_have_a_stable_json_form():
    import json

    report = migrate.copy(records.history(runs=1), MemorySink(POOR))
    data = json.loads(migrate.to_json(report))
    assert (data["command"], data["format"], data["exit_code"]) == ("copy", 1, 0)
    assert data["runs"][0]["state"] == "copied"
    assert {"kind", "concept", "detail", "runs", "count", "example", "certain"} == set(data["losses"][0])


def test_capabilities_are_asked_not_platforms():
    assert isinstance(MemorySink().capabilities, Capabilities)
    source = records.history(runs=1)
    loose = MemorySink(capabilities("artifacts", "artifact_inputs"))
    migrate.copy(source, loose)
    paths = {f.path for data in loose.source().by_run.values() for f, _ in data.files}
    assert "artifacts/classifier/v1/model/weights.bin" in paths
    assert isinstance(records.model(1, records.run(1)), ArtifactData)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 120 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(small_disk, tmp_path):
    source = source_of(*(RunData(records.run(n), [records.points(steps=2_000, seed=n)]) for n in range(1, 6)))
    report = migrate.copy(source, f"archive:{small_disk}/history", workers=1)
    assert report.state == "stopped"
    assert report.stopped_by.type == "TargetFull"
    assert report.stopped_by.hint
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert migrate.copy(source, f"archive:{small_disk}/history").state == "done"
    assert migrate.check(source, f"archive:{small_disk}/history", deep=True).exit_code == 0
