"""What a queue's operations amount to: the run's attributes and files, without its points."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ...model import Value
from .queue_lines import Columns, Line, Steps, columns, lines
from .records import Attribute, Attributes

_ASSIGN = {
    "AssignFloat": "float", "AssignInt": "int", "AssignBool": "bool", "AssignString": "string",
}  # fmt: skip
_CLEARS = {"ClearFloatLog", "ClearStringLog", "DeleteAttribute"}


@dataclass(frozen=True, slots=True)
class Upload:
    """One file operation that still counts."""

    folder: Path
    operation: dict[str, Any]
    """Without its content, which may be large (see `content`)."""
    at: float | None
    file: Path
    offset: int
    step: float | None = None
    """Of an image operation's last image."""

    def content(self) -> dict[str, Any]:
        """The whole operation, read again."""
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            operation: dict[str, Any] = json.loads(stream.readline())["obj"]
        return operation


@dataclass(slots=True)
class Replay:
    """One pass over a run's queues. Points and texts are only counted."""

    attributes: Attributes = field(default_factory=dict)
    uploads: dict[str, list[Upload]] = field(default_factory=dict)
    """Attribute path → the operations that make its file, file set or image series."""
    configs: dict[str, Value] = field(default_factory=dict)
    last: dict[str, tuple[float, float]] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    texts: int = 0
    fractional: int = 0
    nonfinite: int = 0
    problems: list[str] = field(default_factory=list)
    cleared: dict[tuple[Path, str], int] = field(default_factory=dict)
    """(queue, series) → the version up to which a clear took its points away."""
    order: tuple[Path, ...] = ()

    def keeps(self, folder: Path, line: Line) -> bool:
        """Whether a series operation survived every later clear of its series."""
        for later in self.order[self.order.index(folder) :]:
            until = self.cleared.get((later, line.path))
            if until is not None and (later != folder or line.version < until):
                return False
        return True


def replay(folders: tuple[Path, ...]) -> Replay:
    """Raises `Corrupt` for a damaged queue."""
    result = Replay(order=folders)
    first: float | None = None
    last: float | None = None
    images: dict[str, float] = {}
    for folder in folders:
        expected = 1
        for line in lines(folder, result.problems):
            if expected == 1 and line.version > 1:
                result.problems.append(
                    f"operations 1 to {line.version - 1} of {folder.name} were uploaded and removed from the queue"
                )
            expected = line.version + 1
            if line.at is not None:
                first, last = line.at if first is None else first, line.at
            if line.kind not in ("LogFloats", "LogStrings"):
                _apply(result, folder, line, images)
        created = _created(folder)
        first = created if created is not None and (first is None or created < first) else first
    for name, at in (("creation_time", first), ("ping_time", last)):
        if at is not None:
            time = datetime.fromtimestamp(round(at, 3), UTC)
            result.attributes.setdefault(f"sys/{name}", Attribute("datetime", time))
    for kind in ("LogFloats", "LogStrings"):
        _count(result, folders, kind)
    return result


def _created(folder: Path) -> float | None:
    try:
        text = json.loads((folder / "metadata.json").read_text())["createdAt"]
        return datetime.fromisoformat(text).timestamp()
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the queue's own times serve then


def _apply(result: Replay, folder: Path, line: Line, images: dict[str, float]) -> None:
    operation, path = line.operation(), line.path
    match line.kind:
        case "AssignFloat" | "AssignInt" | "AssignBool" | "AssignString":
            result.attributes[path] = Attribute(_ASSIGN[line.kind], operation["value"])
        case "AssignDatetime":
            time = datetime.fromtimestamp(int(operation["value"]) / 1000, UTC)
            result.attributes[path] = Attribute("datetime", time)
        case "AssignArtifact":
            result.attributes[path] = Attribute("string", str(operation["hash"]))
        case "AddStrings" | "RemoveStrings":
            held = result.attributes.get(path)
            words = set(held.value) if held is not None else set()
            change = set(operation["values"])
            words = words | change if line.kind == "AddStrings" else words - change
            result.attributes[path] = Attribute("string_set", sorted(words))
        case "ClearStringSet":
            result.attributes[path] = Attribute("string_set", [])
        case "ConfigFloatSeries":
            result.configs[path] = {name: operation.get(name) for name in ("min", "max", "unit")}
        case "UploadFile" | "UploadFileContent" | "TrackFilesToArtifact":
            add = line.kind == "TrackFilesToArtifact"
            before = result.uploads.get(path, []) if add else []
            operation.pop("file_content", None)
            result.uploads[path] = [*before, Upload(folder, operation, line.at, line.file, line.offset)]
        case "UploadFileSet":
            before = [] if operation.get("reset") != str(False) else result.uploads.get(path, [])
            result.uploads[path] = [*before, Upload(folder, operation, line.at, line.file, line.offset)]
        case "LogImages":
            for value in operation["values"]:
                step = value.get("step")
                images[path] = images.get(path, -1.0) + 1.0 if step is None else float(step)
            result.uploads.setdefault(path, []).append(
                Upload(folder, {"type": "LogImages"}, line.at, line.file, line.offset, images[path])
            )
        case "ClearImageLog" | "ClearArtifact":
            result.uploads.pop(path, None)
        case "DeleteFiles":
            result.problems.append(f"{path}: files deleted from a file set are still listed")
        case "CopyAttribute":
            source = "/".join(operation.get("source_path") or ())
            result.problems.append(f"{path} is a copy of {source} of another object, which is not here")
        case kind if kind not in _CLEARS:
            result.problems.append(f"{path}: the unknown operation {kind} is not read")
    if line.kind in _CLEARS:
        result.cleared[folder, path] = line.version
        if line.kind == "DeleteAttribute":
            result.attributes.pop(path, None)
            result.uploads.pop(path, None)


def _count(result: Replay, folders: tuple[Path, ...], kind: str) -> None:
    numbering = Steps()
    for folder in folders:
        for part in columns(_of(result, folder, kind), kind):
            steps = numbering.filled(part.key, part.step)
            if kind == "LogStrings":
                result.texts += len(steps)
            elif len(steps):
                _count_points(result, part, steps)


def _of(result: Replay, folder: Path, kind: str) -> Iterator[Line]:
    return (line for line in lines(folder) if line.kind == kind and result.keeps(folder, line))


def _count_points(result: Replay, part: Columns, steps: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    values = part.value.fill_null(float("nan")).to_numpy(zero_copy_only=False)
    result.fractional += int(np.count_nonzero((steps != np.floor(steps)) | (np.abs(steps) > 2.0**53)))
    result.nonfinite += int(np.count_nonzero(~np.isfinite(values)))
    words = part.key.dictionary.to_pylist()
    codes = part.key.indices.to_numpy(zero_copy_only=False)
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        key = str(words[code])
        result.lengths[key] = result.lengths.get(key, 0) + len(rows)
        highest = rows[len(rows) - 1 - int(np.argmax(steps[rows][::-1]))]
        if key not in result.last or steps[highest] >= result.last[key][0]:
            result.last[key] = (float(steps[highest]), float(values[highest]))
