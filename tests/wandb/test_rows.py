"""The rule by which points become history rows and come back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outgrow.adapters import batches
from outgrow.adapters.batches import Fingerprint
from outgrow.adapters.wandb import rows
from outgrow.adapters.wandb.history import from_json_columns, from_rows, from_table
from outgrow.adapters.wandb.rows import RowSpool
from outgrow.adapters.wandb.run_log import kind_of, micros
from outgrow.adapters.wandb.stats_rows import StatsSpool
from wandb.proto import wandb_internal_pb2 as pb

START = 1_770_000_000_000_000


def decoded(spool: RowSpool) -> list[dict[str, Any]]:
    found = []
    for payload in spool.rows(0, START):
        record = pb.Record.FromString(payload)
        assert record.history.step.num == json.loads(
            next(i.value_json for i in record.history.item if i.nested_key[0] == "_step")
        )
        found.append({item.nested_key[0]: json.loads(item.value_json) for item in record.history.item})
    return found


def back(found: list[dict[str, Any]], fractional: bool) -> dict[str, dict[str, tuple[int, int]]]:
    """The points of rows, by each of the three ways in which rows are read."""
    columns: dict[str, tuple[list[int], list[str]]] = {}
    for number, row in enumerate(found):
        for key, value in row.items():
            index, texts = columns.setdefault(key, ([], []))
            index.append(number)
            texts.append(json.dumps(value))
    names = list(dict.fromkeys(key for row in found for key in row))
    table = pa.table({name: pa.array([row.get(name) for row in found], from_pandas=False) for name in names})
    frames = {
        "log": from_json_columns(len(found), columns),
        "rows": from_rows(found, frozenset()),
        "table": from_table(table, frozenset()),
    }
    return {
        name: Fingerprint.of(
            b for kind, b in frame.batches(fractional, frozenset()) if kind == "points"
        ).by_key
        for name, frame in frames.items()
    }


def test_keys_of_a_step_share_a_row(tmp_path: Path) -> None:
    spool = RowSpool(tmp_path)
    spool.add(batches.points(["b", "a", "a"], [0, 0, 5], [START, START, START + 7], [1.0, 2.5, math.nan]))
    first, second = decoded(spool)
    assert first == {"a": 2.5, "b": 1, "_step": 0, "_timestamp": START / 1e6, "_runtime": 0.0}
    assert second["_step"] == 5
    assert second["_timestamp"] == (START + 7) / 1e6
    assert math.isnan(second["a"])
    assert spool.last_step == 5


def test_steps_that_a_row_cannot_have(tmp_path: Path) -> None:
    """Repeated, negative and missing steps move to the next free number and say what they were."""
    spool = RowSpool(tmp_path)
    spool.add(
        batches.points(["a"] * 6, [3, 3, 4, -2, None, 2**60], [None] * 6, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    )
    told = [(row["_step"], row.get("_outgrow_step"), row["a"]) for row in decoded(spool)]
    assert told == [(0, "-2", 4), (3, None, 1), (4, "3", 2), (5, "4", 3), (6, str(2**60), 6), (7, "", 5)]


def test_times_that_differ_within_a_row(tmp_path: Path) -> None:
    spool = RowSpool(tmp_path)
    spool.add(batches.points(["a", "b", "c"], [1, 1, 1], [START + 9, None, START], [1.0, 2.0, 3.0]))
    (row,) = decoded(spool)
    assert row["_timestamp"] == START / 1e6
    assert row["_outgrow_time"] == "9,,0"


def test_names_that_are_taken(tmp_path: Path) -> None:
    spool = RowSpool(tmp_path)
    names = ["_step", "_timestamp", "outgrow/key/x", ""]
    spool.add(batches.points(names, [1] * 4, [START] * 4, [1.0, 2.0, 3.0, 4.0]))
    found = decoded(spool)
    assert found[0]["_step"] == 1
    assert set(back(found, False)["log"]) == set(names)


STEPS = st.one_of(st.integers(-3, 12), st.none(), st.sampled_from([0.5, 2.25, -1.5, 2**60, -(2**40)]))
TIMES = st.one_of(st.none(), st.integers(START, START + 5), st.sampled_from([-1, 0, 5 * 10**15]))
VALUES = st.one_of(st.floats(), st.sampled_from([0.0, -0.0, 1e16, 5e-324, 1.7976931348623157e308]))


@settings(max_examples=100, deadline=None)
@given(
    cells=st.lists(st.tuples(st.sampled_from("abc"), STEPS, TIMES, VALUES), max_size=40),
    spill=st.sampled_from([3, 500_000]),
)
def test_no_point_is_lost(
    cells: list[tuple[str, Any, Any, float]], spill: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_SPILL_CELLS", spill)
        spool = RowSpool(tmp_path_factory.getbasetemp())
        sent = []
        # Steps are of one kind within a run.
        fractional = any(isinstance(step, float) for _, step, _, _ in cells)
        for start in range(0, len(cells), 7):
            keys, steps, times, values = zip(*cells[start : start + 7], strict=True)
            steps = tuple(None if s is None else float(s) if fractional else s for s in steps)
            sent.append(batches.points(keys, steps, times, values))
            spool.add(sent[-1])
        found = decoded(spool)
    steps = [row["_step"] for row in found]
    assert steps == sorted(set(steps))
    assert steps == [] or steps[0] >= 0
    expected = Fingerprint.of(sent).by_key
    assert back(found, fractional) == {"log": expected, "rows": expected, "table": expected}


@pytest.mark.parametrize("at_once", [3, 500_000])
def test_system_metrics(at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One record for each time, in order, from memory and from disk; other points are none."""
    monkeypatch.setattr(rows, "_SPILL_CELLS", at_once)
    spool = StatsSpool(tmp_path)
    spool.add(batches.points(["loss"], [0], [START], [0.5]))
    times = [START + 2, START, START, -1_500_000, None]
    keys = ["system/cpu", "system/cpu", "system/gpu", "system/cpu", "system/gpu"]
    spool.add(batches.points(keys, [None] * 5, times, [1.0, math.nan, 0.1, 2.0, 9.0]))
    spool.add(batches.points(["system/gpu", "system/cpu"], [7, 8], [START + 2, START + 2], [3.0, 4.0]))
    found = []
    for payload in spool.rows():
        assert kind_of(payload) == pb.Record.DESCRIPTOR.fields_by_name["stats"].number
        stats = pb.Record.FromString(payload).stats
        found.append((micros(stats.timestamp), [(i.key, json.loads(i.value_json)) for i in stats.item]))
    assert [time for time, _ in found] == [-1_500_000, START, START + 2, START + 2]
    assert found[0][1] == [("cpu", 2.0)]
    assert math.isnan(found[1][1][0][1])
    assert found[1][1][1] == ("gpu", 0.1)
    assert found[2:] == [(START + 2, [("cpu", 1.0), ("gpu", 3.0)]), (START + 2, [("cpu", 4.0)])]
    assert not list(tmp_path.iterdir())
