"""Neptune's typed attributes ↔ canonical records.

A Neptune run is a flat map of paths to typed attributes. `sys/…` are Neptune's own; every other
attribute belongs to the user and keeps its path as its key:

- `float int bool string datetime string_set` → `Run.params` (a set of words becomes a sorted list);
- `float_series` → points, `string_series` → texts, `histogram_series` → histograms;
- `file file_set file_series artifact` → files.

What outgrow writes and Neptune has no place for lives below `outgrow/` (see `Paths`), as ordinary
attributes that anybody can look at. Types are named as in the vendor's exporter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from ...errors import Corrupt
from ...model import CodeVersion, File, Fork, Origin, Run, Status, Value, from_builtins, to_builtins
from ..base import MARK_KEY, ORIGIN_KEY

Kind = Literal["params", "metrics", "texts", "histograms", "files"]

PLATFORM = "neptune"
ROOT = "outgrow/"
ORIGIN_PATH = ORIGIN_KEY.replace(".", "/")
MARK_PATH = MARK_KEY.replace(".", "/")
EXPERIMENT_PATH = ROOT + "experiment"
TAGS_PATH = ROOT + "tags/"
FIELDS_PATH = ROOT + "run/"
REFERENCES_PATH = ROOT + "references/"
JSON_PATH = ROOT + "json/"
"""Params of a type that Neptune lacks (null, nested, a list that is no set of words), as JSON."""
KIND_PATHS: dict[Kind, str] = {
    "params": ROOT + "params/",
    "metrics": ROOT + "metrics/",
    "texts": ROOT + "texts/",
    "histograms": ROOT + "histograms/",
    "files": ROOT + "files/",
}

GROUP_TAGS = "neptune.group_tags"
"""Tag that holds a run's group tags, where it has more than the one that `Run.group` can hold."""

SCALARS = frozenset({"float", "int", "bool", "string", "datetime", "string_set"})

# Fields of Run that Neptune does not let a client set, kept as attributes below `outgrow/run/`.
FIELDS = (
    "status", "native_status", "user", "created_at", "started_at", "ended_at", "duration",
    "exit_code", "job_type", "sweep", "parent", "deleted",
)  # fmt: skip

# `sys/` attributes that a field of Run holds exactly; all others are kept in `Run.extra`.
_HELD = {"name", "description", "tags", "owner", "creation_time"}

