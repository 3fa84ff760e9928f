"""The files of a `mlruns` directory: YAML records, texts named by their key, lines of metrics."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...errors import Corrupt
from ...model import Trace
from .. import batches
from . import extras

READ_ROWS = 100_000
"""Points a batch holds at least, but for the last; files are read in blocks."""
BLOCK = 4 << 20
LARGEST_TEXT = 4 << 20
"""Bytes of a record, a param or a tag; more is not read."""


class Folder:
    """A folder of the store. Symbolic links in it are not followed."""

    def __init__(self, path: Path, told: Callable[[str], None]) -> None:
        self.path, self.told = path, told

    @property
    def name(self) -> str:
        return self.path.name

    def __truediv__(self, name: str) -> Folder:
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\x00" in name:
            raise Corrupt(f"refused the name {name!r} found in {self.path}: it could reach outside the store")
        return Folder(self.path / name, self.told)

    def exists(self) -> bool:
        return self.path.is_dir() and not self.path.is_symlink()

    def folders(self) -> list[Folder]:
        try:
            with os.scandir(self.path) as entries:
                names = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [Folder(self.path / name, self.told) for name in sorted(names)]

    def files(self, sub: str) -> list[tuple[str, Path]]:
        """Key and path of each file below a sub-folder; a key may hold `/`."""
        root = self.path / sub
        found = []
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in names:
                path = Path(folder) / name
                if not path.is_symlink():
                    found.append((path.relative_to(root).as_posix(), path))
        return sorted(found)

    def texts(self, sub: str) -> dict[str, str]:
        """Key → text of each file below a sub-folder."""
        return {key: text for key, path in self.files(sub) if (text := self._text(path)) is not None}

    def yaml(self, name: str) -> dict[str, Any] | None:
        """A record; None where there is none, or none that can be read."""
        import yaml

        path = self.path / name
        if path.is_symlink() or not path.is_file() or (text := self._text(path)) is None:
            return None
        try:
            found = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (yaml.YAMLError, ValueError):
            found = None
        if not isinstance(found, dict):
            self.told(f"{path}: damaged, left out")
            return None
        return found

    def _text(self, path: Path) -> str | None:
        try:
            if path.stat().st_size > LARGEST_TEXT:
                self.told(f"{path}: larger than {LARGEST_TEXT} bytes, left out")
                return None
            # Not Path.read_text: it would turn \r\n into \n.
            return path.read_bytes().decode("utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            self.told(f"{path}: {error}, left out")
            return None


# --- metrics --------------------------------------------------------------------------------------


def metric_value(path: Path) -> float:
    """The value that MLflow shows: that of the largest (step, time, value)."""
    best = (-np.inf, -np.inf, -np.inf, float("nan"))
    for words in read_metric(path, (2, 3, 5), lambda _: None):
        step, time, value = _number(words)
        rank = (step, time, -np.inf if value != value else value)
        if rank >= best[:3]:
            best = (*rank, value)
    return best[3]


def _number(words: list[str]) -> tuple[int, int, float]:
    return int(words[2]) if len(words) > 2 else 0, int(words[0]), float(words[1])


def read_metric(path: Path, widths: tuple[int, ...], told: Callable[[str], None]) -> Iterator[list[str]]:
    """The lines of a metric file, as words; a line that makes no sense is told and left out."""
    with path.open("r", encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            words = line.split()
            if not words:
                continue
            try:
                if len(words) not in widths:
                    raise ValueError
                _number(words)
            except ValueError:
                told(f"{path}: line {number} is damaged, left out")
                continue
            yield words


def points(files: Iterable[tuple[str, Path]], told: Callable[[str], None]) -> Iterator[pa.RecordBatch]:
    """Every point of the metric files, as `batches.POINTS`, in the order of the files' lines."""
    pending: list[tuple[str, pa.Table]] = []
    rows = 0
    for key, path in files:
        for table in _tables(path, told):
            pending.append((key, table))
            rows += table.num_rows
            if rows >= READ_ROWS:
                yield _batch(pending)
                pending, rows = [], 0
    if rows:
        yield _batch(pending)


