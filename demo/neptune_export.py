"""Writes directories as the vendor's exporter does, from its schema, for tests and benchmarks.

The schema and layout are those of neptune-exporter (`model.py`, `storage/parquet_writer.py`).
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("project_id", pa.string()),
        ("run_id", pa.string()),
        ("attribute_path", pa.string()),
        ("attribute_type", pa.string()),
        ("step", pa.decimal128(18, 6)),
        ("timestamp", pa.timestamp("ms", tz="UTC")),
        ("int_value", pa.int64()),
        ("float_value", pa.float64()),
        ("string_value", pa.string()),
        ("bool_value", pa.bool_()),
        ("datetime_value", pa.timestamp("ms", tz="UTC")),
        ("string_set_value", pa.list_(pa.string())),
        ("file_value", pa.struct([("path", pa.string())])),
        (
            "histogram_value",
            pa.struct(
                [("type", pa.string()), ("edges", pa.list_(pa.float64())), ("values", pa.list_(pa.float64()))]
            ),
        ),
    ]
)
START = datetime(2025, 11, 3, 9, 30, 15, 250_000, tzinfo=UTC)
COLUMNS = {
    "int": "int_value",
    "float": "float_value",
    "string": "string_value",
    "bool": "bool_value",
    "datetime": "datetime_value",
    "string_set": "string_set_value",
    "float_series": "float_value",
    "string_series": "string_value",
    "histogram_series": "histogram_value",
    "file": "file_value",
    "file_series": "file_value",
    "file_set": "file_value",
    "artifact": "file_value",
}


def sanitized(name: str) -> str:
    digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    return "".join(c if c.isalnum() or c in "_-" else "_" for c in name) + "-" + digest


def quantized(step: float | None) -> Decimal | None:
    return None if step is None else Decimal(repr(step)).quantize(Decimal("0.000001"))


@dataclass
class RunExport:
    """Collects the rows of one run, model or model version, then writes its part files."""

    root: Path
    project: str
    run: str
    scope: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    batches: list[pa.RecordBatch] = field(default_factory=list)
    parts: list[Path] = field(default_factory=list)

    @property
    def _data(self) -> Path:
        base = self.root / ("model_data" if self.scope else "data") / sanitized(self.project)
        return base / self.scope if self.scope else base

    @property
    def files(self) -> Path:
        return self.root / ("model_files" if self.scope else "files") / sanitized(self.project)

    def row(
        self, path: str, kind: str, value: Any, step: float | None = None, time: datetime | None = None
    ) -> None:
        self.rows.append(
            {
                "project_id": self.project,
                "run_id": self.run,
                "attribute_path": path,
                "attribute_type": kind,
                "step": quantized(step),
                "timestamp": time,
                COLUMNS[kind]: value,
            }
        )

    def flush(self) -> None:
        """The rows so far become a batch: the exporter writes parameters, series and files apart."""
        if self.rows:
            self.batches.append(pa.RecordBatch.from_pylist(self.rows, schema=SCHEMA))
            self.rows = []

    def sys(self, **values: Any) -> None:
        kinds = {
            bool: "bool",
            int: "int",
            float: "float",
            str: "string",
            datetime: "datetime",
            list: "string_set",
        }
        for name, value in values.items():
            self.row("sys/" + name.replace("__", "/"), kinds[type(value)], value)

    def series(
        self, path: str, steps: Sequence[float], values: Sequence[float | None], start: datetime = START
    ) -> None:
        for n, (step, value) in enumerate(zip(steps, values, strict=True)):
            self.row(path, "float_series", value, step, start + timedelta(seconds=n))

    def bulk(self, keys: Sequence[str], points: int, seed: int = 0, start: datetime = START) -> None:
        """`points` points of each key, made as columns: one row group."""
        self.flush()
        count = len(keys) * points
        micro = np.tile(np.arange(points, dtype=np.int64) * 1_000_000, len(keys))
        decimal = np.zeros(2 * count, dtype=np.int64)
        decimal[::2] = micro
        step = pa.Array.from_buffers(pa.decimal128(18, 6), count, [None, pa.py_buffer(decimal.tobytes())])
        millis = int(start.timestamp() * 1000) + np.tile(np.arange(points, dtype=np.int64) * 100, len(keys))
        columns: dict[str, Any] = {
            "project_id": pa.array([self.project]).take(pa.array(np.zeros(count, np.int32))),
            "run_id": pa.array([self.run]).take(pa.array(np.zeros(count, np.int32))),
            "attribute_path": pa.array(list(keys)).take(pa.array(np.repeat(np.arange(len(keys)), points))),
            "attribute_type": pa.array(["float_series"]).take(pa.array(np.zeros(count, np.int32))),
            "step": step,
            "timestamp": pa.array(millis).cast(pa.timestamp("ms", tz="UTC")),
            "float_value": pa.array(np.random.default_rng(seed).standard_normal(count)),
        }
        arrays = [columns.get(f.name, pa.nulls(count, f.type)) for f in SCHEMA]
        self.batches.append(pa.record_batch(arrays, schema=SCHEMA))

    def file(
        self, path: str, content: bytes, where: str, kind: str = "file", step: float | None = None,
        time: datetime | None = None,
    ) -> None:  # fmt: skip
        """A file whose bytes are put at `where`, relative to the project's files."""
        target = self.files / where
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        self.row(path, kind, {"path": where}, step, time)

    def file_set(self, path: str, members: dict[str, bytes], where: str) -> None:
        folder = self.files / where
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / "files.zip", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        self.row(path, "file_set", {"path": where})

    def artifact(self, path: str, entries: list[dict[str, Any]], where: str) -> None:
        self.file(path, json.dumps(entries).encode(), f"{where}/files_list.json", "artifact")

    def roll(self) -> None:
        """What is collected becomes a part file, and is no longer held."""
        self.flush()
        self._data.mkdir(parents=True, exist_ok=True)
        path = self._data / f"{sanitized(self.run)}_part_{len(self.parts)}.parquet"
        with pq.ParquetWriter(path, SCHEMA, compression="snappy") as writer:
            for batch in self.batches:
                writer.write_batch(batch)
        self.parts.append(path)
        self.batches = []

    def write(self, *, rows_per_part: int | None = None) -> list[Path]:
        """The part files; `rows_per_part` rolls over as the exporter does by size."""
        self.flush()
        collected, self.batches = self.batches, []
        for batch in collected:
            size = rows_per_part or batch.num_rows
            for piece in (batch.slice(start, size) for start in range(0, batch.num_rows, size)):
                if rows_per_part and sum(b.num_rows for b in self.batches) >= rows_per_part:
                    self.roll()
                self.batches.append(piece)
        self.roll()
        return self.parts


