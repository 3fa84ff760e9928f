"""The canonical model: what every tracking platform has, as plain frozen records.

No I/O, no SDK, no behaviour beyond validation and JSON. Rules that hold everywhere:

- Times are timezone-aware UTC `datetime` with the source's own precision (at most microseconds).
- Ids are the platform's own, as strings. `Origin.identity` names a run across platforms.
- Params are flat: nested mappings are joined with `/` (see `flatten`); values keep their type.
- `tags` are key → text; `labels` are plain words (W&B and Comet tags, Neptune `sys/tags`).
- Points, texts and histograms are never in a record: they travel as Arrow batches
  (`outgrow.adapters.batches`).
- Series keys under `system/` are hardware metrics; text series under `console/` are the
  process's output (`console/stdout`, `console/stderr`).
- `extra[platform]` holds what only that platform has, so that a round trip gives it back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

import msgspec

FORMAT_VERSION = 1
"""Version of the JSON form of these records. A reader refuses a higher one."""

if TYPE_CHECKING:
    Value = Union[None, bool, int, float, str, datetime, list["Value"], dict[str, "Value"]]
    """A param or metadata value. NaN and the infinities are values; integers have any size."""
else:
    Value = Any  # msgspec takes no union of str and datetime

Extra = dict[str, dict[str, Value]]

SYSTEM_PREFIX = "system/"
CONSOLE_PREFIX = "console/"


class Status(StrEnum):
    """State of a run. `Run.native_status` keeps the platform's own word."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    KILLED = "killed"

    @property
    def terminal(self) -> bool:
        return self is not Status.RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a run was first recorded. Carried unchanged through any number of copies."""

    platform: str
    run_id: str
    """The run's id, unique within the platform (W&B: entity/project/id)."""
    location: str = ""
    """The location it was read from, without credentials. Information, not identity."""
    url: str | None = None
    recorded: bool = True
    """An origin record may lie beside the copy. False: the copy is as the run was."""

    @property
    def identity(self) -> str:
        return f"{self.platform}:{self.run_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A named set of runs (W&B, Comet, Neptune: project)."""

    id: str
    name: str
    description: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    created_at: datetime | None = None
    modified_at: datetime | None = None
    deleted: bool = False
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetUse:
    """A data set that a run read."""

    name: str
    digest: str | None = None
    """As the platform gives it; `algorithm:hex` where the algorithm is known."""
    version: str | None = None
    context: str | None = None
    """What it was used for: training, validation, test…"""
    source_type: str | None = None
    source: str | None = None
    schema: str | None = None
    profile: str | None = None
    rows: int | None = None
    tags: dict[str, str] = field(default_factory=dict)
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeVersion:
    """The code that a run executed."""

    repository: str | None = None
    commit: str | None = None
    branch: str | None = None
    dirty: bool | None = None
    diff: str | None = None
    """Path of the run's file that holds the uncommitted difference."""
    entry_point: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The machine and the packages that a run executed with."""

    python: str | None = None
    packages: dict[str, str] = field(default_factory=dict)
    os: str | None = None
    host: str | None = None
    command: list[str] = field(default_factory=list)
    cpu: str | None = None
    cpu_count: int | None = None
    memory_bytes: int | None = None
    gpu: str | None = None
    gpu_count: int | None = None
    cuda: str | None = None
    image: str | None = None
    seeds: dict[str, int] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a run or of an artifact version."""

    path: str
    """Relative, `/`-separated. Hostile until `outgrow.adapters.paths.checked` has seen it."""
    size: int | None = None
    """Bytes."""
    sha256: str | None = None
    """Hex. None where the platform does not tell it: it is then computed when read."""
    artifact: str | None = None
    """Id of the `Artifact` that it belongs to; None for a loose file of the run."""
    reference: str | None = None
    """URI of bytes that the platform points at but does not hold."""
    media_type: str | None = None
    key: str | None = None
    """The series that it is a point of (an image logged at a step)."""
    step: float | None = None
    created_at: datetime | None = None
    metadata: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedMetric:
    """A metric value that belongs to a model (and perhaps to a data set), not only to a run."""

    key: str
    value: float
    step: int = 0
    time: datetime | None = None
    run: str | None = None
    dataset: str | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A named, versioned set of files: a W&B or Comet artifact, an MLflow logged model."""

    id: str
    name: str
    type: str = "artifact"
    """`model`, `dataset`, or the platform's own word."""
    version: str | None = None
    aliases: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, Value] = field(default_factory=dict)
    metadata: dict[str, Value] = field(default_factory=dict)
    description: str | None = None
    digest: str | None = None
    status: str | None = None
    created_by: str | None = None
    """Id of the run that made it."""
    created_at: datetime | None = None
    modified_at: datetime | None = None
    metrics: list[LinkedMetric] = field(default_factory=list)
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactUse:
    """A run's link to an artifact version."""

    artifact: str
    role: Literal["input", "output"]
    used_as: str | None = None
    step: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """Where a run branched off another: it inherits that run's points up to `step`."""

    run: str
    step: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training run, without its points and files."""

    id: str
    experiment: str
    """Id of its `Experiment`."""
    name: str | None = None
    status: Status = Status.RUNNING
    native_status: str | None = None
    exit_code: int | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    modified_at: datetime | None = None
    """When the platform last saw a change, as far as it tells."""
    duration: float | None = None
    """Seconds of work as the platform counts them, where that is not end minus start."""
    user: str | None = None
    deleted: bool = False
    parent: str | None = None
    fork: Fork | None = None
    group: str | None = None
    job_type: str | None = None
    sweep: str | None = None
    description: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    params: dict[str, Value] = field(default_factory=dict)
    summary: dict[str, Value] = field(default_factory=dict)
    """The one value per key that the platform shows. Also the list of metric keys, as far as it tells."""
    datasets: list[DatasetUse] = field(default_factory=list)
    artifacts: list[ArtifactUse] = field(default_factory=list)
    code: CodeVersion | None = None
    environment: Environment | None = None
    url: str | None = None
    origin: Origin | None = None
    """Set where this run is itself a copy. None: it was recorded here."""
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One version of a registered model."""

    model: str
    version: str
    run: str | None = None
    """Id of the run that made it."""
    artifact: str | None = None
    """Id of the `Artifact` that it is; None where it is a folder of the run."""
    path: str | None = None
    """Folder within the run's files, or within the artifact."""
    source: str | None = None
    """The platform's own URI of the bytes."""
    aliases: list[str] = field(default_factory=list)
    stage: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    description: str | None = None
    status: str | None = None
    user: str | None = None
    created_at: datetime | None = None
    modified_at: datetime | None = None
    extra: Extra = field(default_factory=dict)

    @property
    def origin_version(self) -> str:
        """Its number in the registry that it came from; its own where it was made there."""
        return str(self.extra.get("outgrow", {}).get("origin_version") or self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredModel:
    """A named line of model (or prompt) versions in a registry."""

    name: str
    kind: Literal["model", "prompt"] = "model"
    description: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    created_at: datetime | None = None
    modified_at: datetime | None = None
    versions: list[ModelVersion] = field(default_factory=list)
    """Oldest first."""
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One recorded request through a model or agent, with its spans and assessments."""

    id: str
    experiment: str
    run: str | None = None
    started_at: datetime | None = None
    duration_ms: int | None = None
    status: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    spans: list[dict[str, Any]] = field(default_factory=list)
    """OpenTelemetry-shaped spans, as the platform's API gives them."""
    assessments: list[dict[str, Any]] = field(default_factory=list)
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationDataset:
    """A curated set of inputs and expectations to evaluate against."""

    id: str
    name: str
    experiments: list[str] = field(default_factory=list)
    digest: str | None = None
    schema: str | None = None
    profile: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    created_at: datetime | None = None
    modified_at: datetime | None = None
    extra: Extra = field(default_factory=dict)


Record = Union[Experiment, Run, Artifact, RegisteredModel, Trace, EvaluationDataset, File]
R = TypeVar("R")


def flatten(nested: Mapping[str, Any]) -> dict[str, Value]:
    """Nested mappings as `/`-joined keys. An empty mapping stays a value, so that it is not lost."""
    return dict(_flatten(nested, ""))


def _flatten(nested: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Value]]:
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def to_builtins(record: Any) -> Any:
    """A record as JSON-able data. Times are ISO 8601 text.

    Among params and metadata, where text is text, a time is tagged (`{"$time": …}`); non-finite
    floats and integers beyond 64 bits are tagged everywhere (`{"$float": "nan"}`, `{"$int": …}`).
    """
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        fields = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
        return {k: _iso(v) if isinstance(v, datetime) else to_builtins(v) for k, v in fields.items()}
    if isinstance(record, datetime):
        return {"$time": _iso(record)}
    if isinstance(record, float) and not math.isfinite(record):
        return {"$float": repr(record)}
    if isinstance(record, Mapping):
        plain = {str(k): to_builtins(v) for k, v in record.items()}
        return {"$map": plain} if _looks_tagged(plain) else plain
    if isinstance(record, list | tuple):
        return [to_builtins(v) for v in record]
    if isinstance(record, int) and not -(2**63) <= record < 2**63:
        return {"$int": str(record)}  # most readers of JSON would round it
    return record


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat()


