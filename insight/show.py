"""One run whole, with its curves in a line of text each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ..adapters.base import Source
from ..model import Artifact, Experiment, File, Run
from ..reading import Floats, curves, find_run, open_location, split_reference

_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesView:
    """A series in a few numbers. `first` and `last` are by step; `low` and `high` leave NaN out."""

    key: str
    points: int
    first: float
    last: float
    low: float
    high: float
    first_step: float | None
    last_step: float | None
    spark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run with what belongs to it."""

    experiment: Experiment
    run: Run
    series: list[SeriesView]
    files: list[File] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)


def show(reference: str) -> RunView:
    """`LOCATION#RUN` → everything about that run. Raises `LocationError` where it is not one run."""
    location, name = split_reference(reference)
    with open_location(location) as source:
        experiment, run = find_run(source, name)
        return view(source, experiment, run)


def view(source: Source, experiment: Experiment, run: Run, *, width: int = 32) -> RunView:
    """The view of a run that is already found. `width`: characters of a sparkline."""
    return RunView(
        experiment=experiment,
        run=run,
        series=[
            _series_view(key, steps, values, width)
            for key, (steps, values) in sorted(curves(source, run).items())
        ],
        files=sorted(source.files(run), key=lambda file: file.path),
        artifacts=list(source.artifacts(run)),
    )


def spark(values: Floats, width: int = 32) -> str:
    """A curve as bars, each the mean of its share of the points; a gap where all are NaN or infinite."""
    if not len(values):
        return ""
    shares = np.array_split(values, min(width, len(values)))
    means = np.array(
        [share[np.isfinite(share)].mean() if np.isfinite(share).any() else math.nan for share in shares]
    )
    finite = means[np.isfinite(means)]
    if not len(finite):
        return " " * len(means)
    low, span = finite.min(), finite.max() - finite.min()
    scale = (len(_BARS) - 1) / span if span > 0 else 0.0
    return "".join(" " if math.isnan(m) else _BARS[round((m - low) * scale)] for m in means)


def _series_view(key: str, steps: Floats, values: Floats, width: int) -> SeriesView:
    finite = values[~np.isnan(values)]
    return SeriesView(
        key=key,
        points=len(values),
        first=float(values[0]),
        last=float(values[-1]),
        low=float(finite.min()) if len(finite) else math.nan,
        high=float(finite.max()) if len(finite) else math.nan,
        first_step=float(steps[0]),
        last_step=float(steps[-1]),
        spark=spark(values, width),
    )
