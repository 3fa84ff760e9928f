"""What plan, copy and check report: plain frozen data, one JSON form.

`to_json` is the stable form behind `--json`: every field by its name here, times in ISO 8601,
durations in seconds, sizes in bytes, and `command`, `format` and `exit_code` beside them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from ..errors import OutgrowError
from ..model import to_builtins

REPORT_FORMAT = 1

RunState = Literal["copied", "unchanged", "home", "partial", "failed"]
"""copied: written now. unchanged: complete in the target already. home: recorded in the target
itself. partial: copied, but for what `refused` names. failed: see `error`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error, as data."""

    type: str
    message: str
    hint: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        if isinstance(error, OutgrowError):
            return cls(type=type(error).__name__, message=error.message, hint=error.hint)
        return cls(type=type(error).__name__, message=str(error) or repr(error))


@dataclass(frozen=True, slots=True, kw_only=True)
class LossLine:
    """One loss, over all runs. `certain=False`: the source does not tell without being read whole."""

    kind: str
    concept: str
    detail: str
    runs: int
    count: int
    example: str | None = None
    certain: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a source holds, within the selection. None: not told without reading everything."""

    experiments: int = 0
    runs: int = 0
    by_status: dict[str, int] = field(default_factory=dict)
    deleted: int = 0
    series: int | None = 0
    points: int | None = 0
    texts: int | None = 0
    histograms: int | None = 0
    files: int | None = 0
    file_bytes: int | None = 0
    artifacts: int = 0
    registered_models: int = 0
    model_versions: int = 0
    traces: int = 0
    evaluation_datasets: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Collision:
    """A name that the target already uses for something that did not come from this source."""

    concept: str
    name: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """How one side is read or written."""

    location: str
    path: str
    points_per_second: float
    advice: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a copy would do."""

    source: Side
    target: Side
    counts: Counts
    present: dict[str, int]
    """Runs by what is in the target now: `new`, `complete`, `begun`, `home`."""
    losses: list[LossLine]
    collisions: list[Collision]
    problems: list[str]
    """What the source itself says is missing or damaged."""
    failures: list[Failure]
    """What could not be read."""
    seconds: float | None
    """Estimate of the copy's duration."""
    deep: bool

    @property
    def exit_code(self) -> int:
        return 3 if self.failures else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What became of one run."""

    identity: str
    source_run: str
    source_url: str | None = None
    name: str | None = None
    experiment: str = ""
    state: RunState
    run_id: str | None = None
    """Its id in the target."""
    url: str | None = None
    mark: str | None = None
    points: int = 0
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    attempts: int = 0
    refused: list[str] = field(default_factory=list)
    """Files that were not copied, each with the reason."""
    error: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What a copy did."""

    source: str
    target: str
    state: Literal["done", "stopped", "interrupted"]
    """stopped: going on could not help (target full, credentials refused, no connection)."""
    stopped_by: Failure | None
    runs: list[RunOutcome]
    counts: dict[str, int]
    """Runs by state."""
    points: int
    files: int
    bytes: int
    models: int
    versions: int
    versions_omitted: list[str]
    """Registry versions whose run is not in the target, and why."""
    traces: int
    evaluation_datasets: int
    losses: list[LossLine]
    failures: list[Failure]
    """What failed beside single runs."""
    problems: list[str]
    seconds: float

    @property
    def exit_code(self) -> int:
        """0 clean, 3 partial, 4 nothing could be done."""
        useful = {"copied", "unchanged", "home", "partial"}
        if self.state == "stopped" and not any(self.counts.get(state) for state in useful):
            return 4
        bad = self.counts.get("failed") or self.counts.get("partial") or self.failures
        return 3 if bad or self.state != "done" else 0


Sign = Literal["=", "-", "+", "*", "!"]
"""`=` equal, `-` missing in the target, `+` only in the target, `*` differs, `!` error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference between a run and its copy."""

    sign: Sign
    what: str
    """Field, series, file…, such as `params/lr` or `files/model.pkl`."""
    detail: str = ""
    expected: bool = False
    """Declared by the plan, or a consequence of what the source did since the copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCheck:
    """A run compared with its copy."""

    identity: str
    source_run: str
    name: str | None
    experiment: str
    run_id: str | None
    sign: Sign
    differences: list[Difference] = field(default_factory=list)
    points: int = 0
    """Points compared one by one (deep)."""
    files: int = 0
    """Files compared by size, or by SHA-256 (deep)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What a check found."""

    source: str
    target: str
    deep: bool
    runs: list[RunCheck]
    counts: dict[str, int]
    """Runs by sign."""
    experiments: list[Difference]
    """Of the experiments themselves, and of their traces (deep)."""
    registry: list[Difference]
    losses: list[LossLine]
    """Declared losses: what the target cannot show, kept in the origin records."""
    unexpected: int
    """Differences that were not declared."""
    expected: int
    deletion_ready: list[str]
    """Source runs that are terminal, complete in the target and equal in a deep check."""
    failures: list[Failure]
    seconds: float

    @property
    def exit_code(self) -> int:
        """0 equal, 1 unexpected differences, 3 something could not be compared."""
        if self.failures or self.counts.get("!"):
            return 3
        return 1 if self.unexpected else 0


Report = Plan | CopyReport | CheckReport


def to_data(report: Report) -> dict[str, Any]:
    """The report as JSON-able data."""
    command = {Plan: "plan", CopyReport: "copy", CheckReport: "check"}[type(report)]
    data: dict[str, Any] = to_builtins(report)
    return {"command": command, "format": REPORT_FORMAT, "exit_code": report.exit_code, **data}


def to_json(report: Report) -> str:
    return json.dumps(to_data(report), indent=2, ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that a copy did, as it happens. Events of one run come in order."""

    kind: Literal["listed", "begun", "points", "file", "written", "durable", "skipped", "retry", "failed"]
    """listed: to be looked at. begun: now in the target. written: complete but perhaps not yet
    durable. durable: flushed. retry: after a transient error."""
    identity: str
    name: str | None = None
    points: int = 0
    """In `points`: rows just written."""
    bytes: int = 0
    """In `file`: bytes just written."""
    error: Failure | None = None
    time: datetime | None = None
