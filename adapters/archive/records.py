"""Canonical records ↔ rows of the record tables, and the ids that records get in an archive."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ...errors import Corrupt
from ...model import (
    Artifact,
    EvaluationDataset,
    Experiment,
    File,
    ModelVersion,
    Origin,
    R,
    RegisteredModel,
    Run,
    Trace,
    Value,
    from_json,
    to_builtins,
)
from ..fit import text_of, type_name
from .bulk import Tally
from .tables import Row

T = TypeVar("T", Experiment, ModelVersion)


def text(record: Any) -> str:
    """JSON in ASCII, so that text which is not valid Unicode survives as well."""
    return json.dumps(to_builtins(record), allow_nan=False)


def load(data: str, kind: type[R], what: str) -> R:
    """Raises `Corrupt` that names the record."""
    try:
        return from_json(data, kind)
    except ValueError as error:
        raise Corrupt(f"{what} cannot be read: {error}", hint="restore the archive from a backup") from error


def plain(value: str | None) -> str | None:
    """Text that Arrow can hold: what is not valid Unicode is replaced. The record keeps the original."""
    return None if value is None else value.encode("utf-8", "replace").decode()


def _short(*parts: str) -> str:
    joined = json.dumps(parts)
    return hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def experiment_id(experiment: Experiment) -> str:
    """The id here: from the source's id and name, so that equal names of two platforms stay two.

    The same experiment gets the same id from every writer, without a look at what is here.
    """
    origin = experiment.extra.get("outgrow", {}).get("origin")
    return f"experiment-{_short(str(origin or experiment.id), '' if origin else experiment.name)}"


def artifact_id(artifact: Artifact, origin: Origin) -> str:
    """The id here: the source's, under its platform, unless it already is."""
    prefix = f"{origin.platform}:"
    return artifact.id if artifact.id.startswith(prefix) else prefix + artifact.id


def experiment_row(here: Experiment, source_id: str) -> Row:
    return (
        here.id, plain(here.name), plain(source_id), plain(here.description), here.created_at,
        here.deleted, text(here),
    )  # fmt: skip


def url_of(run: Run) -> str | None:
    """Where the run is seen: at its origin, an archive has no pages."""
    return plain(run.url or (run.origin.url if run.origin else None))


def run_row(
    run: Run,
    experiment_name: str | None,
    mark: str | None,
    stats: Mapping[str, int | None],
    parts: Sequence[Mapping[str, Any]],
) -> Row:
    origin = run.origin or Origin(platform="archive", run_id=run.id)
    return (
        run.id, plain(run.name), run.status.value, run.experiment, plain(experiment_name),
        run.created_at, run.started_at, run.ended_at, run.duration, plain(run.user), run.parent,
        plain(run.group), plain(run.job_type), [plain(label) for label in run.labels], run.deleted,
        origin.platform, plain(origin.run_id), url_of(run), mark,
        *(stats[name] for name in STATS), list(parts), text(run),
    )  # fmt: skip


STATS = (
    "series", "points", "longest_series", "fractional_steps", "nonfinite", "texts", "histograms",
    "files", "file_bytes",
)  # fmt: skip


def stats_of(tally: Tally, files: Iterable[File]) -> dict[str, int | None]:
    listed = list(files)
    return {
        "series": len(tally.keys),
        "points": tally.keys.total(),
        "longest_series": max(tally.keys.values(), default=0),
        "fractional_steps": tally.fractional,
        "nonfinite": tally.nonfinite,
        "texts": tally.texts,
        "histograms": tally.histograms,
        "files": len(listed),
        "file_bytes": sum(file.size or 0 for file in listed),
    }


def _number(value: Value) -> float | None:
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return None
    return None


def param_rows(run: Run) -> list[Row]:
    return [
        (run.id, plain(key), type_name(value), plain(value if isinstance(value, str) else text_of(value)), _number(value))
        for key, value in run.params.items()
    ]  # fmt: skip


def metric_rows(run: Run, points: Mapping[str, int]) -> list[Row]:
    rows: list[Row] = []
    for key in dict.fromkeys([*run.summary, *points]):
        value = run.summary.get(key)
        number = _number(value)
        other = None if number is not None or value is None else plain(text_of(value))
        rows.append((run.id, plain(key), number, other, points.get(key)))
    return rows


def tag_rows(run: Run) -> list[Row]:
    return [(run.id, plain(key), plain(value)) for key, value in run.tags.items()]


def run_file_row(run: str, file: File) -> Row:
    return (
        run, plain(file.path), file.size, file.sha256, plain(file.reference), plain(file.media_type),
        plain(file.key), file.step, file.created_at, text(file),
    )  # fmt: skip


def artifact_row(artifact: Artifact, files: Sequence[File]) -> Row:
    return (
        artifact.id, plain(artifact.name), plain(artifact.type), plain(artifact.version),
        artifact.created_by, artifact.created_at, len(files), sum(f.size or 0 for f in files), text(artifact),
    )  # fmt: skip


def artifact_file_row(artifact: str, file: File) -> Row:
    return (
        artifact, plain(file.path), file.size, file.sha256, plain(file.reference), plain(file.media_type),
        file.created_at, text(file),
    )  # fmt: skip


def model_row(model: RegisteredModel) -> Row:
    return (
        plain(model.name), model.kind, plain(model.description), model.created_at,
        text(replace(model, versions=[])),
    )  # fmt: skip


def model_version_row(kind: str, version: ModelVersion) -> Row:
    return (
        plain(version.model), kind, plain(version.version), plain(version.origin_version), version.run,
        version.artifact, plain(version.stage), [plain(alias) for alias in version.aliases],
        version.created_at, text(version),
    )  # fmt: skip


def without_ours(record: T) -> T:
    """The record without what the copy engine put into its `extra`."""
    if "outgrow" not in record.extra:
        return record
    return replace(record, extra={k: v for k, v in record.extra.items() if k != "outgrow"})


def trace_row(trace: Trace, origin: str) -> Row:
    return (
        plain(trace.id), trace.experiment, trace.run, trace.started_at, trace.duration_ms,
        plain(trace.status), plain(origin), text(trace),
    )  # fmt: skip


def evaluation_dataset_row(dataset: EvaluationDataset) -> Row:
    return (plain(dataset.id), plain(dataset.name), plain(dataset.digest), dataset.created_at, text(dataset))
