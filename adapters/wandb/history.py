"""W&B history rows → canonical batches. The inverse of `rows`, for logs, API rows and Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ...model import File
from .. import batches
from .layout import HIDDEN_COLUMNS, STEP_COLUMN, TIME_COLUMN, unescape_key
from .rows import NO_TIME, Ints
from .values import EPOCH, micros

FRAME_ROWS = 20_000
MEDIA = "wandb"
"""Entry of a file's metadata: the cell of the history that points at it."""
SPECIAL = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
"""How W&B's API spells non-finite numbers."""

Column = tuple[Ints, pa.Array]
"""Row numbers and values."""


class Frame:
    """Some history rows by column: numbers apart from everything else."""

    def __init__(self, rows: int) -> None:
        self.step = np.zeros(rows, np.int64)
        self.time = np.full(rows, NO_TIME, np.int64)
        self.own_step: dict[int, str] = {}
        self.own_times: dict[int, str] = {}
        self.numbers: dict[str, Column] = {}
        self.others: dict[str, tuple[list[int], list[Any]]] = {}
        """Column → row numbers and decoded JSON values."""

    def set_meta(self, columns: Mapping[str, tuple[Iterable[int], Iterable[Any]]]) -> None:
        """Fill steps and times from the hidden columns (decoded values)."""
        for row, value in zip(*columns.get("_step", ((), ())), strict=True):
            self.step[row] = int(value)
        for row, value in zip(*columns.get("_timestamp", ((), ())), strict=True):
            if value is not None:
                self.time[row] = round(float(value) * 1e6)
        for name, target in ((STEP_COLUMN, self.own_step), (TIME_COLUMN, self.own_times)):
            for row, value in zip(*columns.get(name, ((), ())), strict=True):
                if value is not None:
                    target[row] = str(value)

    # --- the rows' steps and times, cell by cell ---

    def _steps(self, fractional: bool) -> pa.Array:
        kind = pa.float64() if fractional else pa.int64()
        if not self.own_step:
            return pa.array(self.step).cast(kind)
        null = np.zeros(len(self.step), dtype=bool)
        steps = self.step.astype(np.float64) if fractional else self.step.copy()
        for row, text in self.own_step.items():
            null[row] = text == ""
            if text:
                steps[row] = float(text) if fractional or not text.lstrip("-").isdigit() else int(text)
        return pa.array(steps, kind, mask=null)

    def _cell_times(self) -> dict[str, Ints]:
        """Column → time of each of its cells, where rows tell the times of their cells."""
        columns = {**{k: c[0] for k, c in self.numbers.items()}, **_merge(self.numbers, self.others)}
        times = {key: self.time[np.asarray(rows, np.int64)] for key, rows in columns.items()}
        if not self.own_times:
            return times
        rows_told = np.array(sorted(self.own_times), np.int64)
        split = pc.split_pattern(pa.array([self.own_times[r] for r in rows_told.tolist()]), ",")
        lengths = pc.list_value_length(split).to_numpy()
        starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        texts = split.flatten()
        missing = pc.equal(texts, "").to_numpy(zero_copy_only=False)
        offsets = pc.cast(pc.if_else(pa.array(missing), "0", texts), pa.int64()).to_numpy()
        place = np.full(len(self.step), -1, np.int64)
        place[rows_told] = np.arange(len(rows_told))
        present = np.zeros(len(self.step), np.int64)
        for rows in columns.values():
            present[rows] += 1
        # A row that was edited no longer matches its list of times; its own time is then used.
        place[rows_told[present[rows_told] != lengths]] = -1
        seen = np.zeros(len(self.step), np.int64)
        for key in sorted(columns, key=lambda k: k.encode("utf-8", "surrogatepass")):
            rows = np.asarray(columns[key], np.int64)
            told = place[rows] >= 0
            index = starts[place[rows[told]]] + seen[rows[told]]
            base = self.time[rows[told]]
            values = np.where(base == NO_TIME, 0, base) + offsets[index]
            times[key][told] = np.where(missing[index], NO_TIME, values)
            seen[rows] += 1
        return times

    def batches(
        self, fractional: bool, text_keys: frozenset[str]
    ) -> Iterator[tuple[str, pa.RecordBatch | list[Cell]]]:
        """("points", batch), then ("others", cells) for what is not a number."""
        steps, times = self._steps(fractional), self._cell_times()
        points: list[tuple[str, Ints, pa.Array]] = []
        others: list[Cell] = []
        step_list = steps.to_pylist() if self.others else []
        for key in sorted({*self.numbers, *self.others}):
            order = times[key]
            if key in self.numbers:
                rows, values = self.numbers[key]
                points.append((key, rows, values))
            if key in self.others:
                their_rows, their_values = self.others[key]
                offset = len(self.numbers[key][0]) if key in self.numbers else 0
                for i, (row, value) in enumerate(zip(their_rows, their_values, strict=True)):
                    time = int(order[offset + i])
                    own = unescape_key(key)
                    others.append((own, step_list[row], None if time == NO_TIME else time, value))
        if points:
            yield "points", _points(points, steps, times, fractional)
        if others:
            yield "others", others


