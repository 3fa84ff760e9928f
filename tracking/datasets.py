"""What a run reads, described: digest, schema, rows. The data itself is never kept."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..model import DatasetUse
from .values import check_key, files_below

_CHUNK = 1 << 20
_HASHED = 4 << 30
"""Bytes of a Hugging Face data set up to which its rows are read for the digest."""
_ROWS = 10_000


class _Facts:
    """Digest (SHA-256), schema and rows, gathered over the parts of a data set."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.schema: dict[str, Any] = {}
        self.rows: int | None = None
        self.source: str | None = None
        self.source_type: str | None = None
        self.version: str | None = None

    def count(self, rows: int) -> None:
        self.rows = rows if self.rows is None else max(self.rows, rows)

    def mix(self, *words: str | bytes) -> None:
        for word in words:
            data = word.encode() if isinstance(word, str) else word
            self.hash.update(len(data).to_bytes(8, "little") + data)


def describe(
    data: Any, name: str, *, context: str | None, version: str | None = None, source: str | None = None
) -> DatasetUse:
    """The use of a data set. Equal data give equal digests, in any process.

    Raises `TypeError` for data of an unknown kind, `OSError` where a file cannot be read.
    """
    facts = _Facts()
    _add(facts, data, "")
    return DatasetUse(
        name=check_key(name, "dataset"),
        digest=f"sha256:{facts.hash.hexdigest()}",
        version=version or facts.version,
        context=context,
        source_type=facts.source_type or ("code" if source is None else "uri"),
        source=source or facts.source,
        schema=json.dumps(facts.schema, sort_keys=True) if facts.schema else None,
        rows=facts.rows,
    )


def _add(facts: _Facts, data: Any, part: str) -> None:
    kind = type(data).__module__.partition(".")[0]
    if isinstance(data, str | Path):
        _add_path(facts, Path(data), part)
    elif isinstance(data, Mapping):
        for key, value in data.items():
            _add(facts, value, f"{part}/{key}".strip("/"))
    elif isinstance(data, tuple | list) and data and not isinstance(data[0], int | float | str | bool):
        for number, value in enumerate(data):
            _add(facts, value, f"{part}/{number}".strip("/"))
    elif kind == "pandas":
        _add_pandas(facts, data, part)
    elif kind == "pyarrow":
        _add_arrow(facts, data, part)
    elif kind == "datasets" and hasattr(data, "info"):
        _add_hugging_face(facts, data, part)
    else:
        _add_array(facts, data, part)


def _add_path(facts: _Facts, path: Path, part: str) -> None:
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    files = files_below(path) if path.is_dir() else [(path.name, path)]
    total = 0
    for relative, file in files:
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                total += len(chunk)
        facts.mix(relative if path.is_dir() else "", digest.digest())
    facts.source, facts.source_type = facts.source or str(path), "local"
    facts.schema[part or path.name] = {"files": len(files), "bytes": total}


def _add_array(facts: _Facts, data: Any, part: str) -> None:
    """NumPy arrays, and what turns into one: torch and TensorFlow tensors, SciPy matrices, lists."""
    import numpy as np

    if hasattr(data, "detach"):
        data = data.detach().cpu()
    if hasattr(data, "tocoo"):
        coo = data.tocoo()
        for piece, array in (("row", coo.row), ("col", coo.col), ("data", coo.data)):
            _add_array(facts, array, f"{part}/{piece}".strip("/"))
        facts.count(coo.shape[0])
        return
    array = np.asarray(data)
    if array.dtype == object and not all(isinstance(v, str | int | float | None) for v in array.flat):
        raise TypeError(
            f"cannot describe a data set of {type(data).__name__}; give arrays, tables, a file or a folder"
        )
    if array.dtype == object or array.dtype.kind in "US":
        facts.mix(*(str(value) for value in array.flat))
    else:
        facts.mix(np.ascontiguousarray(array).tobytes())
    facts.mix(str(array.dtype), str(array.shape))
    facts.schema[part or "data"] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if array.ndim:
        facts.count(array.shape[0])


