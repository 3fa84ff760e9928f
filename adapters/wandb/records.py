"""Native ↔ canonical records: config, summary and the fields of a run.

What W&B has a field for goes there. The rest is in the config under `outgrow`: a few plain
entries to filter by (`outgrow.tags.owner`, `outgrow.experiment`, `outgrow.parent`), and `record`,
one JSON text with what must come back exactly. Where the visible value has been edited since, the
visible one wins.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from ...model import (
    CodeVersion,
    DatasetUse,
    Environment,
    Extra,
    Fork,
    Origin,
    Run,
    Status,
    Value,
    flatten,
    from_builtins,
    to_builtins,
)
from ..base import MARK_KEY
from .layout import HIDDEN_COLUMNS, SECTION, escape_key, unescape_key
from .values import config_of, params_of, shown, survives, with_exact

# W&B's state → status. Source: core/internal/filestream and the public API's `Run.state`.
_STATUS = {
    "finished": Status.FINISHED,
    "failed": Status.FAILED,
    "crashed": Status.FAILED,
    "killed": Status.KILLED,
    "preempted": Status.KILLED,
}
# Status of a copied run → the states that W&B may show for it.
_SHOWN = {
    Status.FINISHED: {"finished"},
    Status.FAILED: {"failed"},
    Status.KILLED: {"failed", "killed"},
    Status.RUNNING: {"running", "crashed"},
}
_EXACT_FIELDS = (
    "user", "started_at", "ended_at", "created_at", "duration", "status", "exit_code", "fork",
    "datasets", "code", "environment", "sweep", "group", "description", "labels", "name",
)  # fmt: skip


def exit_code(run: Run) -> int:
    """The exit code that makes W&B show the run's status."""
    if run.status is Status.FINISHED:
        return 0
    return run.exit_code or {Status.KILLED: 255}.get(run.status, 1)


# --- our section of the config -----------------------------------------------------------------


def section_of(
    run: Run, origin: Origin, experiment: str | None, group_shown: str | None, more: Mapping[str, Any]
) -> dict[str, Any]:
    """The config section of a copied run, all but its mark. `more` are facts of the adapter itself."""
    _, exact_params = config_of(run.params)
    exact_summary = {k: v for k, v in run.summary.items() if not survives(v)}
    kept = {name: to_builtins(getattr(run, name)) for name in _EXACT_FIELDS}
    kept["group_shown"] = group_shown
    kept["params"] = to_builtins(exact_params)
    kept["summary"] = to_builtins(exact_summary)
    kept["summary_keys"] = sorted(run.summary)
    section = {
        **origin_section(origin),
        "experiment": experiment,
        "parent": run.parent,
        "sweep": run.sweep,
        "tags": dict(run.tags),
        "record": json.dumps({**kept, **more}),
    }
    return {k: v for k, v in section.items() if v not in (None, "", {})}


def origin_section(origin: Origin) -> dict[str, Any]:
    """The part of the section that says of which run this is a copy."""
    return {
        "origin": origin.identity,
        "origin_platform": origin.platform,
        "origin_run": origin.run_id,
        "origin_location": origin.location,
        "origin_url": origin.url,
        **({} if origin.recorded else {"origin_recorded": False}),
    }


def with_mark(section: Mapping[str, Any], mark: str | None) -> dict[str, Any]:
    rest = {k: v for k, v in section.items() if k != MARK_KEY.removeprefix("outgrow.")}
    return rest if mark is None else {**rest, MARK_KEY.removeprefix("outgrow."): mark}


def mark_of(section: Mapping[str, Any]) -> str | None:
    mark = section.get(MARK_KEY.removeprefix("outgrow."))
    return mark if isinstance(mark, str) else None


def origin_of(section: Mapping[str, Any]) -> Origin | None:
    platform, run_id = section.get("origin_platform"), section.get("origin_run")
    if not isinstance(platform, str) or not isinstance(run_id, str):
        return None
    url = section.get("origin_url")
    return Origin(
        platform=platform,
        run_id=run_id,
        location=str(section.get("origin_location") or ""),
        url=url,
        recorded=section.get("origin_recorded", True) is not False,
    )


