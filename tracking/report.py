"""What is delivered and what is not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from ..config import Config
from . import journal, state
from .spawn import ensure_delivery, public_locations


@dataclass(frozen=True, slots=True)
class SinkReport:
    location: str
    delivered: bool
    pending: int
    """Records of the journal that the sink does not have yet."""
    rejected: int = 0
    run_id: str | None = None
    url: str | None = None
    error: str | None = None
    held_back: bool = False
    """It follows its parent run, which the sink gets only when that has ended."""

    def __str__(self) -> str:
        text = f"{self.location}: " + (
            "delivered" if self.delivered else f"{self.pending:,} records undelivered"
        )
        if self.rejected:
            text += f", {self.rejected:,} refused (see rejected.jsonl)"
        if self.held_back and not self.delivered:
            text += ", to follow its parent run"
        return text + (f" ({self.error})" if self.error else "")


@dataclass(frozen=True, slots=True)
class Report:
    """Of one run, sink by sink."""

    sinks: tuple[SinkReport, ...]
    folder: Path | None = None

    @property
    def complete(self) -> bool:
        return all(sink.delivered and not sink.rejected for sink in self.sinks)

    @property
    def undelivered(self) -> bool:
        """Something is amiss: not delivered, or refused; a run that follows its parent is not."""
        return any((not sink.delivered and not sink.held_back) or sink.rejected for sink in self.sinks)

    @property
    def delivered(self) -> bool:
        return all(sink.delivered for sink in self.sinks)

    def __str__(self) -> str:
        lines = [str(sink) for sink in self.sinks]
        if not self.delivered:
            lines.append("nothing is lost: delivery goes on in the background, or later with: outgrow sync")
        return "; ".join(lines)


def report(folder: Path, locations: list[str]) -> Report:
    """How far each sink is, by public location."""
    size = journal.size(folder)
    sinks = []
    for location in locations:
        known = state.load(folder, location)
        delivered = known.done and known.offset >= size
        pending = 0 if delivered else sum(1 for _ in journal.read(folder, known.offset))
        sinks.append(
            SinkReport(
                location,
                delivered,
                pending,
                rejected=known.rejected,
                run_id=known.run_id,
                url=known.url,
                error=known.error,
                held_back=known.held_back,
            )
        )
    return Report(tuple(sinks), folder)


def wait(folder: Path, config: Config, timeout: float) -> Report:
    """Wait until every sink has everything, gives up, or the time is over."""
    locations = list(public_locations(config))
    if not locations:
        return Report((), folder)
    ensure_delivery(config)
    deadline = time.monotonic() + (timeout if config.tracking.delivery != "off" else 0.0)
    pause = 0.01
    while not _settled(folder, locations) and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, 0.2)
    return report(folder, locations)


def _settled(folder: Path, locations: list[str]) -> bool:
    size = journal.size(folder)
    states = [state.load(folder, location) for location in locations]
    return all((s.done and s.offset >= size) or s.hopeless or s.held_back for s in states)
