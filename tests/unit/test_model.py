"""The canonical records and their JSON form."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outgrow import model
from outgrow.model import Experiment, Fork, ModelVersion, Origin, RegisteredModel, Run, Status

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.datetimes(timezones=st.just(UTC)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def same(a: object, b: object) -> bool:
    """Equality in which NaN equals itself and True is not 1."""
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


@given(st.dictionaries(st.text(), values, max_size=5))
def test_params_survive_json_with_their_types(params):
    run = Run(id="1", experiment="0", params=params)
    assert same(model.from_json(model.to_json(run), Run).params, params)


def test_a_mapping_that_looks_like_a_tag_is_still_a_mapping():
    run = Run(
        id="1", experiment="0", params={"a": [{"$float": "nan"}, {"$map": {"x": 1}}, {"$time": "never"}]}
    )
    assert model.from_json(model.to_json(run), Run).params == run.params


def test_nested_records_survive_json():
    run = Run(
        id="1",
        experiment="0",
        status=Status.KILLED,
        origin=Origin(platform="mlflow", run_id="abc"),
        fork=Fork(run="0", step=1.5),
        started_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    )
    assert model.from_json(model.to_json(run), Run) == run
    registered = RegisteredModel(name="m", versions=[ModelVersion(model="m", version="1", aliases=["prod"])])
    assert model.from_json(model.to_json(registered), RegisteredModel) == registered


def test_equal_records_have_equal_digests_and_others_do_not():
    one = Run(id="1", experiment="0", params={"a": 1, "b": 2})
    same_run = Run(id="1", experiment="0", params={"b": 2, "a": 1})
    assert model.digest(one) == model.digest(same_run)
    assert model.digest(one) != model.digest(Run(id="1", experiment="0", params={"a": 1, "b": 2.0}))


@pytest.mark.parametrize("text", ["{}", '{"id": 3, "name": "x"}', "[]", "nonsense"])
def test_json_of_another_shape_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011  msgspec's and json's errors have only this base in common
        model.from_json(text, Experiment)


def test_flatten_joins_with_slashes_and_keeps_empty_mappings():
    assert model.flatten({"a": {"b": 1, "c": {}}, "d": [{"e": 2}]}) == {"a/b": 1, "a/c": {}, "d": [{"e": 2}]}
