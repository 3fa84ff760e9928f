"""Which setting won, and which settings mattered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..adapters.base import Source
from ..adapters.fit import text_of
from ..errors import ConfigError
from ..model import Run
from ..reading import number, open_location, select

MIN_RUNS = 10
"""Fewer runs than this say nothing about which param mattered."""
_REPEATS = 12
_SAMPLE = 1_000
"""Runs that importance is computed from; a random choice of more adds time, not knowledge."""
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """How much the metric's prediction suffers when the param is shuffled, as a share of all.

    `low` and `high` are the 5th and 95th percentile over `_REPEATS` resampled forests.
    """

    param: str
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The values of a param among the best quarter of the runs, beside those that were tried."""

    param: str
    best: str
    tried: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    metric: str
    mode: Literal["min", "max"]
    runs: int
    """Finished runs that have the metric as a finite number."""
    left_out: int
    """Runs without it, not finished, or with NaN."""
    winners: list[tuple[Run, float]]
    importance: list[Importance] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    note: str | None = None


def best(
    location: str | Source,
    metric: str,
    *,
    mode: Literal["min", "max"] = "max",
    where: str | None = None,
    experiments: Sequence[str] = (),
    top: int = 5,
) -> Best:
    """The `top` runs by the platform's own value of `metric`, and what the params had to do with it.

    Raises `ConfigError` where no run has that metric, with the metrics that exist.
    """
    source = open_location(location)
    scored: list[tuple[Run, float]] = []
    left_out, known = 0, set[str]()
    for _, run in select(source, where=where, experiments=experiments):
        known.update(run.summary)
        value = number(run.summary.get(metric))
        if value is None or not math.isfinite(value) or not run.status.terminal:
            left_out += 1
        else:
            scored.append((run, value))
    if not scored:
        raise ConfigError(
            f"no finished run in {source.location} has the metric {metric!r}",
            hint="metrics there: " + (", ".join(sorted(known)[:20]) or "none"),
        )
    sign = 1.0 if mode == "min" else -1.0
    scored.sort(key=lambda pair: (sign * pair[1], pair[0].id))
    importance: list[Importance] = []
    note = None
    names = _varied(scored)
    if len(scored) < MIN_RUNS:
        note = f"{len(scored)} runs are too few to say which param mattered (at least {MIN_RUNS})"
    elif not names:
        note = "no param varies"
    else:
        importance = _importance(scored, names)
    return Best(
        metric=metric,
        mode=mode,
        runs=len(scored),
        left_out=left_out,
        winners=scored[:top],
        importance=importance,
        settled=_settled(scored, names) if len(scored) >= MIN_RUNS else [],
        note=note,
    )


def _varied(scored: Sequence[tuple[Run, float]]) -> list[str]:
    """Params with more than one value, and not another value in every run unless they are numbers."""
    result = []
    for name in sorted({key for run, _ in scored for key in run.params}):
        values = [run.params.get(name) for run, _ in scored]
        distinct = {text_of(v) for v in values}
        numeric = all(v is None or number(v) is not None for v in values)
        if len(distinct) > 1 and (numeric or len(distinct) <= max(2, len(scored) // 2)):
            result.append(name)
    return result


def _column(scored: Sequence[tuple[Run, float]], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Numbers as they are (absent: NaN); words as ranks of their mean result, which a tree can split."""
    values = [run.params.get(name) for run, _ in scored]
    numbers = [number(v) for v in values]
    if all(n is not None or v is None for n, v in zip(numbers, values, strict=True)):
        return np.array([math.nan if n is None else n for n in numbers])
    words = [text_of(v) for v in values]
    means = {
        w: float(np.mean([s for x, (_, s) in zip(words, scored, strict=True) if x == w])) for w in set(words)
    }
    ranks = {w: float(i) for i, w in enumerate(sorted(means, key=lambda w: (means[w], w)))}
    return np.array([ranks[w] for w in words])


def _importance(scored: Sequence[tuple[Run, float]], names: Sequence[str]) -> list[Importance]:
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    table = np.column_stack([_column(scored, name) for name in names])
    target = np.array([score for _, score in scored])
    if not np.ptp(target) > 0:
        return []
    random = np.random.default_rng(_SEED)
    if len(target) > _SAMPLE:
        chosen = random.choice(len(target), _SAMPLE, replace=False)
        table, target = table[chosen], target[chosen]
    shares = []
    for repeat in range(_REPEATS):
        rows = random.integers(0, len(target), len(target))
        forest = RandomForestRegressor(n_estimators=16, min_samples_leaf=2, random_state=repeat)
        forest.fit(table[rows], target[rows])
        raw = permutation_importance(forest, table, target, n_repeats=1, random_state=repeat).importances_mean
        raw = np.clip(raw, 0.0, None)
        shares.append(raw / raw.sum() if raw.sum() > 0 else raw)
    matrix = np.array(shares)
    result = [
        Importance(
            param=name,
            share=float(matrix[:, i].mean()),
            low=float(np.percentile(matrix[:, i], 5)),
            high=float(np.percentile(matrix[:, i], 95)),
        )
        for i, name in enumerate(names)
    ]
    return sorted(result, key=lambda item: -item.share)


def _settled(scored: Sequence[tuple[Run, float]], names: Sequence[str]) -> list[Settled]:
    quarter = scored[: max(3, len(scored) // 4)]
    return [Settled(param=name, best=_range(quarter, name), tried=_range(scored, name)) for name in names]


def _range(scored: Sequence[tuple[Run, float]], name: str) -> str:
    values = [run.params.get(name) for run, _ in scored if run.params.get(name) is not None]
    numbers = [n for v in values if (n := number(v)) is not None]
    if values and len(numbers) == len(values):
        low, high = min(numbers), max(numbers)
        return f"{low:g}" if low == high else f"{low:g} … {high:g}"
    words = sorted({text_of(v) for v in values})
    return ", ".join(words[:6]) + (" …" if len(words) > 6 else "")
