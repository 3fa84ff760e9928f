"""The data of the report page of a location (`pages.render`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import pages
from ..adapters.base import Source
from ..adapters.fit import text_of
from ..config import Policy
from ..model import Experiment, Run
from ..reading import curves, number, open_location, select
from .audit import Audit, grade
from .lineage import Graph

MAX_COLUMNS = 24
"""Params and metrics in the table of runs: those that the most runs have."""
CURVE_RUNS = 30
CURVE_POINTS = 300
CURVE_METRICS = 12
SWEEP_PARAMS = 10
MAX_LINEAGE = 120


def report(
    location: str | Source,
    *,
    metric: str | None = None,
    where: str | None = None,
    policy: Policy | None = None,
) -> str:
    """One HTML page about a location: overview, runs, curves, sweep, audit, lineage.

    `metric`: what the sweep is coloured by, and whose best runs' curves are shown; by default the
    evaluation metric that most runs have. Raises `MissingSDK` without Plotly.
    """
    source = open_location(location)
    found = list(select(source, where=where))
    metric = metric or _main_metric([run for _, run in found])
    graded = grade(source, found, policy=policy, registry=where is None)
    shown = _runs_with_curves([run for _, run in found], metric)
    data: dict[str, Any] = {
        "numbers": _numbers(found, graded),
        "bars": _by_month(found),
        "curves": _curves(source, shown),
        "curves_note": f"The {len(shown)} runs that are best by {metric}."
        if metric
        else f"The {len(shown)} newest runs.",
        "tables": [_runs_table(found), _audit_table(graded), _registry_table(source)],
        "flow": _flow(Graph.of(source, [run for _, run in found])),
    }
    if metric and (sweep := _sweep([run for _, run in found], metric)):
        data["sweep"] = sweep
    return pages.render(f"History of {source.location}", f"{len(found)} runs", data)


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
        ("with findings", graded.violating),
    ]


def _by_month(found: Sequence[tuple[Experiment, Run]]) -> dict[str, Any]:
    counts = Counter(
        began.strftime("%Y-%m") for _, run in found if (began := run.started_at or run.created_at)
    )
    months = sorted(counts)
    return {"title": "Runs by month", "labels": months, "series": [("runs", [counts[m] for m in months])]}


def _plain(value: Any) -> Any:
    as_number = number(value)
    if as_number is not None:
        return as_number
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
        "columns": ["run", "name", "experiment", "status", "started", "owner", *metrics, *params],
        "choices": ["experiment", "status", "owner"],
        "rows": [
            [
                run.id,
                run.name,
                experiment.name,
                run.status.value,
                run.started_at.strftime("%Y-%m-%d %H:%M") if run.started_at else None,
                run.tags.get("owner") or run.user,
                *(_plain(run.summary.get(key)) for key in metrics),
                *(_plain(run.params.get(key)) for key in params),
            ]
            for experiment, run in found
        ],
        "empty": "No run.",
    }


def _audit_table(graded: Audit) -> dict[str, Any]:
    return {
        "id": "audit",
        "title": "Audit",
        "note": "Every finished run against what reproduction and redeployment need, worst first.",
        "columns": ["run", "name", "project", "owner", "what", "reproducible", "redeployable", "findings"],
        "choices": ["project", "owner", "reproducible", "redeployable"],
        "rows": [
            [
                a.run.id,
                a.run.name,
                a.project,
                a.owner,
                "; ".join(f.detail for f in a.findings),
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
        "columns": ["name", "kind", "version", "aliases", "stage", "run", "created"],
        "rows": rows,
        "empty": "Nothing is registered.",
    }


def _runs_with_curves(runs: Sequence[Run], metric: str | None) -> list[Run]:
    if metric:
        scored = [
            (value, run)
            for run in runs
            if (value := number(run.summary.get(metric))) is not None and np.isfinite(value)
        ]
        return [run for _, run in sorted(scored, key=lambda pair: -pair[0])[:CURVE_RUNS]]
    dated = [run for run in runs if run.started_at]
    return sorted(dated, key=lambda run: run.started_at.timestamp() if run.started_at else 0.0)[-CURVE_RUNS:]


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


def _sweep(runs: Sequence[Run], metric: str) -> dict[str, Any] | None:
    scored = [
        (run, value)
        for run in runs
        if (value := number(run.summary.get(metric))) is not None and np.isfinite(value)
    ]
    names = []
    for key in _common([run.params for run, _ in scored], 200):
        distinct = {text_of(run.params.get(key)) for run, _ in scored}
        if 1 < len(distinct) <= max(20, len(scored)):
            names.append(key)
    if len(scored) < 3 or not names:
        return None
    # Params that most runs share say most in one picture.
    names = sorted(names, key=lambda k: -sum(k in run.params for run, _ in scored))[:SWEEP_PARAMS]
    return {
        "metric": metric,
        "params": [[name, [_plain(run.params.get(name)) for run, _ in scored]] for name in names],
        "scores": [value for _, value in scored],
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
