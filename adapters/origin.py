"""The origin record: what a run was before it was copied, attached to the copy as files.

A copied run holds, under `outgrow/` among its files:

- `origin.json`: the original record and the record as it was written, the original names of
  metrics, params, tags, files and artifacts, and what the target did not hold;
- `points.parquet`, `texts.parquet`, `histograms.parquet`: the original rows of those series that
  the target does not hold exactly. Absent where it holds all.

`adapters.restored` reads them back. The format's version is `FORMAT`; a higher one is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Corrupt, SchemaVersionError
from ..model import (
    Artifact,
    ArtifactUse,
    Experiment,
    File,
    Origin,
    RegisteredModel,
    Run,
    from_builtins,
    from_json,
    to_builtins,
)
from .base import ORIGIN_FOLDER, Capabilities
from .fit import FittedRun, KeyMap, Loss
from .fit_stream import Stream

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
Names = dict[str, dict[str, str]]
"""`metrics`, `params`, `tags` → original name → written name, where they differ."""
RECORD_PATH = f"{ORIGIN_FOLDER}/origin.json"

# What of the capabilities decides how points, texts and histograms were fitted.
_STREAM_LIMITS = (
    "float_steps",
    "negative_steps",
    "null_steps",
    "repeated_steps",
    "decreasing_steps",
    "exact_duplicates",
    "point_times",
    "null_point_times",
    "times_before_1970",
    "max_points_per_series",
    "step_decimals",
    "max_step",
    "max_text",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of the original run, and where its bytes are in the copy."""

    file: File
    path: str | None
    """None: they are not there (a reference, or a refused path)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArtifact:
    """An artifact version that the original run made or used."""

    artifact: Artifact
    use: ArtifactUse
    id: str | None
    """Its id on the copy's platform; None where its files are loose files of the copy."""
    files: list[StoredFile] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRecord:
    """What was written of one stream."""

    rows: int = 0
    """Rows of the original."""
    keys: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Key in the copy → rows written, and their order-free hash (hex)."""
    attached: list[str] = field(default_factory=list)
    """Original keys whose original rows are in the Parquet file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryEntry:
    """A registered model with the versions that point at this run."""

    name: str
    """Its name on the copy's platform."""
    model: RegisteredModel


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginRecord:
    """Everything that `adapters.restored` needs to give the original back."""

    format: int = FORMAT
    origin: Origin
    run: Run
    """As the source gave it; ids are the source's."""
    fitted: Run
    """As it was written; ids are the target's."""
    held: dict[str, bool] = field(default_factory=dict)
    """Concepts with a place on the copy's platform, and whether that place is lossless."""
    limits: dict[str, Any] = field(default_factory=dict)
    nonfinite: list[str] = field(default_factory=list)
    point_columns: list[str] = field(default_factory=list)
    experiment: Experiment
    fitted_experiment: Experiment
    parent: str | None = None
    """Identity of the parent run."""
    names: Names = field(default_factory=dict)
    """Original → written, where they differ."""
    made_points: dict[str, float] = field(default_factory=dict)
    """Summary values that have no series, written as one point: original key → value."""
    files: list[StoredFile] = field(default_factory=list)
    artifacts: list[StoredArtifact] = field(default_factory=list)
    streams: dict[Stream, StreamRecord] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)
    registry: list[RegistryEntry] = field(default_factory=list)

    def capabilities(self) -> Capabilities:
        """What decided how the streams were fitted."""
        return Capabilities(
            **self.limits,
            nonfinite=frozenset(self.nonfinite),
            point_columns=frozenset(self.point_columns),
        )

    def keys(self) -> KeyMap:
        """The metric keys' names in the copy, by their original ones."""
        keys = KeyMap(Capabilities().metric_key)
        keys.names.update(self.names.get("metrics", {}))
        return keys


def holding(caps: Capabilities) -> dict[str, Any]:
    """The fields of an `OriginRecord` that tell what the target holds."""
    return {
        "held": {concept: hold.lossless for concept, hold in caps.holds.items()},
        "limits": {name: getattr(caps, name) for name in _STREAM_LIMITS},
        "nonfinite": sorted(caps.nonfinite),
        "point_columns": sorted(caps.point_columns),
    }


