"""The front matter of a model card, from tags, configuration, and what can be inferred."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..model import DatasetUse, RegisteredModel
from . import redact
from .facts import ModelFacts, Result, is_evaluation
from .page import Page

# Tags of the version, the model or the run that fill a key of the front matter.
_TAG_KEYS = (
    "license", "license_name", "license_link", "language", "base_model", "base_model_relation", "pipeline_tag", "library_name", "new_version",
)  # fmt: skip


def given_front(page: Page, facts: ModelFacts) -> dict[str, Any]:
    """Front matter that people gave: tags of the run, the model, the version, then the configuration."""
    given: dict[str, Any] = {}
    registered = facts.model or RegisteredModel(name="")
    for tags in (
        facts.run.tags,
        facts.artifact.tags if facts.artifact else {},
        registered.tags,
        facts.version.tags if facts.version else {},
    ):
        for key in _TAG_KEYS:
            if value := tags.get(f"card.{key}") or tags.get(key):
                given[key] = (
                    [v.strip() for v in value.split(",")] if key == "language" and "," in value else value
                )
    return given | dict(page.options.front)


def model_front(page: Page, facts: ModelFacts, task: str | None, library: str | None) -> dict[str, Any]:
    given = given_front(page, facts)
    front: dict[str, Any] = {key: given.get(key) for key in _TAG_KEYS}
    front["library_name"] = front["library_name"] or library
    front["pipeline_tag"] = front["pipeline_tag"] or task
    hub_data = [
        u.source or u.name for u in facts.run.datasets if (u.source_type or "").startswith(("hugging", "hf"))
    ]
    front["datasets"] = given.get("datasets") or sorted({_repo_id(d) for d in hub_data if _repo_id(d)})
    evaluations = [r for r in facts.results if is_evaluation(r.metric) and math.isfinite(r.value)]
    known = sorted({metric_type(r.metric) for r in evaluations})
    front["metrics"] = given.get("metrics") or known
    front["tags"] = list(dict.fromkeys([*given.get("tags", []), *facts.run.labels]))
    front["co2_eq_emissions"] = given.get("co2_eq_emissions") or facts.emissions
    if evaluations and front["pipeline_tag"]:
        front["model-index"] = [
            {
                "name": page.clean(facts.name),
                "results": _index(page, facts, evaluations, front["pipeline_tag"]),
            }
        ]
    front |= {k: v for k, v in given.items() if k not in front}
    return {k: v for k, v in front.items() if v not in (None, [], {})}


def _repo_id(text: str) -> str:
    found = text.removeprefix("https://huggingface.co/datasets/").strip("/")
    return found if found.count("/") <= 1 and " " not in found and "{" not in found else ""


def metric_type(key: str) -> str:
    """`eval/accuracy` → `accuracy`: the name under which others compare it."""
    last = key.rpartition("/")[2]
    for prefix in ("eval_", "test_", "validation_", "val_"):
        last = last.removeprefix(prefix)
    return last


def _index(page: Page, facts: ModelFacts, results: Sequence[Result], task: str) -> list[dict[str, Any]]:
    """One result an evaluated data set. A source is given where its URL may be shown."""
    default = next(
        (u for u in facts.run.datasets if (u.context or "").lower().startswith(("eval", "test", "val"))), None
    )
    default = default or next(iter(facts.run.datasets), DatasetUse(name="not recorded"))
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.dataset or default.name, []).append(result)
    url = page.clean(facts.run.url) if facts.run.url else ""
    source = {"name": f"run {facts.run.id}", "url": url} if url and redact.REMOVED not in url else None
    return [
        {
            "task": {"type": task},
            "dataset": {"name": page.clean(name), "type": page.clean(name)},
            "metrics": [
                {"type": metric_type(r.metric), "name": page.clean(r.metric), "value": r.value} for r in group
            ],
            **({"source": source} if source else {}),
        }
        for name, group in groups.items()
    ]
