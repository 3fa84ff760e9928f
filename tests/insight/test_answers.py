"""Planted answers: the changed learning rate, the swapped data, the missing weights, the alias's run…"""

import hashlib
import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outgrow import insight
from outgrow.adapters.base import Remover
from outgrow.cli.printing import emit_json
from outgrow.config import Advise, Policy, Retention
from outgrow.errors import ConfigError, LocationError
from outgrow.insight.diff import compare, parting_step
from outgrow.insight.lineage import lineage
from outgrow.insight.runs import unknown
from outgrow.insight.show import spark, view
from outgrow.model import (
    Artifact,
    ArtifactUse,
    CodeVersion,
    DatasetUse,
    Environment,
    Experiment,
    Fork,
    Status,
)
from outgrow.testing import records
from outgrow.testing.memory import MemorySource, RunData
from outgrow.testing.memory_source import ArtifactData
from planted import NOW, curve, registered, run, source

# --- runs ---------------------------------------------------------------------------------------


def test_runs_are_filtered_sorted_and_cut():
    runs = [run(i, summary={"eval/accuracy": a}) for i, a in enumerate([0.5, 0.9, float("nan"), 0.7])]
    runs.append(run(9, summary={}))
    table = insight.runs(
        source(*runs), columns=["id", "metrics.eval/accuracy"], sort=["-metrics.eval/accuracy"]
    )
    assert table["id"].to_pylist()[:3] == ["r0001", "r0003", "r0000"]  # NaN and missing come last
    table = insight.runs(source(*runs), where='metrics["eval/accuracy"] > 0.6', columns=["name"], limit=1)
    assert table.to_pylist() == [{"name": "digits-1"}]


def test_columns_take_the_narrowest_type():
    runs = [run(1, params={"n": 1, "lr": 0.1, "mixed": 1}), run(2, params={"n": 2, "lr": 1, "mixed": "x"})]
    types = {f.name: str(f.type) for f in insight.runs(source(*runs)).schema}
    assert types["params.n"] == "int64"
    assert types["params.lr"] == "double"
    assert types["params.mixed"] == "string"
    assert types["started_at"] == "timestamp[us, tz=UTC]"


def test_text_that_is_not_unicode_is_listed(capsys):
    held = source(run(1, name="bad \ud800 name", params={"p": ["\udfff"], "q": "größe"}))
    (row,) = insight.runs(held, columns=["name", "params.*"]).to_pylist()
    assert row["name"] == "bad ? name"
    assert row["params.q"] == "größe"
    emit_json(next(insight.select(held))[1])
    assert json.loads(capsys.readouterr().out)["name"] == "bad \ud800 name"


def test_an_unknown_column_or_experiment_is_refused_with_what_is_known():
    with pytest.raises(ConfigError, match=r"metrics\.KEY"):
        insight.runs(source(run(1)), columns=["accuracy"])
    with pytest.raises(LocationError, match="nope"):
        insight.runs(source(run(1)), experiments=["nope"])


def test_a_typo_is_answered_with_what_was_meant():
    held = source(run(1), run(2))
    with pytest.raises(ConfigError, match="did you mean status"):
        insight.runs(held, columns=["statu"])
    with pytest.raises(ConfigError, match="did you mean started_at"):
        insight.runs(held, columns=["id"], sort=["-start_at"])
    with pytest.raises(LocationError, match="did you mean digits"):
        insight.runs(held, experiments=["Digit"])
    with pytest.raises(LocationError, match="did you mean digits-1"):
        lineage(held, "digit-1")
    with pytest.raises(ConfigError, match="did you mean audit-trail"):
        insight.advise(held, thresholds=Advise(needs=["audittrail"]))
    told = unknown(held, ["metrics.accuracy", "params.lr", "tags.onwer", "id"])
    assert told == {"metrics.accuracy": "did you mean eval/accuracy?", "tags.onwer": "did you mean owner?"}


def test_deleted_runs_are_left_out_unless_asked_for():
    held = source(run(1), run(2, deleted=True))
    assert insight.runs(held, columns=["id"]).num_rows == 1
    assert insight.runs(held, columns=["id"], deleted=True).num_rows == 2


