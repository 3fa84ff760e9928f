"""The framing of transaction logs, intact and damaged."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outgrow import locations
from outgrow.adapters.wandb.transaction_log import BLOCK, LogReader, LogWriter
from outgrow.errors import Corrupt, LocationError, SchemaVersionError
from outgrow.model import Origin, Status
from outgrow.testing import records


def log(path: Path, payloads: list[bytes]) -> Path:
    with path.open("wb") as stream:
        writer = LogWriter(stream)
        for payload in payloads:
            writer.append(payload)
        writer.flush()
    return path


def test_header(tmp_path: Path) -> None:
    assert log(tmp_path / "x", []).read_bytes() == b":W&B\xe1\xbe\x00"


SIZES = st.one_of(st.integers(0, 300), st.integers(BLOCK - 30, BLOCK + 30), st.just(3 * BLOCK))


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(SIZES, max_size=30))
def test_round_trip(sizes: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    payloads = [bytes([i % 251]) * size for i, size in enumerate(sizes)]
    path = log(tmp_path_factory.getbasetemp() / "round-trip", payloads)
    reader = LogReader(path)
    assert list(reader.records()) == payloads
    assert reader.damage == []


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(7, 3 * BLOCK))
def test_truncated(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    payloads = [bytes([i % 251]) * 700 for i in range(120)]
    path = log(tmp_path_factory.getbasetemp() / "truncated", payloads)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    reader = LogReader(path)
    found = list(reader.records())
    assert found == payloads[: len(found)]
    lost = len(found) < len(payloads)
    rest = io.BytesIO(whole[cut:]).getvalue()
    assert lost == bool(rest)


def test_damaged_block_costs_only_itself(tmp_path: Path) -> None:
    payloads = [bytes([i % 251]) * 700 for i in range(200)]
    path = log(tmp_path / "x", payloads)
    data = bytearray(path.read_bytes())
    data[BLOCK + 5000] ^= 0xFF
    path.write_bytes(data)
    reader = LogReader(path)
    found = list(reader.records())
    assert len(found) > 140
    assert all(record in payloads for record in found)
    assert len(reader.damage) == 1


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"", Corrupt), (b"PK\x03\x04....", Corrupt), (b":W&B\xe1\xbe\x09", SchemaVersionError)],
)
def test_no_transaction_log(data: bytes, error: type[Exception], tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(error):
        list(LogReader(path).records())


def test_crashed_run_gives_what_is_intact(tmp_path: Path) -> None:
    """A log cut off anywhere is a failed run with its first rows, and the problem is told."""
    with locations.open_sink(f"wandb:{tmp_path}") as sink:
        project = sink.experiment(records.experiment())
        run = records.run(experiment=project)
        writer = sink.begin(run, Origin(platform="test", run_id=run.id))
        writer.points(records.points(steps=5000))
        writer.finish(run, "mark")
    (path,) = tmp_path.glob("*/*.wandb")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with locations.open_source(f"wandb:{tmp_path}") as source:
        (experiment,) = source.experiments()
        (found,) = source.runs(experiment)
        assert found.status is Status.FAILED
        rows = sum(batch.num_rows for batch in source.points(found))
        assert 3000 < rows < 7000
        problems = list(source.problems())
    assert any("no exit record" in problem for problem in problems)
    assert any("cut off" in problem for problem in problems)
    assert path.read_bytes() == data[: len(data) // 2]


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "run-x").mkdir()
    (tmp_path / "run-x" / "run-x.wandb").write_bytes(b"not a log at all")
    with locations.open_source(f"wandb:{tmp_path}") as source:
        assert list(source.experiments()) == []
        assert ["not a W&B" in problem for problem in source.problems()] == [True]
    with pytest.raises(LocationError):
        locations.open_source(f"wandb:{tmp_path}/absent")