_SWAPS: dict[Kind, tuple[tuple[re.Pattern[str], dict[str, str]], ...]] = {
    "metrics": (
        (
            re.compile(r"(monitoring|system)(?=/[0-9a-f]{8}/)"),
            {"monitoring": "system", "system": "monitoring"},
        ),
    ),
    "texts": (
        (
            re.compile(r"(monitoring|console)(?=/[0-9a-f]{8}/std(?:out|err)$)"),
            {"monitoring": "console", "console": "monitoring"},
        ),
        (
            re.compile(r"(runtime|console)(?=/std(?:out|err)$)"),
            {"runtime": "console", "console": "runtime"},
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute that is no series: its type, in the exporter's words, and its value."""

    type: str
    value: Any


Attributes = dict[str, Attribute]


def swapped(kind: Kind, path: str) -> str:
    """Neptune's names for hardware metrics and console output ↔ the model's (`system/`, `console/`).

    Its own inverse, so that no two paths can become one key.
    """
    for pattern, names in _SWAPS.get(kind, ()):
        if found := pattern.match(path):
            return names[found[1]] + path[found.end(1) :]
    return path


def key_of(kind: Kind, path: str) -> str:
    """The canonical key of an attribute path; the inverse of `Paths.place`."""
    return swapped(kind, path.removeprefix(KIND_PATHS[kind]))


class Paths:
    """Where each key of one run goes: at its own path, or below `outgrow/` where that is taken.

    Neptune has one type per path. A param and a metric of one name, names in Neptune's own `sys/`
    or in ours, and (`nested`, for 2.x, where a path is an attribute or a folder, never both) a key
    that is a folder of another are put under `outgrow/<kind>/`.
    """

    def __init__(self, *, nested: bool) -> None:
        self.nested = nested
        self._kinds: dict[str, Kind] = {}
        self._folders: set[str] = set()
        self._placed: dict[tuple[Kind, str], str] = {}

    def place(self, kind: Kind, key: str) -> str:
        path = self._placed.get((kind, key))
        if path is None:
            path = swapped(kind, key)
            if not self._free(path):
                path = KIND_PATHS[kind] + path
            self._placed[kind, key] = path
            self._kinds[path] = kind
            parts = path.split("/")
            self._folders.update("/".join(parts[:n]) for n in range(1, len(parts)))
        return path

    def _free(self, path: str) -> bool:
        if path.startswith(("sys/", ROOT)) or path in ("sys", "outgrow") or path in self._kinds:
            return False
        if not self.nested:
            return True
        parts = path.split("/")
        return path not in self._folders and not any(
            "/".join(parts[:n]) in self._kinds for n in range(1, len(parts))
        )


def encode_param(value: Value) -> Attribute | None:
    """The attribute that holds a param's value, or None: Neptune has no such type (see `JSON_PATH`)."""
    match value:
        case bool():
            return Attribute("bool", value)
        case int():
            return Attribute("int", value) if -(2**63) <= value < 2**63 else None
        case float():
            return Attribute("float", value)
        case str():
            return Attribute("string", value)
        case datetime():
            return Attribute("datetime", value)
        case list() if value and all(isinstance(word, str) for word in value):
            words = [str(word) for word in value]
            return Attribute("string_set", words) if words == sorted(set(words)) else None
    return None


def decode(attribute: Attribute) -> Value:
    if attribute.type == "string_set":
        words: list[Value] = [*sorted(map(str, attribute.value or ()))]
        return words
    value: Value = attribute.value
    return value


def to_text(value: Value) -> str:
    return json.dumps(to_builtins(value), ensure_ascii=False, sort_keys=True)


def _from_text(text: str, path: str) -> Value:
    try:
        value: dict[str, Value] = from_builtins({"value": json.loads(text)}, dict)
    except ValueError as error:
        raise Corrupt(
            f"the attribute {path} is not the JSON that outgrow wrote", hint="it was edited: delete it"
        ) from error
    return value["value"]


def run_of(attributes: Mapping[str, Attribute], *, id: str, experiment: str, native_id: str) -> Run:
    """The run that these attributes tell of. `native_id` is what Neptune calls it within the project.

    Status: `sys/failed` → failed; `sys/state` Active → running; else finished. The end is start plus
    `sys/running_time` (seconds), else `sys/ping_time`, else `sys/modification_time`.
    """
    sys = {path[4:]: decode(attribute) for path, attribute in attributes.items() if path.startswith("sys/")}
    params: dict[str, Value] = {}
    tags: dict[str, str] = {}
    fields: dict[str, Any] = {}
    for path, attribute in attributes.items():
        value = decode(attribute)
        if path.startswith(("sys/", REFERENCES_PATH)) or path in (ORIGIN_PATH, MARK_PATH, EXPERIMENT_PATH):
            continue
        if path.startswith(TAGS_PATH):
            tags[path.removeprefix(TAGS_PATH)] = str(value)
        elif path.startswith(FIELDS_PATH):
            fields[path.removeprefix(FIELDS_PATH)] = value
        elif path.startswith(JSON_PATH):
            params[path.removeprefix(JSON_PATH)] = _from_text(str(value), path)
        else:
            params[key_of("params", path)] = value
    groups = [str(word) for word in _list(sys.get("group_tags"))]
    if len(groups) > 1:
        tags[GROUP_TAGS] = json.dumps(groups, ensure_ascii=False)
    origin = attributes.get(ORIGIN_PATH)
    common: dict[str, Any] = {
        "id": id,
        "experiment": experiment,
        "name": _text(sys.get("name")) or native_id,
        "description": None if sys.get("description") is None else str(sys["description"]),
        "labels": [str(word) for word in _list(sys.get("tags"))],
        "group": groups[0] if len(groups) == 1 else None,
        "params": params,
        "tags": tags,
    }
    if origin is not None:
        return _copied(common, fields, str(origin.value), _fork(sys, id, native_id))
    started, ended = _times(sys)
    status = _status(sys)
    return Run(
        **common,
        status=status,
        native_status=_text(sys.get("state")),
        started_at=started,
        ended_at=ended if status.terminal else None,
        modified_at=_time(sys.get("modification_time")),
        duration=_number(sys.get("running_time")),
        user=_text(sys.get("owner")),
        deleted=bool(sys.get("trashed") or sys.get("archived")),
        fork=_fork(sys, id, native_id),
        code=_code(params),
        extra={PLATFORM: {key: value for key, value in sys.items() if key not in _HELD}},
    )


def _copied(common: dict[str, Any], fields: dict[str, Any], identity: str, fork: Fork | None) -> Run:
    platform, _, run_id = identity.partition(":")
    known = {name: value for name, value in fields.items() if name in FIELDS}
    if "fork_run" in fields and "fork_step" in fields:
        fork = Fork(run=str(fields["fork_run"]), step=float(fields["fork_step"]))
    if fields.get("unnamed"):
        common = common | {"name": None}
    elif fields.get("name") == "":  # Neptune shows no empty name: it would be the run's id
        common = common | {"name": ""}
    return Run(
        **common,
        **(known | {"status": Status(str(known.get("status", Status.RUNNING)))}),
        fork=fork,
        origin=Origin(platform=platform, run_id=run_id),
    )


def _code(params: Mapping[str, Value]) -> CodeVersion | None:
    """What neptune-scale tracks of the Git repository; the attributes stay params, too."""
    root = "source_code/"
    commit, dirty = _text(params.get(root + "commit/commit_id")), params.get(root + "dirty")
    if commit is None:
        return None
    remotes = (value for key, value in sorted(params.items()) if key.startswith(root + "remote/"))
    return CodeVersion(
        commit=commit,
        branch=_text(params.get(root + "branch")),
        dirty=dirty if isinstance(dirty, bool) else None,
        repository=_text(next(remotes, None)),
        entry_point=_text(params.get(root + "run_command")),
    )


def _fork(sys: Mapping[str, Value], id: str, native_id: str) -> Fork | None:
    parent, step = _text(sys.get("forking/parent")), _number(sys.get("forking/step"))
    if parent is None or step is None:
        return None
    return Fork(run=id.removesuffix(native_id) + parent, step=step)


def _status(sys: Mapping[str, Value]) -> Status:
    if sys.get("failed"):
        return Status.FAILED
    if str(sys.get("state", "")).lower() in ("active", "running"):
        return Status.RUNNING
    return Status.FINISHED


def _times(sys: Mapping[str, Value]) -> tuple[datetime | None, datetime | None]:
    started, seconds = _time(sys.get("creation_time")), _number(sys.get("running_time"))
    if started is not None and seconds is not None:
        return started, started + timedelta(seconds=seconds)
    return started, _time(sys.get("ping_time")) or _time(sys.get("modification_time"))


def _time(value: Value) -> datetime | None:
    if not isinstance(value, datetime):
        return None
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def _number(value: Value) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: Value) -> str | None:
    return value if isinstance(value, str) and value else None


def _list(value: Value) -> list[Value]:
    return value if isinstance(value, list) else []


def references(attributes: Mapping[str, Attribute]) -> Iterator[File]:
    """The files that are only pointed at, as `REFERENCES_PATH` keeps them."""
    for path, attribute in attributes.items():
        if path.startswith(REFERENCES_PATH):
            yield File(path=path.removeprefix(REFERENCES_PATH), reference=str(attribute.value))


def field_attributes(run: Run, *, native_fork: bool) -> Attributes:
    """The attributes below `outgrow/run/` that keep what a client cannot set in Neptune."""
    found: Attributes = {}
    for name in FIELDS:
        value = getattr(run, name)
        if value is None or value is False:
            continue
        attribute = encode_param(str(value) if isinstance(value, Status) else value)
        if attribute is not None:
            found[FIELDS_PATH + name] = attribute
    if run.fork is not None and not native_fork:
        found[FIELDS_PATH + "fork_run"] = Attribute("string", run.fork.run)
        found[FIELDS_PATH + "fork_step"] = Attribute("float", run.fork.step)
    if run.name is None:
        found[FIELDS_PATH + "unnamed"] = Attribute("bool", True)
    elif not run.name:
        found[FIELDS_PATH + "name"] = Attribute("string", "")
    return found
