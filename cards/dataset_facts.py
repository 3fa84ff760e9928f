"""The tracked facts of a data set: its versions, its splits, and what it was used for."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from ..adapters.base import Source
from ..adapters.paths import inside
from ..errors import Corrupt, LocationError
from ..model import DatasetUse, Experiment, Run
from ..reading import number, select

_SHA256 = re.compile(r"^(?:sha-?256:)([0-9a-f]{64})$", re.IGNORECASE)
_FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".arrow": "ipc",
    ".feather": "ipc",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A file of the data itself. `path` is relative to the folder that was given."""

    path: str
    bytes: int
    sha256: str
    rows: int | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFacts:
    name: str
    type: str
    nulls: int | None = None
    distinct: int | None = None
    low: str | None = None
    high: str | None = None
    mean: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """One run that read the data set."""

    run: Run
    experiment: Experiment
    use: DatasetUse
    models: list[str]
    """Registry versions that came of that run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFacts:
    location: str
    name: str
    uses: list[Usage]
    columns: list[ColumnFacts] = field(default_factory=list)
    files: list[DataFile] = field(default_factory=list)
    sample: list[dict[str, str]] = field(default_factory=list)
    columns_from: str | None = None
    """Where the columns were read: the files, or the schema that a run recorded."""

    @property
    def digests(self) -> dict[str, list[Usage]]:
        """Digest → its uses, newest version last."""
        found: dict[str, list[Usage]] = {}
        for usage in self.uses:
            if usage.use.digest:
                found.setdefault(usage.use.digest, []).append(usage)
        return found

    @property
    def rows(self) -> int | None:
        """All rows: of the files, else the sum over the contexts of the newest use of each."""
        if self.files and all(f.rows is not None for f in self.files):
            return sum(f.rows or 0 for f in self.files)
        newest = {u.use.context: u.use for u in self.uses}
        counts = [use_rows(use) for use in newest.values()]
        return sum(c for c in counts if c) if any(c is not None for c in counts) else None


def use_rows(use: DatasetUse) -> int | None:
    """Rows as recorded: by the field, or by the profile that MLflow keeps as JSON."""
    if use.rows is not None:
        return use.rows
    try:
        profile = json.loads(use.profile) if use.profile else None
    except ValueError:
        return None
    if not isinstance(profile, dict):
        return None
    for key in ("num_rows", "rows", "num_examples"):
        value = number(profile.get(key))
        if value is not None:
            return int(value)
    return None


def dataset_facts(
    source: Source, name: str, *, data: Path | None = None, sample_rows: int = 0
) -> DatasetFacts:
    """Facts of the data set of that name, or `NAME@DIGEST` for one version of it.

    `data`: a file or folder with the data itself, for columns, rows, bytes and hashes. Raises
    `LocationError` where no run read such a data set.
    """
    wanted, _, digest = name.rpartition("@") if "@" in name else (name, "", "")
    models: dict[str, list[str]] = {}
    for model in source.registry():
        for version in model.versions:
            if version.run:
                models.setdefault(version.run, []).append(f"{model.name} version {version.version}")
    uses: list[Usage] = []
    known: set[str] = set()
    for experiment, run in select(source):
        for use in run.datasets:
            known.add(use.name)
            if use.name in (name, wanted) and (
                not digest or use.name == name or (use.digest or "").startswith(digest)
            ):
                uses.append(Usage(run=run, experiment=experiment, use=use, models=models.get(run.id, [])))
    if not uses:
        close = difflib.get_close_matches(name, sorted(known), n=3)
        raise LocationError(
            f"no run in {source.location} read a data set {name!r}",
            hint="did you mean " + " or ".join(close) + "?"
            if close
            else "known: " + (", ".join(sorted(known)[:10]) or "none"),
        )
    uses.sort(key=lambda u: (u.run.started_at is None, u.run.started_at or u.run.created_at, u.run.id))
    files = list(_data_files(data)) if data is not None else []
    columns, origin = _columns_of_files(data, files) if data is not None else ([], None)
    if not columns:
        columns, origin = _columns_recorded(uses)
    return DatasetFacts(
        location=str(source.location),
        name=uses[-1].use.name,
        uses=uses,
        columns=columns,
        files=files,
        sample=_sample(data, files, sample_rows) if data is not None and sample_rows else [],
        columns_from=origin,
    )


def real_hash(use: DatasetUse) -> str | None:
    """The SHA-256 of the file, where the digest is one (MLflow's own 8 hex digits are not)."""
    found = _SHA256.match(use.digest or "")
    return found.group(1).lower() if found else None


def _columns_recorded(uses: list[Usage]) -> tuple[list[ColumnFacts], str | None]:
    for usage in reversed(uses):
        try:
            schema = json.loads(usage.use.schema) if usage.use.schema else None
        except ValueError:
            continue
        if columns := _parse_schema(schema):
            return columns, f"the schema recorded by run {usage.run.id}"
    return [], None


def _parse_schema(schema: Any) -> list[ColumnFacts]:
    """MLflow's forms (`mlflow_colspec`, `mlflow_tensorspec`), or a plain name → type mapping."""
    if not isinstance(schema, dict):
        return []
    if isinstance(specs := schema.get("mlflow_colspec"), list):
        return [
            ColumnFacts(name=str(s.get("name") or i), type=str(s.get("type")))
            for i, s in enumerate(specs)
            if isinstance(s, dict)
        ]
    if isinstance(tensor := schema.get("mlflow_tensorspec"), dict):
        parts = {k: v for k, v in tensor.items() if v}
        return [ColumnFacts(name=str(k), type=_tensor_text(v)) for k, v in parts.items()]
    return [ColumnFacts(name=str(k), type=str(v)) for k, v in schema.items() if isinstance(v, str)]


def _tensor_text(spec: Any) -> str:
    found = json.dumps(spec)
    kinds = re.findall(r'"dtype": "([^"]+)"', found) or re.findall(r'"type": "([^"]+)"', found)
    shapes = re.findall(r'"shape": (\[[^\]]*\])', found)
    return ", ".join(f"{k}{s}" for k, s in zip(kinds, shapes, strict=False)) or "tensor"


# --- the data itself ------------------------------------------------------------------------------


def _split_of(path: str) -> str | None:
    found = re.search(r"(?:^|[/_.-])(train|test|val(?:id(?:ation)?)?|dev)(?:$|[/_.-])", path.lower())
    return (
        {"val": "validation", "valid": "validation", "dev": "validation"}.get(found.group(1), found.group(1))
        if found
        else None
    )


def _data_files(root: Path) -> Iterator[DataFile]:
    paths = (
        [root]
        if root.is_file()
        else sorted(p for p in root.rglob("*") if p.is_file() and not p.name.startswith("."))
    )
    base = root.parent if root.is_file() else root
    for path in paths:
        relative = path.relative_to(base).as_posix()
        with inside(base, relative).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        yield DataFile(
            path=relative,
            bytes=path.stat().st_size,
            sha256=digest,
            rows=_rows(path),
            split=_split_of(relative),
        )


def _open(path: Path) -> pads.Dataset | None:
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        return None
    if path.suffix.lower() == ".tsv":
        import pyarrow.csv as csv

        return pads.dataset(path, format=pads.CsvFileFormat(csv.ParseOptions(delimiter="\t")))
    return pads.dataset(path, format=kind)


def _rows(path: Path) -> int | None:
    try:
        opened = _open(path)
        return int(opened.count_rows()) if opened is not None else None
    except (pa.ArrowInvalid, OSError) as error:
        raise Corrupt(
            f"{path.name} cannot be read as its ending says: {error}",
            hint="mend it, or leave it out of --data",
        ) from error


def _columns_of_files(root: Path, files: list[DataFile]) -> tuple[list[ColumnFacts], str | None]:
    base = root.parent if root.is_file() else root
    readable = [f for f in files if f.rows is not None]
    if not readable:
        return [], None
    opened = [d for f in readable if (d := _open(base / f.path)) is not None]
    same = [d for d in opened if d.schema.names == opened[0].schema.names]
    try:
        schema = pa.unify_schemas([d.schema for d in same], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        same, schema = opened[:1], opened[0].schema
    columns = [_column(field, same) for field in schema]
    return columns, f"{len(same)} files"


def _column(column: pa.Field, datasets: list[pads.Dataset]) -> ColumnFacts:
    """Statistics over all files, a column at a time so that memory is bounded by the column."""
    chunks = [d.to_table(columns=[column.name]).column(0).cast(column.type) for d in datasets]
    data = pa.chunked_array([c for chunked in chunks for c in chunked.chunks], type=column.type)
    facts: dict[str, Any] = {"nulls": data.null_count}
    kind = data.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind):
        ends = pc.min_max(data).as_py()
        facts |= {"low": _short(ends["min"]), "high": _short(ends["max"])}
        if not pa.types.is_temporal(kind):
            facts["mean"] = pc.mean(data).as_py()
    if not pa.types.is_nested(kind):
        facts["distinct"] = pc.count_distinct(data).as_py()
    return ColumnFacts(name=column.name, type=str(kind), **facts)


def _short(value: Any) -> str | None:
    return None if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _sample(root: Path, files: list[DataFile], rows: int) -> list[dict[str, str]]:
    base = root.parent if root.is_file() else root
    for file in files:
        if file.rows:
            opened = _open(base / file.path)
            assert opened is not None
            return [{k: str(v)[:120] for k, v in row.items()} for row in opened.head(rows).to_pylist()]
    return []
