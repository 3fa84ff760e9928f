"""The report page of a ledger: what was copied, what is lost where, what a check says, what may go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import pages
from ..errors import ConfigError, OutgrowError
from .checker import check
from .ledger import Ledger, Row
from .planner import plan
from .report import CheckReport, Plan


def report(ledger: Path, *, deep: bool = False) -> str:
    """One HTML page about every copy of a ledger. Sources and targets are read again.

    A side that cannot be opened any more is named on the page. Raises `ConfigError` for a file
    that is no ledger, or an empty one; `MissingSDK` without Plotly.
    """
    with Ledger(ledger, create=False) as opened:
        rows = list(opened.rows())
    if not rows:
        raise ConfigError(f"the ledger {ledger} holds no copy", hint="make one: outgrow copy SOURCE TARGET")
    pairs = list(dict.fromkeys((row.source, row.target) for row in rows))
    plans: dict[tuple[str, str], Plan] = {}
    checks: dict[tuple[str, str], CheckReport] = {}
    problems: list[list[Any]] = []
    for source, target in pairs:
        try:
            plans[source, target] = plan(source, target)
            checks[source, target] = check(source, target, deep=deep)
        except OutgrowError as error:
            problems.append([source, target, error.message, error.hint])
    data = {
        "numbers": _numbers(rows, checks),
        "bars": _bars(pairs, plans, checks),
        "tables": [
            _counts_table(plans),
            _losses_table(plans),
            _check_table(checks),
            _links_table(rows),
            _ready_table(checks),
            *([_problems_table(problems)] if problems else []),
        ],
    }
    moves = "; ".join(f"{source} → {target}" for source, target in pairs)
    return pages.render("Migration report", moves, data)


def _numbers(rows: Sequence[Row], checks: dict[tuple[str, str], CheckReport]) -> list[tuple[str, Any]]:
    states = Counter(row.state for row in rows)
    signs: Counter[str] = Counter()
    for found in checks.values():
        signs.update(found.counts)
    return [
        *((state, count) for state, count in sorted(states.items())),
        ("points", sum(row.points for row in rows)),
        ("files", sum(row.files for row in rows)),
        ("equal on reading back", signs["="]),
        ("unexpected differences", sum(c.unexpected for c in checks.values())),
        ("ready for deletion", sum(len(c.deletion_ready) for c in checks.values())),
    ]


def _bars(
    pairs: Sequence[tuple[str, str]],
    plans: dict[tuple[str, str], Plan],
    checks: dict[tuple[str, str], CheckReport],
) -> dict[str, Any]:
    known = [pair for pair in pairs if pair in plans]
    return {
        "title": "Runs before and after",
        "labels": [f"{source} → {target}" for source, target in known],
        "series": [
            ("in the source", [plans[pair].counts.runs for pair in known]),
            (
                "equal in the target",
                [checks[pair].counts.get("=", 0) if pair in checks else 0 for pair in known],
            ),
        ],
    }


def _counts_table(plans: dict[tuple[str, str], Plan]) -> dict[str, Any]:
    names = (
        "experiments",
        "runs",
        "series",
        "points",
        "files",
        "file_bytes",
        "artifacts",
        "model_versions",
        "traces",
    )
    return {
        "id": "counts",
        "title": "What the source holds",
        "columns": ["source", "target", *(name.replace("_", " ") for name in names)],
        "rows": [[s, t, *(getattr(p.counts, name) for name in names)] for (s, t), p in plans.items()],
        "empty": "No source could be read.",
    }


def _losses_table(plans: dict[tuple[str, str], Plan]) -> dict[str, Any]:
    return {
        "id": "losses",
        "title": "Declared losses",
        "note": "What the target does not show as it was. The original of each is kept in the run's origin record.",
        "columns": ["target", "kind", "concept", "what", "runs", "count", "example", "certain"],
        "choices": ["kind", "concept"],
        "rows": [
            [t, line.kind, line.concept, line.detail, line.runs, line.count, line.example, "yes" if line.certain else "may be"]
            for (_, t), p in plans.items()
            for line in p.losses
        ],
        "empty": "None.",
    }  # fmt: skip


def _check_table(checks: dict[tuple[str, str], CheckReport]) -> dict[str, Any]:
    return {
        "id": "check",
        "title": "Check",
        "note": "= equal, - missing in the target, + only in the target, * differs, ! error.",
        "columns": ["sign", "run", "name", "experiment", "in the target", "differences"],
        "choices": ["sign", "experiment"],
        "rows": [
            [r.sign, r.source_run, r.name, r.experiment, r.run_id,
             "; ".join(f"{d.what}: {d.detail}" for d in r.differences if not d.expected) or None]
            for found in checks.values()
            for r in found.runs
        ],
        "empty": "Nothing could be checked.",
    }  # fmt: skip


def _links_table(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "id": "links",
        "title": "Old and new",
        "columns": ["old run", "old URL", "name", "state", "new run", "new URL", "error"],
        "choices": ["state"],
        "rows": [[r.source_run, r.source_url, r.name, r.state, r.run_id, r.url, r.error] for r in rows],
    }


def _ready_table(checks: dict[tuple[str, str], CheckReport]) -> dict[str, Any]:
    deep = any(found.deep for found in checks.values())
    return {
        "id": "ready",
        "title": "Ready for deletion",
        "note": "Source runs that have ended and whose copies are complete and deeply checked. Nothing is deleted by outgrow."
        if deep
        else "Only a deep check can tell: outgrow report LEDGER --deep.",
        "columns": ["source", "run"],
        "rows": [[source, run] for (source, _), found in checks.items() for run in found.deletion_ready],
        "empty": "None.",
    }


def _problems_table(problems: list[list[Any]]) -> dict[str, Any]:
    return {
        "id": "problems",
        "title": "Could not be read again",
        "columns": ["source", "target", "error", "what to do"],
        "rows": problems,
    }
