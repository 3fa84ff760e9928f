"""Comet's own values ↔ canonical records. Plain values in and out: no SDK object, no I/O.

Archives and the online API share these functions, so that both read and write the same. Times
are integers in milliseconds since 1970 UTC.

Comet's *others* (key → text, shown on the experiment) hold a run's tags under their own keys.
Fields of a run that Comet has no place for are others of our own, `outgrow.<field>`, which are
read back and hidden again; long ones are JSON in pieces `outgrow.<field>`, `outgrow.<field>.1`, …
A user's tag whose key is taken by Comet or by us is kept as `tag:<key>`.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from ...model import (
    ArtifactUse,
    CodeVersion,
    DatasetUse,
    Environment,
    Origin,
    Run,
    Status,
    Value,
    from_builtins,
    to_builtins,
)
from ..base import MARK_KEY, ORIGIN_KEY, RESERVED
from ..fit import text_of
from .capabilities import VALUE_LENGTH
from .environment import code_of, environment_of

PLATFORM = "comet"
NAME = "Name"
"""The other that holds an experiment's name (`comet_ml.Experiment.set_name`)."""
ESCAPED = "tag:"
KEEPER = "outgrow.registry"
"""Other of an experiment of ours that is no run: it keeps registered models that belong to none."""
NESTED = "hasNestedParams"
BOOKKEEPING = frozenset({"offline_experiment", NESTED})
"""Others that the SDK writes for itself; kept in `Run.extra`."""
_TAKEN = BOOKKEEPING | {NAME}

ORIGIN_LOCATION = "outgrow.origin.location"
ORIGIN_URL = "outgrow.origin.url"
_TEXT_FIELDS = ("user", "group", "job_type", "sweep", "parent")
_TIME_FIELDS = ("created_at", "started_at", "ended_at")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_JAVA_FLOAT = re.compile(r"-?\d\.\d+E-?\d+")


# --- times ---------------------------------------------------------------------------------------


def millis(time: datetime | None) -> int | None:
    """Whole milliseconds since 1970 UTC, rounded down."""
    return None if time is None else (time - _EPOCH) // timedelta(milliseconds=1)


def at(milliseconds: object) -> datetime | None:
    """The inverse of `millis`; Comet writes 0 or nothing for a time that is not there."""
    if not isinstance(milliseconds, int | float) or not milliseconds or not math.isfinite(milliseconds):
        return None
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None


def _exact(time: datetime | None) -> bool:
    return time is not None and time.microsecond % 1000 == 0 and time != _EPOCH


# --- params --------------------------------------------------------------------------------------


def guessed(text: str) -> Value:
    """A param's text, as the server gives it, as the value it most likely was.

    Only where the text is that value's own form, so that nothing of it is lost.
    """
    if text in ("true", "True"):
        return True
    if text in ("false", "False"):
        return False
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if str(value) == text or (kind is float and _JAVA_FLOAT.fullmatch(text)):
            return value if math.isfinite(value) else text
    return text


