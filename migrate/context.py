"""What the copies of all runs share, and what each has written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from ..adapters.base import Capabilities, Copy, Sink, Source
from ..adapters.fit_stream import Losses, Stream
from ..adapters.restored import Restored
from ..model import Artifact
from .ids import Ids
from .report import Event


class Interrupted(Exception):
    """The copy is being stopped; this run stays unmarked and is completed by the next copy."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the copies of all runs share."""

    source: Restored
    sink: Sink
    caps: Capabilities
    ids: Ids
    stop: threading.Event
    event: Callable[[Event], None]
    open_target: Callable[[], Source]
    """The reading side of the target; the caller closes it."""
    target_rows: Callable[[Stream, Copy], Iterable[pa.RecordBatch]]
    """Rows of a run in the target, for a platform that appends what is sent again."""
    target_artifacts: Callable[[Copy], list[Artifact]]
    """Artifact versions of a run in the target."""

    def check_stop(self) -> None:
        """Raises `Interrupted`."""
        if self.stop.is_set():
            raise Interrupted


@dataclass(kw_only=True)
class Written:
    """What was written of one run."""

    run_id: str = ""
    url: str | None = None
    mark: str | None = None
    points: int = 0
    files: int = 0
    bytes: int = 0
    refused: list[str] = field(default_factory=list)
    losses: Losses = field(default_factory=Losses)
