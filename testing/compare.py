"""Comparing what a source shows with what `outgrow.testing.drive` says must come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from ..adapters.base import Concept, Sink, Source
from ..adapters.batches import Fingerprint
from ..adapters.fit_stream import STREAMS, fingerprint
from ..adapters.merge import same
from ..model import File, RegisteredModel, Run
from .drive import Expected, ExpectedRun, add_columns, sha256_of

# Field of Run → the concept that holds it. None: every platform has it.
FIELDS: dict[str, Concept | None] = {
    "name": None,
    "status": None,
    "experiment": "experiments",
    "exit_code": "exit_code",
    "created_at": "created_at",
    "started_at": "started_at",
    "ended_at": "ended_at",
    "duration": "duration",
    "user": "user",
    "deleted": "deleted",
    "parent": "parent",
    "fork": "fork",
    "group": "group",
    "job_type": "job_type",
    "sweep": "sweep",
    "description": "description",
    "tags": "tags",
    "labels": "labels",
    "params": "params",
    "summary": "summary",
    "datasets": "datasets",
    "code": "code",
    "environment": "environment",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that came back otherwise than the capabilities promise."""

    aspect: str
    """`run.<field>`, `points`, `texts`, `histograms`, `files`, `artifacts`, `registry`, `experiments`."""
    text: str


def compare(expected: Expected, source: Source, sink: Sink) -> list[Difference]:
    """Everything that the source shows otherwise than expected. What else is there is not looked at."""
    found: list[Difference] = []
    caps = sink.capabilities
    held: dict[str, Run] = {}
    for experiment in source.experiments():
        if (wanted := expected.experiments.get(experiment.id)) is not None:
            if caps.native("experiments") and experiment.name != wanted.name:
                found.append(Difference("experiments", f"name {experiment.name!r}, not {wanted.name!r}"))
            if caps.native("experiment_tags") and experiment.tags != wanted.tags:
                found.append(Difference("experiments", f"tags {experiment.tags!r}, not {wanted.tags!r}"))
        for run in source.runs(experiment):
            if run.id in expected.runs:
                if run.id in held:
                    found.append(Difference("run", f"run {run.id!r} is listed twice"))
                held[run.id] = run
    for run_id, wanted_run in expected.runs.items():
        if run_id not in held:
            found.append(Difference("run", f"run {run_id!r} is not there"))
        else:
            found += _run_differences(wanted_run, held[run_id], source, caps.native)
    models: dict[tuple[str, str], RegisteredModel] = {}
    if expected.models:
        models = {(model.kind, model.name): model for model in source.registry()}
    for slot, model in expected.models.items():
        found += _model_differences(model, models.get(slot), caps.native)
    return found


def _run_differences(
    expected: ExpectedRun, run: Run, source: Source, native: Callable[[Concept], bool]
) -> Iterator[Difference]:
    for name, concept in FIELDS.items():
        if concept is None or native(concept):
            wanted, got = getattr(expected.run, name), getattr(run, name)
            if name == "labels":
                wanted, got = sorted(wanted), sorted(got)
            if name == "datasets":
                wanted, got = ([replace(use, extra={}) for use in uses] for uses in (wanted, got))
            if not same(wanted, got):
                yield Difference(f"run.{name}", short(wanted, got))
    if run.origin is None or expected.run.origin is None:
        yield Difference("run.origin", f"{run.origin}, not {expected.run.origin}")
    elif run.origin.identity != expected.run.origin.identity:
        yield Difference("run.origin", f"{run.origin.identity}, not {expected.run.origin.identity}")
    for stream, wanted_print in expected.streams.items():
        got_print, columns = Fingerprint(), Fingerprint()
        for batch in getattr(source, stream)(run):
            fingerprint(stream, batch, got_print)
            if stream == "points":
                add_columns(batch, columns)
        if got_print.by_key != wanted_print.by_key:
            keys = [k for k in wanted_print.by_key.keys() | got_print.by_key.keys()
                    if wanted_print.by_key.get(k) != got_print.by_key.get(k)]  # fmt: skip
            counts = {
                k: (wanted_print.by_key.get(k, (0,))[0], got_print.by_key.get(k, (0,))[0])
                for k in sorted(keys)
            }
            yield Difference(stream, f"key: (expected rows, rows): {str(counts)[:400]}")
        elif stream == "points" and columns.by_key != expected.columns.by_key:
            yield Difference("points.columns", "epoch or context of points differ")
    if native("files"):
        yield from _file_differences("files", expected.files, source.files(run), run, source)
    if native("artifacts"):
        yield from _artifact_differences(expected, run, source, native)


