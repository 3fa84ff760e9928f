"""The contract suite against a project on a Comet server: the emulator, and the vendor's uploader.

Limits are those of the zips, which `test_comet_local` proves.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from comet_server import running
from emulators.comet import CometServer
from outgrow.testing.contract import (
    Place,
    ReadingContract,
    RoundTripContract,
    WritingContract,
)

# What an online project holds in another way than a zip.
ROUND_TRIPS = {"artifacts", "registry", "states", "param_types", "texts"}


class ProjectPlace(Place):
    def __init__(self, server: CometServer, workspace: str) -> None:
        self.server = server
        self.location = f"comet:{workspace}/project"

    def state(self) -> Any:
        with self.server.state.lock:
            held = self.server.state
            return copy.deepcopy((held.experiments, held.artifacts, held.models, held.bytes))


@pytest.fixture(scope="module")
def server() -> Iterator[CometServer]:
    with running() as found:
        yield found


@pytest.fixture
def place(server: CometServer, request: pytest.FixtureRequest) -> Place:
    if "RoundTrip" in request.node.nodeid and request.node.callspec.params["case"] not in ROUND_TRIPS:
        pytest.skip("the same on the way through zips, which test_comet_local proves")
    if "many_series" in request.node.name:
        pytest.skip("a request for each of 3,000 series")
    server.reset()
    return ProjectPlace(server, "contract")


class TestCometProjectWriting(WritingContract):
    pass


class TestCometProjectReading(ReadingContract):
    pass


class TestCometProjectRoundTrip(RoundTripContract):
    pass
