"""The writing side of `outgrow.testing.memory`."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO, get_args

import pyarrow as pa
import pyarrow.compute as pc

from ..adapters import batches
from ..adapters.base import (
    NATIVE_MARK,
    Capabilities,
    Concept,
    Copy,
    Hold,
    RunWriter,
    Sink,
    Throughput,
)
from ..adapters.fit import FittedRun, Loss, fit_experiment, fit_file, fit_key, fit_model, fit_run
from ..adapters.fit_points import fit_points
from ..adapters.merge import losing_aliases
from ..adapters.paths import checked
from ..adapters.replay import Replay
from ..errors import Rejected, TargetFull, Unsupported, Vanished
from ..locations import Location
from ..model import (
    Artifact,
    ArtifactUse,
    DatasetUse,
    EvaluationDataset,
    Experiment,
    File,
    Origin,
    RegisteredModel,
    Run,
    Trace,
    Value,
)
from .memory_source import ArtifactData, Faults, MemorySource, RunData, without_duplicates

EVERYTHING: Mapping[Concept, Hold] = {concept: Hold("memory") for concept in get_args(Concept)}
"""`Capabilities.holds` of a platform that has a place for every concept of the model."""


def capabilities(*without: Concept, **limits: object) -> Capabilities:
    """The capabilities of a platform that holds everything but `without`, with the given limits."""
    holds = {concept: hold for concept, hold in EVERYTHING.items() if concept not in without}
    defaults: dict[str, object] = {"holds": holds, "point_columns": frozenset(batches.OPTIONAL_POINT_COLUMNS)}
    return Capabilities(**(defaults | limits))  # type: ignore[arg-type]


@dataclass(slots=True)
class _Kept:
    """What the platform holds of one run."""

    run: Run
    identity: str
    origin: Origin
    mark: str | None = None
    points: list[pa.RecordBatch] = field(default_factory=list)
    texts: list[pa.RecordBatch] = field(default_factory=list)
    histograms: list[pa.RecordBatch] = field(default_factory=list)
    files: dict[str, tuple[File, bytes | None]] = field(default_factory=dict)


class MemorySink(Sink):
    """A sink that holds what its capabilities say, and nothing more.

    `buffered=True`: finished runs are kept from `flush` on, and `crash()` loses the others, as a
    sink does that writes in large transactions. Otherwise every call is kept at once.
    `room` is the number of file bytes that fit; more is `TargetFull`.
    """

    throughput = Throughput(path="memory", points_per_second=10e6)

    def __init__(
        self,
        caps: Capabilities | None = None,
        *,
        platform: str = "memory",
        name: str = "target",
        faults: Faults | None = None,
        buffered: bool = False,
        room: int | None = None,
    ) -> None:
        self.location = Location(platform, name)
        self._caps = caps or capabilities()
        self.faults = faults or Faults()
        self.buffered = buffered
        self.room = room
        self.lock = threading.RLock()
        self.kept: dict[str, _Kept] = {}
        self._finished: dict[str, _Kept] = {}
        self._experiments: dict[str, Experiment] = {}
        self.artifacts: dict[str, ArtifactData] = {}
        self._models: dict[tuple[str, str], RegisteredModel] = {}
        self._traces: dict[str, Trace] = {}
        self._datasets: dict[str, EvaluationDataset] = {}
        self._ids = 0

    @property
    def capabilities(self) -> Capabilities:
        return self._caps

    def new_id(self, prefix: str) -> str:
        with self.lock:
            self._ids += 1
            return f"{prefix}{self._ids}"

    def require(self, concept: Concept) -> None:
        if not self._caps.native(concept):
            raise Unsupported(f"{self.location} holds no {concept}")

    def native_run(self, run: Run, points: Iterable[pa.RecordBatch] = ()) -> None:
        """Put a run here as if it had been recorded here."""
        identity = f"{self.location.platform}:{run.id}"
        origin = Origin(platform=self.location.platform, run_id=run.id)
        self.kept[run.id] = _Kept(run, identity, origin, NATIVE_MARK, list(points))

    def copies(self) -> Iterator[Copy]:
        with self.lock:
            kept = list(self.kept.items())
        for run_id, data in kept:
            self.faults("copies")
            if data.mark != NATIVE_MARK:
                yield Copy(identity=data.identity, run_id=run_id, mark=data.mark)

    def find(self, identity: str) -> Copy | None:
        self.faults("find")
        with self.lock:
            for run_id, data in self.kept.items():
                if data.identity == identity:
                    return Copy(identity=identity, run_id=run_id, mark=data.mark)
        return None

    def native(self, run_id: str) -> Copy | None:
        found = self.find(f"{self.location.platform}:{run_id}")
        return found if found is not None and found.mark == NATIVE_MARK else None

    def experiment(self, experiment: Experiment) -> str:
        self.faults("experiment")
        _refuse(fit_experiment(experiment, self._caps)[1], {"renamed"})
        with self.lock:
            if not self._caps.native("experiments"):
                self._experiments.setdefault("project", Experiment(id="project", name=self.location.rest))
                return "project"
            for known in self._experiments.values():
                if known.name == experiment.name:
                    return known.id
            new = replace(experiment, id=self.new_id("experiment-"), extra={})
            if not self._caps.native("experiment_tags"):
                new = replace(new, tags={}, description=None)
            if not self._caps.native("experiment_created_at"):
                new = replace(new, created_at=None)
            self._experiments[new.id] = new
            return new.id

    def begin(self, run: Run, origin: Origin, existing: Copy | None = None) -> RunWriter:
        self.faults("begin")
        if run.experiment not in self._experiments:
            raise Rejected(f"no experiment {run.experiment!r} in {self.location}")
        with self.lock:
            if existing is not None:
                if existing.run_id not in self.kept:
                    raise Vanished(f"run {existing.run_id!r} is no longer in {self.location}")
                run_id = existing.run_id
            else:
                run_id = origin.identity if self._caps.chosen_run_ids else self.new_id("run-")
            kept = self.kept.get(run_id)
            if kept is None:
                first = Run(id=run_id, experiment=run.experiment, name=run.name)
                kept = _Kept(first, origin.identity, origin)
            if self.buffered:
                kept = copy.copy(kept)
                for name in ("points", "texts", "histograms", "files"):
                    setattr(kept, name, copy.copy(getattr(kept, name)))
            else:
                self.kept[run_id] = kept
        return MemoryWriter(self, kept)

    def done(self, kept: _Kept) -> None:
        with self.lock:
            (self._finished if self.buffered else self.kept)[kept.run.id] = kept

    def register(self, model: RegisteredModel) -> Mapping[str, str]:
        self.faults("register")
        self.require("prompts" if model.kind == "prompt" else "registry")
        _refuse(fit_model(model, self._caps)[1], {"renamed"})
        if not self._caps.native("registry_times"):
            versions_ = [replace(version, created_at=None) for version in model.versions]
            model = replace(model, created_at=None, versions=versions_)
        numbers: dict[str, str] = {}
        with self.lock:
            slot = (model.kind, model.name)
            here = self._models.get(slot, replace(model, versions=[], extra={}))
            versions = {v.origin_version: v for v in here.versions}
            for version in model.versions:
                number = version.origin_version
                if number in versions:
                    target = versions[number].version
                elif self._caps.version_numbers == "sequential":
                    target = str(len(versions) + 1)
                else:
                    target = version.version
                versions[number] = replace(version, version=target)
                numbers[number] = target
            staying = [v for number, v in versions.items() if number not in numbers]
            versions |= {v.origin_version: v for v in losing_aliases(staying, model.versions)}
            self._models[slot] = replace(here, versions=list(versions.values()))
        return numbers

    def trace(self, trace: Trace, origin: Origin) -> str:
        self.faults("trace")
        self.require("traces")
        with self.lock:
            self._traces.setdefault(f"{origin.platform}:{trace.id}", trace)
        return trace.id

    def evaluation_dataset(self, dataset: EvaluationDataset) -> str:
        self.faults("evaluation_dataset")
        self.require("evaluation_datasets")
        with self.lock:
            self._datasets.setdefault(dataset.id, dataset)
        return dataset.id

    def flush(self) -> None:
        self.faults("flush")
        with self.lock:
            self.kept.update(self._finished)
            self._finished.clear()

    def crash(self) -> None:
        """Lose what is not durable, as the death of the process would."""
        with self.lock:
            self._finished.clear()

    def source(self) -> MemorySource:
        """What is durable here, read back. The sink's faults do not apply to it."""
        with self.lock:
            runs = [
                RunData(
                    replace(k.run, origin=None if k.mark == NATIVE_MARK else k.origin),
                    list(k.points),
                    list(k.texts),
                    list(k.histograms),
                    list(k.files.values()),
                )
                for k in self.kept.values()
            ]
            return MemorySource(
                self._experiments.values(),
                runs,
                [ArtifactData(a.artifact, list(a.files)) for a in self.artifacts.values()],
                registry=self._models.values(),
                traces=self._traces.values(),
                evaluation_datasets=self._datasets.values(),
                platform=self.location.platform,
                name=self.location.rest,
            )


