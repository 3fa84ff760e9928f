"""The contract suite against the archive: a directory, and an object store."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import fsspec
import pytest
from outgrow.testing.contract import (
    Place,
    ReadingContract,
    RoundTripContract,
    WritingContract,
)


class DirectoryPlace(Place):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.location = f"archive:{folder}"

    def state(self) -> object:
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [(str(path), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


class ObjectStorePlace(Place):
    def __init__(self) -> None:
        self.bucket = uuid.uuid4().hex
        self.location = f"archive:memory://{self.bucket}/history"

    def state(self) -> object:
        store = fsspec.filesystem("memory")
        return {path: store.cat_file(path) for path in store.find(f"/{self.bucket}")}


@pytest.fixture(params=["directory", "object store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return DirectoryPlace(tmp_path / "history") if request.param == "directory" else ObjectStorePlace()


class TestArchiveWriting(WritingContract):
    pass


class TestArchiveReading(ReadingContract):
    pass


class TestArchiveRoundTrip(RoundTripContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return DirectoryPlace(tmp_path / "history")
