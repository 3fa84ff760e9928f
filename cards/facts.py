"""The tracked facts behind a card, each with its source. Reads only; knows no platform."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml

from ..adapters.base import Source
from ..adapters.fit import text_of
from ..errors import LocationError
from ..model import Artifact, DatasetUse, Experiment, File, ModelVersion, RegisteredModel, Run
from ..reading import Floats, curves, find_run, number, resolve_model, select
from .card import CARD_FOLDER, SIDECAR

_SEED_WORDS = ("seed", "random_state")
_SYSTEM = ("system/",)
MAX_MLMODEL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A metric of the registered checkpoint.

    `mean` ± `half_width` is the 95 % t-interval over `seeds` runs that differ only in their seed.
    """

    metric: str
    value: float
    step: float | None
    is_checkpoint: bool
    """False: which checkpoint was registered is not recorded, so the last value is given."""
    source: str
    seeds: int = 1
    mean: float | None = None
    half_width: float | None = None
    dataset: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that differs from the previous registry version."""

    what: str
    key: str
    before: str | None
    after: str | None
    delta: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    location: str
    name: str
    run: Run
    experiment: Experiment
    version: ModelVersion | None = None
    model: RegisteredModel | None = None
    artifact: Artifact | None = None
    files: list[File] = field(default_factory=list)
    """Files of the model itself."""
    run_files: list[File] = field(default_factory=list)
    """Loose files of the run."""
    mlmodel: dict[str, Any] = field(default_factory=dict)
    """The content of the model's `MLmodel` file, where it has one."""
    checkpoint_step: float | None = None
    results: list[Result] = field(default_factory=list)
    curves: dict[str, tuple[Floats, Floats]] = field(default_factory=dict)
    tried: int = 1
    """Terminal runs of the experiment, this one included."""
    tuned: list[str] = field(default_factory=list)
    """Params that have several values in the experiment."""
    previous: ModelVersion | None = None
    changes: list[Change] = field(default_factory=list)
    emissions: dict[str, Any] | None = None

    @property
    def title(self) -> str:
        return self.name

    @property
    def overlap(self) -> list[tuple[DatasetUse, DatasetUse]]:
        """Pairs of a training and an evaluation data set that have the same digest."""
        train = [u for u in self.run.datasets if _is_train(u)]
        other = [u for u in self.run.datasets if not _is_train(u)]
        return [(a, b) for a in train for b in other if a.digest and a.digest == b.digest]


def _is_train(use: DatasetUse) -> bool:
    return (use.context or "train").lower().startswith(("train", "fit"))


def model_facts(source: Source, reference: str) -> ModelFacts:
    """Facts of `MODEL`, `MODEL@ALIAS`, `MODEL/VERSION` or a run (id or unique name).

    Raises `LocationError` where it is not known, or where the version's run is gone.
    """
    models = list(source.registry())
    model, version = resolve_model(models, reference)
    if version is None:
        experiment, run = find_run(source, reference)
        name = run.name or run.id
    else:
        name = version.model
        if version.run is None:
            raise LocationError(
                f"{version.model} version {version.version} names no run, so nothing is known of its training",
                hint="card the run itself: outgrow card model LOCATION RUN_ID",
            )
        experiment, run = find_run(source, version.run)
    artifacts = list(source.artifacts(run))
    artifact = _model_artifact(artifacts, version)
    run_files = _run_files(source, run)
    files = _model_files(source, run_files, artifact, version)
    peers = [r for _, r in select(source, experiments=[experiment.id]) if r.status.terminal]
    step = checkpoint_step(run, version, artifact)
    run_curves = {k: c for k, c in curves(source, run).items() if not k.startswith(_SYSTEM)}
    previous = _previous(model, version)
    return ModelFacts(
        location=str(source.location),
        name=name,
        run=run,
        experiment=experiment,
        version=version,
        model=model,
        artifact=artifact,
        files=files,
        run_files=run_files,
        mlmodel=_mlmodel(source, run, files),
        checkpoint_step=step,
        results=_results(source, run, artifact, run_curves, step, _siblings(run, peers)),
        curves=run_curves,
        tried=max(1, len(peers)),
        tuned=_tuned(peers),
        previous=previous,
        changes=_changes(source, run, previous, run_curves, step) if previous else [],
        emissions=_emissions(source, run, run_files),
    )


def _model_artifact(artifacts: Sequence[Artifact], version: ModelVersion | None) -> Artifact | None:
    if version is not None and version.artifact is not None:
        return next((a for a in artifacts if a.id == version.artifact), None)
    if version is not None and version.path is not None:
        return None
    made = [a for a in artifacts if a.type == "model"]
    return made[-1] if made else None


