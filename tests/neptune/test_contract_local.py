"""The contract suite against `neptune:DIR`: 2.x queues and neptune-scale logs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from outgrow.testing.contract import (
    Judge,
    LimitsContract,
    Place,
    ReadingContract,
    RoundTripContract,
    WritingContract,
)


class FolderPlace(Place):
    def __init__(self, folder: Path, api: str) -> None:
        self.folder = folder
        self.location = f"neptune:{folder}?outgrow.api={api}&outgrow.project=ws/project"

    def state(self) -> object:
        return {
            str(path.relative_to(self.folder)): (
                path.stat().st_mtime_ns,
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )
            for path in self.folder.rglob("*")
            if path.is_file()
        }


class _Queues:
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return FolderPlace(tmp_path / "queues", "2")


class _Logs:
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return FolderPlace(tmp_path / "logs", "3")


# Every hostile run is written and read back above; these go through the engine and its origin record.
CASES = [
    "artifacts", "awkward_keys", "colliding_keys", "duplicates", "extreme_steps", "facts", "files", "histograms",
    "nonfinite", "param_types", "parents", "times",
]  # fmt: skip


class _RoundTrip(RoundTripContract):
    @pytest.mark.parametrize("case", CASES)
    def test_round_trip(self, case: str, place: Place, suffix: str, judge: Judge) -> None:
        super().test_round_trip(case, place, suffix, judge)


class TestQueueWriting(_Queues, WritingContract):
    pass


class TestQueueReading(_Queues, ReadingContract):
    pass


class TestQueueLimits(_Queues, LimitsContract):
    pass


class TestQueueRoundTrip(_Queues, _RoundTrip):
    pass


class TestLogWriting(_Logs, WritingContract):
    pass


class TestLogReading(_Logs, ReadingContract):
    pass


class TestLogLimits(_Logs, LimitsContract):
    pass


class TestLogRoundTrip(_Logs, _RoundTrip):
    pass
