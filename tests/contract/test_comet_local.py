"""The contract suite against a directory of Comet's offline archives."""

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


class ZipsPlace(Place):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.location = f"comet:{folder}"

    def state(self) -> object:
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [(str(path), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return ZipsPlace(tmp_path / "zips")


class TestCometZipsWriting(WritingContract):
    pass


class TestCometZipsLimits(LimitsContract):
    pass


class TestCometZipsReading(ReadingContract):
    pass


class TestCometZipsRoundTrip(RoundTripContract):
    pass