def _run_files(source: Source, run: Run) -> list[File]:
    """Loose files of a run, without the card that was written back to it."""
    files = sorted(source.files(run), key=lambda f: f.path)
    if any(f.path == f"{CARD_FOLDER}/{SIDECAR}" for f in files):
        files = [f for f in files if not f.path.startswith(f"{CARD_FOLDER}/")]
    return files


def _model_files(
    source: Source, files: list[File], artifact: Artifact | None, version: ModelVersion | None
) -> list[File]:
    if artifact is not None:
        return sorted(source.artifact_files(artifact), key=lambda f: f.path)
    if version is not None and version.path:
        folder = version.path.rstrip("/") + "/"
        return [f for f in files if f.path.startswith(folder) or f.path == version.path]
    return files


def _mlmodel(source: Source, run: Run, files: Sequence[File]) -> dict[str, Any]:
    found = next((f for f in files if f.path.rpartition("/")[2] == "MLmodel"), None)
    if found is None:
        return {}
    with source.open(run, found) as stream:
        text = stream.read(MAX_MLMODEL_BYTES)
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


def checkpoint_step(run: Run, version: ModelVersion | None, artifact: Artifact | None) -> float | None:
    """The step at which the registered weights were saved, where anything records it."""
    if artifact is not None:
        for use in run.artifacts:
            if use.artifact == artifact.id and use.step is not None and use.step > 0:
                return float(use.step)
    places: list[Callable[[], Any]] = [
        *([lambda: version.tags.get("checkpoint_step")] if version else []),
        *(
            [lambda: artifact.metadata.get("checkpoint_step"), lambda: artifact.tags.get("checkpoint_step")]
            if artifact
            else []
        ),
        lambda: run.tags.get("checkpoint_step"),
        lambda: run.params.get("checkpoint_step"),
    ]
    return next((value for place in places if (value := number(place())) is not None), None)


def seedless(params: dict[str, Any]) -> dict[str, str]:
    """Params without those that are a seed, as text, to compare runs."""
    return {
        k: text_of(v) for k, v in params.items() if k.rpartition("/")[2].lower() not in _seed_names(params)
    }


def _seed_names(params: Iterable[str]) -> set[str]:
    last = {k.rpartition("/")[2].lower() for k in params}
    return {k for k in last if any(k == w or k.endswith("_" + w) or k.endswith("." + w) for w in _SEED_WORDS)}


def _siblings(run: Run, peers: Sequence[Run]) -> list[Run]:
    """Finished runs with the same params, data and commit: they can differ only in their seed."""

    def signature(r: Run) -> tuple[Any, ...]:
        data = sorted((u.name, u.digest or "") for u in r.datasets)
        return tuple(sorted(seedless(r.params).items())), tuple(data), r.code.commit if r.code else None

    mine = signature(run)
    return [r for r in peers if r.id != run.id and signature(r) == mine]


def _results(
    source: Source,
    run: Run,
    artifact: Artifact | None,
    run_curves: dict[str, tuple[Floats, Floats]],
    step: float | None,
    siblings: Sequence[Run],
) -> list[Result]:
    found: dict[str, Result] = {}
    for metric in artifact.metrics if artifact else []:
        found[metric.key] = Result(
            metric=metric.key, value=metric.value, step=float(metric.step), is_checkpoint=True,
            source=f"run {metric.run or run.id}, metric {metric.key} of the logged model", dataset=metric.dataset,
        )  # fmt: skip
    for key in run_curves.keys() | {k for k, v in run.summary.items() if number(v) is not None}:
        if key in found or key.startswith(_SYSTEM):
            continue
        value, at = value_at(run_curves.get(key), step, number(run.summary.get(key)))
        if value is None:
            continue
        found[key] = Result(
            metric=key, value=value, step=at, is_checkpoint=step is not None,
            source=f"run {run.id}, metric {key}" + (f" at step {at:g}" if at is not None else ""),
        )  # fmt: skip
    if siblings:
        others = [curves(source, r) if step is not None else {} for r in siblings]
        for key, result in found.items():
            values = [result.value]
            for other, its_curves in zip(siblings, others, strict=True):
                v, _ = value_at(its_curves.get(key), step, number(other.summary.get(key)))
                if v is not None and math.isfinite(v):
                    values.append(v)
            found[key] = _with_interval(result, values)
    return sorted(found.values(), key=lambda r: (not is_evaluation(r.metric), r.metric))


def is_evaluation(metric: str) -> bool:
    return metric.lower().startswith(("eval", "test", "val"))


