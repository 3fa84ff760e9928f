"""Points ↔ Comet's metric messages, columnar both ways (`offline-metric-msg.schema.json` of the SDK).

A message is one line of an archive's `messages.json`; a value that is not finite is the text
`NaN`, `Infinity` or `-Infinity`, as the SDK writes it (`comet_ml.convert_utils.fix_special_floats`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from ...errors import Corrupt
from ...model import SYSTEM_PREFIX
from .. import batches

_NATIVE_SYSTEM = "sys."

_STRINGS = pa.string()
_QUOTED_NUMBER = re.compile(rb'"metricValue":\s*(-?\d[-+.eE\d]*)')
_FRACTION = re.compile(rb'"step":\s*-?\d+(?:\.\d*[1-9]|[.\d]*[eE]-)')
_EPOCH = re.compile(rb'"epoch":\s*-?\d')
_CONTEXT = re.compile(rb'"context":\s*"')


def native_key(key: str) -> str:
    """`system/cpu` → `sys.cpu`. A key that already looks native is escaped with a second dot."""
    if key.startswith(SYSTEM_PREFIX) and not key.startswith(f"{SYSTEM_PREFIX}."):
        return _NATIVE_SYSTEM + key.removeprefix(SYSTEM_PREFIX)
    if key.startswith(_NATIVE_SYSTEM):
        return _NATIVE_SYSTEM + "." + key.removeprefix(_NATIVE_SYSTEM)
    return key


def canonical_key(name: str) -> str:
    """The inverse of `native_key`."""
    if name.startswith(_NATIVE_SYSTEM + "."):
        return _NATIVE_SYSTEM + name.removeprefix(_NATIVE_SYSTEM + ".")
    if name.startswith(_NATIVE_SYSTEM):
        return SYSTEM_PREFIX + name.removeprefix(_NATIVE_SYSTEM)
    return name


@dataclass(slots=True)
class Shape:
    """What a run's points look like, so that all of its batches have one schema."""

    count: int = 0
    fractional: bool = False
    epoch: bool = False
    context: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    """Points of each key."""
    last: dict[str, float] = field(default_factory=dict)
    """The newest value of each key, which is what Comet shows."""

    def summarise(self, batch: pa.RecordBatch) -> None:
        """Learn counts and newest values from points that were read."""
        self.count += batch.num_rows
        words = batch.column("key").dictionary.to_pylist()
        index = batch.column("key").indices.to_numpy(zero_copy_only=False)
        values = batch.column("value").to_numpy(zero_copy_only=False)
        counts = np.bincount(index, minlength=len(words))
        newest = np.zeros(len(words), dtype=np.int64)
        newest[index] = np.arange(len(index))  # of repeated places the last assignment stays
        for word, count, place in zip(words, counts, newest, strict=True):
            self.counts[word] = self.counts.get(word, 0) + int(count)
            self.last[word] = float(values[place])

    def see(self, lines: bytes) -> None:
        """Learn from metric messages as bytes."""
        self.fractional = self.fractional or bool(_FRACTION.search(lines))
        self.epoch = self.epoch or bool(_EPOCH.search(lines))
        self.context = self.context or bool(_CONTEXT.search(lines))

    def see_batch(self, batch: pa.RecordBatch) -> None:
        """Learn from points that are being written."""
        self.count += batch.num_rows
        steps = batch.column("step")
        if not self.fractional and pa.types.is_floating(steps.type):
            self.fractional = bool(pc.any(pc.not_equal(pc.floor(steps), steps)).as_py())
        for name in ("epoch", "context"):
            if name in batch.schema.names and batch.column(name).null_count < batch.num_rows:
                setattr(self, name, True)


# --- writing ----------------------------------------------------------------------------------


def _keys_as_json(column: pa.DictionaryArray) -> pa.Array:
    words = [json.dumps(native_key(str(word))) for word in column.dictionary.to_pylist()]
    return pc.take(pa.array(words, _STRINGS), column.indices)


def _values_as_json(values: pa.Array) -> pa.Array:
    text = pc.cast(values, _STRINGS)
    if pc.all(pc.is_finite(values)).as_py():
        return text
    text = pc.if_else(pc.is_nan(values), '"NaN"', text)
    text = pc.if_else(pc.equal(values, np.inf), '"Infinity"', text)
    return pc.if_else(pc.equal(values, -np.inf), '"-Infinity"', text)


def _optional(batch: pa.RecordBatch, name: str) -> pa.Array | str:
    if name not in batch.schema.names:
        return "null"
    column = batch.column(name)
    if pa.types.is_dictionary(column.type):
        words = [json.dumps(str(word)) for word in column.dictionary.to_pylist()]
        column = pc.take(pa.array(words, _STRINGS), column.indices)
    return pc.fill_null(pc.cast(column, _STRINGS), "null")


