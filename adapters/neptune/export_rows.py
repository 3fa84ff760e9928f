"""Columnar reading of the exporter's long table (`neptune_exporter/model.py`), part by part.

Memory is bounded by `BATCH` rows of one part; row groups without a wanted type are not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...errors import Corrupt, Vanished
from .. import batches
from .export_layout import Entity
from .records import SCALARS, Attribute, Attributes

BATCH = 131_072
"""Rows read at a time."""

FILE_TYPES = frozenset({"file", "file_set", "file_series", "artifact"})
_SERIES_VALUES = {
    "float_series": "float_value",
    "string_series": "string_value",
    "histogram_series": "histogram_value",
}
SERIES = frozenset(_SERIES_VALUES)
KNOWN = SCALARS | FILE_TYPES | SERIES

_MICRO = 1_000_000
_STEP = pa.decimal128(18, 6)
_VALUES = {
    "int": "int_value", "float": "float_value", "string": "string_value", "bool": "bool_value",
    "datetime": "datetime_value", "string_set": "string_set_value",
}  # fmt: skip
_REQUIRED = ("project_id", "run_id", "attribute_path", "attribute_type", "step", "timestamp")


def damaged(path: Path, error: Exception) -> Corrupt:
    return Corrupt(
        f"{path.name} cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
        hint="restore that file from a backup of the export, or leave its run out with --where",
    )


def _open(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(
            path, read_dictionary=["run_id", "project_id", "attribute_path", "attribute_type"]
        )
    except FileNotFoundError as error:
        raise Vanished(f"{path.name} is gone since it was listed", hint="run the command again") from error
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error
    missing = [name for name in _REQUIRED if name not in file.schema_arrow.names]
    if missing:
        file.close()
        raise damaged(path, ValueError(f"it has no column {', '.join(missing)}: not a Neptune export"))
    return file


def _holds(group: pq.RowGroupMetaData, index: int, wanted: Iterable[str]) -> bool:
    statistics = group.column(index).statistics
    if statistics is None or not statistics.has_min_max:
        return True
    return any(statistics.min <= kind <= statistics.max for kind in wanted)


def rows(
    path: Path, wanted: frozenset[str], columns: Iterable[str], run: str | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of those attribute types (and, where told, of that run), in file order.

    Raises `Corrupt` for a damaged file, `Vanished` for one that is gone.
    """
    with _open(path) as file:
        index = file.schema_arrow.get_field_index("attribute_type")
        groups = [n for n in range(file.num_row_groups) if _holds(file.metadata.row_group(n), index, wanted)]
        names = ["run_id", "attribute_path", "attribute_type", *columns]
        try:
            for batch in file.iter_batches(BATCH, row_groups=groups, columns=names, use_threads=False):
                batch = _only(batch, "attribute_type", wanted)
                if run is not None:
                    batch = _only(batch, "run_id", frozenset((run,)))
                if batch.num_rows:
                    yield batch
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from error


def _only(batch: pa.RecordBatch, name: str, wanted: frozenset[str]) -> pa.RecordBatch:
    column = batch.column(name)
    words = column.dictionary.to_pylist()
    if not column.null_count and all(word in wanted for word in words):
        return batch
    keep = pa.array([word in wanted for word in words] or [False])
    return batch.filter(pc.take(keep, column.indices))


def identity(entity: Entity) -> tuple[str, str] | None:
    """(project, run id) from the first readable row, or None."""
    for path in entity.parts:
        with _open(path) as file:
            for batch in file.iter_batches(1, columns=["project_id", "run_id"], use_threads=False):
                row = batch.to_pylist()[0]
                return str(row["project_id"]), str(row["run_id"])
    return None


def micro_steps(column: pa.Array) -> npt.NDArray[np.int64]:
    """Steps as whole millionths; 0 where null. A decimal(18, 6) fits 64 bits, its low half."""
    if column.type != _STEP:
        column = pc.cast(column, _STEP)
    raw = np.frombuffer(column.buffers()[1], dtype=np.int64)
    low = raw[2 * column.offset : 2 * (column.offset + len(column)) : 2]
    if column.null_count:
        low = np.where(column.is_null().to_numpy(zero_copy_only=False), 0, low)
    result: npt.NDArray[np.int64] = low
    return result


