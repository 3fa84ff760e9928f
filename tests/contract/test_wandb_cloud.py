"""The contract suite against an emulated W&B server: the vendor's sync writes, its API is read back.

An upload takes a second or two whatever it holds, so the hostile runs are written together, in
threads that share one sink and so its uploads.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ClassVar

import pytest
from emulators.wandb import WandbServer
from outgrow import locations
from outgrow.adapters.base import Sink
from outgrow.testing import hostile
from outgrow.testing.contract import Judge, Place, ReadingContract, RoundTripContract, WritingContract
from outgrow.testing.place import written
from outgrow.testing.roundtrip import round_trip

ROUND_TRIPS = ("facts", "steps", "texts", "registry", "artifacts", "references", "states", "nonfinite")


class ServerPlace(Place):
    def __init__(self, server: WandbServer) -> None:
        self.server = server
        self.location = "wandb:ada/contract"
        self._sink = locations.open_sink(self.location)
        self.close, self._sink.close = self._sink.close, lambda: None  # type: ignore[method-assign]

    def sink(self) -> Sink:
        return self._sink

    def state(self) -> object:
        held = self.server.state
        runs = [
            (key, run.config, run.summary, run.history, sorted(run.files)) for key, run in held.runs.items()
        ]
        return repr(runs), len(held.artifacts), sorted(held.storage)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("wandb-home")
    with WandbServer() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment(home).items():
            patch.setenv(name, value)
        place = ServerPlace(server)
        yield place
        place.close()


@pytest.fixture(scope="module")
def results(place: Place) -> Iterator[dict[str, Future]]:
    """Every hostile run written, and some taken through a round trip, all at once."""
    with ThreadPoolExecutor(16) as pool:
        futures = {
            f"write {case}": pool.submit(written, place, hostile.load(case, f"-w-{case}"))
            for case in hostile.names()
        }
        for case in ROUND_TRIPS:
            source = hostile.load(case, f"-r-{case}")
            futures[f"trip {case}"] = pool.submit(
                lambda source: list(round_trip(source, place.sink, place.source, place.settle)), source
            )
        yield futures


class TestWandbProjectWriting(WritingContract):
    gaps: ClassVar = {
        "registry:registry": "a registry collection is made by linking: one without versions has no place"
    }

    @pytest.mark.parametrize("case", hostile.names())
    def test_hostile_run(
        self, case: str, place: Place, suffix: str, judge: Judge, results: dict[str, Future]
    ) -> None:
        judge(case, results[f"write {case}"].result()[1])


class TestWandbProjectReading(ReadingContract):
    pass


class TestWandbProjectRoundTrip(RoundTripContract):
    gaps: ClassVar = {"registry:check": "a registry collection without versions has no place"}

    @pytest.mark.parametrize("case", ROUND_TRIPS)
    def test_round_trip(
        self, case: str, place: Place, suffix: str, judge: Judge, results: dict[str, Future]
    ) -> None:
        judge(case, results[f"trip {case}"].result())