def native_param(value: Value) -> Any:
    """A param as JSON that Comet's messages take: number, text, boolean or null."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value if value is None or isinstance(value, bool | int | float | str) else text_of(value)


def hints(params: Mapping[str, Value]) -> dict[str, list[str]]:
    """Type → keys of the params whose text would be read as another type."""
    found: dict[str, list[str]] = {}
    for key, value in params.items():
        kind = None
        if value is None:
            kind = "null"
        elif isinstance(value, str):
            kind = None if isinstance(guessed(value), str) else "str"
        elif isinstance(value, float) and (not math.isfinite(value) or value.is_integer()):
            kind = "float"
        if kind:
            found.setdefault(kind, []).append(key)
    return found


def typed(
    params: Mapping[str, Any], known: Mapping[str, Sequence[str]], *, guess: bool = False
) -> dict[str, Value]:
    """Params with the types that `hints` kept. `guess`: others are text, as the server gives them."""
    result: dict[str, Value] = {
        k: guessed(v) if guess and isinstance(v, str) else v for k, v in params.items()
    }
    result |= dict.fromkeys(known.get("null", ()))
    for key in known.get("str", ()):
        if key in params:
            result[key] = params[key] if isinstance(params[key], str) else text_of(params[key])
    for key in known.get("float", ()):
        if key in params:
            with contextlib.suppress(ValueError, TypeError):  # edited on the platform
                result[key] = float(params[key])
    return result


# --- others --------------------------------------------------------------------------------------


def pieces(key: str, text: str) -> dict[str, str]:
    """A long text as several others, none longer than Comet takes."""
    parts = [text[i : i + VALUE_LENGTH] for i in range(0, len(text), VALUE_LENGTH)] or [""]
    return {key if i == 0 else f"{key}.{i}": part for i, part in enumerate(parts)}


def joined(others: Mapping[str, Any], key: str) -> str | None:
    """The inverse of `pieces`."""
    if key not in others:
        return None
    parts = [str(others[key])]
    while (more := others.get(f"{key}.{len(parts)}")) is not None:
        parts.append(str(more))
    return "".join(parts)


def _json_others(key: str, data: Any) -> dict[str, str]:
    return pieces(key, json.dumps(to_builtins(data), sort_keys=True, separators=(",", ":")))


def _json_of(others: Mapping[str, Any], key: str, kind: Any) -> Any:
    text = joined(others, key)
    if text is None:
        return None
    try:
        return from_builtins(json.loads(text), kind)
    except ValueError:
        return None  # edited by hand on the platform: as if it were not there


def tag_others(tags: Mapping[str, str]) -> dict[str, str]:
    """A run's tags as others."""
    return {
        f"{ESCAPED}{k}" if k in _TAKEN or k.startswith((RESERVED, ESCAPED)) else k: v for k, v in tags.items()
    }


def origin_others(origin: Origin) -> dict[str, str]:
    """Which run this is a copy of."""
    found = {ORIGIN_KEY: origin.identity}
    if origin.location:
        found |= pieces(ORIGIN_LOCATION, origin.location)
    if origin.url:
        found |= pieces(ORIGIN_URL, origin.url)
    return found


def origin_of(others: Mapping[str, Any]) -> Origin | None:
    identity = others.get(ORIGIN_KEY)
    if identity is None:
        return None
    platform, _, run_id = str(identity).partition(":")
    return Origin(
        platform=platform,
        run_id=run_id,
        location=joined(others, ORIGIN_LOCATION) or "",
        url=joined(others, ORIGIN_URL),
    )


def run_others(run: Run, params: Mapping[str, Value]) -> dict[str, str]:
    """What Comet has no place for, and the name. `params` are all that were written."""
    found: dict[str, str] = {f"{RESERVED}status": run.status.value}
    if run.name is not None:
        found[NAME] = run.name
    for name in _TEXT_FIELDS:
        if (value := getattr(run, name)) is not None:
            found |= pieces(RESERVED + name, value)
    for name in _TIME_FIELDS:
        time = getattr(run, name)
        if name == "created_at" and time is None:
            continue
        if name == "created_at" or not _exact(time):
            found[RESERVED + name] = time.astimezone(UTC).isoformat() if time else ""
    if run.description is not None:
        found |= pieces(f"{RESERVED}description", run.description)
    for name in ("exit_code", "duration"):
        if (number := getattr(run, name)) is not None:
            found[RESERVED + name] = repr(number)
    if run.deleted:
        found[f"{RESERVED}deleted"] = "true"
    for name, data in (("code", run.code), ("environment", run.environment), ("datasets", run.datasets)):
        if data:
            found |= _json_others(RESERVED + name, data)
    if known := hints(params):
        found |= _json_others(f"{RESERVED}types", known)
    return found


def uses_others(uses: Iterable[ArtifactUse]) -> dict[str, str]:
    """A run's links to artifact versions, in their order."""
    return _json_others(f"{RESERVED}artifacts", list(uses))


# --- a whole experiment ----------------------------------------------------------------------------


