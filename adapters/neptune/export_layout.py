"""What lies in a directory of the vendor's exporter: projects, runs, parts, files, and what is missing.

    DIR/data/<project>/<run>_part_<N>.parquet                      DIR/files/<project>/…
    DIR/model_data/<project>/models|model_versions/<id>_part_<N>.parquet    DIR/model_files/<project>/…
    DIR/neptune_exporter_errors.jsonl (or beside DIR)

`<project>` and `<run>` are sanitised names with a hash; the true ones are in the rows. DIR may also
be the `data` folder itself. Source of the layout: neptune-exporter, `storage/parquet_writer.py` and
`main.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Scope = Literal["run", "model", "model_version"]

ERROR_FILE = "neptune_exporter_errors.jsonl"
_PART = re.compile(r"(?P<stem>.+)_part_(?P<number>\d+)\.parquet(?P<unfinished>\.tmp)?")
_SCOPES: tuple[tuple[Scope, str, str, str], ...] = (
    ("run", "data", "files", ""),
    ("model", "model_data", "model_files", "models"),
    ("model_version", "model_data", "model_files", "model_versions"),
)


def sanitized(name: str) -> str:
    """The exporter's file name for a project or run: other characters → `_`, then a hash."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    return "".join(c if c.isalnum() or c in "_-" else "_" for c in name) + "-" + digest


@dataclass(frozen=True, slots=True)
class Entity:
    """The part files of one run, model or model version."""

    scope: Scope
    stem: str
    parts: tuple[Path, ...]
    """In order of their numbers."""
    files: Path | None
    """Folder that `file_value.path` is relative to; None where the export has no files."""
    problems: tuple[str, ...] = ()


class Layout:
    """The projects (sanitised names) and entities of one export. Lists names only, opens no file."""

    def __init__(self, root: Path, files: Path | None = None) -> None:
        self.root = root
        self._files = files
        self._data_is_root = not (root / "data").is_dir() and not (root / "model_data").is_dir()

    @staticmethod
    def recognises(root: Path) -> bool:
        folders = [root / "data", root / "model_data", root]
        return any(
            next(folder.glob(pattern), None) is not None
            for folder in folders
            for pattern in ("*/*_part_*.parquet*", "*/model*/*_part_*.parquet*")
        )

    def projects(self) -> list[str]:
        found: set[str] = set()
        for _, data, _, _ in _SCOPES:
            folder = self._data(data)
            if folder is not None and folder.is_dir():
                found.update(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        return sorted(found)

    def _data(self, name: str) -> Path | None:
        if not self._data_is_root:
            return self.root / name
        return self.root if name == ("model_data" if self.root.name == "model_data" else "data") else None

    def _files_of(self, name: str, project: str) -> Path | None:
        roots = [self._files] if self._files else []
        roots.append((self.root.parent if self._data_is_root else self.root) / name)
        return next((root / project for root in roots if (root / project).is_dir()), None)

    def entities(self, project: str, scope: Scope, stem: str = "") -> Iterator[Entity]:
        """In order of their names; with `stem` only that one. Raises `OSError` where the folder cannot be listed."""
        _, data, files, sub = next(row for row in _SCOPES if row[0] == scope)
        folder = self._data(data)
        if folder is None or not (folder / project / sub).is_dir():
            return
        parts: dict[str, dict[int, Path]] = {}
        unfinished: Counter[str] = Counter()
        for path in (folder / project / sub).glob(f"{stem or '*'}_part_*.parquet*"):
            found = _PART.fullmatch(path.name)
            if found is None:
                continue
            if found["unfinished"]:
                unfinished[found["stem"]] += 1
                parts.setdefault(found["stem"], {})
            else:
                parts.setdefault(found["stem"], {})[int(found["number"])] = path
        root = self._files_of(files, project)
        for name in sorted(parts):
            numbered = parts[name]
            yield Entity(
                scope,
                name,
                tuple(numbered[number] for number in sorted(numbered)),
                root,
                tuple(_gaps(f"{project}/{name}", numbered, unfinished[name])),
            )

    def find(self, project: str, run_id: str) -> Entity | None:
        """The run of that id, where its sanitised name is known here."""
        return next(self.entities(project, "run", sanitized(run_id)), None)

    def errors(self) -> Iterator[tuple[str, str]]:
        """(project, sentence) for what the exporter says that it failed to export, counted."""
        for folder in (self.root, self.root.parent):
            path = folder / ERROR_FILE
            if path.is_file():
                yield from _errors(path)
                return


def _gaps(name: str, numbered: dict[int, Path], unfinished: int) -> Iterator[str]:
    if unfinished:
        yield f"{name}: {unfinished} part files are unfinished (.parquet.tmp): the export was interrupted"
    if not numbered:
        return
    missing = sorted(set(range(max(numbered) + 1)) - numbered.keys())
    if missing:
        numbers = ", ".join(map(str, missing[:10])) + ("…" if len(missing) > 10 else "")
        yield f"{name}: part {numbers} of {max(numbered) + 1} is missing; what is left is read"


def _errors(path: Path) -> Iterator[tuple[str, str]]:
    counts: Counter[tuple[str, str, str]] = Counter()
    examples: dict[tuple[str, str, str], str] = {}
    damaged = 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                record = json.loads(line)
                kind = (str(record["project_id"]), str(record["run_id"]), str(record["exception"]))
            except (ValueError, KeyError, TypeError):
                damaged += bool(line.strip())
                continue
            counts[kind] += 1
            if record.get("attribute_path"):
                examples.setdefault(kind, str(record["attribute_path"]))
    for kind, count in counts.items():
        project, run, error = kind
        what = f"{count} attributes" if count > 1 else "an attribute" if kind in examples else "something"
        example = f", such as {examples[kind]}" if kind in examples else ""
        yield project, f"{project}/{run}: the exporter failed to export {what} ({error}){example}"
    if damaged:
        yield "", f"{path.name}: {damaged} lines are unreadable"
