"""The contract suite against `neptune:DIR`: 2.x queues and neptune-scale logs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from outgrow.testing.contract import (
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


class TestQueueWriting(_Queues, WritingContract):
    pass


class TestQueueReading(_Queues, ReadingContract):
    pass


class TestQueueLimits(_Queues, LimitsContract):
    pass


class TestQueueRoundTrip(_Queues, RoundTripContract):
    pass


class TestLogWriting(_Logs, WritingContract):
    pass


class TestLogReading(_Logs, ReadingContract):
    pass


class TestLogLimits(_Logs, LimitsContract):
    pass


class TestLogRoundTrip(_Logs, RoundTripContract):
    pass
