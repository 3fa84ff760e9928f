"""Fitting records to what a target can hold: a pure function of the record and `Capabilities`.

The plan calls it to count losses, the copy to know what to write, the check to know what to
expect when the target is read back. So what is declared, written and compared is one thing.

Every change is a `Loss`. The complete original travels in the origin record
(`adapters.origin`), so a loss says what the *platform* shows, not what is gone for good.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from ..model import Experiment, File, RegisteredModel, Run, Value, to_builtins
from .base import Capabilities, Concept, TextLimit

LossKind = Literal["renamed", "retyped", "truncated", "rounded", "moved", "merged", "dropped"]
"""renamed, retyped, truncated, rounded: kept in another form. moved: kept in another place
(the origin record, where `Loss.detail` names none). merged: several became one. dropped: not
visible on the platform, kept only in the origin record."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One way in which the target shows less than the source. `detail` names no run."""

    kind: LossKind
    concept: Concept
    detail: str
    count: int = 1
    example: str | None = None
    certain: bool = True
    """False: it may happen, the source does not tell without being read whole."""


UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000}

# Field of Run → the concept that it needs, and what an absent one looks like.
_OPTIONAL_FIELDS: tuple[tuple[str, Concept, Any], ...] = (
    ("description", "description", None),
    ("user", "user", None),
    ("parent", "parent", None),
    ("fork", "fork", None),
    ("group", "group", None),
    ("job_type", "job_type", None),
    ("sweep", "sweep", None),
    ("exit_code", "exit_code", None),
    ("duration", "duration", None),
    ("created_at", "created_at", None),
    ("started_at", "started_at", None),
    ("ended_at", "ended_at", None),
    ("deleted", "deleted", False),
    ("params", "params", {}),
    ("tags", "tags", {}),
    ("labels", "labels", []),
    ("datasets", "datasets", []),
    ("code", "code", None),
    ("environment", "environment", None),
)


def short_hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=3).hexdigest()


def fit_key(key: str, limit: TextLimit) -> str:
    """The nearest allowed name: other characters become `_`, a cut end gets a hash."""
    clean = key
    if limit.allowed:
        clean = re.sub(f"(?!{limit.allowed}).", "_", clean, flags=re.DOTALL)
    if limit.path_like:
        clean = "/".join("_" if part in ("", ".", "..") else part for part in clean.split("/"))
    if not clean and not limit.empty:
        clean = "_"
    if limit.length is not None and _length(clean, limit) > limit.length:
        clean = _cut(clean, limit.length - 7, limit) + "-" + short_hash(key)
    return clean


def _length(text: str, limit: TextLimit) -> int:
    return len(text.encode("utf-8", "surrogatepass")) if limit.bytes else len(text)


def _cut(text: str, length: int, limit: TextLimit) -> str:
    if limit.bytes:
        return text.encode("utf-8", "surrogatepass")[:length].decode("utf-8", "ignore")
    return text[:length]


def fit_text(text: str, limit: TextLimit) -> str:
    """The text, cut where it is too long; a cut ends in `…`."""
    if limit.length is None or _length(text, limit) <= limit.length:
        return text
    mark = "…"
    return _cut(text, limit.length - _length(mark, limit), limit) + mark


class KeyMap:
    """Source key → target key, injective within a run: a name already taken gets a hash.

    `known` are the run's keys as far as they are known; they make the result independent of
    the order in which keys are asked for.
    """

    def __init__(self, limit: TextLimit, known: Iterable[str] = ()) -> None:
        self.limit = limit
        self.names: dict[str, str] = {}
        self._taken: set[str] = set()
        ordered = sorted(set(known), key=lambda key: (fit_key(key, limit) != key, key))
        for key in ordered:  # unchanged names first: they are entitled to their own
            self(key)

    def __call__(self, key: str) -> str:
        if (name := self.names.get(key)) is None:
            name = fit_key(key, self.limit)
            if name in self._taken:
                room = None if self.limit.length is None else self.limit.length - 7
                name = (name if room is None else _cut(name, room, self.limit)) + "-" + short_hash(key)
            self._taken.add(name)
            self.names[key] = name
        return name

    @property
    def changed(self) -> dict[str, str]:
        return {key: name for key, name in self.names.items() if key != name}


def type_name(value: Value) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case datetime():
            return "datetime"
        case Mapping():
            return "dict"
        case list():
            return "list"
        case int():
            return "int"
        case float():
            return "float"
    return "str"