def test_a_run_is_found_by_id_by_its_beginning_and_by_a_unique_name():
    held = source(run(1, id="abcdef0123456789"), run(2), run(3, name="twin"), run(4, name="twin"))
    assert insight.find_run(held, "abcdef0123456789")[1].name == "digits-1"
    assert insight.find_run(held, "abcdef01")[1].name == "digits-1"
    assert insight.find_run(held, "digits-2")[1].id == "r0002"
    with pytest.raises(LocationError, match="2 runs are named 'twin'"):
        insight.find_run(held, "twin")
    with pytest.raises(LocationError, match="digits-1"):
        insight.find_run(held, "digit-1")


# --- show ---------------------------------------------------------------------------------------


def test_show_gives_each_curve_in_a_line():
    one = run(1)
    held = source(
        one,
        points={"r0001": [curve("loss", [3.0, 2.0, float("nan"), 1.0])]},
        files={"r0001": {"b": b"x", "a": b""}},
    )
    shown = view(held, Experiment(id="1", name="digits"), one)
    (series,) = shown.series
    assert (series.points, series.first, series.last, series.low, series.high) == (4, 3.0, 1.0, 1.0, 3.0)
    assert series.spark == "█▅ ▁"
    assert [f.path for f in shown.files] == ["a", "b"]


def test_a_sparkline_survives_infinity_and_constancy():
    assert spark(np.array([np.inf, np.nan])) == "  "
    assert spark(np.array([2.0, 2.0])) == "▁▁"
    assert len(spark(np.arange(1000.0), 32)) == 32


# --- diff ---------------------------------------------------------------------------------------


def test_the_changed_learning_rate_is_found_and_nothing_else():
    a, b = run(1), run(2, params={"lr": 0.01, "seed": 1})
    result = compare([(source(a), a), (source(b), b)])
    assert [(d.section, d.key, d.values) for d in result.differences] == [("params", "lr", (0.1, 0.01))]
    assert result.same["params"] == 1


def test_the_swapped_data_set_comes_first():
    a = run(1)
    b = run(
        2,
        params={"lr": 0.5, "seed": 2},
        datasets=[DatasetUse(name="digits", digest="d2", context="training")],
        code=CodeVersion(commit="b" * 40, dirty=True),
        environment=Environment(python="3.12", packages={"numpy": "2.1"}, seeds={"numpy": 2}, gpu="A100"),
        summary={"eval/accuracy": 0.1},
    )
    result = compare([(source(a), a), (source(b), b)])
    assert list(dict.fromkeys(d.section for d in result.differences)) == [
        "data", "code", "params", "seeds", "environment", "hardware", "metrics",
    ]  # fmt: skip


def test_a_number_kept_as_text_on_another_platform_is_the_same_number():
    a, b = run(1), run(2, params={"lr": "0.1", "seed": "1"})
    assert compare([(source(a), a), (source(b), b)]).differences == []


def test_curves_say_where_they_part():
    a, b = run(1), run(2)
    one = source(a, points={a.id: [curve("loss", [1.0] * 10)]})
    two = source(b, points={b.id: [curve("loss", [1.0] * 6 + [2.0] * 4)]})
    (difference,) = [d for d in compare([(one, a), (two, b)]).differences if d.key == "loss"]
    assert difference.values == (1.0, 2.0)
    assert "curves part at step 6" in difference.note


def test_curves_that_meet_again_have_not_parted_for_good():
    steps = np.arange(4.0)
    assert parting_step((steps, np.array([0.0, 5, 0, 10])), (steps, np.array([0.0, 0, 0, 10]))) is None
    assert parting_step((steps, np.arange(4.0)), (steps + 100, np.arange(4.0))) is None


def test_files_are_compared_by_hash():
    a, b = run(1), run(2)
    result = compare(
        [
            (source(a, files={a.id: {"w": b"1", "s": b"="}}), a),
            (source(b, files={b.id: {"w": b"2", "s": b"="}}), b),
        ]
    )
    assert [(d.section, d.key) for d in result.differences] == [("artifacts", "w")]


# --- best ---------------------------------------------------------------------------------------


def sweep(count=40):
    random = np.random.default_rng(0)
    return [
        run(i, params={"lr": float(lr), "width": int(random.integers(1, 100)), "kind": "ab"[i % 2]}, summary={"acc": float(1 - abs(lr - 0.3))})
        for i, lr in enumerate(random.uniform(0, 1, count))
    ]  # fmt: skip


