from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from outgrow.adapters.origin import is_origin_file
from outgrow.config import Config, Tracking
from outgrow.model import Run as Record
from outgrow.testing.memory import MemorySink, MemorySource
from outgrow.tracking.delivery import Delivery

PLACE = "archive:nowhere"


@dataclass
class Target:
    """A sink in memory, and what it holds of the one run in it."""

    sink: MemorySink

    def deliver(self, folder: Path, **options: bool) -> Delivery:
        delivery = Delivery(folder, PLACE, lambda: self.sink, lambda: self.sink.source(), **options)
        while delivery.deliver():
            pass
        return delivery

    @property
    def source(self) -> MemorySource:
        return self.sink.source()

    @property
    def run(self) -> Record:
        (data,) = self.source.by_run.values()
        return data.run

    def points(self) -> list[tuple[str, float, float]]:
        """(key, step, value) of every point, in order."""
        return [
            (row["key"], row["step"], row["value"])
            for batch in self.source.points(self.run)
            for row in batch.to_pylist()
        ]

    def files(self) -> dict[str, bytes]:
        """Its files but for the origin record."""
        return {
            file.path: self.source.open(self.run, file).read()
            for file in self.source.files(self.run)
            if not is_origin_file(file.path)
        }


@pytest.fixture
def target() -> Target:
    return Target(MemorySink())


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Config]:
    """A configuration whose journal is in the test's folder, and that starts no process."""

    def make(policy: object = None, **tracking: object) -> Config:
        facts = {"to": [PLACE], "delivery": "off", "system_interval": 0.0} | tracking
        return Config(tracking=Tracking(**facts), policy=policy, base=tmp_path)  # type: ignore[arg-type]

    return make


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test in a folder of its own, with no run of another test open."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("outgrow.tracking.run._open", opened := [])  # type: ignore[var-annotated]
    monkeypatch.setattr("outgrow.tracking.start._open", opened)
    for name in ("OUTGROW_TO", "OUTGROW_CONFIG", "RANK"):
        monkeypatch.delenv(name, raising=False)