def text_of(value: Value) -> str:
    """A value as text, as MLflow's own client would write it: `str()`, and JSON for nested ones."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, list | Mapping):
        return json.dumps(to_builtins(value), ensure_ascii=False)
    return str(value)


def fit_value(value: Value, caps: Capabilities) -> Value:
    """A param value in a type and length that the target keeps."""
    kind = type_name(value)
    too_wide = (
        kind == "int"
        and caps.int_bits is not None
        and isinstance(value, int)
        and not -(2 ** (caps.int_bits - 1)) <= value < 2 ** (caps.int_bits - 1)
    )
    if kind not in caps.param_types or too_wide:
        value = text_of(value)
    return fit_text(value, caps.param_value) if isinstance(value, str) else value


def fit_time(time: datetime | None, unit: str) -> datetime | None:
    if time is None or unit == "none":
        return None
    step = UNITS[unit]
    return (
        time.replace(microsecond=time.microsecond // step * step)
        if step < 1_000_000
        else time.replace(microsecond=0)
    )


@dataclass(frozen=True, slots=True)
class Names:
    """What a run's keys are called in a target. Kept by who learns of the keys one after the other."""

    metrics: KeyMap
    params: KeyMap
    tags: KeyMap

    @classmethod
    def of(cls, caps: Capabilities, run: Run | None = None) -> Names:
        """Of the keys of a run that is known as a whole; without one, of none yet."""
        if run is None:
            return cls(KeyMap(caps.metric_key), KeyMap(caps.param_key), KeyMap(caps.tag_key))
        return cls(
            KeyMap(caps.metric_key, run.summary),
            KeyMap(caps.param_key, run.params),
            KeyMap(caps.tag_key, run.tags),
        )


@dataclass(frozen=True, slots=True)
class FittedRun:
    """What the target will show of a run, and how that differs from the run."""

    run: Run
    keys: KeyMap
    """For metric keys; shared with `fit_points`."""
    losses: list[Loss] = field(default_factory=list)


def fit_run(run: Run, caps: Capabilities, names: Names | None = None) -> FittedRun:
    """The run as the target can hold it. References (experiment, parent) are not touched.

    `names`: those that keys have in the target already, where the run is written as it grows.
    """
    names = names or Names.of(caps, run)
    losses: list[Loss] = []
    changes: dict[str, Any] = {}
    for name, concept, absent in _OPTIONAL_FIELDS:
        value = getattr(run, name)
        if value != absent and not caps.native(concept):
            changes[name] = absent
            size = len(value) if isinstance(value, dict | list) else 1
            losses.append(Loss("moved", concept, f"{concept}: only in the origin record", size))
    for name, concept in (
        ("created_at", "created_at"),
        ("started_at", "started_at"),
        ("ended_at", "ended_at"),
    ):
        value = getattr(run, name)
        if value is not None and name not in changes:
            fitted = fit_time(value, caps.run_times)
            if fitted != value:
                changes[name] = fitted
                losses.append(Loss("rounded", concept, f"run times are kept in {caps.run_times}"))
    if (
        run.name is not None
        and (fitted_name := fit_text(fit_allowed(run.name, caps.run_name), caps.run_name)) != run.name
    ):
        changes["name"] = fitted_name
        losses.append(Loss("truncated", "experiments", "run names have a limit", example=run.name[:80]))
    if run.description and "description" not in changes:
        fitted_text = fit_text(run.description, caps.description)
        if fitted_text != run.description:
            changes["description"] = fitted_text
            losses.append(Loss("truncated", "description", "descriptions have a limit"))
    if "params" not in changes:
        changes["params"] = _fit_params(run.params, caps, names.params, losses)
    if "tags" not in changes:
        changes["tags"] = _fit_tags(run.tags, caps, names.tags, losses)
    if "labels" not in changes:
        labels = list(dict.fromkeys(fit_key(label, caps.label) for label in run.labels))
        if labels != run.labels:
            losses.append(Loss("renamed", "labels", "labels have a limited alphabet or length"))
        changes["labels"] = labels
    keys = names.metrics
    if keys.changed:
        example = "{} → {}".format(*next(iter(keys.changed.items())))
        losses.append(
            Loss(
                "renamed",
                "points",
                "metric keys have a limited alphabet or length",
                len(keys.changed),
                example,
            )
        )
    if not caps.native("summary"):
        changes["summary"] = {}
    else:
        changes["summary"] = {keys(k): v for k, v in run.summary.items()}
    return FittedRun(replace(run, **changes), keys, losses)


def fit_allowed(text: str, limit: TextLimit) -> str:
    return re.sub(f"(?!{limit.allowed}).", "_", text, flags=re.DOTALL) if limit.allowed else text


def _fit_params(
    params: Mapping[str, Value], caps: Capabilities, keys: KeyMap, losses: list[Loss]
) -> dict[str, Value]:
    result: dict[str, Value] = {}
    retyped: dict[str, list[str]] = {}
    cut: list[str] = []
    for key, value in params.items():
        fitted = fit_value(value, caps)
        result[keys(key)] = fitted
        text = value if isinstance(value, str) else text_of(value)
        if isinstance(fitted, str):
            if not isinstance(value, str):
                retyped.setdefault(type_name(value), []).append(key)
            if len(fitted) < len(text) or (fitted != text and fitted.endswith("…")):
                cut.append(key)
    if keys.changed:
        example = "{} → {}".format(*next(iter(keys.changed.items())))
        losses.append(
            Loss(
                "renamed",
                "params",
                "param keys have a limited alphabet or length",
                len(keys.changed),
                example,
            )
        )
    losses += [
        Loss("retyped", "params", f"{kind} params become text", len(names), names[0])
        for kind, names in retyped.items()
    ]
    if cut:
        limit = caps.param_value.length
        losses.append(Loss("truncated", "params", f"param values longer than {limit}", len(cut), cut[0]))
    return result