Cell = tuple[str, Any, int | None, Any]
"""Series key, step, time in microseconds, decoded JSON value."""


def _merge(
    numbers: Mapping[str, Column], others: Mapping[str, tuple[list[int], list[Any]]]
) -> dict[str, npt.NDArray[np.int64]]:
    """Row numbers of the columns that hold anything but numbers: numbers first, then the rest."""
    merged = {}
    for key, (rows, _) in others.items():
        first = numbers[key][0] if key in numbers else np.empty(0, np.int64)
        merged[key] = np.concatenate([first, np.asarray(rows, np.int64)])
    return merged


def _points(
    columns: list[tuple[str, Ints, pa.Array]], steps: pa.Array, times: dict[str, Ints], fractional: bool
) -> pa.RecordBatch:
    sizes = [len(rows) for _, rows, _ in columns]
    index = np.repeat(np.arange(len(columns), dtype=np.int32), sizes)
    every_row = np.concatenate([rows for _, rows, _ in columns])
    time = np.concatenate([times[key][: len(rows)] for key, rows, _ in columns])
    names = pa.array([unescape_key(key) for key, _, _ in columns], pa.string())
    return pa.record_batch(
        [
            pa.DictionaryArray.from_arrays(pa.array(index), names),
            steps.take(pa.array(every_row)),
            pa.array(time, mask=time == NO_TIME).cast(batches.TIME),
            pa.concat_arrays([values for _, _, values in columns]),
        ],
        schema=batches.POINTS_FLOAT_STEPS if fractional else batches.POINTS,
    )


# --- frames from the three forms that history is read in ---------------------------------------


def from_json_columns(rows: int, columns: Mapping[str, tuple[list[int], list[str]]]) -> Frame:
    """From the JSON text of each cell, by column (transaction logs)."""
    frame = Frame(rows)
    frame.set_meta({k: (r, map(json.loads, v)) for k, (r, v) in columns.items() if k in HIDDEN_COLUMNS})
    for key, (index, texts) in columns.items():
        if key in HIDDEN_COLUMNS:
            continue
        try:
            values = pc.cast(pa.array(texts, pa.string()), pa.float64())
        except pa.ArrowInvalid:
            _add_values(frame, key, index, (json.loads(text) for text in texts), frozenset({key}))
        else:
            frame.numbers[key] = (np.asarray(index, np.int64), values)
    return frame


def from_rows(rows: list[dict[str, Any]], text_keys: frozenset[str]) -> Frame:
    """From decoded rows (`scan_history`). There a NaN is the text "NaN", unless its key is a text."""
    columns: dict[str, tuple[list[int], list[Any]]] = {}
    for number, row in enumerate(rows):
        for key, value in row.items():
            if value is not None:
                index, values = columns.setdefault(key, ([], []))
                index.append(number)
                values.append(value)
    frame = Frame(len(rows))
    frame.set_meta({key: columns[key] for key in HIDDEN_COLUMNS if key in columns})
    for key, (index, values) in columns.items():
        if key not in HIDDEN_COLUMNS:
            _add_values(frame, key, index, values, text_keys)
    return frame


def from_table(table: pa.Table, text_keys: frozenset[str]) -> Frame:
    """From an exported Parquet table; an absent cell is null, a NaN is a NaN."""
    frame = Frame(table.num_rows)
    meta: dict[str, tuple[list[int], list[Any]]] = {}
    for key in table.column_names:
        column = table.column(key).combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        if column.null_count == len(column):
            continue
        present = column.is_valid()
        index = np.flatnonzero(present.to_numpy(zero_copy_only=False))
        held = column.drop_null()
        if key == "_step":
            frame.step[index] = held.cast(pa.int64()).to_numpy()
        elif key == "_timestamp":
            seconds = held.cast(pa.float64()).to_numpy()
            frame.time[index] = np.round(seconds * 1e6).astype(np.int64)
        elif key in HIDDEN_COLUMNS:
            if key in (STEP_COLUMN, TIME_COLUMN):
                meta[key] = (index.tolist(), held.to_pylist())
        elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            frame.numbers[key] = (index, held.cast(pa.float64(), safe=False))
        else:
            _add_values(frame, key, index.tolist(), held.to_pylist(), text_keys)
    frame.set_meta(meta)
    return frame


