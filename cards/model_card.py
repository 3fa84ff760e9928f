"""A model card from tracked facts: front matter, body blocks, figures, sidecar."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..adapters.base import Source
from ..evidence import evidence
from ..model import Environment
from ..reading import open_location
from . import blocks, figures, redact, vocabulary
from .card import Card, Fact, environment
from .facts import ModelFacts, is_evaluation, model_facts
from .front import given_front, model_front
from .infer import inferred_library, inferred_task, load_snippet, signature_rows, unsafe
from .page import Options, Page, body, hidden_names

MAX_CURVES = 6
MAX_CHANGES = 40


def model_card(location: str | Source, reference: str, options: Options | None = None) -> Card:
    """The card of `MODEL`, `MODEL@ALIAS`, `MODEL/VERSION` or a run of a location."""
    options = options or Options()
    source = open_location(location)
    return render(model_facts(source, reference), reference, options)


def render(facts: ModelFacts, reference: str, options: Options) -> Card:
    """The card of facts that are already gathered."""
    hidden = [*hidden_names(facts.run, options)]
    if facts.version and "user" not in options.show:
        hidden.append(facts.version.user)
    page = Page(options, hidden)
    task, task_source = inferred_task(facts)
    library = inferred_library(facts)
    front = model_front(page, facts, task, library)
    files = _figures(facts)
    contexts = {
        "summary": _summary(
            page,
            facts,
            front.get("pipeline_tag"),
            task_source if "pipeline_tag" not in given_front(page, facts) else None,
        ),
        "results": _results(page, facts),
        "changes": _changes(page, facts),
        "curves": _curves(page, facts, files),
        "hyperparameters": _hyperparameters(page, facts),
        "data": _data(page, facts),
        "environment": _environment(page, facts),
        "usage": _usage(page, facts, reference),
        "reproduce": _reproduce(page, facts),
        "lineage": _lineage(page, facts),
    }
    _look_for_unknown(page, facts, front)
    contexts["unknown"] = {"unknown": page.unknown}
    if facts.previous is None:
        del contexts["changes"]
    if not facts.curves:
        del contexts["curves"]
    rendered, skeleton = body(
        "model",
        contexts,
        options,
        title=page.clean(facts.title),
        has_changes="changes" in contexts,
        has_curves="curves" in contexts,
    )
    short = (
        environment(options.templates)
        .get_template("model/summary.md.j2")
        .render(contexts["summary"] | {"description": None})
    )
    return Card(
        kind="model",
        title=page.clean(facts.title),
        reference=reference,
        front=front,
        blocks=rendered,
        skeleton=skeleton,
        facts=page.recorded,
        unknown=page.unknown,
        run=facts.run.id,
        version=(facts.version.model, facts.version.version) if facts.version else None,
        description=short.strip() + "\n",
        files=files,
    )


def _summary(page: Page, facts: ModelFacts, task: str | None, task_source: str | None) -> dict[str, Any]:
    version = facts.version
    run = facts.run
    if version:
        page.fact("registry version", version.version, f"registry of {facts.location}, {version.model}")
    page.fact("run", run.id, facts.location)
    if task:
        page.fact("task", task, task_source or "tags or configuration")
    descriptions = [blocks.without(owner.description or "") for owner in (version, facts.model) if owner]
    described = next(filter(None, descriptions), None)
    return {
        "name": page.clean(facts.name),
        "version": version.version if version else None,
        "aliases": version.aliases if version else [],
        "flavor": facts_flavor(facts),
        "task": task,
        "task_source": task_source,
        "run_id": run.id,
        "ended": run.ended_at.date().isoformat() if run.ended_at else None,
        "tried": page.fact("runs tried", facts.tried, f"experiment {facts.experiment.name}"),
        "description": page.clean(described) if described else None,
        "signature": signature_rows(facts),
    }


def facts_flavor(facts: ModelFacts) -> str | None:
    return inferred_library(facts)


def _results(page: Page, facts: ModelFacts) -> dict[str, Any]:
    for result in facts.results:
        page.fact(f"result {result.metric}", result.value, result.source)
        if result.mean is not None:
            page.fact(
                f"result {result.metric}, mean over seeds",
                result.mean,
                f"{result.seeds} runs that differ only in their seed",
            )
    return {
        "results": facts.results,
        "checkpoint": facts.checkpoint_step,
        "any_linked": any(r.is_checkpoint for r in facts.results),
        "tried": facts.tried,
    }


def _changes(page: Page, facts: ModelFacts) -> dict[str, Any]:
    for change in facts.changes:
        page.fact(
            f"change of {change.what} {change.key}",
            f"{change.before} → {change.after}",
            f"version {facts.previous.version if facts.previous else ''}",
        )
    code = next((c for c in facts.changes if c.what == "code"), None)
    # Packages are many and say least: parameters, data, metrics and code go first.
    return {
        "previous": facts.previous.version if facts.previous else None,
        "changes": [
            {"what": c.what, "key": page.clean(c.key), "delta": c.delta,
             "before": None if c.before is None else page.clean(c.before), "after": None if c.after is None else page.clean(c.after)}
            for c in facts.changes[:MAX_CHANGES]
        ],
        "more_changes": max(0, len(facts.changes) - MAX_CHANGES),
        "code_range": f"{code.before}..{code.after}" if code and code.before and code.after else None,
    }  # fmt: skip


def _shown_curves(facts: ModelFacts) -> list[str]:
    long = [key for key, (steps, _) in facts.curves.items() if len(steps) > 1]
    return sorted(long, key=lambda key: (not is_evaluation(key), key))[:MAX_CURVES]


def _figures(facts: ModelFacts) -> dict[str, bytes]:
    return {
        figures.file_name(key): figures.curve_png(key, *facts.curves[key], facts.checkpoint_step)
        for key in _shown_curves(facts)
    }


def _curves(page: Page, facts: ModelFacts, files: Mapping[str, bytes]) -> dict[str, Any]:
    table = []
    for key in sorted(facts.curves, key=lambda k: (not is_evaluation(k), k)):
        _, values = facts.curves[key]
        finite = values[np.isfinite(values)]
        at = next((r.value for r in facts.results if r.metric == key and r.is_checkpoint), None)
        table.append(
            {"metric": page.clean(key), "first": float(values[0]), "last": float(values[-1]), "checkpoint": at,
             "low": float(finite.min()) if len(finite) else math.nan, "high": float(finite.max()) if len(finite) else math.nan}
        )  # fmt: skip
    return {
        "figures": [
            (key, figures.file_name(key)) for key in _shown_curves(facts) if figures.file_name(key) in files
        ],
        "table": table,
    }


def _hyperparameters(page: Page, facts: ModelFacts) -> dict[str, Any]:
    tuned = [key for key in facts.tuned if key in facts.run.params]
    rest = sorted(key for key in facts.run.params if key not in facts.tuned)
    rows = []
    for key in tuned + rest:
        value = facts.run.params[key]
        shown = redact.REMOVED if redact.SECRET_NAME.search(key) else page.clean(value)
        page.recorded.append(Fact(name=f"param {key}", value=shown, source=f"run {facts.run.id}, params"))
        rows.append((key, shown))
    return {"params": rows, "tuned_count": len(tuned)}


def _data(page: Page, facts: ModelFacts) -> dict[str, Any]:
    rows = []
    for use in facts.run.datasets:
        page.fact(f"data set {use.name}", use.digest or "no digest", f"run {facts.run.id}, inputs")
        rows.append(
            {"name": page.clean(use.name), "context": use.context, "rows": use.rows, "digest": _short_digest(use.digest),
             "source": page.clean(use.source) if use.source else None}
        )  # fmt: skip
    found = evidence(facts.run, facts.run_files, [])
    return {
        "datasets": rows,
        "overlap": facts.overlap,
        "splits": [page.clean(found["split"])] if "split" in found else [],
    }


def _short_digest(digest: str | None) -> str | None:
    """Enough to tell versions apart in a table; lineage and `card.json` have all of it."""
    return digest if digest is None or len(digest) <= 24 else digest[:20] + "…"


def _environment(page: Page, facts: ModelFacts) -> dict[str, Any]:
    run = facts.run
    env = run.environment or Environment()
    seconds = (
        (run.ended_at - run.started_at).total_seconds() if run.started_at and run.ended_at else run.duration
    )
    rows = {
        "Python": env.python,
        "operating system": env.os,
        "processor": f"{env.cpu or ''} ({env.cpu_count} cores)" if env.cpu_count else env.cpu,
        "memory": f"{env.memory_bytes / 2**30:.1f} GiB" if env.memory_bytes else None,
        "GPU": f"{env.gpu_count or 1} × {env.gpu}" if env.gpu else None,
        "CUDA": env.cuda,
        "container image": env.image,
        "wall time": f"{seconds:.0f} s" if seconds is not None else None,
        "host": env.host if "host" in page.options.show else None,
        "user": run.user if "user" in page.options.show else None,
    }
    shown = [
        (key, page.fact(key, value, f"run {run.id}, environment")) for key, value in rows.items() if value
    ]
    important = (
        "numpy",
        "scikit-learn",
        "torch",
        "transformers",
        "tensorflow",
        "keras",
        "xgboost",
        "lightgbm",
        "pandas",
        "datasets",
    )
    return {
        "rows": shown or [("environment", "not recorded")],
        "packages": env.packages,
        "key_packages": [(name, env.packages[name]) for name in important if name in env.packages]
        or list(env.packages.items())[:8],
    }


def _usage(page: Page, facts: ModelFacts, reference: str) -> dict[str, Any]:
    snippet, why = load_snippet(facts)
    return {"snippet": snippet, "snippet_why": why, "unsafe_files": unsafe(facts)}


def _reproduce(page: Page, facts: ModelFacts) -> dict[str, Any]:
    run = facts.run
    code, env = run.code, run.environment or Environment()
    steps = []
    if code and code.commit:
        where = page.clean(code.repository) if code.repository else ""
        place = f" of {where}" if where and redact.REMOVED not in where else ""
        steps.append(f"Check out commit `{code.commit}`{place}.")
    if env.packages:
        steps.append(
            f"Install the recorded packages ({len(env.packages)}) with Python {env.python or '(version not recorded)'}."
        )
    if env.seeds:
        steps.append("Set the seeds: " + ", ".join(f"`{k}={v}`" for k, v in sorted(env.seeds.items())) + ".")
    if env.command:
        steps.append(f"Run `{page.clean(shlex.join(env.command)).replace('`', '')}`.")
    elif code and code.entry_point:
        steps.append(f"Run `{page.clean(code.entry_point).replace('`', '')}`.")
    if not steps:
        steps.append(
            "Neither code, nor packages, nor a command is recorded, so it cannot be reproduced from its record."
        )
    return {"steps": steps, "dirty": bool(code and code.dirty), "diff": code.diff if code else None}


def _lineage(page: Page, facts: ModelFacts) -> dict[str, Any]:
    run = facts.run
    chain: list[tuple[str, str]] = []
    if facts.version:
        chain.append(("registry", f"`{facts.version.model}` version `{facts.version.version}`"))
    url = page.clean(run.url) if run.url else ""
    shown = url and redact.REMOVED not in url and url.startswith(("https://", "http://"))
    chain.append(("run", f"[`{run.id}`]({url})" if shown else f"`{run.id}`"))
    chain += [
        ("data", f"`{page.clean(u.name)}` at digest `{u.digest or 'not recorded'}`".replace("\n", " "))
        for u in run.datasets
    ]
    chain.append(("commit", f"`{run.code.commit}`" if run.code and run.code.commit else "not recorded"))
    if run.parent:
        chain.append(("parent run", f"`{run.parent}`"))
    return {"chain": chain}


def _look_for_unknown(page: Page, facts: ModelFacts, front: Mapping[str, Any]) -> None:
    wanted = {
        "license": "neither a tag of the version, model or run nor the configuration names one",
        "pipeline_tag": "the model has no signature or flavor to tell its task from",
        "library_name": "the model has no MLmodel file, and no tag names its library",
    }
    for key, why in wanted.items():
        if key not in front:
            page.missing(key, why)
    if facts.checkpoint_step is None and not any(r.is_checkpoint for r in facts.results):
        page.missing("checkpoint", "neither the model nor its run records the step at which it was saved")
    found = evidence(facts.run, facts.files + facts.run_files, [facts.artifact] if facts.artifact else [])
    reasons = {
        "split": "the run holds no split of its data",
        "seed": "the run records no seed",
        "code": "the run records no commit",
        "environment": "the run records no packages",
        "dataset": "the run names no data set with a digest",
        "preprocessor": "the run holds no preprocessor or tokenizer",
    }
    for kind, why in reasons.items():
        if kind not in found:
            page.missing(kind, why)
    for key in ("license", "pipeline_tag"):
        if key in front and isinstance(front[key], str) and front[key] not in vocabulary.words(key):
            page.missing(key, f"{front[key]!r} is not in the Hub's vocabulary")
    if all(r.seeds == 1 for r in facts.results):
        page.missing("variation over seeds", "no other run of the experiment differs only in its seed")