def in_milliseconds(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The points with the times that Comet keeps, so that they compare equal to what it has."""
    raw = pc.cast(batch.column("time"), pa.int64())
    floored = pc.subtract(raw, pa.array(raw.fill_null(0).to_numpy() % 1000))
    index = batch.schema.get_field_index("time")
    return batch.set_column(index, "time", pc.cast(floored, batches.TIME))


def encode(batch: pa.RecordBatch) -> bytes:
    """Points as lines of `messages.json`. Times become whole milliseconds; none may be null."""
    if not batch.num_rows:
        return b""
    if batch.column("time").null_count:
        raise ValueError("a Comet point needs a time")
    steps = batch.column("step")
    milliseconds = pc.cast(batch.column("time"), pa.int64()).to_numpy() // 1000
    lines = pc.binary_join_element_wise(
        '{"payload":{"context":',
        _optional(batch, "context"),
        ',"local_timestamp":',
        pc.cast(pa.array(milliseconds), _STRINGS),
        ',"metric":{"epoch":',
        _optional(batch, "epoch"),
        ',"metricName":',
        _keys_as_json(batch.column("key")),
        ',"metricValue":',
        _values_as_json(batch.column("value")),
        ',"step":',
        pc.fill_null(pc.cast(steps, _STRINGS), "null"),
        '}},"type":"metric_msg"}\n',
        "",
    )
    return _joined(lines)


def _joined(lines: pa.StringArray) -> bytes:
    """The texts of an array end to end: its data buffer, without a Python object a row."""
    offsets = np.frombuffer(lines.buffers()[1], dtype=np.int32)[lines.offset :][: len(lines) + 1]
    return memoryview(lines.buffers()[2])[int(offsets[0]) : int(offsets[-1])].tobytes()


# --- reading ----------------------------------------------------------------------------------


def _schema(step: pa.DataType, value: pa.DataType) -> pa.Schema:
    metric = [
        ("epoch", pa.float64()),
        ("metricName", _STRINGS),
        ("metricValue", value),
        ("step", step),
    ]
    payload = [("context", _STRINGS), ("local_timestamp", pa.int64()), ("metric", pa.struct(metric))]
    return pa.schema([("payload", pa.struct(payload))])


def _parsed(lines: bytes, step: pa.DataType, value: pa.DataType) -> pa.RecordBatch:
    table = pj.read_json(
        pa.BufferReader(lines),
        read_options=pj.ReadOptions(use_threads=False, block_size=len(lines) + 1),
        parse_options=pj.ParseOptions(
            explicit_schema=_schema(step, value), unexpected_field_behavior="ignore"
        ),
    )
    return table.combine_chunks().to_batches()[0]


def decode(lines: bytes, shape: Shape) -> pa.RecordBatch:
    """Lines of metric messages as points. Raises `Corrupt` where they are not what the SDK writes."""
    step = pa.float64() if shape.fractional else pa.int64()
    error: Exception | None = None
    # The fast form first; then integral steps written `3.0`; then values that are text.
    for kind, number, text in (
        (step, pa.float64(), lines),
        (pa.float64(), pa.float64(), lines),
        (pa.float64(), _STRINGS, None),
    ):
        if text is None:
            text = _QUOTED_NUMBER.sub(rb'"metricValue":"\1"', lines)
        try:
            return _as_points(_parsed(text, kind, number), step, shape)
        except pa.ArrowInvalid as problem:
            error = problem
    raise Corrupt(f"a metric message is damaged: {str(error)[:200]}")


def _as_points(parsed: pa.RecordBatch, step: pa.DataType, shape: Shape) -> pa.RecordBatch:
    payload = parsed.column("payload")
    metric = pc.struct_field(payload, "metric")
    names = pc.struct_field(metric, "metricName")
    values = pc.cast(pc.struct_field(metric, "metricValue"), pa.float64())
    if names.null_count or values.null_count:
        raise pa.ArrowInvalid("a metric without a name or a value")
    times = pc.struct_field(payload, "local_timestamp")
    return assemble(
        names,
        pc.cast(pc.struct_field(metric, "step"), step),
        times,
        values,
        pc.struct_field(metric, "epoch") if shape.epoch else None,
        pc.struct_field(payload, "context") if shape.context else None,
    )


def assemble(
    names: pa.Array,
    steps: pa.Array,
    milliseconds: pa.Array,
    values: pa.Array,
    epochs: pa.Array | None,
    contexts: pa.Array | None,
) -> pa.RecordBatch:
    """A batch of points from Comet's columns; `milliseconds` are int64 since 1970 UTC."""
    encoded = names.dictionary_encode()
    words = pa.array([canonical_key(word) for word in encoded.dictionary.to_pylist()], _STRINGS)
    keys = pc.take(words, encoded.indices).dictionary_encode()
    times = pc.cast(pc.cast(milliseconds, pa.timestamp("ms", tz="UTC")), batches.TIME)
    columns: dict[str, pa.Array] = {"key": keys, "step": steps, "time": times, "value": values}
    if epochs is not None:
        columns["epoch"] = pc.cast(epochs, pa.int64(), safe=False)
    if contexts is not None:
        columns["context"] = contexts.dictionary_encode()
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def from_metrics(name: str, metrics: Sequence[dict[str, Any]], shape: Shape) -> pa.RecordBatch:
    """The answer of `experiment/metrics/get-metric` for one metric as points.

    The server gives the values of one metric at a time, as JSON, at most 15,000 of them.
    """
    step = pa.float64() if shape.fractional else pa.int64()
    return assemble(
        pa.array([name] * len(metrics), _STRINGS),
        pa.array([_step(m.get("step"), shape.fractional) for m in metrics], step),
        pa.array([m.get("timestamp") for m in metrics], pa.int64()),
        pc.cast(pa.array([str(m["metricValue"]) for m in metrics], _STRINGS), pa.float64()),
        pa.array([m.get("epoch") for m in metrics], pa.float64()) if shape.epoch else None,
        pa.array([m.get("runContext") for m in metrics], _STRINGS) if shape.context else None,
    )


def _step(step: float | None, fractional: bool) -> float | int | None:
    return step if step is None or fractional else int(step)