def value_at(
    curve: tuple[Floats, Floats] | None, step: float | None, fallback: float | None
) -> tuple[float | None, float | None]:
    """The value at the last step that is not after `step`, and that step; the last value without a step."""
    if curve is None or not len(curve[0]):
        return fallback, None
    if step is None:
        last = float(curve[1][-1])
        # The platform's own value need not be the curve's last: then no step belongs to it.
        agree = fallback is None or fallback == last
        return (last, float(curve[0][-1])) if agree else (fallback, None)
    at = int(np.searchsorted(curve[0], step, "right")) - 1
    return (float(curve[1][at]), float(curve[0][at])) if at >= 0 else (None, None)


def _with_interval(result: Result, values: Sequence[float]) -> Result:
    from dataclasses import replace

    from scipy import stats

    if len(values) < 2 or not all(math.isfinite(v) for v in values):
        return result
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return replace(result, seeds=len(values), mean=float(np.mean(values)), half_width=half)


def _tuned(peers: Sequence[Run]) -> list[str]:
    seen: dict[str, set[str]] = {}
    for run in peers:
        for key, value in run.params.items():
            seen.setdefault(key, set()).add(text_of(value))
    return sorted(key for key, values in seen.items() if len(values) > 1)


def _previous(model: RegisteredModel | None, version: ModelVersion | None) -> ModelVersion | None:
    """The version before this one, by the registry's own order, that has a run."""
    if model is None or version is None:
        return None
    index = next((i for i, v in enumerate(model.versions) if v.version == version.version), 0)
    return next((v for v in reversed(model.versions[:index]) if v.run and v.run != version.run), None)


def _changes(
    source: Source,
    run: Run,
    previous: ModelVersion,
    run_curves: dict[str, tuple[Floats, Floats]],
    step: float | None,
) -> list[Change]:
    if previous.run is None:
        return []
    try:
        _, before = find_run(source, previous.run)
    except LocationError:
        return [Change(what="run", key=previous.run, before="gone: nothing can be compared", after=None)]
    changes = _dict_changes("parameter", _texts(before.params), _texts(run.params))
    changes += _dict_changes("data", _data(before), _data(run))
    old_artifact = _model_artifact(list(source.artifacts(before)), previous)
    old_step = checkpoint_step(before, previous, old_artifact)
    old_curves = curves(source, before)
    for key in sorted(k for k in run.summary.keys() & before.summary.keys() if not k.startswith(_SYSTEM)):
        new, _ = value_at(run_curves.get(key), step, number(run.summary.get(key)))
        old, _ = value_at(old_curves.get(key), old_step, number(before.summary.get(key)))
        if new is not None and old is not None and new != old and not (math.isnan(new) and math.isnan(old)):
            changes.append(
                Change(what="metric", key=key, before=f"{old:.6g}", after=f"{new:.6g}", delta=new - old)
            )
    commits = [r.code.commit if r.code else None for r in (before, run)]
    if commits[0] != commits[1]:
        changes.append(Change(what="code", key="commit", before=commits[0], after=commits[1]))
    packages = [r.environment.packages if r.environment else {} for r in (before, run)]
    return changes + _dict_changes("package", *packages)


def _texts(params: dict[str, Any]) -> dict[str, str]:
    return {k: text_of(v) for k, v in params.items()}


def _data(run: Run) -> dict[str, str]:
    return {
        f"{u.name} ({u.context})" if u.context else u.name: u.digest or u.version or "no digest"
        for u in run.datasets
    }


def _dict_changes(what: str, before: dict[str, str], after: dict[str, str]) -> list[Change]:
    return [
        Change(what=what, key=key, before=before.get(key), after=after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _emissions(source: Source, run: Run, files: Sequence[File]) -> dict[str, Any] | None:
    """CodeCarbon's own file, where the run holds one. Emissions in grams of CO2 equivalent."""
    import csv
    import io

    found = next((f for f in files if f.path.rpartition("/")[2] == "emissions.csv"), None)
    if found is None:
        return None
    with source.open(run, found) as stream:
        text = stream.read(MAX_MLMODEL_BYTES).decode("utf-8", "replace")
    rows = list(csv.DictReader(io.StringIO(text)))
    kilograms = number(rows[-1].get("emissions")) if rows else None
    if kilograms is None or not math.isfinite(kilograms):
        return None
    last = rows[-1]
    facts: dict[str, Any] = {"emissions": kilograms * 1000, "source": "CodeCarbon"}
    if last.get("country_name"):
        facts["geographical_location"] = last["country_name"]
    if last.get("gpu_model") or last.get("cpu_model"):
        facts["hardware_used"] = last.get("gpu_model") or last.get("cpu_model")
    return facts
