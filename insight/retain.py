"""What may be deleted, by a retention policy: a plan first, and nothing without the plan's own hash.

A run inside its promotion window, behind a registry version, tagged to be kept, among the last or
best, or an ancestor of any of these keeps everything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from .. import filters
from ..adapters.base import Remover, Source
from ..config import Retention
from ..errors import ConfigError
from ..model import File, ModelVersion, Run, digest
from ..reading import number, open_location, select

KEEP_TAGS = ("keep", "outgrow.keep", "outgrow.card")
"""A run with one of these tags (not `false`) is kept for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """Something that may go."""

    run_id: str
    name: str
    experiment: str
    what: Literal["files", "run"]
    """`files`: its artifacts; `run`: also its record."""
    files: int
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    run_id: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPlan:
    location: str
    expiring: list[Expiry]
    kept: list[Kept]
    orphans: list[str] = field(default_factory=list)
    """Stored files that belong to no run."""
    orphan_bytes: int = 0

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.expiring) + self.orphan_bytes

    @property
    def hash(self) -> str:
        """Names this plan, and no other, to `apply`."""
        items = sorted((e.run_id, e.what, e.files, e.bytes) for e in self.expiring)
        return digest([self.location, items, self.orphans])[:16]


def retain(
    location: str | Source,
    policy: Retention,
    *,
    now: datetime | None = None,
    where: str | None = None,
    remover: Remover | None = None,
) -> RetentionPlan:
    """Plan only. `remover` adds the orphans that it finds in storage."""
    now = now or datetime.now(UTC)
    source = open_location(location)
    test = filters.parse(where) if where else None
    found = [(e.name, run) for e, run in select(source, deleted=True)]
    runs = {run.id: run for _, run in found}
    reasons = _reasons(source, found, policy, now)
    _keep_ancestors(runs, reasons)
    in_scope = {run.id for experiment, run in found if test is None or test(run, experiment)}
    expiring, kept = [], []
    for experiment, run in found:
        if run.id in reasons:
            kept.append(Kept(run_id=run.id, name=run.name or run.id, reason=reasons[run.id]))
        elif run.id in in_scope and (item := _expiry(source, experiment, run, policy, now)):
            expiring.append(item)
    orphans = sorted(remover.orphans()) if remover else []
    return RetentionPlan(
        location=str(source.location),
        expiring=sorted(expiring, key=lambda item: (-item.bytes, item.run_id)),
        kept=kept,
        orphans=[path for path, _ in orphans],
        orphan_bytes=sum(size for _, size in orphans),
    )


def _reasons(
    source: Source, found: Sequence[tuple[str, Run]], policy: Retention, now: datetime
) -> dict[str, str]:
    """Run id → why it keeps everything."""
    reasons: dict[str, str] = {}
    makers = _makers(run for _, run in found)
    for model in source.registry():
        for version in model.versions:
            alias = f", alias {', '.join(version.aliases)}" if version.aliases else ""
            for run_id in _behind(version, makers):
                reasons.setdefault(run_id, f"registered as {model.name} version {version.version}{alias}")
    window = timedelta(days=policy.promotion_window_days)
    for _, run in found:
        ended = run.ended_at or run.modified_at or run.started_at or run.created_at
        if not run.status.terminal:
            reasons.setdefault(run.id, "still running")
        elif ended is None:
            reasons.setdefault(run.id, "it is not known when it ended")
        elif now - ended < window:
            left = (window - (now - ended)).days
            reasons.setdefault(run.id, f"inside its promotion window ({left} days left)")
        if any(run.tags.get(tag, "false").lower() not in ("false", "0", "no", "") for tag in KEEP_TAGS):
            reasons.setdefault(run.id, "tagged to be kept")
    for run in _last(found, policy.keep_last):
        reasons.setdefault(run.id, f"among the last {policy.keep_last} of its experiment")
    if policy.metric:
        for run in _best(found, policy):
            reasons.setdefault(run.id, f"among the best {policy.keep_best} of its sweep by {policy.metric}")
    return reasons


def _makers(runs: Iterable[Run]) -> dict[str, str]:
    """Id of a run, and of each artifact that it made → id of the run."""
    makers: dict[str, str] = {}
    for run in runs:
        makers |= {use.artifact: run.id for use in run.artifacts if use.role == "output"}
        makers[run.id] = run.id
    return makers


