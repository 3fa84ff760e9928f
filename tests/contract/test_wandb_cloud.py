"""The contract suite against an emulated W&B server: the vendor's sync writes, its API is read back.

An upload takes a second or two whatever it holds, so the hostile runs are written together, in
threads that share one sink and so its uploads.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest
from emulators.wandb import WandbServer
from outgrow import locations
from outgrow.adapters.base import Sink
from outgrow.adapters.wandb.cloud_sink import ProjectSink
from outgrow.adapters.wandb.upload import Uploader
from outgrow.testing import hostile
from outgrow.testing.compare import Difference
from outgrow.testing.contract import Judge, Place, ReadingContract, RoundTripContract, WritingContract
from outgrow.testing.place import written
from outgrow.testing.roundtrip import round_trip

ROUND_TRIPS = ("facts", "steps", "registry", "artifacts")
CASES = sorted({*hostile.names()} - {"long_series", "many_series"})
"""Bulk is for the folders' tests: the emulator, not the adapter, would take the time."""


class Server:
    """The emulator, and one uploader for all the sinks of this module."""

    def __init__(self, emulator: WandbServer, home: Path) -> None:
        self.emulator = emulator
        self.uploader = Uploader(home / "sync", emulator.url)


class ServerPlace(Place):
    """A project of its own."""

    def __init__(self, server: Server, project: str) -> None:
        self.server = server
        self.location = f"wandb:ada/{project}"

    def sink(self) -> Sink:
        sink = locations.open_sink(self.location)
        assert isinstance(sink, ProjectSink)
        sink.uploader = _Shared(self.server.uploader)  # type: ignore[assignment]
        return sink

    def state(self) -> object:
        held = self.server.emulator.state
        runs = [
            (key, run.config, run.summary, run.history, sorted(run.files)) for key, run in held.runs.items()
        ]
        return repr(runs), len(held.artifacts), sorted(held.storage)


class _Shared:
    def __init__(self, uploader: Uploader) -> None:
        self.upload = uploader.upload

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("wandb-home")
    with WandbServer() as emulator, pytest.MonkeyPatch.context() as patch:
        for name, value in emulator.environment(home).items():
            patch.setenv(name, value)
        server = Server(emulator, home)
        yield server
        server.uploader.close()


@pytest.fixture
def place(server: Server, suffix: str) -> Place:
    return ServerPlace(server, f"project{suffix}")


@pytest.fixture(scope="module")
def results(server: Server) -> Iterator[dict[str, Future]]:
    """Every hostile run written, and some taken through a round trip, all at once."""

    def trip(case: str) -> list[Difference]:
        place = ServerPlace(server, f"trip-{case}")
        return list(round_trip(hostile.load(case), place.sink, place.source, place.settle))

    with ThreadPoolExecutor(16) as pool:
        futures: dict[str, Future] = {f"trip {case}": pool.submit(trip, case) for case in ROUND_TRIPS}
        for case in CASES:
            place = ServerPlace(server, f"write-{case}")
            futures[f"write {case}"] = pool.submit(written, place, hostile.load(case))
        yield futures


class TestWandbProjectWriting(WritingContract):
    gaps: ClassVar = {
        "registry:registry": "a registry collection is made by linking: one without versions has no place"
    }

    @pytest.mark.parametrize("case", CASES)
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
