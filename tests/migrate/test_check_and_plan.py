"""What plan foretells and what check finds, between platforms in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from migrating import POOR, change, source_of, written
from outgrow import migrate
from outgrow.adapters import batches
from outgrow.errors import Corrupt
from outgrow.model import Status, Trace
from outgrow.testing import hostile, records
from outgrow.testing.memory import MemorySink, RunData, capabilities


@pytest.fixture
def copied():
    source, sink = records.history(runs=3), MemorySink()
    migrate.copy(source, sink)
    return source, sink


def kept(sink, number=1):
    return next(k for k in sink.kept.values() if k.identity == f"memory:run{number:05d}")


def found(source, sink, **options):
    report = migrate.check(source, sink, **options)
    return report, {(d.sign, d.what) for run in report.runs for d in run.differences if not d.expected}


@pytest.mark.parametrize("deep", [False, True])
def test_equal(copied, deep):
    report, differences = found(*copied, deep=deep)
    assert (report.counts, differences, report.exit_code) == ({"=": 3}, set(), 0)
    assert sorted(report.deletion_ready) == (["run00001", "run00002", "run00003"] if deep else [])


def test_check_writes_nothing(copied):
    source, sink = copied
    before = written(sink)
    migrate.check(source, sink, deep=True)
    migrate.plan(source, sink, deep=True)
    assert written(sink) == before


def test_a_missing_run(copied):
    source, sink = copied
    del sink.kept[kept(sink).run.id]
    report, differences = found(source, sink)
    assert report.counts == {"=": 2, "-": 1}
    assert differences == {("-", "run")}
    assert report.exit_code == 1


@pytest.mark.parametrize(
    ("change", "sign", "what"),
    [
        ({"name": "other"}, "*", "name"),
        ({"status": Status.FAILED}, "*", "status"),
        (
            {"params": {"lr": 0.1, "epochs": 11, "model/kind": "cnn", "nesterov": True}},
            "*",
            "params/model/kind",
        ),
        ({"params": {"lr": 0.1, "epochs": 11, "model/kind": "mlp"}}, "-", "params/nesterov"),
        ({"params": {"lr": 0.1, "epochs": 11.0, "model/kind": "mlp", "nesterov": 1}}, "*", "params/nesterov"),
        ({"tags": {"owner": "ml"}}, "-", "tags/intent"),
        ({"labels": []}, "-", "labels/baseline"),
        ({"summary": {"train/loss": 1.0, "eval/accuracy": 0.5}}, "*", "summary/eval/accuracy"),
        ({"datasets": []}, "-", "datasets/digits"),
        ({"user": None}, "*", "user"),
        ({"started_at": records.START}, "*", "started_at"),
    ],
)
def test_a_changed_field(copied, change, sign, what):
    source, sink = copied
    kept(sink).run = replace(kept(sink).run, **change)
    report, differences = found(source, sink)
    assert (sign, what) in differences
    assert report.counts == {"=": 2, "*": 1}


def test_a_changed_point_is_found_deeply_and_shown(copied):
    source, sink = copied
    (batch,) = kept(sink).points
    values = batch.column("value").to_pylist()
    values[3] = 42.0
    changed = batches.points(
        batch.column("key").to_pylist(),
        batch.column("step").to_pylist(),
        batch.column("time").to_pylist(),
        values,
    )
    kept(sink).points = [changed]
    assert found(source, sink)[1] == set()
    report, differences = found(source, sink, deep=True)
    assert ("*", "points/train/loss") in differences
    detail = next(d.detail for run in report.runs for d in run.differences if d.what == "points/train/loss")
    assert "not in the source: (step 3" in detail
    assert "42.0" in detail


def test_lost_and_doubled_points_are_found_by_counts(copied):
    source, sink = copied
    kept(sink).points = [kept(sink).points[0].slice(0, 12)]
    kept(sink, 2).points = [*kept(sink, 2).points, kept(sink, 2).points[0]]
    _, differences = found(source, sink)
    assert ("*", "points/eval/accuracy") in differences


def test_files(copied):
    source, sink = copied
    one = kept(sink)
    del one.files["plots/1.svg"]
    assert ("-", "files/plots/1.svg") in found(source, sink)[1]
    one.files["plots/1.svg"] = records.file("plots/1.svg", b"<SVG/>")
    assert found(source, sink)[1] == set()
    assert ("*", "files/plots/1.svg") in found(source, sink, deep=True)[1]


def test_artifacts_and_registry(copied):
    source, sink = copied
    (artifact,) = (a for a in sink.artifacts.values() if a.artifact.version == "v1")
    artifact.files = artifact.files[:1]
    report, differences = found(source, sink)
    assert ("-", "artifacts/classifier/model/MLmodel") in differences
    ((slot, model),) = sink._models.items()
    sink._models[slot] = replace(model, versions=[replace(v, aliases=[]) for v in model.versions[:2]])
    report, _ = found(source, sink)
    assert [(d.sign, d.what) for d in report.registry] == [("-", "registry/digits-classifier/3")]


def test_a_lost_or_wrong_origin_record(copied):
    source, sink = copied
    del kept(sink).files["outgrow/origin.json"]
    assert ("-", "origin record") in found(source, sink, deep=True)[1]


def test_a_run_that_is_there_twice(copied):
    source, sink = copied
    twice = replace(kept(sink), run=replace(kept(sink).run, id="again"))
    sink.kept["again"] = twice
    report, differences = found(source, sink, deep=True)
    assert ("+", "run") in differences
    assert report.exit_code == 1


def test_experiments_and_traces(copied):
    source, sink = copied
    (here,) = sink._experiments.values()
    sink._experiments[here.id] = replace(here, tags={})
    source.all_traces.append(Trace(id="t1", experiment="1"))
    report = migrate.check(source, sink, deep=True)
    assert [(d.sign, d.what) for d in report.experiments] == [
        ("-", "experiments/digits/tags/team"),
        ("-", "experiments/digits/traces"),
    ]
    assert report.exit_code == 1
    migrate.copy(source, sink)
    assert [d.what for d in migrate.check(source, sink, deep=True).experiments] == [
        "experiments/digits/tags/team"
    ]


def test_unfinished_copies_are_not_ready(copied):
    source, sink = copied
    kept(sink).mark = None
    report, differences = found(source, sink, deep=True)
    assert ("*", "completion") in differences
    assert "run00001" not in report.deletion_ready


def test_running_runs_are_never_ready():
    source, sink = source_of(records.run(1, status=Status.RUNNING)), MemorySink()
    migrate.copy(source, sink)
    assert migrate.check(source, sink, deep=True).deletion_ready == []


def test_a_run_that_cannot_be_read(copied):
    source, sink = copied
    source.faults.at("points", 1, Corrupt("bad page"))
    report = migrate.check(source, sink, deep=True)
    assert report.counts == {"=": 2, "!": 1}
    assert report.exit_code == 3


def test_a_run_that_left_the_source(copied):
    source, sink = copied
    del source.by_run["run00002"]
    source.models.clear()
    report = migrate.check(source, sink)
    assert report.counts == {"=": 2, "+": 1}
    assert report.exit_code == 0


@pytest.mark.parametrize("name", hostile.names())
def test_hostile_runs_lose_only_what_was_declared(name):
    source, sink = hostile.load(name), MemorySink(POOR)
    plan = migrate.plan(source, sink, deep=True)
    report = migrate.copy(source, sink)
    assert not report.counts.get("failed"), [run.error for run in report.runs if run.error]
    declared = {(line.kind, line.concept) for line in plan.losses}
    happened = {(line.kind, line.concept) for line in report.losses}
    assert happened <= declared | {("moved", "summary")}
    refused = {f"files/{path}" for path in _refused(source)}
    _, differences = found(source, sink, deep=True)
    assert {what for _, what in differences} == refused


def _refused(source):
    from outgrow.adapters.paths import checked

    for data in source.by_run.values():
        for file, _ in data.files:
            try:
                checked(file.path)
            except Corrupt:
                yield file.path


# --- plan ---------------------------------------------------------------------------------------


def test_plan_counts():
    source = records.history(runs=3)
    change(source, "run00002", status=Status.FAILED)
    change(source, "run00003", deleted=True)
    plan = migrate.plan(source, MemorySink())
    counts = plan.counts
    assert (counts.experiments, counts.runs, counts.deleted) == (1, 3, 1)
    assert counts.by_status == {"finished": 2, "failed": 1}
    assert (counts.series, counts.points, counts.texts, counts.histograms) == (6, 60, 3, 3)
    assert (counts.files, counts.artifacts, counts.registered_models, counts.model_versions) == (6, 3, 1, 3)
    assert plan.present == {"new": 3, "begun": 0, "complete": 0, "home": 0}
    assert plan.losses == []
    assert plan.seconds is not None


def test_plan_after_a_copy(copied):
    source, sink = copied
    kept(sink).mark = None
    assert migrate.plan(source, sink).present == {"new": 0, "begun": 1, "complete": 2, "home": 0}


def test_plan_without_deep_says_may():
    points = batches.points(["a", "b"], [0.5, 1.0], [records.START] * 2, [1.0, float("nan")])
    source = source_of(RunData(records.run(1), lambda: [points]))
    shallow = migrate.plan(source, MemorySink(POOR))
    assert shallow.counts.points is None
    assert shallow.seconds is None
    assert not any(line.certain for line in shallow.losses if line.concept == "points")
    deep = migrate.plan(source, MemorySink(POOR), deep=True)
    certain = {line.kind: line.count for line in deep.losses if line.concept == "points" and line.certain}
    assert certain["dropped"] == 1
    assert deep.counts.points == 2


def test_plan_names_collisions():
    source, sink = records.history(runs=1), MemorySink()
    here = sink.experiment(records.experiment())
    sink.native_run(records.run(7, here), [])
    (collision,) = migrate.plan(source, sink).collisions
    assert (collision.concept, collision.name) == ("experiments", "digits")


def test_plan_tells_problems_and_what_cannot_be_read():
    source = records.history(runs=2)
    source.known_problems.append("3 attributes of run X failed to export")
    source.faults.at("points", 1, Corrupt("bad page"))
    plan = migrate.plan(source, MemorySink(capabilities()), deep=True)
    assert plan.problems == ["3 attributes of run X failed to export"]
    assert [failure.message for failure in plan.failures] == ["bad page"]
    assert plan.exit_code == 3