def record_of(section: Mapping[str, Any]) -> dict[str, Any]:
    """What `section_of` kept for exactness; {} for a run recorded here, or where it was edited away."""
    text = section.get("record")
    if not isinstance(text, str):
        return {}
    try:
        record = json.loads(text)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


# --- a run as W&B has it, whether it was read from a log or from the API ------------------------


@dataclass(slots=True, kw_only=True)
class NativeRun:
    id: str
    entity: str = ""
    project: str = ""
    name: str | None = None
    group: str | None = None
    job_type: str | None = None
    notes: str | None = None
    labels: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    state: str = "running"
    exit_code: int | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    heartbeat_at: datetime | None = None
    user: str | None = None
    sweep: str | None = None
    host: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    """As in `wandb-metadata.json`."""
    packages: dict[str, str] = field(default_factory=dict)
    metrics: list[Any] = field(default_factory=list)
    """What `define_metric` told (`metric_definitions`)."""
    url: str | None = None

    @property
    def path(self) -> str:
        return "/".join(part for part in (self.entity, self.project, self.id) if part)

    @property
    def section(self) -> dict[str, Any]:
        section = self.config.get(SECTION)
        return section if isinstance(section, dict) and "origin" in section else {}


def to_run(native: NativeRun, experiment: str) -> Run:
    """The canonical run, without its artifact uses."""
    section = native.section
    record = record_of(section)
    extra: Extra = {"wandb": {"metrics": native.metrics}} if native.metrics else {}
    status, code = _status(native, record)
    metadata = native.metadata
    started = native.started_at or time_of(metadata.get("startedAt")) or native.created_at
    runtime = _runtime(native.summary)
    ended = None
    if status.terminal:
        ended = started + timedelta(seconds=runtime) if started and runtime else native.heartbeat_at
    fields: dict[str, Any] = {
        "user": native.user or metadata.get("username"),
        "created_at": native.created_at,
        "started_at": started,
        "ended_at": ended,
        "duration": runtime,
        "sweep": native.sweep,
        "code": _code(metadata),
        "environment": _environment(native),
        "group": native.group,
        "description": native.notes,
        "labels": native.labels,
        "name": native.name,
    }
    if record:
        fields |= _exact_fields(record, native)
    tags = section.get("tags")
    params = params_of(
        {k: v for k, v in native.config.items() if k != SECTION or not section},
        _values(record.get("params")),
    )
    if not section and isinstance(native.config.get(SECTION), dict):
        params |= flatten({SECTION: native.config[SECTION]})
    return Run(
        id=native.path,
        experiment=experiment,
        status=status,
        native_status=native.state,
        exit_code=code,
        modified_at=native.heartbeat_at,
        parent=section.get("parent"),
        job_type=native.job_type or None,
        tags={str(k): str(v) for k, v in tags.items()} if isinstance(tags, dict) else {},
        params=params,
        summary=_summary(native.summary, record),
        url=native.url,
        origin=origin_of(section),
        extra=extra,
        **fields,
    )


def _values(builtins: Any) -> dict[str, Value]:
    return from_builtins(builtins, dict) if isinstance(builtins, dict) else {}


def _exact_fields(record: Mapping[str, Any], native: NativeRun) -> dict[str, Any]:
    kinds: dict[str, Any] = {
        "user": str | None,
        "started_at": datetime | None,
        "ended_at": datetime | None,
        "created_at": datetime | None,
        "duration": float | None,
        "sweep": str | None,
        "fork": Fork | None,
        "datasets": list[DatasetUse],
        "code": CodeVersion | None,
        "environment": Environment | None,
    }
    fields = {name: from_builtins(record[name], kind) for name, kind in kinds.items() if name in record}
    # Fields that are visible and editable: the recorded value only where the visible one is as it was.
    if (native.group or None) == record.get("group_shown"):
        fields["group"] = record.get("group")
    if (native.notes or "") == (record.get("description") or ""):
        fields["description"] = record.get("description")
    if sorted(native.labels) == sorted(record.get("labels") or []):
        fields["labels"] = record.get("labels") or []
    if not record.get("name"):
        fields["name"] = record.get("name")
    return fields


