"""A small, plain copy: writes a source through a sink as the engine does, and says what must come back.

What is expected is what `adapters.fit` says of the sink's own capabilities, so a sink is held to
its declaration and to nothing else. There is no origin record, no parallelism and no retry here:
`outgrow.migrate` has those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import pyarrow as pa

from ..adapters.base import Copy, RunWriter, Sink, Source
from ..adapters.batches import Fingerprint
from ..adapters.fit import FittedRun, KeyMap, fit_experiment, fit_model, fit_run
from ..adapters.fit_stream import STREAMS, Sampler, Stream, StreamFitter, coalesce
from ..adapters.paths import checked
from ..adapters.replay import Replay, row_hashes
from ..errors import Corrupt
from ..model import Artifact, ArtifactUse, Experiment, File, Origin, RegisteredModel, Run

Rows = Callable[[Stream, Copy], Iterable[pa.RecordBatch]]
"""The rows of a run's stream that the target has already; for sinks whose replay is `append`."""


@dataclass(slots=True)
class ExpectedRun:
    """What must be read back of one run."""

    run: Run
    """With the target's ids."""
    streams: dict[Stream, Fingerprint]
    columns: Fingerprint
    """Of the points with every column that the target keeps, `epoch` and `context` too."""
    files: dict[str, str]
    """Path → SHA-256, or the reference."""
    artifacts: dict[str, tuple[Artifact, ArtifactUse, dict[str, str]]]
    """Target id → record, use, files."""


@dataclass(slots=True)
class Expected:
    """What must be read back of everything that was written."""

    experiments: dict[str, Experiment] = field(default_factory=dict)
    runs: dict[str, ExpectedRun] = field(default_factory=dict)
    """By target id."""
    models: dict[tuple[str, str], RegisteredModel] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    """Hostile paths that were not written."""


def write(
    source: Source, sink: Sink, *, mark: str | None = "mark-1", target_rows: Rows | None = None
) -> Expected:
    """Write everything; a run that is there already is taken up. Flushes at the end."""
    return _Driver(source, sink, mark, target_rows).run()


def parents_first(runs: Iterable[Run]) -> list[Run]:
    """The runs, no child before its parent, where that can be."""
    waiting = {run.id: run for run in runs}
    ordered: dict[str, Run] = {}
    while waiting:
        ready = [run for run in waiting.values() if run.parent not in waiting] or list(waiting.values())[:1]
        for run in ready:
            ordered[run.id] = waiting.pop(run.id)
    return list(ordered.values())


