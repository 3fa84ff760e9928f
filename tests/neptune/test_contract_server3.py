"""The contract suite against `neptune:WORKSPACE/PROJECT` on a 3.x server, and MLflow → Neptune → MLflow."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
from emulators.neptune_scale import Server
from outgrow import migrate
from outgrow.locations import open_source
from outgrow.testing import hostile, records
from outgrow.testing.contract import (
    Judge,
    LimitsContract,
    Place,
    ReadingContract,
    RoundTripContract,
    WritingContract,
)
from outgrow.testing.memory import MemorySource, RunData

LOCATION = "neptune:ws/project?outgrow.api=3"


class ServerPlace(Place):
    location = LOCATION

    def __init__(self, server: Server) -> None:
        self.server = server

    def state(self) -> object:
        return copy.deepcopy(self.server.runs)


@pytest.fixture(scope="module")
def scale() -> Iterator[Server]:
    """A 3.x server, with its token in the environment."""
    with pytest.MonkeyPatch.context() as patch, Server("ws/project") as server:
        patch.setenv("NEPTUNE_API_TOKEN", server.token)
        yield server


@pytest.fixture
def place(scale: Server) -> Place:
    scale.runs.clear()  # every source lists the project: few runs keep the tests fast
    return ServerPlace(scale)


# These two hold many points and show nothing more here: the local log has them.
CASES = [name for name in hostile.names() if name not in ("many_series", "long_series")]


class TestServerWriting(WritingContract):
    @pytest.mark.parametrize("case", CASES)
    def test_hostile_run(self, case: str, place: Place, suffix: str, judge: Judge) -> None:
        super().test_hostile_run(case, place, suffix, judge)


class TestServerReading(ReadingContract):
    pass


class TestServerLimits(LimitsContract):
    pass


class TestServerRoundTrip(RoundTripContract):
    @pytest.mark.parametrize(
        "case", ["facts", "files", "fractional_steps", "histograms", "nonfinite", "param_types"]
    )
    def test_round_trip(self, case: str, place: Place, suffix: str, judge: Judge) -> None:
        super().test_round_trip(case, place, suffix, judge)


def test_mlflow_through_neptune_and_back(place: Place, tmp_path: Path) -> None:
    first, last = (f"mlflow:sqlite:///{tmp_path}/{name}.db" for name in ("first", "last"))
    ledger = tmp_path / "ledger.db"
    made = MemorySource([records.experiment()], [RunData(records.run(), [records.points()])])
    legs = [(first, LOCATION), (LOCATION, last)]
    assert migrate.copy(made, first, ledger=ledger).exit_code == 0
    for source, target in legs:
        report = migrate.copy(source, target, ledger=ledger)
        assert report.exit_code == 0, report.failures
        checked = migrate.check(source, target, deep=True)
        assert checked.exit_code == 0, [run for run in checked.runs if run.differences]
        assert migrate.copy(source, target, ledger=ledger).counts.get("copied", 0) == 0
    held = []
    for location in (first, last):
        with open_source(location) as source:
            runs = [run for e in source.experiments() for run in source.runs(e)]
            rows = [
                sorted((r["key"], r["step"], r["time"], repr(r["value"])) for b in source.points(run) for r in b.to_pylist())
                for run in runs
            ]  # fmt: skip
            held.append(([(r.origin.identity, r.name, r.status, r.params, r.tags) for r in runs], rows))
    assert any(held[0][1])
    assert held[0] == held[1]
