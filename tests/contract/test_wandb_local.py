"""The contract suite against a folder of W&B run folders."""

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


class FoldersPlace(Place):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.location = f"wandb:{folder}"

    def state(self) -> object:
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [
            (str(path), path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
            for path in files
        ]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return FoldersPlace(tmp_path / "wandb")


class TestWandbFoldersWriting(WritingContract):
    pass


class TestWandbFoldersLimits(LimitsContract):
    pass


class TestWandbFoldersReading(ReadingContract):
    pass


class TestWandbFoldersRoundTrip(RoundTripContract):
    pass