def _behind(version: ModelVersion, makers: Mapping[str, str]) -> set[str]:
    """Runs whose files the version may be: named by it, maker of its artifact, or within its URI."""
    named = {version.run, version.artifact, *re.split(r"[/\\?#:=&]", version.source or "")}
    return {makers[name] for name in named if name is not None and name in makers}


def _last(found: Sequence[tuple[str, Run]], count: int) -> Iterable[Run]:
    groups: dict[str, list[Run]] = {}
    for experiment, run in found:
        if not run.deleted and (run.ended_at or run.started_at):
            groups.setdefault(experiment, []).append(run)
    oldest = datetime.min.replace(tzinfo=UTC)
    for group in groups.values():
        yield from sorted(group, key=lambda r: r.ended_at or r.started_at or oldest, reverse=True)[:count]


def _best(found: Sequence[tuple[str, Run]], policy: Retention) -> Iterable[Run]:
    groups: dict[str, list[tuple[float, Run]]] = {}
    for experiment, run in found:
        value = number(run.summary.get(policy.metric or ""))
        if value is not None and math.isfinite(value) and not run.deleted:
            groups.setdefault(run.sweep or run.parent or run.group or experiment, []).append((value, run))
    for group in groups.values():
        ordered = sorted(group, key=lambda pair: pair[0], reverse=policy.mode == "max")
        yield from (run for _, run in ordered[: policy.keep_best])


def _keep_ancestors(runs: dict[str, Run], reasons: dict[str, str]) -> None:
    """Parents, forked-from runs and makers of used artifacts of a kept run are kept."""
    makers = _makers(runs.values())
    queue = [run_id for run_id in reasons if run_id in runs]
    while queue:
        run = runs[queue.pop()]
        used = [makers.get(use.artifact) for use in run.artifacts if use.role == "input"]
        for other in (run.parent, run.fork.run if run.fork else None, *used):
            if other and other in runs and other not in reasons:
                reasons[other] = f"an ancestor of {run.name or run.id}, which is kept"
                queue.append(other)


def _files_of(source: Source, run: Run) -> list[File]:
    held = list(source.files(run))
    for artifact in source.artifacts(run):
        if artifact.created_by in (run.id, None):
            held += source.artifact_files(artifact)
    return [file for file in held if file.reference is None]


def _expiry(source: Source, experiment: str, run: Run, policy: Retention, now: datetime) -> Expiry | None:
    files = _files_of(source, run)
    ended = run.ended_at or run.modified_at or run.started_at or run.created_at
    age = (now - ended).days if ended else 0
    whole = policy.metadata_after_days is not None and age > policy.metadata_after_days and not run.deleted
    if not files and not whole:
        return None
    return Expiry(
        run_id=run.id,
        name=run.name or run.id,
        experiment=experiment,
        what="run" if whole else "files",
        files=len(files),
        bytes=sum(file.size or 0 for file in files),
        reason=f"ended {age} days ago, in no registry, not among the last or best",
    )


def apply(
    plan: RetentionPlan,
    confirm: str,
    location: str | Source,
    policy: Retention,
    remover: Remover,
    *,
    where: str | None = None,
) -> list[str]:
    """Delete what the plan says: files first, then records, then orphans. Returns what was deleted.

    The plan is made again first: raises `ConfigError` where `confirm` is not its hash, because
    something has changed since it was shown.
    """
    again = retain(location, policy, where=where, remover=remover)
    still = {item.run_id for item in again.expiring}
    changed = [item.run_id for item in plan.expiring if item.run_id not in still]
    if confirm != plan.hash or changed:
        raise ConfigError(
            "this is not the plan that was shown" + (f": {changed[0]} must be kept now" if changed else ""),
            hint=f"look at it again: outgrow retain {plan.location}",
        )
    done = []
    for item in plan.expiring:
        remover.remove_files(item.run_id)
        done.append(f"files of {item.run_id}")
    for item in plan.expiring:
        if item.what == "run":
            remover.remove_run(item.run_id)
            done.append(f"run {item.run_id}")
    for path in plan.orphans:
        remover.remove_orphan(path)
        done.append(path)
    return done
