"""The contract suite against `neptune:WORKSPACE/PROJECT`, on servers of 2.x and of 3.x."""

from __future__ import annotations

import copy

import pytest
from emulators import neptune_legacy, neptune_scale
from outgrow.testing import hostile
from outgrow.testing.contract import (
    Judge,
    LimitsContract,
    Place,
    ReadingContract,
    RoundTripContract,
    WritingContract,
)

# One request a series, and a thousand points a request: these two take minutes and show nothing more.
CASES = [name for name in hostile.names() if name not in ("many_series", "long_series")]


class ServerPlace(Place):
    def __init__(self, server: neptune_legacy.Server | neptune_scale.Server, api: str) -> None:
        server.runs.clear()  # every source lists the project: few runs keep the tests fast
        self.server = server
        self.location = f"neptune:ws/project?outgrow.api={api}"

    def state(self) -> object:
        return copy.deepcopy(self.server.runs)


class _Legacy:
    @pytest.fixture
    def place(self, legacy: neptune_legacy.Server) -> Place:
        return ServerPlace(legacy, "2")


class _Scale:
    @pytest.fixture
    def place(self, scale: neptune_scale.Server) -> Place:
        return ServerPlace(scale, "3")


class _Writing(WritingContract):
    @pytest.mark.parametrize("case", CASES)
    def test_hostile_run(self, case: str, place: Place, suffix: str, judge: Judge) -> None:
        super().test_hostile_run(case, place, suffix, judge)


class _RoundTrip(RoundTripContract):
    @pytest.mark.parametrize(
        "case", ["facts", "files", "fractional_steps", "histograms", "nonfinite", "param_types"]
    )
    def test_round_trip(self, case: str, place: Place, suffix: str, judge: Judge) -> None:
        super().test_round_trip(case, place, suffix, judge)


class TestLegacyWriting(_Legacy, _Writing):
    pass


class TestLegacyReading(_Legacy, ReadingContract):
    pass


class TestLegacyLimits(_Legacy, LimitsContract):
    pass


class TestLegacyRoundTrip(_Legacy, _RoundTrip):
    pass


class TestScaleWriting(_Scale, _Writing):
    pass


class TestScaleReading(_Scale, ReadingContract):
    pass


class TestScaleLimits(_Scale, LimitsContract):
    pass


class TestScaleRoundTrip(_Scale, _RoundTrip):
    pass