class MemoryWriter(RunWriter):
    def __init__(self, sink: MemorySink, kept: _Kept) -> None:
        self.sink, self.caps, self.kept = sink, sink.capabilities, kept
        self.run_id = kept.run.id
        self._replay = {name: Replay(getattr(kept, name)) for name in ("points", "texts", "histograms")}
        self._fitted = FittedRun(kept.run, fit_run(kept.run, self.caps).keys)

    def _update(self, **changes: object) -> None:
        self.kept.run = replace(self.kept.run, **changes)  # type: ignore[arg-type]

    def _allowed(self, call: str, **values: object) -> None:
        self.sink.faults(f"writer.{call}")
        trial = Run(id="", experiment="", **values)  # type: ignore[arg-type]
        _refuse(fit_run(trial, self.caps).losses)

    def params(self, params: Mapping[str, Value]) -> None:
        self._allowed("params", params=dict(params))
        self._update(params=self.kept.run.params | dict(params))

    def tags(self, tags: Mapping[str, str], labels: Sequence[str] = ()) -> None:
        self._allowed("tags", tags=dict(tags), labels=list(labels))
        every = list(dict.fromkeys([*self.kept.run.labels, *labels]))
        self._update(tags=self.kept.run.tags | dict(tags), labels=every)

    def points(self, batch: pa.RecordBatch) -> None:
        self.sink.faults("writer.points")
        _refuse(fit_points(batch, self._fitted, self.caps)[1])
        if key := next((k for k in batches.keys_of(batch) if fit_key(k, self.caps.metric_key) != k), None):
            raise Rejected(f"{self.sink.location} refuses the metric key {key!r}")
        if not self.caps.negative_steps and pc.any(pc.less(batch.column("step"), 0)).as_py():
            raise Rejected(f"{self.sink.location} refuses negative steps")
        self._append("points", batch)

    def texts(self, batch: pa.RecordBatch) -> None:
        self.sink.faults("writer.texts")
        self.sink.require("texts")
        self._append("texts", batch)

    def histograms(self, batch: pa.RecordBatch) -> None:
        self.sink.faults("writer.histograms")
        self.sink.require("histograms")
        self._append("histograms", batch)

    def _append(self, name: str, batch: pa.RecordBatch) -> None:
        if self.caps.replay == "idempotent":
            batch = self._replay[name].new(batch)
        if batch.num_rows:
            getattr(self.kept, name).append(batch)
        if name == "points" and not self.caps.exact_duplicates:
            self.kept.points = without_duplicates(self.kept.points)

    def datasets(self, uses: Sequence[DatasetUse]) -> None:
        self.sink.faults("writer.datasets")
        self.sink.require("datasets")
        new = [use for use in uses if use not in self.kept.run.datasets]
        self._update(datasets=self.kept.run.datasets + new)

    def _read(self, file: File, stream: BinaryIO | None) -> tuple[File, bytes | None]:
        if stream is None:
            self.sink.require("references")
            return file, None
        self.sink.require("files")
        checked(file.path)
        _refuse(fit_file(file, self.caps)[1], {"renamed"})
        data = stream.read()
        if self.sink.room is not None:
            if len(data) > self.sink.room:
                raise TargetFull(f"{self.sink.location} is full", hint="make room and copy again")
            self.sink.room -= len(data)
        return file, data

    def file(self, file: File, stream: BinaryIO | None) -> None:
        self.sink.faults("writer.file")
        self.kept.files[file.path] = self._read(file, stream)

    def artifact(
        self, artifact: Artifact, use: ArtifactUse, files: Iterable[tuple[File, BinaryIO | None]]
    ) -> str:
        self.sink.faults("writer.artifact")
        self.sink.require("artifact_inputs" if use.role == "input" else "artifacts")
        held = [self._read(file, stream) for file, stream in files]
        with self.sink.lock:
            slot = (artifact.type, artifact.name, artifact.version)
            same = [
                a.artifact.id
                for a in self.sink.artifacts.values()
                if (a.artifact.type, a.artifact.name, a.artifact.version) == slot
            ]
            target = same[0] if same else self.sink.new_id("artifact-")
            if not self.caps.native("aliases"):
                artifact = replace(artifact, aliases=[])
            if not self.caps.native("linked_metrics"):
                artifact = replace(artifact, metrics=[])
            self.sink.artifacts[target] = ArtifactData(replace(artifact, id=target, extra={}), held)
        link = replace(use, artifact=target)
        if link not in self.kept.run.artifacts:
            self._update(artifacts=[*self.kept.run.artifacts, link])
        return target

    def finish(self, run: Run, mark: str | None) -> None:
        self.sink.faults("writer.finish")
        _refuse(fit_run(run, self.caps).losses)
        here = self.kept.run
        self.kept.run = replace(
            run,
            id=self.run_id,
            experiment=here.experiment,
            params=here.params | run.params,
            tags=here.tags | run.tags,
            labels=list(dict.fromkeys([*here.labels, *run.labels])),
            datasets=here.datasets + [use for use in run.datasets if use not in here.datasets],
            artifacts=here.artifacts + [use for use in run.artifacts if use not in here.artifacts],
            # What only the run's own platform has, another one does not keep.
            native_status=None,
            modified_at=None,
            url=None,
            extra={},
        )
        self.kept.mark = mark
        self.sink.done(self.kept)

    def abort(self) -> None:
        self.sink.faults("writer.abort")


def _refuse(losses: Iterable[Loss], kinds: set[str] | None = None) -> None:
    for loss in losses:
        if kinds is None or loss.kind in kinds:
            raise Rejected(f"not fitted to the target: {loss.detail} ({loss.example or loss.concept})")
