"""A dataset card from tracked facts, and from the data itself where it is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..adapters.base import Source
from ..reading import number, open_location
from . import croissant, redact, vocabulary
from .card import Card
from .dataset_facts import ColumnFacts, DatasetFacts, Usage, dataset_facts, real_hash, use_rows
from .facts import is_evaluation
from .page import Options, Page, body, hidden_names

MAX_COLUMNS = 60
MAX_USES = 30
_KEYS = (
    "license", "license_name", "license_link", "language", "pretty_name", "task_categories", "task_ids", "size_categories",
    "annotations_creators", "language_creators", "multilinguality", "source_datasets", "tags",
)  # fmt: skip


def dataset_card(
    location: str | Source,
    name: str,
    options: Options | None = None,
    *,
    data: Path | None = None,
    sample_rows: int = 0,
) -> Card:
    """The card of a data set that runs of the location have read. `sample_rows` needs `data`."""
    options = options or Options()
    facts = dataset_facts(open_location(location), name, data=data, sample_rows=sample_rows)
    return render(facts, name, options)


def render(facts: DatasetFacts, reference: str, options: Options) -> Card:
    """The card of facts that are already gathered."""
    page = Page(options, [n for u in facts.uses for n in hidden_names(u.run, options)])
    front = _front(page, facts)
    contexts: dict[str, dict[str, Any]] = {
        "summary": _summary(page, facts),
        "versions": _versions(page, facts),
        "splits": _splits(page, facts),
        "schema": _schema(page, facts),
        "sample": {"keys": list(facts.sample[0]) if facts.sample else [], "rows": facts.sample},
        "uses": _uses(page, facts),
    }
    _look_for_unknown(page, facts, front)
    contexts["unknown"] = {"unknown": page.unknown}
    if not facts.sample:
        del contexts["sample"]
    blocks, skeleton = body(
        "dataset", contexts, options, title=page.clean(facts.name), has_sample=bool(facts.sample)
    )
    files = {}
    if metadata := croissant.metadata(facts, license_=front.get("license"), describe=page.clean):
        files["croissant.json"] = croissant.to_bytes(metadata)
    return Card(
        kind="dataset",
        title=page.clean(facts.name),
        reference=reference,
        front=front,
        blocks=blocks,
        skeleton=skeleton,
        facts=page.recorded,
        unknown=page.unknown,
        files=files,
    )


def _front(page: Page, facts: DatasetFacts) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for usage in facts.uses:
        for key in _KEYS:
            if value := usage.use.tags.get(f"card.{key}") or usage.use.tags.get(key):
                given[key] = value
    given |= dict(page.options.front)
    front: dict[str, Any] = {key: given.get(key) for key in _KEYS}
    front["pretty_name"] = front["pretty_name"] or page.clean(facts.name)
    if facts.rows is not None:
        front["size_categories"] = front["size_categories"] or [vocabulary.size_category(facts.rows)]
        page.fact("rows", facts.rows, "the files" if facts.files else "the runs' own records")
    front |= {k: v for k, v in given.items() if k not in front}
    return {k: v for k, v in front.items() if v not in (None, [], {})}


def _summary(page: Page, facts: DatasetFacts) -> dict[str, Any]:
    source = facts.uses[-1].use.source
    models = {m for u in facts.uses for m in u.models}
    page.fact("runs", len(facts.uses), facts.location)
    return {
        "name": page.clean(facts.name),
        "rows": facts.rows,
        "runs": len(facts.uses),
        "experiments": len({u.experiment.id for u in facts.uses}),
        "models": len(models),
        "source": page.clean(source) if source else None,
    }


def _versions(page: Page, facts: DatasetFacts) -> dict[str, Any]:
    rows = []
    for digest, uses in facts.digests.items():
        dates = sorted(d.date().isoformat() for u in uses if (d := u.run.started_at or u.run.created_at))
        page.fact(f"version {digest}", len(uses), f"first read by run {uses[0].run.id}")
        rows.append(
            {
                "digest": digest,
                "first": dates[0] if dates else "",
                "last": dates[-1] if dates else "",
                "runs": len(uses),
            }
        )
    real = any(real_hash(u.use) for u in facts.uses) or bool(facts.files)
    note = None if real or not rows else "These digests are the tracker's own; none is the hash of a file."
    return {"versions": rows, "hash_note": note}


def _splits(page: Page, facts: DatasetFacts) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {}
    for file in facts.files:
        name = file.split or "all"
        row = rows.setdefault(name, {"name": name, "rows": 0, "bytes": 0, "origin": "the files"})
        row["bytes"] += file.bytes
        row["rows"] = None if row["rows"] is None or file.rows is None else row["rows"] + file.rows
    if not rows:
        for usage in facts.uses:
            name = usage.use.context or "not said"
            rows[name] = {
                "name": name,
                "rows": use_rows(usage.use),
                "bytes": None,
                "origin": f"run {usage.run.id}",
            }
    for name, row in rows.items():
        page.fact(f"split {name}", row["rows"], row["origin"])
    return {"splits": list(rows.values())}


def _schema(page: Page, facts: DatasetFacts) -> dict[str, Any]:
    for column in facts.columns:
        shown = {k: v for k, v in dataclasses.asdict(column).items() if v is not None and k != "name"}
        page.fact(f"column {column.name}", str(shown), facts.columns_from or "")
    return {
        "columns": [_redacted(page, column) for column in facts.columns[:MAX_COLUMNS]],
        "more": max(0, len(facts.columns) - MAX_COLUMNS),
        "origin": page.clean(facts.columns_from or ""),
    }


def _redacted(page: Page, column: ColumnFacts) -> ColumnFacts:
    low, high = (None if v is None else page.clean(v) for v in (column.low, column.high))
    return dataclasses.replace(column, low=low, high=high)


def _uses(page: Page, facts: DatasetFacts) -> dict[str, Any]:
    rows = []
    # Runs that made a model say most; then the newest.
    newest_first = list(reversed(facts.uses))
    ordered = sorted(newest_first, key=lambda u: not u.models)
    for usage in ordered:
        results = _results(usage)
        page.fact(
            f"use by run {usage.run.id}", results or "no evaluation", f"experiment {usage.experiment.name}"
        )
        rows.append(
            {"run": usage.run.id, "context": usage.use.context or "not said", "digest": usage.use.digest or "not recorded",
             "results": results or "none recorded", "models": ", ".join(usage.models) or "—"}
        )  # fmt: skip
    return {"uses": rows[:MAX_USES], "more": max(0, len(rows) - MAX_USES)}


def _results(usage: Usage) -> str:
    values: Mapping[str, Any] = usage.run.summary
    shown = [(k, v) for k in sorted(values) if is_evaluation(k) and (v := number(values[k])) is not None]
    return ", ".join(f"{key} {value:.4g}" for key, value in shown[:4])


def _look_for_unknown(page: Page, facts: DatasetFacts, front: Mapping[str, Any]) -> None:
    wanted = {
        "license": "neither a tag of the data set nor the configuration names a license",
        "language": "neither a tag of the data set nor the configuration names a language",
        "task_categories": "neither a tag of the data set nor the configuration names a task",
    }
    for key, why in wanted.items():
        if key not in front:
            page.missing(key, why)
    if facts.rows is None:
        page.missing("size", "no run recorded the number of rows, and the data itself was not given (--data)")
    if not facts.columns:
        page.missing("columns", "no run recorded a schema, and the data itself was not given (--data)")
    if not facts.files and not any(real_hash(u.use) for u in facts.uses):
        page.missing(
            "file hashes", "the digests are the tracker's own, and the data itself was not given (--data)"
        )
    if any(u.use.source and redact.REMOVED in page.clean(u.use.source) for u in facts.uses[-1:]):
        page.missing("source", "its address is private; show it with --show urls")