def test_best_names_the_winner_and_the_param_that_mattered():
    runs = sweep()
    result = insight.best(source(*runs, run(99, status=Status.RUNNING, summary={"acc": 9.0})), "acc")
    assert result.winners[0][1] == max(r.summary["acc"] for r in runs)
    assert result.runs == 40
    assert result.left_out == 1
    assert result.importance[0].param == "lr"
    assert result.importance[0].low > 0.7
    assert next(s for s in result.settled if s.param == "lr").best.startswith("0.")
    worst = insight.best(source(*runs), "acc", mode="min", top=1)
    assert worst.winners[0][1] == min(r.summary["acc"] for r in runs)


def test_importance_is_the_share_that_a_param_explains_alone():
    random = np.random.default_rng(1)
    runs = []
    for i in range(300):
        params = {
            "strong": float(random.uniform(-1, 1)),
            "kind": "abc"[random.integers(3)],
            "noise": float(random.uniform()),
            "other": str(random.integers(1000)),
            "a": int(random.integers(2)),
            "b": int(random.integers(2)),
        }
        together = float(params["a"] ^ params["b"])
        score = (
            4 * abs(params["strong"]) + "abc".index(params["kind"]) + together + float(random.normal()) / 4
        )
        if i % 10 == 0:
            del params["noise"]
        runs.append(run(i, params=params, summary={"acc": 10.0**score}))
    found = {i.param: i for i in insight.best(source(*runs), "acc").importance}
    assert list(found)[:2] == ["strong", "kind"]
    assert 0.4 < found["strong"].low <= found["strong"].share <= found["strong"].high < 0.8
    assert found["kind"].low > 0.1
    for name in ("noise", "other", "a", "b"):  # a and b matter together only
        assert found[name].low == 0
        assert found[name].share < 0.05
    tried = {s.param: s for s in insight.best(source(*runs), "acc").settled}
    assert tried["kind"].tried == "a, b, c"


@pytest.mark.parametrize("count", [12, 6_000])
def test_importance_of_a_metric_that_hardly_varies(count):
    runs = [run(i, params={"p": i}, summary={"acc": float(i == 0)}) for i in range(count)]
    for item in insight.best(source(*runs), "acc").importance:
        assert 0 <= item.low <= item.share <= item.high <= 1


def test_few_runs_say_nothing_about_params():
    result = insight.best(source(*sweep(5)), "acc")
    assert result.importance == []
    assert "too few" in result.note


def test_an_unknown_metric_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="eval/accuracy"):
        insight.best(source(run(1)), "accuracy")


# --- lineage ------------------------------------------------------------------------------------


def test_the_production_model_leads_to_its_run_its_data_and_its_code():
    parent, child = run(1), run(2, parent="r0001")
    held = source(
        parent, child, registry=[registered({"run": "r0001"}, {"run": "r0002", "aliases": ["production"]})]
    )
    result = lineage(held, "digits@production")
    (subject,) = result.subjects
    assert subject.id == "digits/2"
    assert {(n.kind, n.id) for n, _ in result.upstream(subject)} == {("run", "r0002")}
    up = {(n.kind, n.id) for n in result.nodes}
    assert {("data set", "digits@d1"), ("commit", "a" * 40), ("run", "r0001")} <= up


def test_a_data_set_leads_forwards_to_the_models():
    held = source(run(1), run(2, datasets=[]), registry=[registered({"run": "r0001"}, {"run": "r0002"})])
    found = {(n.kind, n.id) for n in lineage(held, "d1").nodes}
    assert ("model version", "digits/1") in found
    assert ("model version", "digits/2") not in found


def test_a_run_is_named_by_the_beginning_of_its_id():
    held = source(run(1, id="abcdef0123456789"), run(2, id="abcdef9999999999"))
    assert [n.id for n in lineage(held, "abcdef01").subjects] == ["abcdef0123456789"]
    with pytest.raises(LocationError):
        lineage(held, "abcdef")


