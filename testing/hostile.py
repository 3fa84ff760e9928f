"""The hostile runs: data files of `testing/runs`, each a small platform full of what breaks adapters.

A new nastiness is a new file; the contract suite feeds every file to every adapter. The form:

    {"about": …, "experiments": [Experiment], "runs": [{"run": Run, "points": …, "texts": …,
     "histograms": …, "files": …}], "artifacts": [{"artifact": Artifact, "files": …}],
     "registry": [RegisteredModel], "traces": [Trace], "evaluation_datasets": […]}

Records are in the JSON form of `outgrow.model` without the fields that have their default.
`points` are rows `[key, step, time, value]` (with `epoch` and `context` after them in
`points_with_columns`), `texts` rows `[key, step, time, text]`, `histograms` rows `[key, step, time,
edges, counts]`; times are ISO 8601; `"nan"`, `"inf"`, `"-inf"` are values. `points_by_rule` is
`{"keys": n, "steps": n}`. A file has `path` and `text`, `hex`, `zeros` (a number of bytes) or
`reference`, and any field of `File`. `{"$repeat": [text, n]}` is a long text anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from importlib.resources import files
from typing import Any

import pyarrow as pa

from ..adapters import batches
from ..model import (
    Artifact,
    EvaluationDataset,
    Experiment,
    File,
    RegisteredModel,
    Run,
    Trace,
    from_builtins,
)
from . import records
from .memory_source import ArtifactData, MemorySource, RunData

BY_RULE_ROWS = 25_000
"""Rows of a batch of points that are made by a rule."""


def names() -> list[str]:
    """The hostile runs, by file name without its ending."""
    folder = files(__package__) / "runs"
    return sorted(f.name.removesuffix(".json") for f in folder.iterdir() if f.name.endswith(".json"))


def load(name: str, suffix: str = "", *, platform: str = "hostile") -> MemorySource:
    """A hostile run as a source. `suffix` is added to ids of runs and names of experiments, models and
    artifacts, so that one place can be written to many times."""
    text = (files(__package__) / "runs" / f"{name}.json").read_text(encoding="utf-8")
    data = _expanded(json.loads(text))
    source = _source(data, platform, name)
    return renamed(source, suffix) if suffix else source


def _expanded(data: Any) -> Any:
    if isinstance(data, dict):
        if data.keys() == {"$repeat"}:
            text, times = data["$repeat"]
            return text * times
        return {key: _expanded(value) for key, value in data.items()}
    return [_expanded(value) for value in data] if isinstance(data, list) else data


def _source(data: dict[str, Any], platform: str, name: str) -> MemorySource:
    runs = [
        RunData(
            from_builtins(entry["run"], Run),
            _points(entry),
            [records.texts([(k, s, _time(t), w) for k, s, t, w in entry["texts"]])]
            if entry.get("texts")
            else [],
            [records.histograms([(k, s, _time(t), e, c) for k, s, t, e, c in entry["histograms"]])]
            if entry.get("histograms")
            else [],
            list(_files(entry)),
        )
        for entry in data["runs"]
    ]
    return MemorySource(
        [from_builtins(e, Experiment) for e in data["experiments"]],
        runs,
        [
            ArtifactData(from_builtins(a["artifact"], Artifact), list(_files(a)))
            for a in data.get("artifacts", [])
        ],
        registry=[from_builtins(m, RegisteredModel) for m in data.get("registry", [])],
        traces=[from_builtins(t, Trace) for t in data.get("traces", [])],
        evaluation_datasets=[
            from_builtins(d, EvaluationDataset) for d in data.get("evaluation_datasets", [])
        ],
        platform=platform,
        name=name,
    )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _columns(rows: list[list[Any]]) -> list[tuple[Any, ...]]:
    return list(zip(*rows, strict=True))


def _points(entry: dict[str, Any]) -> list[pa.RecordBatch] | Callable[[], Iterable[pa.RecordBatch]]:
    if rule := entry.get("points_by_rule"):
        keys = [f"series/{number:04d}" for number in range(rule["keys"])]

        def by_rule() -> Iterator[pa.RecordBatch]:
            for key in keys if rule["steps"] > BY_RULE_ROWS else (None,):
                batch = records.points([key] if key else keys, rule["steps"])
                yield from batches.split(batch, BY_RULE_ROWS)

        return by_rule
    found = []
    if rows := entry.get("points"):
        words, steps, times, values = _columns(rows)
        found.append(batches.points(words, steps, [_time(t) for t in times], [float(v) for v in values]))
    if rows := entry.get("points_with_columns"):
        words, steps, times, values, epochs, contexts = _columns(rows)
        batch = batches.points(words, steps, [_time(t) for t in times], [float(v) for v in values])
        batch = batch.append_column(pa.field("epoch", pa.int64()), pa.array(epochs, pa.int64()))
        context = pa.array(contexts, pa.string()).dictionary_encode()
        found.append(batch.append_column(pa.field("context", batches.KEY), context))
    return found


def _files(entry: dict[str, Any]) -> Iterator[tuple[File, bytes | None]]:
    for facts in entry.get("files", ()):
        facts = dict(facts)
        text, hex_, zeros = facts.pop("text", None), facts.pop("hex", None), facts.pop("zeros", None)
        if "reference" in facts:
            yield from_builtins(facts, File), None
            continue
        data = bytes(zeros) if zeros else bytes.fromhex(hex_) if hex_ else (text or "").encode()
        known, _ = records.file("x", data)
        yield from_builtins({"size": known.size, "sha256": known.sha256} | facts, File), data


def renamed(source: MemorySource, suffix: str) -> MemorySource:
    """The same platform under other ids and names, as if another user had made it."""

    def ref(id_: str | None) -> str | None:
        return None if id_ is None else id_ + suffix

    runs = []
    for data in source.by_run.values():
        run = data.run
        run = replace(
            run,
            id=run.id + suffix,
            experiment=run.experiment + suffix,
            parent=ref(run.parent),
            fork=run.fork and replace(run.fork, run=run.fork.run + suffix),
            artifacts=[replace(use, artifact=use.artifact + suffix) for use in run.artifacts],
        )
        runs.append(RunData(run, data.points, data.texts, data.histograms, data.files))
    artifacts = [
        ArtifactData(
            replace(
                a.artifact,
                id=a.artifact.id + suffix,
                name=a.artifact.name + suffix,
                created_by=ref(a.artifact.created_by),
                metrics=[replace(m, run=ref(m.run)) for m in a.artifact.metrics],
            ),
            a.files,
        )
        for a in source.by_artifact.values()
    ]
    models = [
        replace(
            model,
            name=model.name + suffix,
            versions=[
                replace(v, model=model.name + suffix, run=ref(v.run), artifact=ref(v.artifact))
                for v in model.versions
            ],
        )
        for model in source.models
    ]
    return MemorySource(
        [replace(e, id=e.id + suffix, name=e.name + suffix) for e in source.by_experiment.values()],
        runs,
        artifacts,
        registry=models,
        traces=[
            replace(t, id=t.id + suffix, experiment=t.experiment + suffix, run=ref(t.run))
            for t in source.all_traces
        ],
        evaluation_datasets=[
            replace(
                d, id=d.id + suffix, name=d.name + suffix, experiments=[e + suffix for e in d.experiments]
            )
            for d in source.datasets
        ],
        platform=source.location.platform,
        name=source.location.rest,
    )