def _status(native: NativeRun, record: Mapping[str, Any]) -> tuple[Status, int | None]:
    recorded = next((status for status in Status if status.value == record.get("status")), None)
    if recorded is not None and native.state in _SHOWN[recorded]:
        return recorded, record.get("exit_code")
    return _STATUS.get(native.state, Status.RUNNING), native.exit_code


def _runtime(summary: Mapping[str, Any]) -> float | None:
    inner = summary.get("_wandb")
    runtime = inner.get("runtime") if isinstance(inner, dict) else summary.get("_runtime")
    return float(runtime) if isinstance(runtime, int | float) else None


def _summary(summary: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Value]:
    known = record.get("summary_keys")
    visible: dict[str, Value] = {}
    for key, value in summary.items():
        if key in HIDDEN_COLUMNS or (key.startswith("_") and key not in (known or ())):
            continue
        for name, leaf in _summary_leaves(key, value):
            visible[unescape_key(name)] = leaf
    return with_exact(visible, _values(record.get("summary")), hidden=lambda key: False)


def _summary_leaves(key: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value and "_type" not in value:
        return [leaf for sub, inner in value.items() for leaf in _summary_leaves(f"{key}.{sub}", inner)]
    special = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    return [(key, special.get(value, value) if isinstance(value, str) else value)]


def summary_items(run: Run, last_step: int, last_time_us: int | None) -> dict[str, Any]:
    """The summary that W&B shows: the run's own, and W&B's bookkeeping (`_wandb.runtime`…)."""
    items: dict[str, Any] = {escape_key(k): shown(v) for k, v in run.summary.items()}
    seconds = run.duration
    if seconds is None and run.started_at and run.ended_at:
        seconds = (run.ended_at - run.started_at).total_seconds()
    if last_step >= 0:
        items["_step"] = last_step
    if last_time_us is not None:
        items["_timestamp"] = last_time_us / 1e6
    if seconds is not None and seconds >= 0:
        items |= {"_runtime": seconds, "_wandb": {"runtime": int(seconds)}}
    return items


def time_of(text: Any) -> datetime | None:
    """A time as the API writes it: ISO 8601, UTC where it names no zone."""
    if not isinstance(text, str) or not text:
        return None
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _count(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float | str) and str(value).isdigit() else None


def _code(metadata: Mapping[str, Any]) -> CodeVersion | None:
    raw = metadata.get("git")
    git: dict[str, Any] = raw if isinstance(raw, dict) else {}
    code = CodeVersion(
        repository=_text(git.get("remote") or git.get("remoteUrl")),
        commit=_text(git.get("commit")),
        entry_point=_text(metadata.get("codePath") or metadata.get("program")),
    )
    return None if code == CodeVersion() else code


def _environment(native: NativeRun) -> Environment | None:
    data = native.metadata
    args, memory, cpu = data.get("args"), data.get("memory"), data.get("cpu")
    environment = Environment(
        python=_text(data.get("python")),
        packages=native.packages,
        os=_text(data.get("os")),
        host=_text(data.get("host")) or _text(native.host),
        command=[str(a) for a in args] if isinstance(args, list) else [],
        cpu=_text(cpu.get("model")) if isinstance(cpu, dict) else None,
        cpu_count=_count(data.get("cpu_count_logical", data.get("cpuCountLogical"))),
        memory_bytes=_count(memory.get("total")) if isinstance(memory, dict) else None,
        gpu=_text(data.get("gpu") or data.get("gpuType")),
        gpu_count=_count(data.get("gpu_count", data.get("gpuCount"))),
        cuda=_text(data.get("cudaVersion") or data.get("cuda")),
        image=_text(data.get("docker")),
    )
    return None if environment == Environment() else environment
