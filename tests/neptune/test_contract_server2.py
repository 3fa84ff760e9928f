"""The contract suite against `neptune:WORKSPACE/PROJECT` on a 2.x server."""

from __future__ import annotations

import copy

import pytest
from emulators.neptune_legacy import Server
from outgrow.testing.contract import (
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


class TestServerWriting(WritingContract):
    pass


class TestServerReading(ReadingContract):
    pass


class TestServerLimits(LimitsContract):
    pass


class TestServerRoundTrip(RoundTripContract):
    pass