def test_a_commit_and_a_file_lead_to_their_runs(tmp_path):
    held = source(run(1), run(2), files={"r0002": {"weights.bin": b"w" * 100}})
    assert {n.id for n in lineage(held, "a" * 7).nodes if n.kind == "run"} == {"r0001", "r0002"}
    local = tmp_path / "found.bin"
    local.write_bytes(b"w" * 100)
    for name in (str(local), hashlib.sha256(b"w" * 100).hexdigest()):
        result = lineage(held, name)
        assert [n.label for n in result.subjects] == ["weights.bin"]
        assert {n.id for n, _ in result.upstream(result.subjects[0])} == {"r0002"}


def test_nothing_of_that_name_is_an_error_that_says_what_can_be_named():
    with pytest.raises(LocationError, match="NAME@ALIAS"):
        lineage(source(run(1)), "nothing")
    with pytest.raises(LocationError, match="SHA-256"):
        lineage(source(run(1)), "0" * 64)


# --- audit --------------------------------------------------------------------------------------

COMPLETE = {
    "model/weights.safetensors": b"w",
    "model/tokenizer.json": b"{}",
    "split.json": b"{}",
    "requirements.txt": b"numpy",
}


def test_a_complete_run_has_no_finding():
    held = source(run(1), files={"r0001": COMPLETE})
    (graded,) = insight.audit(held, deep=True).runs
    assert graded.findings == []
    assert graded.reproducible
    assert graded.redeployable


@pytest.mark.parametrize(
    ("changes", "without", "rule"),
    [
        ({}, "model/weights.safetensors", "weights"),
        ({}, "model/tokenizer.json", "preprocessor"),
        ({}, "split.json", "split"),
        ({"environment": None, "params": {}}, None, "seed"),
        ({"code": None}, None, "commit"),
        ({"environment": Environment(seeds={"numpy": 1})}, "requirements.txt", "environment"),
        ({"datasets": [DatasetUse(name="digits")]}, None, "dataset"),
        ({"tags": {}, "user": None}, None, "owner"),
        ({"code": CodeVersion(commit="a" * 40, dirty=True)}, None, "dirty"),
    ],
)
def test_what_is_missing_is_named(changes, without, rule):
    files = {k: v for k, v in COMPLETE.items() if k != without}
    (graded,) = insight.audit(source(run(1, **changes), files={"r0001": files})).runs
    assert rule in {f.rule for f in graded.findings}


def test_a_metrics_only_run_and_a_running_one():
    held = source(run(1), run(2, status=Status.RUNNING))
    (graded,) = insight.audit(held).runs
    assert "metrics-only" in {f.rule for f in graded.findings}


def test_a_file_that_storage_has_lost_is_found_by_opening_it():
    held = source(run(1), files={"r0001": COMPLETE})
    held.runs_data = None
    original = held.open

    def lost(a_run, file):
        if file.path == "split.json":
            raise LocationError("gone")
        return original(a_run, file)

    held.open = lost
    (graded,) = insight.audit(held).runs
    assert [f.rule for f in graded.findings] == ["file-gone"]
    assert not graded.reproducible


def test_a_damaged_file_is_found_by_its_hash():
    one = run(1)
    good, _ = records.file("model/weights.pt", b"good")
    data = RunData(one, files=[(replace(good), b"evil")] + [records.file(p, c) for p, c in COMPLETE.items()])
    held = MemorySource([Experiment(id="1", name="digits")], [data], [])
    assert [f.rule for f in insight.audit(held).runs[0].findings] == []
    assert [f.rule for f in insight.audit(held, deep=True).runs[0].findings] == ["file-damaged"]


def test_registry_versions_without_a_run_are_found():
    held = source(
        run(1, deleted=True), registry=[registered({"run": "gone"}, {"run": "r0001"}, {"run": None})]
    )
    assert [f.rule for f in insight.audit(held).registry] == ["version-run-gone"] * 3


def test_the_policy_adds_its_findings():
    policy = Policy(name="{project}-{intent}-{*}", required_tags=["intent"], required_metrics=["eval/f1"])
    (graded,) = insight.audit(source(run(1), files={"r0001": COMPLETE}), policy=policy).runs
    assert {f.rule for f in graded.findings} == {"tag", "metric", "name"}