def renamed(run: Run, fitted: FittedRun, caps: Capabilities) -> Names:
    """Original → written names, where they differ. Complete once every stream has been fitted."""
    return {
        "metrics": fitted.keys.changed,
        "params": KeyMap(caps.param_key, run.params).changed,
        "tags": KeyMap(caps.tag_key, run.tags).changed,
    }


def encode(record: OriginRecord) -> bytes:
    """The record as the bytes of `origin.json`; equal records have equal bytes."""
    text = json.dumps(to_builtins(record), sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def decode(data: bytes, what: str) -> OriginRecord:
    """The inverse of `encode`; `what` names the run in errors.

    Raises `SchemaVersionError` for a record of a later release, `Corrupt` for a damaged one.
    """
    with suppress(ValueError, TypeError):  # many times as fast; what it does not take is looked at below
        record = from_json(data.decode(), OriginRecord)
        if record.format <= FORMAT:
            return record
    try:
        plain = json.loads(data.decode("utf-8", "surrogatepass"))
        version = plain["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(
            f"the origin record of {what} is damaged: {error}",
            hint=f"copy the run again from its origin, or remove its folder {ORIGIN_FOLDER}/ to copy it as it is",
        ) from error
    if not isinstance(version, int) or version > FORMAT:
        raise SchemaVersionError(
            f"the origin record of {what} has format {version}; this release knows up to {FORMAT}",
            hint="upgrade outgrow",
        )
    try:
        return from_builtins(plain, OriginRecord)
    except (ValueError, TypeError) as error:
        raise Corrupt(
            f"the origin record of {what} does not have the shape of format {version}: {error}",
            hint=f"copy the run again from its origin, or remove its folder {ORIGIN_FOLDER}/ to copy it as it is",
        ) from error


def stream_path(stream: Stream) -> str:
    """Path of a stream's Parquet file among the copy's files."""
    return f"{ORIGIN_FOLDER}/{stream}.parquet"


def is_origin_file(path: str) -> bool:
    return path == ORIGIN_FOLDER or path.startswith(f"{ORIGIN_FOLDER}/")


def write_rows(stream: Iterable[pa.RecordBatch], keys: set[str] | None, path: Path) -> bool:
    """Write those keys' rows (None: all) as Parquet; False (and no file) where there are none."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    wanted = None if keys is None else pa.array(sorted(keys), pa.string())
    writer: pq.ParquetWriter | None = None
    try:
        for batch in stream:
            if wanted is not None:
                batch = batch.filter(pc.is_in(pc.cast(batch.column("key"), pa.string()), wanted))
            if not batch.num_rows:
                continue
            if writer is None:
                writer = pq.ParquetWriter(path, batch.schema, compression="zstd")
            table = pa.Table.from_batches([batch]).select(
                [name for name in writer.schema.names if name in batch.schema.names]
            )
            writer.write_table(table.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()
    return writer is not None


def read_rows(path: Path, what: str) -> Iterator[pa.RecordBatch]:
    """The rows of a stream's Parquet file. Raises `Corrupt`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, read_dictionary=["key"], pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=65_536):
                yield with_key_type(batch)
    except (pa.ArrowException, OSError) as error:
        raise Corrupt(
            f"the original rows of {what} ({path.name}) are damaged: {error}",
            hint="copy the run again from its origin",
        ) from error


def with_key_type(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with its keys as `batches.KEY`."""
    import pyarrow.compute as pc

    from .batches import KEY

    if batch.schema.field("key").type == KEY:
        return batch
    index = batch.schema.get_field_index("key")
    return batch.set_column(index, "key", pc.cast(batch.column(index), KEY))


def made_points(summary: Mapping[str, float], run: Run) -> pa.RecordBatch:
    """Summary values that have no series, as one point each: step 0, at the run's end."""
    from . import batches

    time = run.ended_at or run.started_at or run.created_at
    return batches.points(
        list(summary), [0] * len(summary), [time] * len(summary), [float(v) for v in summary.values()]
    )


def stream_record(
    rows: int, written: Mapping[str, tuple[int, int]], attached: Iterable[str] = ()
) -> StreamRecord:
    """From the fingerprint of what was written."""
    keys = {key: (count, f"{bits:016x}") for key, (count, bits) in sorted(written.items())}
    return StreamRecord(rows=rows, keys=keys, attached=sorted(attached))