class _Driver:
    def __init__(self, source: Source, sink: Sink, mark: str | None, target_rows: Rows | None) -> None:
        self.source, self.sink, self.mark, self.target_rows = source, sink, mark, target_rows
        self.caps = sink.capabilities
        self.expected = Expected()
        self.run_ids: dict[str, str] = {}
        self.artifact_ids: dict[str, str] = {}
        self.artifact_files: dict[str, dict[str, str]] = {}

    def run(self) -> Expected:
        experiments: dict[str, str] = {}
        runs: list[Run] = []
        for experiment in self.source.experiments():
            fitted, _ = fit_experiment(experiment, self.caps)
            here = self.sink.experiment(fitted)
            experiments[experiment.id] = here
            self.expected.experiments[here] = fitted
            runs += self.source.runs(experiment)
        for run in parents_first(runs):
            self._run(run, experiments[run.experiment])
        self.sink.flush()
        for model in self.source.registry():
            self._model(model)
        self.sink.flush()
        return self.expected

    def _run(self, run: Run, experiment: str) -> None:
        origin = run.origin or Origin(platform=self.source.location.platform, run_id=run.id)
        existing = self.sink.find(origin.identity)
        fitted = fit_run(run, self.caps)
        fork = fitted.run.fork
        target = replace(
            fitted.run,
            experiment=experiment,
            parent=self.run_ids.get(fitted.run.parent or ""),
            fork=replace(fork, run=self.run_ids[fork.run]) if fork and fork.run in self.run_ids else None,
            artifacts=[],
            origin=None,
        )
        writer = self.sink.begin(target, origin, existing)
        self.run_ids[run.id] = writer.run_id
        if target.params:
            writer.params(target.params)
        if target.tags or target.labels:
            writer.tags(target.tags, target.labels)
        if target.datasets:
            writer.datasets(target.datasets)
        columns = Fingerprint()
        streams = {
            stream: self._stream(stream, run, fitted, writer, existing, columns)
            for stream in STREAMS
            if self.caps.native(stream)
        }
        files = self._files(run, writer)
        artifacts = self._artifacts(run, writer)
        writer.finish(replace(target, artifacts=[use for _, use, _ in artifacts.values()]), self.mark)
        self.expected.runs[writer.run_id] = ExpectedRun(
            replace(target, id=writer.run_id, origin=origin), streams, columns, files, artifacts
        )

    def _stream(
        self,
        stream: Stream,
        run: Run,
        fitted: FittedRun,
        writer: RunWriter,
        existing: Copy | None,
        columns: Fingerprint,
    ) -> Fingerprint:
        read = getattr(self.source, stream)
        limit = self.caps.max_points_per_series
        sampler = Sampler(read(run), limit) if stream == "points" and limit else None
        fitter = StreamFitter(stream, fitted, self.caps, sampler or None)
        known = Replay()
        if existing is not None and self.caps.replay == "append" and self.target_rows is not None:
            known = Replay(self.target_rows(stream, existing))
        for batch in coalesce(map(fitter, read(run)), self.caps.batch_points):
            if stream == "points":
                add_columns(batch, columns)
            fresh = known.new(batch)
            if fresh.num_rows:
                getattr(writer, stream)(fresh)
        return fitter.written

    def _listed(self, files: Iterable[File]) -> Iterator[tuple[File, str]]:
        clean: list[File] = []
        for file in files:
            try:
                checked(file.path)
            except Corrupt:
                self.expected.refused.append(file.path)
            else:
                if file.reference is None or self.caps.native("references"):
                    clean.append(file)
        names = KeyMap(self.caps.file_path, [file.path for file in clean])
        for file in clean:
            yield file, names(file.path)

    def _files(self, run: Run, writer: RunWriter) -> dict[str, str]:
        if not self.caps.native("files"):
            return {}
        written: dict[str, str] = {}
        for file, path in self._listed(self.source.files(run)):
            target = replace(file, path=path)
            if file.reference is not None:
                writer.file(target, None)
                written[path] = file.reference
                continue
            written[path] = sha256_of(self.source.open(run, file))
            with self.source.open(run, file) as stream:
                writer.file(target, stream)
        return written

    def _artifacts(
        self, run: Run, writer: RunWriter
    ) -> dict[str, tuple[Artifact, ArtifactUse, dict[str, str]]]:
        written: dict[str, tuple[Artifact, ArtifactUse, dict[str, str]]] = {}
        if not self.caps.native("artifacts"):
            return written
        for artifact, use in zip(self.source.artifacts(run), run.artifacts, strict=True):
            if use.role == "input" and not self.caps.native("artifact_inputs"):
                continue
            target = replace(
                artifact,
                created_by=self.run_ids.get(artifact.created_by or ""),
                metrics=[replace(m, run=self.run_ids.get(m.run or "")) for m in artifact.metrics],
            )
            files: dict[str, str] = {}
            link = replace(use, artifact=self.artifact_ids.get(artifact.id, use.artifact))
            here = writer.artifact(target, link, self._artifact_files(run, artifact, files))
            self.artifact_ids[artifact.id] = here
            known = self.artifact_files.setdefault(here, files)  # a sink need not take files that it has
            written[here] = target, replace(use, artifact=here), files or known
        return written

    def _artifact_files(
        self, run: Run, artifact: Artifact, written: dict[str, str]
    ) -> Iterator[tuple[File, BinaryIO | None]]:
        for file, path in self._listed(self.source.artifact_files(artifact)):
            if file.reference is not None:
                written[path] = file.reference
                yield replace(file, path=path), None
            else:
                written[path] = sha256_of(self.source.open(run, file))
                with self.source.open(run, file) as stream:
                    yield replace(file, path=path), stream

    def _model(self, model: RegisteredModel) -> None:
        if not self.caps.native("prompts" if model.kind == "prompt" else "registry"):
            return
        fitted, _ = fit_model(model, self.caps)
        versions = [
            replace(
                version,
                run=self.run_ids.get(version.run or ""),
                artifact=self.artifact_ids.get(version.artifact or ""),
            )
            for version in fitted.versions
        ]
        numbers = self.sink.register(replace(fitted, versions=versions))
        kept = [replace(v, version=numbers[v.origin_version]) for v in versions]
        self.expected.models[fitted.kind, fitted.name] = replace(fitted, versions=kept)


def add_columns(batch: pa.RecordBatch, into: Fingerprint) -> None:
    """Add points to a fingerprint with all their columns."""
    if batch.num_rows:
        into.add_rows(batch, row_hashes(batch.drop_columns(["key"])))


def sha256_of(stream: BinaryIO) -> str:
    with stream:
        digest = hashlib.sha256()
        while block := stream.read(2**20):
            digest.update(block)
        return digest.hexdigest()