def test_the_worst_project_comes_first():
    held = source(run(1), run(2, tags={"project": "other", "owner": "x"}), files={"r0001": COMPLETE})
    result = insight.audit(held)
    assert [s.group for s in result.by_project] == ["other", "digits"]
    assert result.violating == 1


# --- retain -------------------------------------------------------------------------------------


class Recorder(Remover):
    def __init__(self, orphans=()):
        self.removed, self.found = [], list(orphans)

    def remove_files(self, run_id):
        self.removed.append(("files", run_id))

    def remove_run(self, run_id):
        self.removed.append(("run", run_id))

    def orphans(self):
        return self.found

    def remove_orphan(self, path):
        self.removed.append(("orphan", path))


NOTHING = Retention(promotion_window_days=0, keep_last=0, keep_best=0)
FILES = {f"r{i:04d}": {"w.pt": b"w" * (i + 1)} for i in range(8)}


def expiring(policy, *runs, registry=()):
    plan = insight.retain(source(*runs, registry=registry, files=FILES), policy, now=NOW)
    return {e.run_id for e in plan.expiring}, {k.run_id: k.reason for k in plan.kept}


def test_only_what_no_rule_keeps_may_go():
    runs = [
        run(0),
        run(1),
        run(2, tags={"keep": "yes"}),
        run(3, status=Status.RUNNING),
        run(4, ended_at=None, started_at=None),
        run(5, ended_at=NOW - timedelta(days=10)),
        run(6, parent="r0007"),
        run(7),
    ]
    gone, kept = expiring(
        replace(NOTHING, promotion_window_days=90),
        *runs,
        registry=[registered({"run": "r0001"}, {"run": "r0006"})],
    )
    assert gone == {"r0000"}
    assert "registered as digits version 1" in kept["r0001"]
    assert "ancestor" in kept["r0007"]
    assert "80 days left" in kept["r0005"]


def test_the_last_and_the_best_stay():
    runs = [run(i, summary={"acc": i / 10}) for i in range(8)]
    gone, kept = expiring(replace(NOTHING, keep_last=2, keep_best=1, metric="acc", mode="min"), *runs)
    assert set(kept) == {"r0006", "r0007", "r0000"}
    assert gone == {f"r{i:04d}" for i in range(1, 6)}


def test_forks_and_their_parents_stay_together():
    _, kept = expiring(
        NOTHING, run(1, fork=Fork(run="r0000", step=3)), run(0), registry=[registered({"run": "r0001"})]
    )
    assert set(kept) == {"r0000", "r0001"}


def test_deleting_needs_the_hash_of_this_very_plan():
    held = source(run(0), run(1), files=FILES)
    remover = Recorder([("stray.bin", 7)])
    plan = insight.retain(held, NOTHING, remover=remover)
    assert plan.bytes == 1 + 2 + 7
    with pytest.raises(ConfigError, match="not the plan"):
        insight.apply_retention(plan, "0" * 16, held, NOTHING, remover)
    kept_now = source(run(0, tags={"keep": "yes"}), run(1), files=FILES)
    with pytest.raises(ConfigError, match="r0000 must be kept"):
        insight.apply_retention(plan, plan.hash, kept_now, NOTHING, remover)
    assert remover.removed == []
    insight.apply_retention(plan, plan.hash, held, NOTHING, remover)
    assert set(remover.removed) == {("files", "r0000"), ("files", "r0001"), ("orphan", "stray.bin")}


def test_records_go_only_when_the_policy_says_so():
    plan = insight.retain(
        source(run(0), run(150), files=FILES), replace(NOTHING, metadata_after_days=100), now=NOW
    )
    assert {(e.run_id, e.what) for e in plan.expiring} == {("r0000", "run")}


# --- advise -------------------------------------------------------------------------------------


def test_a_small_quiet_place_stays():
    result = insight.advise(source(run(1)), now=NOW)
    assert result.verdict == "stay"
    assert result.command.startswith("outgrow audit")


def test_a_busy_place_moves_and_says_why():
    recent = [
        run(i, started_at=NOW - timedelta(days=i % 80), tags={"owner": f"p{i % 5}"}) for i in range(600)
    ]
    result = insight.advise(source(*recent), thresholds=Advise(growth=100.0), now=NOW)
    assert result.verdict == "watch"
    assert {r.name for r in result.readings if r.beyond} == {"active engineers", "runs this quarter"}
    result = insight.advise(source(*recent), thresholds=Advise(needs=["audit-trail"]), now=NOW)
    assert result.verdict == "move"
    assert "outgrow plan" in result.command