def complete_run(root: Path, project: str = "ws/vision", run: str = "azure-fox", **sys: Any) -> RunExport:
    """A 3.x run with every attribute type, not yet written."""
    made = RunExport(root, project, run)
    made.sys(
        **{
            "id": "VIS-7", "custom_run_id": run, "name": "resnet", "creation_time": START,
            "modification_time": START + timedelta(hours=3), "owner": "ada", "running_time": 3600.5,
            "state": "Inactive", "tags": ["baseline", "v2"], "group_tags": ["ablation"],
            "description": "First try", "failed": False,
        }
        | sys
    )  # fmt: skip
    made.row("params/lr", "float", 1e-5)
    made.row("params/epochs", "int", 2**40)
    made.row("params/amp", "bool", True)
    made.row("params/optimizer", "string", "adamw")
    made.row("params/deadline", "datetime", START + timedelta(days=1, milliseconds=1))
    made.row("params/layers", "string_set", ["conv", "attention"])
    made.row("params/absent", "float", None)  # the 3.x exporter writes every attribute for every run
    made.flush()
    made.series("train/loss", [0, 1, 2, 3], [1.5, 0.5, None, float("inf")])
    made.series("train/fine", [0.1, 0.25, 1.333333], [1.0, 2.0, 3.0])
    made.series("monitoring/0a1b2c3d/cpu", [0, 1], [10.0, 20.0])
    made.flush()
    made.row("notes", "string_series", "hello", 0, START)
    made.row("notes", "string_series", "wörld\n", 0.5, START + timedelta(seconds=1))
    made.row("runtime/stdout", "string_series", "line 1", 0, START)
    made.row(
        "grads",
        "histogram_series",
        {"type": "COUNTING", "edges": [0.0, 1.0, 2.0], "values": [3.0, 4.0]},
        1,
        START,
    )
    made.flush()
    made.file("model/weights", b"\x00\x01weights", f"{run}/model/weights.bin")
    made.file("pred", b"png0", f"{run}/pred/step_0_000000.png", "file_series", 0.0, START)
    made.file("pred", b"png1", f"{run}/pred/step_1_500000.png", "file_series", 1.5, START)
    return made
