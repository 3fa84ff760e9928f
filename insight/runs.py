"""Lists of runs as Arrow tables."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from ..adapters.base import Source
from ..adapters.fit import text_of
from ..errors import ConfigError
from ..filters import Keys, Parts
from ..model import Experiment, Run
from ..reading import number, open_location, select, suggestion

FACTS = (
    "id",
    "name",
    "experiment",
    "status",
    "user",
    "started_at",
    "ended_at",
    "seconds",
    "parent",
    "labels",
)
_GROUPS = {"params": "params", "metrics": "summary", "tags": "tags"}
_FIELDS_OF = {
    "experiment": frozenset[str](),
    "seconds": frozenset({"started_at", "ended_at", "duration"}),
}


def runs(
    location: str | Source,
    *,
    where: str | None = None,
    sort: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    limit: int | None = None,
    experiments: Sequence[str] = (),
    deleted: bool = False,
) -> pa.Table:
    """One row a run. Times are UTC; `seconds` is end minus start.

    `columns`: names of `FACTS`, or `params.KEY`, `metrics.KEY`, `tags.KEY`, or `params.*` and so
    on; None for all. `sort`: columns, with `-` in front for descending; missing values last.
    Raises `ConfigError` for an unknown column.
    """
    source = open_location(location)
    names = list(columns) if columns is not None else [*FACTS, "params.*", "metrics.*", "tags.*"]
    parts = Parts()
    for name in (*names, *(name.removeprefix("-") for name in sort)):
        parts |= _parts_of(name)
    found = list(select(source, where=where, experiments=experiments, deleted=deleted, parts=parts))
    wanted = _expand(names, found)
    for name in reversed(sort):
        found = _sorted(found, name)
    if limit is not None:
        found = found[:limit]
    values = {name: list(map(_reader(name), found)) for name in wanted}
    return pa.table({name: column(read) for name, read in values.items()})


def unknown(location: str | Source, columns: Sequence[str]) -> dict[str, str]:
    """Of `params.KEY`, `metrics.KEY` and `tags.KEY`, those that no run has, each with a hint."""
    split = [(name, *name.partition(".")[::2]) for name in columns]
    wanted: dict[str, Keys] = {_GROUPS[group]: None for _, group, _ in split if group in _GROUPS}
    if not wanted:
        return {}
    known: dict[str, set[str]] = {field: set() for field in wanted}
    for _, run in select(open_location(location), deleted=True, parts=Parts(**wanted)):  # type: ignore[arg-type]
        for field, keys in known.items():
            keys.update(getattr(run, field))
    return {
        name: suggestion(key, known[_GROUPS[group]], group)
        for name, group, key in split
        if group in _GROUPS and key not in known[_GROUPS[group]]
    }


def _reader(name: str) -> Callable[[tuple[Experiment, Run]], Any]:
    """What gives the value of a column for one run; None where the run has none."""
    match name:
        case "experiment":
            return lambda pair: pair[0].name
        case "status":
            return lambda pair: pair[1].status.value
        case "seconds":
            return lambda pair: _seconds(pair[1])
        case "labels":
            return lambda pair: ", ".join(pair[1].labels) or None
    group, dot, key = name.partition(".")
    if dot and group in _GROUPS:
        mapping = operator.attrgetter(_GROUPS[group])
        return lambda pair: mapping(pair[1]).get(key)
    field = operator.attrgetter(name)
    return lambda pair: field(pair[1])


def _seconds(run: Run) -> float | None:
    if run.started_at and run.ended_at:
        return (run.ended_at - run.started_at).total_seconds()
    return run.duration


def _parts_of(name: str) -> Parts:
    """What of a run a column shows. Raises `ConfigError` for a column that there is not."""
    group, dot, key = name.partition(".")
    if dot and group in _GROUPS:
        parts: dict[str, Keys] = {_GROUPS[group]: None if key == "*" else frozenset({key})}
        return Parts(**parts)  # type: ignore[arg-type]
    if name not in FACTS:
        close = difflib.get_close_matches(name, FACTS, n=2)
        hint = f"did you mean {' or '.join(close)}? Or write" if close else f"columns: {', '.join(FACTS)};"
        raise ConfigError(
            f"unknown column {name!r}", hint=f"{hint} params.KEY, metrics.KEY, tags.KEY, or metrics.* for all"
        )
    return Parts(fields=_FIELDS_OF.get(name, frozenset({name})))


def _expand(wanted: Sequence[str], found: Sequence[tuple[Experiment, Run]]) -> list[str]:
    result: dict[str, None] = {}
    for name in wanted:
        group, _, key = name.partition(".")
        if key == "*" and group in _GROUPS:
            keys = sorted(set[str]().union(*(getattr(run, _GROUPS[group]) for _, run in found)))
            result.update(dict.fromkeys(f"{group}.{k}" for k in keys))
        else:
            result[name] = None
    return list(result)


def _sorted(found: list[tuple[Experiment, Run]], name: str) -> list[tuple[Experiment, Run]]:
    descending, name = name.startswith("-"), name.removeprefix("-")
    read = _reader(name)
    keyed = [(read(pair), pair) for pair in found]
    present = [
        (v, pair) for v, pair in keyed if v is not None and not (isinstance(v, float) and math.isnan(v))
    ]
    known = {id(pair) for _, pair in present}
    absent = [pair for _, pair in keyed if id(pair) not in known]
    numbers = [number(v) for v, _ in present]
    if all(n is not None for n in numbers):
        order = sorted(range(len(present)), key=lambda i: numbers[i], reverse=descending)  # type: ignore[arg-type, return-value]
    elif all(isinstance(v, datetime) for v, _ in present):
        order = sorted(range(len(present)), key=lambda i: present[i][0], reverse=descending)
    else:
        order = sorted(range(len(present)), key=lambda i: text_of(present[i][0]), reverse=descending)
    return [present[i][1] for i in order] + absent


def column(values: Sequence[Any]) -> pa.Array:
    """An Arrow column of the narrowest common type: bool, int, float, time, or else text."""
    kinds = set(map(type, values)) - {type(None)}
    if kinds <= {bool}:
        return pa.array(values, pa.bool_() if kinds else pa.string())
    if kinds == {str}:
        return _texts(values)
    if kinds <= {int} and all(v is None or -(2**63) <= v < 2**63 for v in values):
        return pa.array(values, pa.int64())
    if kinds <= {int, float}:
        return pa.array([None if v is None else float(v) for v in values], pa.float64(), from_pandas=False)
    if kinds <= {datetime}:
        return pa.array(values, pa.timestamp("us", tz="UTC"))
    return _texts([None if v is None else text_of(v) for v in values])


def _texts(values: Sequence[str | None]) -> pa.Array:
    """What is not valid Unicode is replaced: Arrow holds none."""
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        return pa.array([v and v.encode("utf-8", "replace").decode() for v in values], pa.string())