def _add_pandas(facts: _Facts, data: Any, part: str) -> None:
    import pandas as pd

    frame = data.to_frame() if isinstance(data, pd.Series) else data
    if not isinstance(frame, pd.DataFrame):
        _add_array(facts, frame, part)
        return
    hashes = pd.util.hash_pandas_object(frame, index=False).to_numpy()
    columns = {str(name): str(dtype) for name, dtype in frame.dtypes.items()}
    facts.mix(hashes.tobytes(), json.dumps(columns))
    facts.schema[part or "columns"] = columns
    facts.count(len(frame))


def _add_arrow(facts: _Facts, data: Any, part: str) -> None:
    import pyarrow as pa

    table = pa.Table.from_batches([data]) if isinstance(data, pa.RecordBatch) else data
    if not isinstance(table, pa.Table):
        _add_array(facts, table.to_numpy(zero_copy_only=False), part)
        return
    _mix_tables(facts, [table])
    facts.schema[part or "columns"] = {field.name: str(field.type) for field in table.schema}
    facts.count(table.num_rows)


def _mix_tables(facts: _Facts, tables: Iterable[Any]) -> None:
    import pyarrow as pa

    class _Hashing:
        closed = False

        def write(self, block: Any) -> int:
            facts.hash.update(block)
            return len(memoryview(block))

        def flush(self) -> None: ...

        def close(self) -> None: ...

    for table in tables:
        whole = table.combine_chunks().replace_schema_metadata(None)
        with pa.ipc.new_stream(pa.PythonFile(_Hashing(), "w"), whole.schema) as writer:
            writer.write_table(whole)


def _add_hugging_face(facts: _Facts, data: Any, part: str) -> None:
    """A `datasets.Dataset`, by its rows; a large one by its fingerprint, which is the cache's own.

    A stream (`IterableDataset`) is not read: its digest is that of its description.
    """
    info = data.info
    described = {key: str(value) for key, value in (data.features or {}).items()}
    if not hasattr(data, "_fingerprint"):
        facts.mix("stream", str(info.builder_name), str(info.config_name), str(info.version))
        facts.mix(str(data.split), json.dumps(described))
    elif data.data.nbytes > _HASHED:
        facts.mix(str(data._fingerprint))
    else:
        facts.mix(json.dumps(described))
        _mix_tables(facts, data.with_format("arrow").iter(_ROWS))
    if hasattr(data, "__len__"):
        facts.count(len(data))
    facts.schema[part or "features"] = described
    facts.source, facts.source_type = info.builder_name or facts.source, "hugging_face"
    facts.version = str(info.version) if info.version else facts.version


def indices(part: Any) -> list[int]:
    """Row numbers of a part of a split. Raises `TypeError` for what is none."""
    if "numpy" in sys.modules:
        import numpy as np

        if isinstance(part, np.ndarray) and part.dtype == bool:
            part = np.flatnonzero(part)
    listed = part.tolist() if hasattr(part, "tolist") else list(part)
    if not all(isinstance(row, int) and not isinstance(row, bool) for row in listed):
        raise TypeError("a part of a split is a sequence of row numbers, or a boolean mask")
    return listed


def describe_split(parts: Mapping[str, Iterable[int]]) -> tuple[list[DatasetUse], bytes]:
    """A dataset use for each part, and the split's file. Raises `ValueError` for a row in two parts."""
    if not parts:
        raise ValueError("log_split needs at least one part, such as train=…, test=…")
    listed = {name: indices(part) for name, part in parts.items()}
    owner: dict[int, str] = {}
    for name, rows in listed.items():
        for row in rows:
            if owner.setdefault(row, name) != name:
                raise ValueError(f"row {row} is in both {owner[row]!r} and {name!r} of the split")
    uses = []
    for name, rows in listed.items():
        digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        uses.append(
            DatasetUse(
                name=f"split/{name}",
                digest=f"sha256:{digest}",
                context=name,
                source_type="local",
                source="split/indices.json",
                rows=len(rows),
            )
        )
    return uses, json.dumps(listed, separators=(",", ":")).encode()