def test_forks_in_the_history_are_a_need():
    result = insight.advise(source(run(1), run(2, fork=Fork(run="r0001", step=1))), now=NOW)
    assert [need.name for need in result.needs] == ["forks"]


histories = st.lists(
    st.fixed_dictionaries(
        {
            "age": st.integers(0, 400),
            "status": st.sampled_from(list(Status)),
            # How a registry version with a live alias names the run.
            "alias": st.sampled_from([None, None, "run", "artifact", "source"]),
            "parent": st.none() | st.integers(0, 9),
            "uses": st.none() | st.integers(0, 9),
            "acc": st.none() | st.floats(),
            "deleted": st.booleans(),
        }
    ),
    min_size=1,
    max_size=10,
)


@given(histories, st.integers(0, 200), st.integers(0, 3), st.integers(0, 3), st.none() | st.integers(0, 400))
def test_a_run_in_its_window_or_behind_an_alias_never_loses_an_artifact(
    history, window, last, best, records_after
):
    def made(i):
        return ArtifactUse(artifact=f"m{i}", role="output")

    runs = [
        run(
            i,
            started_at=NOW - timedelta(days=h["age"], hours=1),
            ended_at=NOW - timedelta(days=h["age"]),
            status=h["status"],
            deleted=h["deleted"],
            parent=f"r{h['parent']:04d}" if h["parent"] is not None and h["parent"] != i else None,
            artifacts=[made(i)]
            + (
                [ArtifactUse(artifact=f"m{h['uses']}", role="input")]
                if h["uses"] in range(len(history))
                else []
            ),
            summary={} if h["acc"] is None else {"acc": h["acc"]},
        )
        for i, h in enumerate(history)
    ]
    naming = {
        "run": lambda i: {"run": f"r{i:04d}"},
        "artifact": lambda i: {"artifact": f"m{i}"},
        "source": lambda i: {"source": f"s3://bucket/1/r{i:04d}/artifacts/model"},
    }
    versions = [naming[h["alias"]](i) | {"aliases": ["live"]} for i, h in enumerate(history) if h["alias"]]
    policy = Retention(
        promotion_window_days=window,
        keep_last=last,
        keep_best=best,
        metric="acc",
        metadata_after_days=records_after,
    )
    held = source(
        *runs,
        registry=[registered(*versions)],
        files={r.id: {"w.pt": b"w"} for r in runs},
        artifacts=[
            ArtifactData(
                Artifact(id=f"m{i}", name="clf", type="model", created_by=r.id), [records.file("m.pt", b"m")]
            )
            for i, r in enumerate(runs)
        ],
    )
    plan = insight.retain(held, policy, now=NOW)
    remover = Recorder()
    insight.apply_retention(plan, plan.hash, held, policy, remover)
    gone = {run_id for _, run_id in remover.removed}
    assert gone == {e.run_id for e in plan.expiring}
    by_id = {one.id: facts for one, facts in zip(runs, history, strict=True)}
    for one, facts in zip(runs, history, strict=True):
        protected = facts["alias"] or facts["age"] < window or not one.status.terminal
        assert not (protected and one.id in gone)
        if one.id not in gone:  # an ancestor of what stays, stays; so does who made what it used
            used = [f"r{facts['uses']:04d}"] if facts["uses"] in range(len(history)) else []
            assert gone.isdisjoint([one.parent, *used])
    expirable = [r.id for r in runs if not by_id[r.id]["alias"]]
    assert gone <= set(expirable)
    assert gone.isdisjoint(k.run_id for k in plan.kept)


def test_the_property_above_is_not_empty_talk():
    """With nothing that keeps it, a run does go, with its files and then its record."""
    remover = Recorder()
    held = source(run(0), files=FILES)
    policy = replace(NOTHING, metadata_after_days=1)
    plan = insight.retain(held, policy, now=NOW)
    insight.apply_retention(plan, plan.hash, held, policy, remover)
    assert remover.removed == [("files", "r0000"), ("run", "r0000")]
