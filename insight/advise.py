"""Is it time to move? Measures a location and says stay or move, and why."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from ..adapters.base import Source
from ..config import Advise
from ..errors import ConfigError
from ..model import File, Run
from ..reading import open_location, select, suggestion


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    name: str
    value: float
    unit: str
    threshold: float | None
    source: str

    @property
    def beyond(self) -> bool:
        return self.threshold is not None and self.value > self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Something that the team needs, or the history holds, and who offers it."""

    name: str
    met_by: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    verdict: Literal["stay", "watch", "move"]
    reasons: list[str]
    readings: list[Reading]
    needs: list[Need] = field(default_factory=list)
    candidates: list[str] = field(default_factory=list)
    """Platforms that meet every need, by name."""
    command: str = ""


# What each platform offers, as its own documentation says; see docs/answers.md for the pages.
OFFERS: dict[str, frozenset[str]] = {
    "mlflow": frozenset({"self-hosted", "air-gap", "free", "traces"}),
    "databricks": frozenset({"audit-trail", "access-control", "managed", "scale", "traces"}),
    "wandb": frozenset(
        {"managed", "self-hosted", "air-gap", "media", "access-control", "audit-trail", "reports", "scale"}
    ),
    "comet": frozenset({"managed", "self-hosted", "air-gap", "media", "access-control", "scale"}),
    "neptune": frozenset({"self-hosted", "air-gap", "scale", "forks"}),
}
NEEDS = frozenset[str]().union(*OFFERS.values())
"""What can be asked for."""
_MEDIA = (
    ".png",
    ".jpg",
    ".jpeg",
    ".gif",
    ".mp4",
    ".wav",
    ".mp3",
    ".ogg",
    ".webm",
    ".html",
    ".glb",
    ".obj",
    ".npz",
    ".parquet",
)


def advise(
    location: str | Source,
    *,
    thresholds: Advise | None = None,
    now: datetime | None = None,
) -> Advice:
    """Measure and judge. `thresholds` is `[advise]` of the configuration."""
    limits = thresholds or Advise()
    now = now or datetime.now(UTC)
    for name in limits.needs:
        if name not in NEEDS:
            raise ConfigError(f"unknown need {name!r}", hint=suggestion(name, NEEDS, "needs"))
    source = open_location(location)
    began = time.perf_counter()
    found = list(select(source))
    list_seconds = time.perf_counter() - began
    readings = [*_usage(found_runs := [r for _, r in found], [e.id for e, _ in found], limits, now)]
    readings.append(
        _reading("listing every run", list_seconds, "s", limits.list_seconds, "measured just now")
    )
    readings += _curves(source, found_runs, limits)
    wanted = [_need(name, "asked for") for name in limits.needs] + _needs_of(source, found_runs)
    beyond = [r for r in readings if r.beyond]
    home = "databricks" if "databricks" in str(source.location) else source.location.platform
    unmet = [need for need in wanted if home not in need.met_by]
    candidates = [
        name
        for name in OFFERS
        if name != home and all(name in need.met_by for need in wanted) and not name.startswith("mlflow")
    ]
    reasons = [f"{r.name}: {r.value:g} {r.unit}, above {r.threshold:g} ({r.source})" for r in beyond]
    reasons += [f"{need.name}: {home} does not offer it ({need.why})" for need in unmet]
    verdict: Literal["stay", "watch", "move"] = "stay"
    if unmet or len(beyond) >= 3:
        verdict = "move"
    elif beyond:
        verdict = "watch"
    if not reasons:
        reasons = ["every reading is within its threshold"]
    if verdict == "move" and not candidates:
        reasons.append("no single platform meets every need: drop one, or keep two platforms")
    target = {
        "wandb": "wandb:ENTITY/PROJECT",
        "comet": "comet:WORKSPACE/PROJECT",
        "neptune": "neptune:WORKSPACE/PROJECT",
    }
    first = next((target[c] for c in candidates if c in target), "mlflow:databricks://PROFILE")
    return Advice(
        verdict=verdict,
        reasons=reasons,
        readings=readings,
        needs=wanted,
        candidates=candidates,
        command=f"outgrow plan {source.location} {first}"
        if verdict != "stay" and candidates
        else f"outgrow audit {source.location}",
    )


def _reading(name: str, value: float, unit: str, threshold: float | None, source: str) -> Reading:
    return Reading(name=name, value=round(value, 3), unit=unit, threshold=threshold, source=source)


def _usage(runs: Sequence[Run], experiments: Sequence[str], limits: Advise, now: datetime) -> list[Reading]:
    quarter = timedelta(days=91)

    def within(run: Run, newest: timedelta, oldest: timedelta) -> bool:
        began = run.started_at or run.created_at
        return began is not None and now - oldest <= began < now - newest

    recent = [
        (run, e) for run, e in zip(runs, experiments, strict=True) if within(run, timedelta(0), quarter)
    ]
    before = sum(within(run, quarter, 2 * quarter) for run in runs)
    people = Counter(
        run.tags.get("owner") or run.user for run, _ in recent if run.tags.get("owner") or run.user
    )
    active = {e for run, e in recent if within(run, timedelta(0), timedelta(days=14))}
    brief = "threshold of [advise]"
    return [
        _reading("runs", len(runs), "in all", None, "counted"),
        _reading("active engineers", len(people), "in 91 days", limits.engineers - 1, brief),
        _reading("runs this quarter", len(recent), "in 91 days", limits.runs_per_quarter, brief),
        _reading("active experiments", len(active), "in 14 days", limits.active_experiments, brief),
        *(
            [_reading("growth", len(recent) / before, "× the quarter before", limits.growth, brief)]
            if before
            else []
        ),
    ]


def _curves(source: Source, runs: Sequence[Run], limits: Advise) -> list[Reading]:
    """Reading the curves of the newest finished run, as a run page does."""
    done = [run for run in runs if run.status.terminal and run.started_at]
    if not done:
        return []
    newest = max(done, key=lambda run: run.started_at or datetime.min.replace(tzinfo=UTC))
    began = time.perf_counter()
    points = sum(batch.num_rows for batch in source.points(newest))
    seconds = time.perf_counter() - began
    return [
        _reading("points of the newest run", points, "points", None, f"run {newest.name or newest.id}"),
        _reading("reading its curves", seconds, "s", limits.curve_seconds, "measured just now"),
    ]


def _need(name: str, why: str) -> Need:
    return Need(name=name, met_by=tuple(p for p, offers in OFFERS.items() if name in offers), why=why)


def _needs_of(source: Source, runs: Sequence[Run], sample: int = 50) -> list[Need]:
    """What the history itself asks for: media that a plain file list cannot show, forks."""
    needs = []
    media: list[File] = []
    for run in list(runs)[-sample:]:
        media += [f for f in source.files(run) if f.key is not None and f.path.lower().endswith(_MEDIA)]
    if media:
        needs.append(_need("media", f"{len(media)} media files logged as series in the last {sample} runs"))
    if any(run.fork for run in runs):
        needs.append(_need("forks", "runs that continue another run's curves"))
    return needs