def _file_differences(
    aspect: str, expected: Mapping[str, str], files: Iterable[File], run: Run, source: Source
) -> Iterator[Difference]:
    got: dict[str, str] = {}
    for file in files:
        if file.path in got:
            yield Difference(aspect, f"{file.path!r} is listed twice")
        got[file.path] = file.reference or sha256_of(source.open(run, file))
        if file.reference is None and file.sha256 not in (None, got[file.path]):
            yield Difference(aspect, f"{file.path!r} is declared with SHA-256 {file.sha256}")
    for path in expected.keys() | got.keys():
        if expected.get(path) != got.get(path):
            yield Difference(aspect, f"{path!r}: {got.get(path)}, not {expected.get(path)}")


def _artifact_differences(
    expected: ExpectedRun, run: Run, source: Source, native: Callable[[Concept], bool]
) -> Iterator[Difference]:
    wanted_links = {(use.artifact, use.role) for _, use, _ in expected.artifacts.values()}
    links = {(use.artifact, use.role) for use in run.artifacts}
    if wanted_links != links:
        yield Difference("artifacts", short(sorted(wanted_links), sorted(links)))
    for artifact in source.artifacts(run):
        if artifact.id not in expected.artifacts:
            continue
        wanted, _, files = expected.artifacts[artifact.id]
        names = ["name", "type", "created_by"] + ["aliases"] * native("aliases")
        names += ["metrics"] * native("linked_metrics")
        for name in names:
            if not same(getattr(wanted, name), getattr(artifact, name)):
                text = short(getattr(wanted, name), getattr(artifact, name))
                yield Difference("artifacts", f"{artifact.id}: {name}: {text}")
        yield from _file_differences("artifacts", files, source.artifact_files(artifact), run, source)


def _model_differences(
    wanted: RegisteredModel, got: RegisteredModel | None, native: Callable[[Concept], bool]
) -> Iterator[Difference]:
    if got is None:
        yield Difference("registry", f"{wanted.kind} {wanted.name!r} is not there")
        return
    versions = {version.version: version for version in got.versions}
    order = [v.version for v in got.versions if v.version in {w.version for w in wanted.versions}]
    if order != [v.version for v in wanted.versions]:
        yield Difference("registry", f"{wanted.name!r}: versions {order}")
    for version in wanted.versions:
        here = versions.get(version.version)
        if here is None:
            continue
        names = ["run", "artifact", "tags", "description"]
        names += ["stage"] * native("stages") + ["created_at"] * native("registry_times")
        pairs = [(name, getattr(version, name), getattr(here, name)) for name in names]
        if native("registry_aliases"):
            pairs.append(("aliases", sorted(version.aliases), sorted(here.aliases)))
        for name, one, other in pairs:
            if not same(one, other):
                yield Difference(
                    "registry", f"{wanted.name!r} {version.version}: {name}: {short(one, other)}"
                )


def short(wanted: object, got: object) -> str:
    """What came back and what should have; of mappings only the keys that differ."""
    if isinstance(wanted, Mapping) and isinstance(got, Mapping):
        keys = [
            k
            for k in wanted.keys() | got.keys()
            if k not in wanted or k not in got or not same(wanted[k], got[k])
        ]
        wanted, got = ({k: part.get(k, "(absent)") for k in keys} for part in (wanted, got))
    return f"{str(got)[:300]}, not {str(wanted)[:300]}"


def read_all(source: Source, run: Run) -> object:
    """Everything of one run, in a comparable form."""
    streams = {s: sum(batch.num_rows for batch in getattr(source, s)(run)) for s in STREAMS}
    prints = Fingerprint.of(source.points(run)).by_key
    contents = {}
    for file in source.files(run):
        if file.reference is None:
            with source.open(run, file) as stream:
                contents[file.path] = stream.read()
    artifacts = {a.id: sorted(f.path for f in source.artifact_files(a)) for a in source.artifacts(run)}
    return streams, prints, contents, artifacts
