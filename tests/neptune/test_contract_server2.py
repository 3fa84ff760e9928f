"""The contract suite against `neptune:WORKSPACE/PROJECT` on a 2.x server."""

from __future__ import annotations

import copy

import pytest
from emulators.neptune_legacy import Server
from outgrow.testing import hostile
from outgrow.testing.contract import (
    Judge,
    LimitsContract,
    Place,
    ReadingContract,
    RoundTripContract,
    WritingContract,
)


class ServerPlace(Place):
    location = "neptune:ws/project?outgrow.api=2"

    def __init__(self, server: Server) -> None:
        self.server = server

    def state(self) -> object:
        return copy.deepcopy(self.server.runs)


@pytest.fixture
def place(legacy: Server) -> Place:
    legacy.runs.clear()  # every source lists the project: few runs keep the tests fast
    return ServerPlace(legacy)


# One request a series, and a thousand points a request: these two take minutes and show nothing more.
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
    @pytest.mark.parametrize("case", ["facts", "files", "fractional_steps", "nonfinite", "param_types"])
    def test_round_trip(self, case: str, place: Place, suffix: str, judge: Judge) -> None:
        super().test_round_trip(case, place, suffix, judge)
