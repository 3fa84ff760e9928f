"""Which setting won, and which settings mattered."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..adapters.base import Source
from ..adapters.fit import text_of
from ..errors import ConfigError
from ..filters import Parts
from ..model import Run
from ..reading import Floats, number, open_location, select, suggestion

MIN_RUNS = 10
"""Fewer runs than this say nothing about which param mattered."""
_HALVES = 100
_SAMPLE = 5_000
"""Runs that importance is computed from; a random choice of more adds time, not knowledge."""
_BINS = 12
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """How much of the runs' ranking by the metric the param explains alone, from 0 to 1.

    The first-order Sobol index of the rank, estimated from given data (bins of equal size, the
    adjusted correlation ratio: Plischke 2010, doi:10.1016/j.ress.2009.11.003): 0 where the param
    does not matter or only together with others. `low` and `high` are the 5th and 95th percentile
    over random halves of the runs, which spread as the estimate itself does.
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
    chosen = {"where": where, "experiments": experiments}
    parts = Parts(fields=frozenset({"name"}), params=None, summary=frozenset({metric}))
    scored: list[tuple[Run, float]] = []
    left_out = 0
    for _, run in select(source, parts=parts, **chosen):  # type: ignore[arg-type]
        value = number(run.summary.get(metric))
        if value is None or not math.isfinite(value) or not run.status.terminal:
            left_out += 1
        else:
            scored.append((run, value))
    if not scored:
        listed = select(source, parts=Parts(summary=None), **chosen)  # type: ignore[arg-type]
        known = {key for _, run in listed for key in run.summary}
        raise ConfigError(
            f"no finished run in {source.location} has the metric {metric!r} as a finite number",
            hint=suggestion(metric, known - {metric}, "metrics"),
        )
    sign = 1.0 if mode == "min" else -1.0
    scored.sort(key=lambda pair: (sign * pair[1], pair[0].id))
    enough = len(scored) >= MIN_RUNS
    varied = [tried for tried in _tried([run for run, _ in scored]) if tried.varies] if enough else []
    note = None
    if not enough:
        note = f"{len(scored)} runs are too few to say which param mattered (at least {MIN_RUNS})"
    elif not varied:
        note = "no param varies"
    return Best(
        metric=metric,
        mode=mode,
        runs=len(scored),
        left_out=left_out,
        winners=_whole(source, scored[:top]),
        importance=_importance(varied, np.array([score for _, score in scored])),
        settled=[_settled(tried, max(3, len(scored) // 4)) for tried in varied],
        note=note,
    )


def importance(runs: Sequence[Run], scores: Sequence[float]) -> list[Importance]:
    """Of every param that varies among these runs, what matters most first; none of too few runs."""
    if len(runs) < MIN_RUNS:
        return []
    return _importance([tried for tried in _tried(runs) if tried.varies], np.array(scores))


def _whole(source: Source, winners: Sequence[tuple[Run, float]]) -> list[tuple[Run, float]]:
    """The winners with everything that is known of them."""
    ids = [run.id for run, _ in winners]
    runs = {run.id: run for _, run in select(source, where=f"id in {ids!r}")}
    return [(runs.get(run.id, run), score) for run, score in winners]


@dataclass(frozen=True, slots=True)
class _Tried:
    """The values of one param, the best run's first: numbers (absent: NaN), or words."""

    name: str
    numbers: Floats | None
    words: list[str]

    def only(self, runs: npt.NDArray[np.intp]) -> _Tried:
        """Of these runs alone."""
        if self.numbers is not None:
            return _Tried(self.name, self.numbers[runs], [])
        return _Tried(self.name, None, [self.words[i] for i in runs])

    @property
    def varies(self) -> bool:
        """More than one value, and not another word in every run."""
        if self.numbers is not None:
            return len(np.unique(self.numbers)) > 1
        return 1 < len(set(self.words)) <= max(2, len(self.words) // 2)


def _tried(runs: Sequence[Run]) -> Iterator[_Tried]:
    for name in sorted(set[str]().union(*(run.params for run in runs))):
        values = [run.params.get(name) for run in runs]
        try:
            if bool in set(map(type, values)):
                raise ValueError
            told = [math.nan if value is None else float(value) for value in values]  # type: ignore[arg-type]
            yield _Tried(name, np.array(told), [])
        except (TypeError, ValueError, OverflowError):
            yield _Tried(name, None, ["(unset)" if value is None else text_of(value) for value in values])


def _importance(varied: Sequence[_Tried], scores: Floats) -> list[Importance]:
    random = np.random.default_rng(_SEED)
    if len(scores) > _SAMPLE:
        sample = np.sort(random.choice(len(scores), _SAMPLE, replace=False))
        scores, varied = scores[sample], [tried.only(sample) for tried in varied]
    if not varied or not np.ptp(scores) > 0:
        return []
    rank = _ranks(scores)
    rank = ((rank - rank.mean()) / rank.std()).astype(np.float32)
    count, half = len(rank), len(rank) // 2
    chosen = np.zeros((_HALVES, count), np.float32)
    for row in chosen:
        row[random.permutation(count)[:half]] = 1
    chosen = chosen[np.array([np.ptp(rank[row > 0]) > 0 for row in chosen])]  # all equal: nothing to explain
    if not len(chosen):
        return []
    of_total = (chosen @ rank, chosen @ rank**2)
    total = of_total[1] - of_total[0] ** 2 / half
    result = []
    for tried in varied:
        member = _bins(tried, half)
        sizes, sums = chosen @ member, chosen @ (member * rank[:, None])
        used = (sizes > 0).sum(axis=1)
        between = (sums**2 / np.maximum(sizes, 1)).sum(axis=1) - of_total[0] ** 2 / half
        within = (total - between) / np.maximum(half - used, 1)
        shares = (between - (used - 1) * within) / total  # what chance alone would explain is taken off
        low, high = np.clip(np.percentile(shares, [5, 95]), 0, 1)
        share = np.clip(shares.mean(), low, high)
        result.append(Importance(param=tried.name, share=float(share), low=float(low), high=float(high)))
    return sorted(result, key=lambda item: (-item.share, item.param))


def _ranks(scores: Floats) -> Floats:
    """Equal scores share their mean rank."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranks


def _bins(tried: _Tried, half: int) -> npt.NDArray[np.float32]:
    """Row a run, column a bin of about equal size: 1 where the run is in the bin."""
    most = max(2, min(_BINS, half // 4))
    if tried.numbers is None:
        _, place = np.unique(tried.words, return_inverse=True)
    else:
        values, place = np.unique(tried.numbers, return_inverse=True)  # NaN is one value, the last
        if len(values) > most:
            known = tried.numbers[~np.isnan(tried.numbers)]
            edges = np.unique(np.quantile(known, np.linspace(0, 1, most + 1)[1:-1]))
            place = np.where(np.isnan(tried.numbers), len(edges) + 1, np.searchsorted(edges, tried.numbers))
    member = np.zeros((len(place), int(place.max()) + 1), np.float32)
    member[np.arange(len(place)), place] = 1
    return member


def _settled(tried: _Tried, best: int) -> Settled:
    return Settled(param=tried.name, best=_range(tried, best), tried=_range(tried, None))


def _range(tried: _Tried, first: int | None) -> str:
    if tried.numbers is not None:
        known = tried.numbers[:first][~np.isnan(tried.numbers[:first])]
        if not len(known):
            return "(unset)"
        low, high = known.min(), known.max()
        return f"{low:g}" if low == high else f"{low:g} … {high:g}"
    words = sorted(set(tried.words[:first]))
    return ", ".join(words[:6]) + (" …" if len(words) > 6 else "")