def _looks_tagged(data: dict[str, Any]) -> bool:
    return len(data) == 1 and next(iter(data)).startswith("$")


def _from_builtins(data: Any) -> Any:
    if isinstance(data, dict):
        if _looks_tagged(data):
            tag, value = next(iter(data.items()))
            if tag == "$time":
                return datetime.fromisoformat(value)
            if tag == "$float":
                return float(value)
            if tag == "$int":
                return int(value)
            if tag == "$map":
                return {k: _from_builtins(v) for k, v in value.items()}
        return {k: _from_builtins(v) for k, v in data.items()}
    if isinstance(data, list):
        return [_from_builtins(v) for v in data]
    return data


# msgspec learns a dataclass when it first meets it, running Python code on the way; two threads
# that do so at once crash it. The interpreter's own lock makes conversions take turns anyway.
_converting = threading.Lock()


def from_builtins(data: Any, kind: type[R]) -> R:
    """The inverse of `to_builtins`. Raises `ValueError` where the data does not have the shape of `kind`."""
    plain = _from_builtins(data)
    with _converting:
        return msgspec.convert(plain, kind)


def to_json(record: Any) -> str:
    """Deterministic JSON (sorted keys), so that equal records have equal text."""
    return json.dumps(to_builtins(record), sort_keys=True, ensure_ascii=False, allow_nan=False)


def from_json(text: str | bytes, kind: type[R]) -> R:
    """The inverse of `to_json`. Raises `ValueError` (`msgspec.ValidationError` is one)."""
    tagged = '"$' in text if isinstance(text, str) else b'"$' in text
    if not tagged:  # the typed decoder is ten times as fast
        with _converting:
            return msgspec.json.decode(text, type=kind)
    return from_builtins(json.loads(text), kind)


def digest(record: Any) -> str:
    """SHA-256 (hex) of a record's JSON form."""
    return hashlib.sha256(to_json(record).encode("utf-8", "surrogatepass")).hexdigest()
