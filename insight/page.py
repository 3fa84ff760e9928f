"""The data of the report page of a location (`pages.render`)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from .. import pages
from ..adapters.base import Source
from ..adapters.fit import text_of
from ..config import Policy
from ..model import Experiment, Run
from ..reading import curves, number, open_location, select
from .audit import Audit, grade
from .best import importance
from .lineage import Graph

MAX_COLUMNS = 24
"""Params and metrics in the table of runs: those that the most runs have."""
CURVE_RUNS = 30
CURVE_POINTS = 300
CURVE_METRICS = 12
SWEEP_PARAMS = 10
SWEEP_RUNS = 2_000
MAX_LINEAGE = 120


def report(
    location: str | Source,
    *,
    metric: str | None = None,
    mode: Literal["min", "max"] | None = None,
    where: str | None = None,
    policy: Policy | None = None,
) -> str:
    """One HTML page about a location: overview, runs, curves, sweep, audit, lineage.

    `metric`: what the sweep is coloured by, and whose best runs' curves are shown; by default the
    evaluation metric that most runs have. `mode`: whether less or more of it is better; by default
    less of a loss or an error, more of anything else. Raises `MissingSDK` without Plotly.
    """
    source = open_location(location)
    found = list(select(source, where=where))
    runs = [run for _, run in found]
    metric = metric or _main_metric(runs)
    lower = mode == "min" or (mode is None and metric is not None and _is_loss(metric))
    graded = grade(source, found, policy=policy, registry=where is None)
    scored = _scored(runs, metric, lower)
    shown = [run for run, _ in scored[:CURVE_RUNS]] or _newest(runs)
    data: dict[str, Any] = {
        "numbers": _numbers(found, graded),
        "bars": _by_time(runs),
        "curves": _curves(source, shown),
        "curves_note": f"The {len(shown)} runs with the {'lowest' if lower else 'highest'} {metric}."
        if scored
        else f"The {len(shown)} newest runs.",
        "tables": [_runs_table(found), _audit_table(graded), _registry_table(source)],
        "flow": _flow(Graph.of(source, runs)),
    }
    if metric and (sweep := _sweep(scored, metric)):
        data["sweep"] = sweep
    return pages.render(f"History of {source.location}", f"{len(found):,} runs", data)


_LOSSES = frozenset({"loss", "error", "err", "mae", "mse", "rmse", "perplexity", "ppl", "nll", "wer", "cer"})


def _is_loss(metric: str) -> bool:
    return not _LOSSES.isdisjoint(re.split(r"[^a-z]+", metric.lower()))


def _scored(runs: Sequence[Run], metric: str | None, lower: bool) -> list[tuple[Run, float]]:
    """Runs with that metric as a finite number, the best first."""
    scored = [
        (run, value)
        for run in runs
        if metric and (value := number(run.summary.get(metric))) is not None and math.isfinite(value)
    ]
    return sorted(scored, key=lambda pair: pair[1] if lower else -pair[1])


def _main_metric(runs: Sequence[Run]) -> str | None:
    counts = Counter(
        k
        for run in runs
        for k, v in run.summary.items()
        if not k.startswith("system/") and number(v) is not None
    )
    ranked = sorted(counts, key=lambda k: (not k.lower().startswith(("eval", "val", "test")), -counts[k], k))
    return ranked[0] if ranked else None


def _numbers(found: Sequence[tuple[Experiment, Run]], graded: Audit) -> list[tuple[str, Any]]:
    by_status = Counter(run.status.value for _, run in found)
    return [
        ("experiments", len({e.id for e, _ in found})),
        ("runs", len(found)),
        *((name, count) for name, count in sorted(by_status.items())),
        ("reproducible", sum(a.reproducible for a in graded.runs)),
        ("redeployable", sum(a.redeployable for a in graded.runs)),
        ("with findings", sum(bool(a.findings) for a in graded.runs)),
        *([("registry findings", len(graded.registry))] if graded.registry else []),
    ]


def _by_time(runs: Sequence[Run]) -> dict[str, Any]:
    """How many runs began in each month; in each day, where all began within two months."""
    began = [time for run in runs if (time := run.started_at or run.created_at)]
    daily = bool(began) and (max(began) - min(began)).days <= 62
    counts = Counter(time.strftime("%Y-%m-%d" if daily else "%Y-%m") for time in began)
    labels = sorted(counts)
    title = f"Runs by {'day' if daily else 'month'} (UTC)"
    return {"title": title, "labels": labels, "series": [("runs", [counts[label] for label in labels])]}


def _plain(value: Any) -> Any:
    as_number = number(value)
    if as_number is not None:  # the page shows six digits
        return as_number if as_number.is_integer() else float(f"{as_number:.7g}")
    return None if value is None else text_of(value)[:200]


def _common(mappings: Sequence[dict[str, Any]], limit: int) -> list[str]:
    counts = Counter(key for mapping in mappings for key in mapping if not key.startswith("system/"))
    return sorted(k for k, _ in counts.most_common(limit))


def _runs_table(found: Sequence[tuple[Experiment, Run]]) -> dict[str, Any]:
    params = _common([run.params for _, run in found], MAX_COLUMNS // 2)
    metrics = _common([run.summary for _, run in found], MAX_COLUMNS // 2)
    return {
        "id": "runs",
        "title": "Runs",
        "columns": ["name", "run", "experiment", "status", "started (UTC)", "owner", *metrics, *params],
        "choices": ["experiment", "status", "owner"],
        "rows": [
            [
                run.name,
                run.id,
                experiment.name,
                run.status.value,
                run.started_at.strftime("%Y-%m-%d %H:%M") if run.started_at else None,
                run.tags.get("owner") or run.user,
                *(_plain(run.summary.get(key)) for key in metrics),
                *(_plain(run.params.get(key)) for key in params),
            ]
            for experiment, run in sorted(found, key=lambda pair: _began(pair[1]), reverse=True)
        ],
        "empty": "No run.",
    }


def _audit_table(graded: Audit) -> dict[str, Any]:
    return {
        "id": "audit",
        "title": "Audit",
        "note": "Every ended run against what reproduction and redeployment need, worst first.",
        "columns": ["name", "run", "project", "owner", "lacks", "reproducible", "redeployable", "findings"],
        "choices": ["project", "owner", "reproducible", "redeployable"],
        "rows": [
            [
                a.run.name,
                a.run.id,
                a.project,
                a.owner,
                ", ".join(f.brief for f in a.findings),
                "yes" if a.reproducible else "no",
                "yes" if a.redeployable else "no",
                len(a.findings),
            ]
            for a in graded.runs
        ]
        + [[None, None, "registry", None, f.detail, None, None, 1] for f in graded.registry],
        "empty": "No finished run.",
    }


def _registry_table(source: Source) -> dict[str, Any]:
    rows = [
        [m.name, m.kind, v.version, ", ".join(v.aliases) or None, v.stage, v.run, v.created_at.strftime("%Y-%m-%d %H:%M") if v.created_at else None]
        for m in source.registry()
        for v in m.versions
    ]  # fmt: skip
    return {
        "id": "registry",
        "title": "Registry",
        "columns": ["name", "kind", "version", "aliases", "stage", "run", "created (UTC)"],
        "rows": rows,
        "empty": "Nothing is registered.",
    }


def _began(run: Run) -> datetime:
    return run.started_at or run.created_at or datetime.min.replace(tzinfo=UTC)


def _newest(runs: Sequence[Run]) -> list[Run]:
    return sorted(runs, key=_began)[-CURVE_RUNS:]


def _curves(source: Source, runs: Sequence[Run]) -> dict[str, list[Any]]:
    result: dict[str, list[Any]] = {}
    for run in runs:
        for key, (steps, values) in curves(source, run).items():
            if not key.startswith("system/"):
                keep = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), CURVE_POINTS)).astype(int))
                result.setdefault(key, []).append(
                    [run.name or run.id, steps[keep].tolist(), values[keep].tolist()]
                )
    ranked = sorted(
        result, key=lambda k: (not k.lower().startswith(("eval", "val", "test")), -len(result[k]), k)
    )
    return {key: result[key] for key in ranked[:CURVE_METRICS]}


def _sweep(scored: Sequence[tuple[Run, float]], metric: str) -> dict[str, Any] | None:
    """Params that mattered most first. Of many runs the best, and an even choice of the others."""
    ranked = importance([run for run, _ in scored], [score for _, score in scored])
    shares = {item.param: item.share for item in ranked}
    if not ranked:  # few runs: params that most of them have
        for key in _common([run.params for run, _ in scored], 200):
            if len({text_of(run.params.get(key)) for run, _ in scored}) > 1:
                shares[key] = sum(key in run.params for run, _ in scored) / len(scored)
    names = sorted(shares, key=lambda key: -shares[key])[:SWEEP_PARAMS]
    if len(scored) < 3 or not names:
        return None
    drawn = list(scored)
    if len(scored) > SWEEP_RUNS:
        others = np.linspace(SWEEP_RUNS // 4, len(scored) - 1, SWEEP_RUNS * 3 // 4).astype(int)
        drawn = drawn[: SWEEP_RUNS // 4] + [scored[i] for i in others]
    drawn.reverse()  # the best on top
    return {
        "metric": metric,
        "note": (
            "Every line is a run" if len(drawn) == len(scored) else f"{len(drawn):,} of {len(scored):,} runs"
        )
        + (", params that explain most of the metric first" if ranked else ""),
        "params": [[name, [_plain(run.params.get(name)) for run, _ in drawn]] for name in names],
        "scores": [_plain(value) for _, value in drawn],
    }


def _flow(graph: Graph) -> dict[str, Any]:
    """What the registered models came from; without a registry, the newest runs."""
    queue = [key for key, node in graph.nodes.items() if node.kind == "model version"]
    if not queue:
        queue = [key for key, node in graph.nodes.items() if node.kind == "run"][-20:]
    kept: dict[tuple[str, str], int] = {}
    links: list[tuple[int, int, str]] = []
    while queue and len(kept) < MAX_LINEAGE:
        key = queue.pop(0)
        if key not in kept:
            kept[key] = len(kept)
            queue.extend(other for other, _ in graph.up.get(key, ()))
    for key, index in kept.items():
        links += [
            (kept[other], index, word)
            for other, word in graph.up.get(key, ())
            if other in kept and other != key
        ]
    nodes = [graph.nodes[key] for key in kept]
    return {"labels": [n.label[:40] for n in nodes], "kinds": [n.kind for n in nodes], "links": links}
