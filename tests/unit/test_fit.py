"""Fitting records and points to a target: every change is declared, and nothing else changes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outgrow.adapters import batches
from outgrow.adapters.base import Capabilities, Hold, TextLimit
from outgrow.adapters.fit import KeyMap, fit_key, fit_model, fit_run, fit_text
from outgrow.adapters.fit_points import fit_points
from outgrow.model import ModelVersion, RegisteredModel, Run

EVERYTHING = {
    name: Hold("there")
    for name in [
        "experiments",
        "experiment_tags",
        "params",
        "tags",
        "labels",
        "summary",
        "description",
        "user",
        "parent",
        "fork",
        "group",
        "job_type",
        "sweep",
        "started_at",
        "ended_at",
        "created_at",
        "duration",
        "exit_code",
        "deleted",
        "points",
        "texts",
        "histograms",
        "datasets",
        "code",
        "environment",
        "files",
        "references",
        "artifacts",
        "aliases",
        "registry",
        "registry_aliases",
        "stages",
        "registry_times",
        "prompts",
    ]
}
RICH = Capabilities(holds=EVERYTHING)
POOR = Capabilities(
    holds={k: EVERYTHING[k] for k in ("params", "points", "tags", "started_at", "registry")},
    metric_key=TextLimit(20, r"[\w./-]", path_like=True, empty=False),
    param_key=TextLimit(20, r"[\w./-]", empty=False),
    param_value=TextLimit(10),
    tag_value=TextLimit(10),
    param_types=frozenset({"str"}),
    nonfinite=frozenset(),
    float_steps=False,
    null_steps=False,
    null_point_times=False,
    point_times="ms",
    run_times="s",
    version_numbers="sequential",
)
START = datetime(2026, 1, 1, 10, 0, 0, 123456, tzinfo=UTC)
RUN = Run(
    id="1",
    experiment="0",
    user="ana",
    started_at=START,
    params={"lr": 0.1, "n": 3, "on": True, "none": None, "text": "x" * 11, "l": [1, 2]},
    tags={"short": "y", "long": "z" * 11},
    summary={"acc@5": 0.5, "acc_5": 0.4, "m": 1.0},
)


def kinds(losses):
    return {(loss.kind, loss.concept) for loss in losses}


def test_a_target_that_holds_everything_changes_nothing():
    fitted = fit_run(RUN, RICH)
    assert fitted.run == RUN
    assert fitted.losses == []
    assert fitted.keys.changed == {}


def test_a_poor_target_declares_every_change():
    fitted = fit_run(RUN, POOR)
    assert fitted.run.params == {
        "lr": "0.1", "n": "3", "on": "True", "none": "None", "text": "x" * 9 + "…", "l": "[1, 2]",
    }  # fmt: skip
    assert fitted.run.tags == {"short": "y", "long": "z" * 9 + "…"}
    assert fitted.run.user is None
    assert fitted.run.summary == {}
    assert fitted.run.started_at == START.replace(microsecond=0)
    assert kinds(fitted.losses) == {
        ("moved", "user"),
        ("rounded", "started_at"),
        ("retyped", "params"),
        ("truncated", "params"),
        ("truncated", "tags"),
        ("renamed", "points"),
    }
    retyped = {loss.detail: loss.count for loss in fitted.losses if loss.kind == "retyped"}
    assert sum(retyped.values()) == 5


def test_a_name_that_is_taken_goes_to_the_key_that_has_it_already():
    names = KeyMap(POOR.metric_key, ["acc@5", "acc_5"]).names
    assert names["acc_5"] == "acc_5"
    assert names["acc@5"] == "acc_5-" + names["acc@5"][-6:]


@given(st.lists(st.text(max_size=40), unique=True, max_size=20))
def test_a_key_map_never_merges_keys_and_always_obeys_the_limit(keys):
    names = KeyMap(POOR.metric_key, keys)
    assert len({names(key) for key in keys}) == len(keys)
    for key in keys:
        assert 0 < len(names(key)) <= 20
        assert fit_key(names(key), POOR.metric_key) == names(key)


@given(st.text(max_size=60), st.integers(4, 30), st.booleans())
def test_a_cut_text_is_within_its_limit(text, length, in_bytes):
    cut = fit_text(text, TextLimit(length, bytes=in_bytes))
    size = len(cut.encode()) if in_bytes else len(cut)
    assert size <= length
    full = len(text.encode()) if in_bytes else len(text)
    assert (cut == text) == (full <= length)


def points(steps, times, values, keys=None):
    return batches.points(keys or ["m"] * len(steps), steps, times, values)


def test_points_within_the_capabilities_stay_as_they_are():
    batch = points([-1, 0, 0], [START] * 3, [1.0, float("nan"), float("-inf")])
    fitted, losses = fit_points(batch, fit_run(RUN, RICH), RICH)
    assert fitted.schema == batch.schema
    assert str(fitted.to_pylist()) == str(batch.to_pylist())
    assert losses == []


def test_points_beyond_the_capabilities_are_changed_and_counted():
    batch = points(
        [1.5, None, 2.0, 3.0],
        [START, None, START, START],
        [1.0, 2.0, float("nan"), float("inf")],
        ["acc@5"] * 4,
    )
    fitted_run = fit_run(RUN, POOR)
    fitted, losses = fit_points(batch, fitted_run, POOR)
    assert fitted.schema.field("step").type == pa.int64()
    rows = fitted.to_pylist()
    assert [(row["step"], row["value"]) for row in rows] == [(1, 1.0), (0, 2.0)]
    assert {row["key"] for row in rows} == {fitted_run.keys("acc@5")}
    assert rows[0]["time"] == START.replace(microsecond=123000)
    assert rows[1]["time"] == START.replace(microsecond=0)
    counts = {(loss.kind, loss.detail): loss.count for loss in losses}
    assert counts[("dropped", "values that are nan")] == 1
    assert counts[("dropped", "values that are inf")] == 1
    assert counts[("rounded", "fractional steps are rounded down")] == 1
    assert counts[("retyped", "points without a step get step 0")] == 1
    assert counts[("retyped", "points without a time get the run's start")] == 1
    assert counts[("rounded", "point times are kept in ms")] == 3


def test_times_before_1970_are_rounded_down_too():
    early = datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    fitted, _ = fit_points(points([0], [early], [1.0]), fit_run(RUN, POOR), POOR)
    assert fitted.column("time")[0].as_py() == early.replace(microsecond=999000)


def test_registry_versions_are_numbered_where_the_target_only_counts():
    model = RegisteredModel(
        name="m",
        created_at=START,
        versions=[
            ModelVersion(model="m", version="1.0.0", stage="Production"),
            ModelVersion(model="m", version="1.1.0", aliases=["live"]),
        ],
    )
    fitted, losses = fit_model(model, POOR)
    assert [v.version for v in fitted.versions] == ["1", "2"]
    assert fitted.versions[0].tags == {"outgrow.stage": "Production"}
    assert fitted.versions[1].extra["outgrow"] == {"origin_version": "1.1.0"}
    assert kinds(losses) == {
        ("renamed", "registry"),
        ("moved", "registry_times"),
        ("moved", "stages"),
        ("moved", "registry_aliases"),
    }


# --- fingerprints -------------------------------------------------------------------------------

rows = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.none() | st.integers(-5, 2**60),
    st.none() | st.integers(-(10**15), 10**15),
    st.floats(),
)


def fingerprint(data, chunks=1):
    size = max(1, -(-len(data) // chunks))
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    return batches.Fingerprint.of(
        batches.points(*map(list, zip(*part, strict=True))) for part in parts
    ).by_key


@given(st.lists(rows, min_size=1, max_size=20), st.randoms(), st.integers(1, 4))
def test_a_fingerprint_does_not_depend_on_order_or_batches(data, random, chunks):
    shuffled = list(data)
    random.shuffle(shuffled)
    assert fingerprint(shuffled, chunks) == fingerprint(data)


@pytest.mark.parametrize(
    "other",
    [
        ("b", 1, 5, 0.5),
        ("a", 2, 5, 0.5),
        ("a", None, 5, 0.5),
        ("a", 1, 6, 0.5),
        ("a", 1, None, 0.5),
        ("a", 1, 5, 0.5000000000000001),
        ("a", 1, 5, float("nan")),
    ],
)
def test_a_fingerprint_sees_every_column(other):
    assert fingerprint([("a", 1, 5, 0.5)]) != fingerprint([other])


def test_a_fingerprint_sees_duplicates_and_large_steps():
    row = ("a", 1, 5, 0.5)
    assert fingerprint([row]) != fingerprint([row, row])
    assert fingerprint([("a", 2**60, 5, 0.5)]) != fingerprint([("a", 2**60 + 1, 5, 0.5)])


def test_a_fingerprint_compares_steps_by_value_not_by_type():
    integral = batches.points(["a"], [3], [5], [0.5])
    fractional = batches.with_steps(integral, pa.float64())
    assert batches.Fingerprint.of([integral]).by_key == batches.Fingerprint.of([fractional]).by_key


def test_renaming_two_keys_to_one_keeps_all_points():
    batch = batches.points(["a", "b"], [1, 2], [None, None], [0.1, 0.2])
    renamed = batches.rename(batch, {"a": "c", "b": "c"})
    assert [row["key"] for row in renamed.to_pylist()] == ["c", "c"]
    assert batches.keys_of(renamed) == ["c"]


def test_the_time_of_a_run_is_cut_not_rounded():
    late = replace(RUN, ended_at=START + timedelta(microseconds=876_000))
    assert fit_run(late, replace(POOR, holds=EVERYTHING)).run.ended_at == START.replace(microsecond=0)
