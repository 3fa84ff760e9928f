"""The origin record: what a poor platform cannot hold comes back, and edits made there win."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from migrating import POOR, change, points_in, source_of
from outgrow import migrate
from outgrow.adapters import batches
from outgrow.adapters.batches import Fingerprint
from outgrow.adapters.fit_stream import STREAMS, fingerprint
from outgrow.adapters.origin import FORMAT, RECORD_PATH, decode, encode
from outgrow.adapters.restored import restored
from outgrow.errors import Corrupt, SchemaVersionError, Unavailable
from outgrow.model import Status, to_json
from outgrow.testing import records
from outgrow.testing.memory import MemorySink, RunData, capabilities

REFERENCES = {"id", "experiment", "parent", "artifacts", "origin"}


def listed(source):
    """Restored runs by the id they had first."""
    source = restored(source)
    return source, {
        (run.origin.run_id if run.origin else run.id): run
        for experiment in source.experiments()
        for run in source.runs(experiment)
    }


def prints(source, run):
    result = {}
    for stream in STREAMS:
        seen = Fingerprint()
        for batch in getattr(source, stream)(run):
            fingerprint(stream, batch, seen)
        result[stream] = seen.by_key
    return result


def by_path(files):
    return sorted(files, key=lambda file: file.path)


def awkward():
    """A run with everything that `POOR` cannot hold."""
    run = records.run(
        1,
        params={
            "lr": 1e-5,
            "n": 2**70,
            "flag": True,
            "none": None,
            "list": [1, "a"],
            "nan": float("nan"),
            "s": "x",
        },
        summary={"a": 1.0, "b": float("inf"), "c": "text", "only/summary": 3.0},
        group="sweep-7",
        native_status="done",
        extra={"wandb": {"sweep": "abc"}},
    )
    points = batches.points(
        ["a"] * 5 + ["b"] * 3,
        [0.25, 0.5, 0.5, 1.0, None, 0.0, 1.0, 2.0],
        [records.START] * 8,
        [1.0, 2.0, 2.0, 3.0, 4.0, float("nan"), float("inf"), 7.0],
    )
    return run, points


@pytest.fixture
def trip():
    """A → poor B → A', with A' as able as A."""
    run, points = awkward()
    source = records.history(runs=2)
    source.by_run["run00001"].run = replace(run, artifacts=source.by_run["run00001"].run.artifacts)
    source.by_run["run00001"].points = [points]
    change(source, "run00002", parent="run00001")
    poor, home = MemorySink(POOR, platform="poor"), MemorySink(platform="other")
    assert migrate.copy(source, poor, ledger="b.db").counts == {"copied": 2}
    return source, poor, home


def test_a_to_a_poor_b_to_a_gives_a(trip):
    source, poor, home = trip
    assert migrate.copy(poor.source(), home, ledger="a.db").counts == {"copied": 2}
    back, runs = listed(home.source())
    for run_id, data in source.by_run.items():
        here = runs[run_id]
        assert here.origin.identity == f"memory:{run_id}"
        for name in type(data.run).__dataclass_fields__:
            if name not in REFERENCES:
                want, have = getattr(data.run, name), getattr(here, name)
                assert to_json([have]) == to_json([want]), name
        assert prints(back, here) == prints(source, data.run)
        assert by_path(back.files(here)) == by_path(f for f, _ in data.files)
        (want,) = source.artifacts(data.run)
        (have,) = back.artifacts(here)
        assert replace(have, id=want.id, created_by=want.created_by) == want
        files = list(back.artifact_files(have))
        with back.open(here, files[0]) as stream:
            assert len(stream.read()) == 1000
    assert runs["run00002"].parent == runs["run00001"].id
    (experiment,) = back.experiments()
    assert back.experiment_of(runs["run00001"], experiment).description == records.experiment().description


def test_what_b_cannot_hold_is_declared_and_check_expects_it(trip):
    source, poor, _ = trip
    report = migrate.check(source, poor, deep=True)
    assert (report.unexpected, report.exit_code) == (0, 0)
    declared = {(line.kind, line.concept) for line in migrate.plan(source, poor, deep=True).losses}
    assert {
        ("retyped", "params"),
        ("dropped", "points"),
        ("rounded", "points"),
        ("moved", "texts"),
    } <= declared


def test_edits_made_in_b_win_and_the_rest_comes_back(trip):
    _, poor, _ = trip
    there = next(d for d in poor.kept.values() if d.identity == "memory:run00001")
    there.run = replace(
        there.run,
        name="renamed there",
        status=Status.FAILED,
        params={k: v for k, v in there.run.params.items() if k != "s"} | {"lr": "0.5", "new": "1"},
        tags=there.run.tags | {"owner": "someone else"},
    )
    _, runs = listed(poor.source())
    run = runs["run00001"]
    assert (run.name, run.status) == ("renamed there", Status.FAILED)
    assert run.params["lr"] == "0.5"
    assert run.params["new"] == "1"
    assert "s" not in run.params
    assert run.params["n"] == 2**70
    assert run.params["flag"] is True
    assert run.tags == {"owner": "someone else", "intent": "sweep"}
    assert run.group == "sweep-7"


def test_points_added_in_b_come_with_the_original_ones(trip):
    source, poor, _ = trip
    there = next(d for d in poor.kept.values() if d.identity == "memory:run00001")
    added = batches.points(["a", "z"], [7, 7], [records.START.replace(microsecond=0)] * 2, [70.0, 71.0])
    there.points = [*there.points, added]
    back, runs = listed(poor.source())
    expected = Fingerprint.of([*source.by_run["run00001"].points, added])
    assert Fingerprint.of(back.points(runs["run00001"])).by_key == expected.by_key


def test_a_file_replaced_in_b_is_the_new_one(trip):
    _, poor, _ = trip
    there = next(d for d in poor.kept.values() if d.identity == "memory:run00001")
    there.files["split.json"] = records.file("split.json", b"longer than it was, by far, and different")
    back, runs = listed(poor.source())
    file = next(f for f in back.files(runs["run00001"]) if f.path == "split.json")
    assert file.size == 41
    with back.open(runs["run00001"], file) as stream:
        assert stream.read().startswith(b"longer")


@pytest.mark.parametrize("data", [b"", b"{", b'{"format": "x"}', b"[]", b'{"format": 1, "run": 3}'])
def test_a_damaged_record_fails_that_run_alone(trip, data):
    _, poor, home = trip
    there = next(d for d in poor.kept.values() if d.identity == "memory:run00001")
    there.files[RECORD_PATH] = records.file(RECORD_PATH, data)
    report = migrate.copy(poor.source(), home, ledger="a.db")
    assert report.counts == {"copied": 1, "failed": 1}
    (failed,) = (run for run in report.runs if run.error)
    assert failed.error.type in ("Corrupt", "SchemaVersionError")
    assert failed.error.hint


def test_a_record_of_a_later_release_is_refused(trip):
    _, poor, _ = trip
    there = next(d for d in poor.kept.values() if d.identity == "memory:run00001")
    later = json.loads(there.files[RECORD_PATH][1]) | {"format": FORMAT + 1, "unheard": "of"}
    there.files[RECORD_PATH] = records.file(RECORD_PATH, json.dumps(later).encode())
    back, runs = listed(poor.source())
    with pytest.raises(SchemaVersionError, match="format 2"):
        list(back.points(runs["run00001"]))


def test_lost_original_rows_are_told(trip):
    _, poor, home = trip
    there = next(d for d in poor.kept.values() if d.identity == "memory:run00001")
    del there.files["outgrow/points.parquet"]
    report = migrate.copy(poor.source(), home, ledger="a.db")
    assert [run.error.type for run in report.runs if run.error] == ["Corrupt"]


def test_damaged_original_rows_are_told(trip):
    _, poor, home = trip
    there = next(d for d in poor.kept.values() if d.identity == "memory:run00001")
    file, data = there.files["outgrow/points.parquet"]
    there.files["outgrow/points.parquet"] = records.file(file.path, data[: len(data) // 2])
    report = migrate.copy(poor.source(), home, ledger="a.db")
    assert [run.error.type for run in report.runs if run.error] == ["Corrupt"]


def test_the_record_survives_its_json_form(trip):
    _, poor, _ = trip
    for data in poor.kept.values():
        raw = data.files[RECORD_PATH][1]
        record = decode(raw, "a run")
        assert encode(record) == raw
    with pytest.raises(Corrupt):
        decode(raw[:-2], "a run")


def test_a_rich_target_gets_no_parquet():
    source, sink = records.history(runs=1), MemorySink(capabilities())
    migrate.copy(source, sink)
    (data,) = sink.kept.values()
    assert [path for path in data.files if path.startswith("outgrow/")] == [RECORD_PATH]


def test_only_the_series_that_lose_something_are_attached():
    points = batches.points(["a", "a", "b"], [0.5, 1.0, 1.0], [None] * 3, [1.0, 2.0, 3.0])
    source, sink = source_of(RunData(records.run(1), [points])), MemorySink(capabilities(float_steps=False))
    migrate.copy(source, sink)
    (data,) = sink.kept.values()
    assert decode(data.files[RECORD_PATH][1], "").streams["points"].attached == ["a"]


def test_long_series_are_reduced_and_come_back_whole():
    source = source_of(RunData(records.run(1), [records.points(steps=5_000)]))
    sink = MemorySink(capabilities(max_points_per_series=100), platform="short")
    report = migrate.copy(source, sink)
    assert points_in(sink)["memory:run00001"] <= 200
    assert any("reduced" in line.detail for line in report.losses)
    assert migrate.check(source, sink, deep=True).unexpected == 0
    back, runs = listed(sink.source())
    assert prints(back, runs["run00001"]) == prints(source, source.by_run["run00001"].run)


def test_experiments_come_back_from_a_platform_that_has_one():
    experiments = (records.experiment(1, "a"), records.experiment(2, "b", tags={"x": "y"}))
    source = source_of(records.run(1, "1"), records.run(2, "2"), experiments=experiments)
    one, home = MemorySink(capabilities("experiments"), platform="one"), MemorySink(platform="other")
    migrate.copy(source, one, ledger="1.db")
    assert len(list(one.source().experiments())) == 1
    migrate.copy(one.source(), home, ledger="2.db")
    assert {e.name: e.tags for e in home.source().experiments()} == {
        "a": {"team": "vision"},
        "b": {"x": "y"},
    }


def test_a_passing_error_while_listing_is_repeated(trip, monkeypatch):
    from outgrow.migrate import select

    monkeypatch.setattr(select.time, "sleep", lambda seconds: None)
    _, poor, home = trip
    back = poor.source()
    back.faults.at("open", 1, Unavailable("reset"))
    assert migrate.copy(back, home, ledger="a.db").counts == {"copied": 2}
