"""Writing zips: killed at any point, repeated, grown; and the forms of keys and params."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outgrow import migrate
from outgrow.adapters import batches
from outgrow.adapters.comet import adapter
from outgrow.adapters.comet import points as metric
from outgrow.adapters.comet.keys import experiment_key
from outgrow.adapters.comet.location import Project, target
from outgrow.adapters.comet.records import guessed, hints, joined, native_param, pieces, typed
from outgrow.errors import LocationError, MissingSDK
from outgrow.locations import open_sink, open_source, parse
from outgrow.model import Origin
from outgrow.testing import records
from outgrow.testing.memory import MemorySource

KILLED = """
import os, signal, sys
from pathlib import Path
from outgrow import migrate
from outgrow.adapters.comet.building import Builder
from outgrow.testing import records

call, after, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
real, calls = getattr(Builder, call), 0

def dying(self, *arguments):
    global calls
    calls += 1
    if calls > after:
        self._spool.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *arguments)

setattr(Builder, call, dying)
migrate.copy(records.history(runs=3, steps=50), f"comet:{folder}/zips", ledger=folder / "ledger.db", workers=1)
"""


@pytest.mark.parametrize(("call", "after"), [("raw", 30), ("member", 3), ("finish", 1)])
def test_killed_copy_is_completed(call: str, after: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, call, str(after), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr[-2000:]
    folder = tmp_path / "zips"
    left = list(folder.glob(".*"))
    assert left  # what the killed process was at
    assert len(list(folder.glob("*.zip"))) < 3
    history = records.history(runs=3, steps=50)
    assert migrate.copy(history, f"comet:{folder}", ledger=tmp_path / "ledger.db").exit_code == 0
    assert list(folder.glob(".*")) == []
    assert len(list(folder.glob("*.zip"))) == 3
    assert migrate.check(history, f"comet:{folder}", deep=True).exit_code == 0


def test_a_repeated_copy_writes_nothing(tmp_path: Path) -> None:
    history = records.history(runs=2)
    for _ in range(2):
        migrate.copy(history, f"comet:{tmp_path}/zips", ledger=tmp_path / "ledger.db")
        state = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "zips").iterdir()}
    assert migrate.copy(history, f"comet:{tmp_path}/zips", ledger=tmp_path / "other.db").exit_code == 0
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "zips").iterdir()} == state


def _write(sink: Any, batch: pa.RecordBatch, mark: str | None = "mark", **changes: Any) -> str:
    run = records.run(1, "digits", **changes)
    origin = Origin(platform="test", run_id="r1")
    writer = sink.begin(run, origin, sink.find(origin.identity))
    writer.points(batch)
    writer.finish(run, mark)
    return str(writer.run_id)


def test_a_grown_run_keeps_what_its_zip_holds(tmp_path: Path) -> None:
    with open_sink(f"comet:{tmp_path}") as sink:
        first = records.points(steps=10)
        key = _write(sink, first, None, params={"a": 1}, labels=["one"])
        assert next(sink.copies()).mark is None
        assert _write(sink, records.points(steps=30), params={"b": 2}, labels=["two"]) == key
        [copy] = sink.copies()
        assert copy.mark == "mark"
    with open_source(f"comet:{tmp_path}") as source:
        [experiment] = source.experiments()
        [run] = source.runs(experiment)
        assert (run.params, run.labels) == ({"a": 1, "b": 2}, ["one", "two"])
        # The first ten steps were sent twice, with other values from the eleventh on.
        counts = {k: n for k, (n, _) in batches.Fingerprint.of(source.points(run)).by_key.items()}
        wanted = batches.Fingerprint.of([first, records.points(steps=30)])
        again = sum(row in first.to_pylist() for row in records.points(steps=30).to_pylist())
        assert sum(counts.values()) == wanted.count - again


def test_a_zip_packed_anew_is_still_known(tmp_path: Path) -> None:
    with open_sink(f"comet:{tmp_path}") as sink:
        key = _write(sink, records.points(steps=3))
        path = tmp_path / f"{key}.zip"
        with zipfile.ZipFile(path) as held:
            members = {name: held.read(name) for name in held.namelist()}
        with zipfile.ZipFile(path, "w") as target_zip:
            for name, data in members.items():
                target_zip.writestr(name, data)
        found = sink.find("test:r1")
        assert found is not None
        assert (found.run_id, found.mark) == (key, "mark")


def test_the_metadata_is_what_the_uploader_wants(tmp_path: Path) -> None:
    with open_sink(f"comet:{tmp_path}?outgrow.workspace=team") as sink:
        key = _write(sink, records.points(steps=3))
    with zipfile.ZipFile(tmp_path / f"{key}.zip") as held:
        meta = json.loads(held.read("experiment.json"))
    assert key.isalnum()
    assert 32 <= len(key) <= 50
    assert (meta["offline_id"], meta["workspace"], meta["project_name"]) == (key, "team", "digits")
    assert meta["resume_strategy"] == "create"
    assert meta["start_time"] < meta["stop_time"]


def test_plan_counts_what_a_server_does_not_store(tmp_path: Path) -> None:
    """Reduced by a rule, not at random: first, last, lowest and highest stay (`adapters.fit_stream`)."""
    from outgrow.adapters.comet.capabilities import OFFLINE, ONLINE

    assert ONLINE.max_points_per_series == 15_000
    assert OFFLINE.max_points_per_series is None
    with open_sink(f"comet:{tmp_path}") as sink:
        _write(sink, records.points(("loss",), steps=20_000))
    source = open_source(f"comet:{tmp_path}")
    [experiment] = source.experiments()
    [run] = source.runs(experiment)
    assert source.stats(run).longest_series == 20_000


# --- forms ------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=30)
KEYS = st.one_of(NAMES, st.builds("system/{}".format, NAMES), st.builds("sys.{}".format, NAMES))
PARAMS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=20),
    st.sampled_from(["1", "1.0", "1e5", "true", "True", "null", "None", "nan", "NaN", "-0", "1E-5", "", " 1"]),
)  # fmt: skip


@given(KEYS)
def test_metric_names_come_back(key: str) -> None:
    assert metric.canonical_key(metric.native_key(key)) == key


@given(st.dictionaries(NAMES, PARAMS, max_size=5))
def test_params_come_back_from_the_servers_text(params: dict[str, Any]) -> None:
    """A server gives every param as text, and keeps no null."""
    sent = {key: native_param(value) for key, value in params.items()}
    text = {k: v if isinstance(v, str) else json.dumps(v) for k, v in sent.items() if v is not None}
    back = typed(text, hints(params), guess=True)
    assert {k: (type(v), repr(v)) for k, v in back.items()} == {
        k: (type(v), repr(v)) for k, v in params.items()
    }


@given(st.text(max_size=3_000))
def test_long_texts_come_back_in_pieces(text: str) -> None:
    others = pieces("outgrow.x", text) | {"outgrow.y": "other"}
    assert joined(others, "outgrow.x") == text
    assert all(len(piece) <= 1_000 for piece in others.values())


@pytest.mark.parametrize("text", ["007", "1e5", "1_000", "0x10", "+1", "1.", ".5", "infinity", "nan", " 1"])
def test_only_a_values_own_form_is_guessed(text: str) -> None:
    assert guessed(text) == text


@given(
    st.lists(
        st.tuples(
            KEYS,
            st.one_of(st.none(), st.floats(-1e15, 1e15)),
            st.integers(-(10**12), 4 * 10**12),
            st.floats(),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_points_come_back(rows: list[tuple[str, float | None, int, float]]) -> None:
    keys, steps, milliseconds, values = zip(*rows, strict=True)
    batch = batches.points(keys, steps, [ms * 1000 for ms in milliseconds], values)
    lines = metric.encode(batch)
    shape = metric.Shape()
    shape.see(lines)
    back = metric.decode(lines, shape)
    assert batches.Fingerprint.of([back]).by_key == batches.Fingerprint.of([batch]).by_key


def test_keys_differ_by_place() -> None:
    made = {
        experiment_key("mlflow:r1"),
        experiment_key("mlflow:r1", "a/b"),
        experiment_key("mlflow:r2", "a/b"),
    }
    assert len(made) == 3


def test_locations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert target(parse("comet:team/digits")) == Project("team", "digits")
    assert target(parse("comet:./zips")) == Path("zips")
    assert target(parse("comet:zips")) == Path("zips")
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert target(parse("comet:a/b")) == Path("a/b")
    (tmp_path / "file.zip").write_bytes(b"")
    with pytest.raises(LocationError, match="is a file"):
        target(parse("comet:file.zip"))
    with pytest.raises(LocationError, match="no such directory"):
        open_source("comet:./nowhere")


def test_nothing_of_the_sdk_is_imported_for_zips(tmp_path: Path) -> None:
    code = (
        "import sys; from outgrow.locations import open_sink, open_source;"
        f"open_sink('comet:{tmp_path}'); open_source('comet:{tmp_path}');"
        "sys.exit('comet_ml' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_writing_to_a_server_without_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMET_API_KEY", "any")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingSDK) as caught:
        open_sink("comet:team/digits")
    assert caught.value.hint == "pip install 'outgrow[comet]'"


def test_credentials_tell_the_place_and_not_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMET_API_KEY", raising=False)
    monkeypatch.delenv("COMET_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert adapter.credentials() is None
    (tmp_path / "mine").write_text("[comet]\napi_key = secret%key\n")
    monkeypatch.setenv("COMET_CONFIG", str(tmp_path / "mine"))
    assert adapter.credentials() == str(tmp_path / "mine")
    monkeypatch.setenv("COMET_API_KEY", "another")
    assert adapter.credentials() == "COMET_API_KEY"


def test_a_memory_source_is_unchanged(tmp_path: Path) -> None:
    source = records.history(runs=1)
    assert isinstance(source, MemorySource)
    run = next(source.runs(next(source.experiments())))
    before = replace(run)
    migrate.copy(source, f"comet:{tmp_path}/zips", ledger=tmp_path / "ledger.db")
    assert next(source.runs(next(source.experiments()))) == before