@dataclass(slots=True)
class Native:
    """An experiment as Comet has it, from an archive or from the API."""

    key: str
    experiment: str
    """Canonical id of the project."""
    params: dict[str, Any] = field(default_factory=dict)
    texts_only: bool = False
    """Params came as text, whatever they were."""
    others: dict[str, Any] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    summary: dict[str, Value] = field(default_factory=dict)
    start: int | None = None
    end: int | None = None
    duration: int | None = None
    running: bool = False
    crashed: bool = False
    archived: bool = False
    system: dict[str, Any] = field(default_factory=dict)
    """`system_details` of the SDK."""
    packages: list[str] = field(default_factory=list)
    git: dict[str, Any] = field(default_factory=dict)
    file_name: str | None = None
    uses: list[ArtifactUse] = field(default_factory=list)
    url: str | None = None
    extra: dict[str, Value] = field(default_factory=dict)


def run_of(native: Native) -> Run:
    """The canonical run of an experiment."""
    others = native.others
    origin = origin_of(others)
    bare = {k: v for k, v in others.items() if k not in _TAKEN and not k.startswith(RESERVED)}
    tags = {k.removeprefix(ESCAPED): text_of(v) for k, v in bare.items()}
    params = native.params
    if origin is None and others.get(NESTED) in (True, "true", "True"):
        params = {key.replace("|", "/"): value for key, value in params.items()}
    status, word = _status(native, others)
    extra: dict[str, Value] = dict(native.extra)
    if kept := {k: others[k] for k in sorted(BOOKKEEPING) if k in others and origin is None}:
        extra["others"] = kept
    if origin is None and native.git.get("root"):
        extra["git_root"] = str(native.git["root"])
    return Run(
        id=native.key,
        experiment=native.experiment,
        name=None if others.get(NAME) is None else str(others[NAME]),
        status=status,
        native_status=word,
        exit_code=_number(others, "exit_code", int),
        created_at=_time(others, "created_at", None if origin else at(native.start)),
        started_at=_time(others, "started_at", at(native.start)),
        ended_at=_time(others, "ended_at", None if native.running else at(native.end)),
        duration=_number(others, "duration", float),
        deleted=native.archived or f"{RESERVED}deleted" in others,
        user=_first(joined(others, f"{RESERVED}user"), None if origin else _text(native.system.get("user"))),
        parent=joined(others, f"{RESERVED}parent"),
        group=joined(others, f"{RESERVED}group"),
        job_type=joined(others, f"{RESERVED}job_type"),
        sweep=_first(joined(others, f"{RESERVED}sweep"), _text(native.extra.get("optimization"))),
        description=joined(others, f"{RESERVED}description"),
        tags=tags,
        labels=native.labels,
        params=typed(
            params,
            _json_of(others, f"{RESERVED}types", dict[str, list[str]]) or {},
            guess=native.texts_only,
        ),
        summary=native.summary,
        datasets=_json_of(others, f"{RESERVED}datasets", list[DatasetUse]) or [],
        artifacts=_json_of(others, f"{RESERVED}artifacts", list[ArtifactUse]) or native.uses,
        code=_json_of(others, f"{RESERVED}code", CodeVersion)
        or (None if origin else code_of(native.git, native.file_name)),
        environment=_json_of(others, f"{RESERVED}environment", Environment)
        or (None if origin else environment_of(native.system, native.packages)),
        url=native.url,
        origin=origin,
        extra={PLATFORM: extra} if extra else {},
    )


def mark_of(others: Mapping[str, Any]) -> str | None:
    return _text(others.get(MARK_KEY))


def _status(native: Native, others: Mapping[str, Any]) -> tuple[Status, str]:
    word = "running" if native.running else "crashed" if native.crashed else "finished"
    kept = others.get(f"{RESERVED}status")
    if kept in Status.__members__.values() and not native.running:
        return Status(str(kept)), word
    return {"running": Status.RUNNING, "crashed": Status.FAILED}.get(word, Status.FINISHED), word


def _first(kept: str | None, native: str | None) -> str | None:
    return native if kept is None else kept


def _text(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


def _number(others: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    try:
        return kind(str(others[RESERVED + name]))
    except (KeyError, ValueError):
        return None


def _time(others: Mapping[str, Any], name: str, native: datetime | None) -> datetime | None:
    kept = others.get(RESERVED + name)
    if kept is None:
        return native
    try:
        return datetime.fromisoformat(str(kept)) if kept else None
    except ValueError:
        return native
