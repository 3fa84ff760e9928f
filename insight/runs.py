"""Lists of runs as Arrow tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from ..adapters.base import Source
from ..adapters.fit import text_of
from ..errors import ConfigError
from ..model import Experiment, Run
from ..reading import number, open_location, select

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
    found = list(select(source, where=where, experiments=experiments, deleted=deleted))
    wanted = _expand(columns, found)
    for name in reversed(sort):
        found = _sorted(found, name)
    if limit is not None:
        found = found[:limit]
    return pa.table({name: column(value_of(e, r, name) for e, r in found) for name in wanted})


def value_of(experiment: Experiment, run: Run, name: str) -> Any:
    """The value of one column for one run; None where the run has none."""
    match name:
        case "experiment":
            return experiment.name
        case "status":
            return run.status.value
        case "seconds":
            if run.started_at and run.ended_at:
                return (run.ended_at - run.started_at).total_seconds()
            return run.duration
        case "labels":
            return ", ".join(run.labels) or None
    group, dot, key = name.partition(".")
    if dot and group in _GROUPS:
        return getattr(run, _GROUPS[group]).get(key)
    if name not in FACTS:
        raise ConfigError(
            f"unknown column {name!r}",
            hint=f"columns: {', '.join(FACTS)}, params.KEY, metrics.KEY, tags.KEY, params.*, metrics.*, tags.*",
        )
    return getattr(run, name)


def _expand(columns: Sequence[str] | None, found: Sequence[tuple[Experiment, Run]]) -> list[str]:
    wanted = list(columns) if columns is not None else [*FACTS, "params.*", "metrics.*", "tags.*"]
    result: dict[str, None] = {}
    for name in wanted:
        group, _, key = name.partition(".")
        if key == "*" and group in _GROUPS:
            keys = sorted({k for _, run in found for k in getattr(run, _GROUPS[group])})
            result.update(dict.fromkeys(f"{group}.{k}" for k in keys))
        else:
            result[name] = None
    return list(result)


def _sorted(found: list[tuple[Experiment, Run]], name: str) -> list[tuple[Experiment, Run]]:
    descending, name = name.startswith("-"), name.removeprefix("-")
    keyed = [(value_of(e, r, name), (e, r)) for e, r in found]
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


def column(values: Iterable[Any]) -> pa.Array:
    """An Arrow column of the narrowest common type: bool, int, float, time, or else text."""
    data = list(values)
    kinds = {type(v) for v in data if v is not None}
    if kinds <= {bool}:
        return pa.array(data, pa.bool_() if kinds else pa.string())
    if kinds <= {int} and all(v is None or -(2**63) <= v < 2**63 for v in data):
        return pa.array(data, pa.int64())
    if kinds <= {int, float}:
        return pa.array([None if v is None else float(v) for v in data], pa.float64(), from_pandas=False)
    if kinds <= {datetime}:
        return pa.array(data, pa.timestamp("us", tz="UTC"))
    return pa.array([None if v is None else text_of(v) for v in data], pa.string())