def _add_values(
    frame: Frame, key: str, index: Iterable[int], values: Iterable[Any], text_keys: frozenset[str]
) -> None:
    """Sort one column's decoded values into numbers and others; nested mappings become own columns."""
    split: dict[str, tuple[list[int], list[float]]] = {}
    for row, value in zip(index, values, strict=True):
        for name, leaf in _leaves(key, value):
            if leaf is None:
                continue
            if isinstance(leaf, str) and leaf in SPECIAL and unescape_key(name) not in text_keys:
                leaf = SPECIAL[leaf]
            if isinstance(leaf, bool | int | float):
                rows, numbers = split.setdefault(name, ([], []))
                rows.append(row)
                numbers.append(float(leaf))
            else:
                rows, others = frame.others.setdefault(name, ([], []))
                rows.append(row)
                others.append(leaf)
    for name, (rows, numbers) in split.items():
        frame.numbers[name] = (np.asarray(rows, np.int64), pa.array(numbers, pa.float64(), from_pandas=False))


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A logged mapping is one series per leaf, named `key.sub` as W&B shows it."""
    if isinstance(value, dict) and value and "_type" not in value:
        for sub, inner in value.items():
            yield from _leaves(f"{key}.{sub}", inner)
    else:
        yield key, value


# --- texts and histograms out of the cells that are no numbers ---------------------------------


def as_texts(cells: Iterable[Cell]) -> pa.RecordBatch | None:
    """The cells that are texts; other JSON than media and histograms is kept as its text."""
    rows = [
        (key, step, time, value if isinstance(value, str) else json.dumps(value))
        for key, step, time, value in cells
        if not (isinstance(value, dict) and "_type" in value)
    ]
    return texts_batch(rows) if rows else None


def texts_batch(rows: list[tuple[str, Any, int | None, str]]) -> pa.RecordBatch:
    keys, steps, times, texts = zip(*rows, strict=True)
    return pa.record_batch(
        [
            pa.array(keys, pa.string()).dictionary_encode(),
            pa.array([None if s is None else float(s) for s in steps], pa.float64()),
            pa.array(times, pa.int64()).cast(batches.TIME),
            pa.array(texts, pa.large_string()),
        ],
        schema=batches.TEXTS,
    )


def as_histograms(cells: Iterable[Cell]) -> pa.RecordBatch | None:
    """The cells that are histograms, in either of W&B's two forms."""
    rows = []
    for key, step, time, value in cells:
        if isinstance(value, dict) and value.get("_type") == "histogram" and (bins := _bins(value)):
            counts = [float(v) for v in value.get("values", ())]
            if len(bins) == len(counts) + 1:
                rows.append((key, step, time, bins, counts))
    if not rows:
        return None
    keys, steps, times, edges, every_count = zip(*rows, strict=True)
    return pa.record_batch(
        [
            pa.array(keys, pa.string()).dictionary_encode(),
            pa.array([None if s is None else float(s) for s in steps], pa.float64()),
            pa.array(times, pa.int64()).cast(batches.TIME),
            pa.array(edges, pa.list_(pa.float64())),
            pa.array(every_count, pa.list_(pa.float64())),
        ],
        schema=batches.HISTOGRAMS,
    )


def _bins(value: Mapping[str, Any]) -> list[float]:
    """`bins`, or `packedBins` (min, size, count), which the uploader writes for even ones."""
    if isinstance(packed := value.get("packedBins"), dict):
        low, size, count = float(packed["min"]), float(packed["size"]), int(packed["count"])
        return [low + size * i for i in range(count + 1)]
    return [float(SPECIAL.get(b, b)) for b in value.get("bins", ())]


def media(cells: Iterable[Cell]) -> Iterator[File]:
    """The run files that cells point at, with W&B's description of them; their sizes are not told."""
    for key, step, time, value in cells:
        if not isinstance(value, dict) or "_type" not in value or value["_type"] == "histogram":
            continue
        names = value.get("filenames")
        for path in [value.get("path"), *(names if isinstance(names, list) else ())]:
            if isinstance(path, str):
                yield File(
                    path=path,
                    key=key,
                    step=None if step is None else float(step),
                    created_at=None if time is None else EPOCH + timedelta(microseconds=time),
                    metadata={MEDIA: value},
                )


def media_cell(file: File) -> tuple[str, Any, int | None, str] | None:
    """The cell, as JSON, that pointed at a run file; None for a file that none has pointed at."""
    value = file.metadata.get(MEDIA)
    if file.key is None or not isinstance(value, Mapping) or "_type" not in value:
        return None
    time = None if file.created_at is None else micros(file.created_at)
    return file.key, file.step, time, json.dumps(value, sort_keys=True)