def _fit_tags(
    tags: Mapping[str, str], caps: Capabilities, keys: KeyMap, losses: list[Loss]
) -> dict[str, str]:
    result = {keys(key): fit_text(value, caps.tag_value) for key, value in tags.items()}
    cut = [key for key, value in tags.items() if result[keys(key)] != value]
    if keys.changed:
        example = "{} → {}".format(*next(iter(keys.changed.items())))
        losses.append(
            Loss("renamed", "tags", "tag keys have a limited alphabet or length", len(keys.changed), example)
        )
    if cut:
        losses.append(
            Loss("truncated", "tags", f"tag values longer than {caps.tag_value.length}", len(cut), cut[0])
        )
    return result


def fit_experiment(experiment: Experiment, caps: Capabilities) -> tuple[Experiment, list[Loss]]:
    losses: list[Loss] = []
    name = fit_key(experiment.name, caps.experiment_name)
    if name != experiment.name:
        losses.append(
            Loss(
                "renamed",
                "experiments",
                "experiment names are limited",
                example=f"{experiment.name[:80]} → {name[:80]}",
            )
        )
    if not caps.native("experiments"):
        losses.append(
            Loss(
                "moved",
                "experiments",
                "the target is one project: the experiment's name goes to the group or origin record",
            )
        )
    if (experiment.tags or experiment.description) and not caps.native("experiment_tags"):
        losses.append(Loss("moved", "experiment_tags", "experiment tags: only in the origin record"))
    if experiment.created_at and not caps.native("experiment_created_at"):
        losses.append(
            Loss("moved", "experiment_created_at", "experiment creation times: only in the origin record")
        )
    return replace(experiment, name=name), losses


def fit_file(file: File, caps: Capabilities) -> tuple[File, list[Loss]]:
    """A file's path as the target can hold it. Raises nothing: hostile paths are the engine's to refuse."""
    path = fit_key(file.path, caps.file_path)
    losses = []
    if path != file.path:
        losses.append(
            Loss("renamed", "files", "file names are limited", example=f"{file.path[-60:]} → {path[-60:]}")
        )
    if file.reference and not caps.native("references"):
        losses.append(
            Loss("moved", "references", "files that are only pointed at: only in the origin record")
        )
    return replace(file, path=path), losses


def semantic_versions(versions: Iterable[str]) -> dict[str, str]:
    """Each version as three numbers: `7` → `7.0.0`; one without such a form gets the next major one."""
    result: dict[str, str] = {}
    taken: set[str] = set()
    for version in versions:
        parts = version.removeprefix("v").split(".")
        wanted = ""
        if len(parts) <= 3 and all(part.isascii() and part.isdigit() for part in parts):
            wanted = ".".join([*(str(int(part)) for part in parts), "0", "0"][:3])
        if not wanted or wanted in taken:
            wanted = f"{max((int(one.partition('.')[0]) for one in taken), default=0) + 1}.0.0"
        taken.add(wanted)
        result[version] = wanted
    return result


def fit_model(model: RegisteredModel, caps: Capabilities) -> tuple[RegisteredModel, list[Loss]]:
    """A registered model as the target's registry can hold it."""
    losses: list[Loss] = []
    concept: Concept = "prompts" if model.kind == "prompt" else "registry"
    if not caps.native(concept):
        return model, [
            Loss("dropped", concept, f"{concept}: the target has none", max(1, len(model.versions)))
        ]
    name = fit_key(model.name, caps.model_name)
    if name != model.name:
        losses.append(
            Loss("renamed", "registry", "model names are limited", example=f"{model.name[:80]} → {name[:80]}")
        )
    if not caps.native("registry_times") and (model.created_at or any(v.created_at for v in model.versions)):
        losses.append(
            Loss("moved", "registry_times", "creation times of registry entries: only in the origin record")
        )
    versions = []
    numbers = semantic_versions([v.version for v in model.versions])
    for number, version in enumerate(model.versions, 1):
        changes: dict[str, Any] = {"model": name}
        if caps.version_numbers == "semantic" and (semantic := numbers[version.version]) != version.version:
            detail = "versions have three numbers, as in 1.0.0"
            losses.append(Loss("renamed", "registry", detail, example=f"{version.version} → {semantic}"))
            changes["version"] = semantic
        if version.stage and not caps.native("stages"):
            losses.append(Loss("moved", "stages", "stages become the tag outgrow.stage"))
            changes |= {"stage": None, "tags": version.tags | {"outgrow.stage": version.stage}}
        if version.aliases and not caps.native("registry_aliases"):
            losses.append(
                Loss("moved", "registry_aliases", "aliases: only in the origin record", len(version.aliases))
            )
            changes["aliases"] = []
        if caps.version_numbers == "sequential" and not version.version.isdigit():
            losses.append(
                Loss("renamed", "registry", "versions are numbered 1, 2, 3…", example=version.version)
            )
            changes["version"] = str(number)
        changes["extra"] = version.extra | {"outgrow": {"origin_version": version.version}}
        versions.append(replace(version, **changes))
    return replace(model, name=name, versions=versions), losses