def steps(column: pa.Array, *, whole: bool) -> pa.Array:
    """Steps as int64 (`whole`) or float64, null kept."""
    micro = micro_steps(column)
    mask = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    values = micro // _MICRO if whole else micro / _MICRO
    return pa.array(values, mask=mask)


def keys(column: pa.DictionaryArray, names: dict[str, str]) -> pa.DictionaryArray:
    """The column as `batches.KEY` with only the words that occur, renamed; `names` grows with new words."""
    indices = column.indices.to_numpy(zero_copy_only=False)
    words = column.dictionary.to_pylist()
    used = np.flatnonzero(np.bincount(indices, minlength=len(words)))
    place = np.zeros(len(words), dtype=np.int32)
    place[used] = np.arange(len(used), dtype=np.int32)
    return pa.DictionaryArray.from_arrays(
        pa.array(place[indices]), pa.array([names.get(words[n], words[n]) for n in used], pa.string())
    )


@dataclass(slots=True)
class Scan:
    """What one pass over a run's rows tells, without keeping its points."""

    attributes: Attributes = field(default_factory=dict)
    last: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Float series → its highest step (millionths) and the value there."""
    lengths: dict[str, int] = field(default_factory=dict)
    """Float series → its number of points."""
    texts: int = 0
    histograms: int = 0
    files: int = 0
    fractional: int = 0
    nonfinite: int = 0
    densities: set[str] = field(default_factory=set)
    """Histogram series whose values are densities, not counts."""
    unknown: dict[str, int] = field(default_factory=dict)
    """Attribute types that this release does not know → rows."""


def scan(entity: Entity, run: str) -> Scan:
    """One pass over a run. Raises `Corrupt`, with what could be read so far in `partial`."""
    result = Scan()
    for path in entity.parts:
        for batch in _typed(path, run):
            _count(batch, result)
    # The 3.x exporter writes every attribute of a batch of runs for every run, null where it is not
    # there; the 2.x exporter writes only what is there, so its null float is a NaN.
    native = result.attributes.get("sys/id")
    if native is None or native.value != run:
        result.attributes = {
            path: attribute for path, attribute in result.attributes.items() if attribute.value is not None
        }
    else:
        result.attributes = {
            path: Attribute("float", float("nan"))
            if attribute.type == "float" and attribute.value is None
            else attribute
            for path, attribute in result.attributes.items()
            if attribute.value is not None or attribute.type == "float"
        }
    return result


def _typed(path: Path, run: str) -> Iterator[pa.RecordBatch]:
    """Narrow columns for series, all value columns for scalars, so that long texts are not read."""
    with _open(path) as file:
        known = {str(word) for word in _types(file, path)}
    yield from rows(path, frozenset({"float_series"}), ("step", "float_value"), run)
    yield from rows(path, SCALARS, _VALUES.values(), run)
    rest = frozenset(known - SCALARS - {"float_series"})
    if rest:
        columns = ("step", "histogram_value.type") if "histogram_series" in rest else ("step",)
        yield from rows(path, rest, columns, run)


def _types(file: pq.ParquetFile, path: Path) -> set[str]:
    found: set[str] = set()
    try:
        for batch in file.iter_batches(BATCH * 8, columns=["attribute_type"], use_threads=False):
            found.update(w for w in batch.column(0).dictionary.to_pylist() if w is not None)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error
    return found


def _count(batch: pa.RecordBatch, result: Scan) -> None:
    column = batch.column("attribute_type")
    types = column.dictionary.to_pylist()
    counts = np.bincount(column.indices.to_numpy(zero_copy_only=False), minlength=len(types))
    present = {str(kind): int(count) for kind, count in zip(types, counts, strict=True) if count}
    if "float_value" in batch.schema.names and "step" in batch.schema.names:
        _count_points(batch, result)
    elif "int_value" in batch.schema.names:
        for row in batch.to_pylist():
            kind = str(row["attribute_type"])
            result.attributes[str(row["attribute_path"])] = Attribute(kind, row[_VALUES[kind]])
    else:
        if "histogram_value" in batch.schema.names:
            dense = pc.equal(pc.struct_field(batch.column("histogram_value"), "type"), "DENSITY")
            found = batch.column("attribute_path").filter(pc.fill_null(dense, False)).unique()
            result.densities.update(found.to_pylist())
        for kind, count in present.items():
            if kind == "string_series":
                result.texts += count
            elif kind == "histogram_series":
                result.histograms += count
            elif kind in FILE_TYPES:
                result.files += count
            else:
                result.unknown[kind] = result.unknown.get(kind, 0) + count


def _count_points(batch: pa.RecordBatch, result: Scan) -> None:
    """Last value, length, fractional steps and non-finite values of each series, without a Python row."""
    column = batch.column("attribute_path")
    codes = column.indices.to_numpy(zero_copy_only=False)
    micro = micro_steps(batch.column("step"))
    values = batch.column("float_value").fill_null(float("nan")).to_numpy(zero_copy_only=False)
    result.fractional += int(np.count_nonzero(micro % _MICRO))
    result.nonfinite += int(np.count_nonzero(~np.isfinite(values)))
    order = np.argsort(codes, kind="stable")
    ordered, sorted_codes = micro[order], codes[order]
    starts = np.flatnonzero(np.r_[True, sorted_codes[1:] != sorted_codes[:-1]])
    sizes = np.diff(np.r_[starts, len(codes)])
    highest = np.maximum.reduceat(ordered, starts)
    rank = np.where(ordered == np.repeat(highest, sizes), np.arange(len(codes)), -1)
    final = order[np.maximum.reduceat(rank, starts)]
    words = column.dictionary.to_pylist()
    for code, step, row, size in zip(sorted_codes[starts], highest, final, sizes, strict=True):
        key = str(words[code])
        result.lengths[key] = result.lengths.get(key, 0) + int(size)
        if key not in result.last or int(step) >= result.last[key][0]:
            result.last[key] = (int(step), float(values[row]))


Named = tuple[pa.DictionaryArray, pa.Array, pa.Array, pa.Array]
"""Keys, steps, times, values."""


def _series(
    entity: Entity, run: str, kind: str, names: dict[str, str], *, whole: bool = False
) -> Iterator[Named]:
    column = _SERIES_VALUES[kind]
    for path in entity.parts:
        for batch in rows(path, frozenset({kind}), ("step", "timestamp", column), run):
            yield (
                keys(batch.column("attribute_path"), names),
                steps(batch.column("step"), whole=whole),
                pc.cast(batch.column("timestamp"), batches.TIME),
                batch.column(column),
            )


def points(entity: Entity, run: str, names: dict[str, str], *, whole: bool) -> Iterator[pa.RecordBatch]:
    """Every point as `batches.POINTS` (or with float steps); a null value is a NaN."""
    schema = batches.POINTS if whole else batches.POINTS_FLOAT_STEPS
    for *named, values in _series(entity, run, "float_series", names, whole=whole):
        yield pa.record_batch([*named, values.fill_null(float("nan"))], schema=schema)


def texts(entity: Entity, run: str, names: dict[str, str]) -> Iterator[pa.RecordBatch]:
    for *named, values in _series(entity, run, "string_series", names):
        told = pc.cast(values.fill_null(""), pa.large_string())
        yield pa.record_batch([*named, told], schema=batches.TEXTS)


def histograms(entity: Entity, run: str, names: dict[str, str]) -> Iterator[pa.RecordBatch]:
    for *named, values in _series(entity, run, "histogram_series", names):
        split = [pc.struct_field(values, name) for name in ("edges", "values")]
        yield pa.record_batch([*named, *split], schema=batches.HISTOGRAMS)


def file_rows(entity: Entity, run: str) -> Iterator[dict[str, Any]]:
    """One dict a file: attribute_path, attribute_type, step (float or None), timestamp, path."""
    for path in entity.parts:
        for batch in rows(path, FILE_TYPES, ("step", "timestamp", "file_value"), run):
            for row in batch.to_pylist():
                value = row.pop("file_value") or {}
                step = row["step"]
                yield row | {"path": value.get("path"), "step": None if step is None else float(step)}