def _tables(path: Path, told: Callable[[str], None]) -> Iterator[pa.Table]:
    """Columns time, value, step of a file, block by block."""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            block += file.readline()
            yield _fast(block) or _careful(path, block, told)


def _fast(block: bytes) -> pa.Table | None:
    """All lines of three numbers, as MLflow has written them since 1.0; None where they are not."""
    import pyarrow.csv as csv

    try:
        return csv.read_csv(
            io.BytesIO(block),
            read_options=csv.ReadOptions(column_names=["time", "value", "step"], use_threads=False),
            parse_options=csv.ParseOptions(delimiter=" ", quote_char=False),
            convert_options=csv.ConvertOptions(
                column_types={"time": pa.int64(), "value": pa.float64(), "step": pa.int64()},
                null_values=[],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        return None


def _careful(path: Path, block: bytes, told: Callable[[str], None]) -> pa.Table:
    """Line by line: lines of 2 numbers (before steps), of 5 words (with a data set), or damaged."""
    times: list[int] = []
    values: list[float] = []
    steps: list[int] = []
    for line in block.decode("utf-8", "replace").splitlines():
        words = line.split()
        if not words:
            continue
        try:
            if len(words) not in (2, 3, 5):
                raise ValueError
            step, time, value = _number(words)
            np.array([step, time], np.int64)
        except (ValueError, OverflowError):
            told(f"{path}: the line {line[:60]!r} is damaged, left out")
            continue
        times.append(time)
        values.append(value)
        steps.append(step)
    return pa.table(
        [pa.array(times, pa.int64()), pa.array(values, pa.float64()), pa.array(steps, pa.int64())],
        names=["time", "value", "step"],
    )


def _batch(pending: list[tuple[str, pa.Table]]) -> pa.RecordBatch:
    words = list(dict.fromkeys(key for key, _ in pending))
    index = {word: i for i, word in enumerate(words)}
    indices = np.concatenate([np.full(t.num_rows, index[key], np.int32) for key, t in pending])
    whole = pa.concat_tables([t for _, t in pending]).combine_chunks()

    def column(name: str) -> pa.Array:
        chunks = whole.column(name)
        return chunks.chunk(0) if chunks.num_chunks == 1 else pa.concat_arrays(chunks.chunks)

    times = column("time").to_numpy(zero_copy_only=False) * 1_000
    return pa.record_batch(
        [
            pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(words, pa.string())),
            column("step"),
            pa.array(times).cast(batches.TIME),
            column("value"),
        ],
        schema=batches.POINTS,
    )


# --- traces ---------------------------------------------------------------------------------------


def trace(folder: Folder, experiment_id: str) -> Trace | None:
    """A trace of the file store; its spans are an artifact of its own."""
    info = folder.yaml("trace_info.yaml")
    if info is None:
        return None
    metadata = folder.texts("request_metadata")
    spans: list[dict[str, Any]] = []
    path = folder.path / "artifacts" / "traces.json"
    if path.is_file() and not path.is_symlink():
        try:
            spans = list(json.loads(path.read_bytes()).get("spans", []))
        except (ValueError, AttributeError):
            folder.told(f"{path}: damaged, the trace has no spans")
    started = info.get("request_time")
    facts = {name: str(info[name]) for name in extras.INFO if info.get(name) is not None}
    assessments = (folder / "assessments").path
    return Trace(
        id=str(info.get("trace_id") or info.get("request_id") or folder.name),
        experiment=experiment_id,
        run=metadata.pop(extras.SOURCE_RUN, None) or None,
        started_at=datetime.fromisoformat(started) if isinstance(started, str) else None,
        duration_ms=info.get("execution_duration_ms"),
        status=info.get("state"),
        tags={k: v for k, v in folder.texts("tags").items() if k not in extras.PLACE_TAGS},
        metadata=metadata,
        spans=spans,
        assessments=[
            found
            for file in sorted(assessments.glob("*.yaml"))
            if (found := (folder / "assessments").yaml(file.name)) is not None
        ],
        extra={"mlflow": dict(facts)} if facts else {},
    )
