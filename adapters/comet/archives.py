"""Reading Comet's offline archives, which are hostile until proven otherwise.

Nothing is ever extracted to disk: members are read as streams. An archive with a member outside
its folder, an encrypted or unknown member, more data than its size can honestly hold, wrong JSON
or a damaged stream is `Corrupt`.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from ...errors import Corrupt
from ..paths import checked
from .points import Shape, decode

META = "experiment.json"
MESSAGES = "messages.json"

CHUNK = 4 << 20
"""Bytes of `messages.json` handled at a time."""
_LONGEST_LINE = 64 << 20
_LARGEST_META = 16 << 20
_MEMBERS = 1_000_000
_RATIO = 500
"""Deflate reaches 1,032 on zeros; logs stay far below this."""
_SMALL = 64 << 20
"""Bytes that an archive may always unpack to."""
_METRIC_LINE = b'"type":"metric_msg"}\n'
_KEY = re.compile(r"[0-9A-Za-z]{32,50}")
_HINT = "take it out of the directory, or fetch it again from the machine that wrote it"

Payload = dict[str, Any]


@dataclass(slots=True)
class Meta:
    """`experiment.json`."""

    key: str
    project: str | None
    workspace: str | None
    start: int | None
    stop: int | None
    tags: list[str] = field(default_factory=list)
    crashed: bool = False


class Archive:
    """One zip. Raises `Corrupt` on the first sign that it is not what Comet's SDK writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
            raise self._corrupt(f"it is not a whole zip ({error})") from error
        try:
            self._check_members()
        except Corrupt:
            self.close()
            raise

    def _corrupt(self, what: str) -> Corrupt:
        return Corrupt(f"refused the Comet archive {self.path.name}: {what}", hint=_HINT)

    def _check_members(self) -> None:
        infos = self._zip.infolist()
        if len(infos) > _MEMBERS:
            raise self._corrupt(f"it holds {len(infos):,} files")
        seen: set[str] = set()
        for info in infos:
            try:
                checked(info.filename.removesuffix("/"))
            except Corrupt as error:
                raise self._corrupt(error.message) from error
            if info.flag_bits & 0x1:
                raise self._corrupt(f"its file {info.filename!r} is encrypted")
            if info.filename in seen:
                raise self._corrupt(f"it holds {info.filename!r} twice")
            seen.add(info.filename)
        total = sum(info.file_size for info in infos)
        size = self.path.stat().st_size
        if total > _SMALL and total > _RATIO * size:
            raise self._corrupt(f"{size:,} bytes would unpack to {total:,}")
        if META not in seen or MESSAGES not in seen:
            raise self._corrupt(f"it has no {META} or no {MESSAGES}")

    @property
    def comment(self) -> bytes:
        return self._zip.comment

    def close(self) -> None:
        self._zip.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def size(self, name: str) -> int:
        """Bytes of a member. Raises `Corrupt` where there is none of that name."""
        try:
            return self._zip.getinfo(checked(name)).file_size
        except Corrupt as error:
            raise self._corrupt(error.message) from error
        except KeyError:
            raise self._corrupt(f"a message names the file {name!r}, which is not in it") from None

    def open(self, name: str) -> BinaryIO:
        """A member as a stream whose read errors are `Corrupt`."""
        self.size(name)
        try:
            stream = self._zip.open(name)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
            raise self._corrupt(f"its file {name!r} cannot be read ({error})") from error
        return cast(BinaryIO, _Checked(stream, self._corrupt))

    def meta(self) -> Meta:
        """Raises `Corrupt` where `experiment.json` is not what the SDK writes."""
        with self.open(META) as stream:
            text = stream.read(_LARGEST_META)
        try:
            data = json.loads(text)
            key = data.get("offline_id") or self.path.stem.partition("-")[0]
            if not isinstance(key, str) or not _KEY.fullmatch(key):
                raise ValueError(f"the experiment key {str(key)[:60]!r} is not 32 to 50 letters and digits")
            meta = Meta(
                key,
                _optional_text(data["project_name"]),
                _optional_text(data["workspace"]),
                _optional_int(data["start_time"]),
                _optional_int(data["stop_time"]),
                [str(tag) for tag in data["tags"] or ()],
                bool(data.get("customer_error_reported")),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._corrupt(f"its {META} is wrong ({error})") from error
        return meta

    def chunks(self) -> Iterator[tuple[bytes, list[tuple[str, Payload]]]]:
        """`messages.json` piece by piece: lines of metric messages, and all other messages parsed."""
        rest = b""
        with self.open(MESSAGES) as stream:
            while True:
                data = stream.read(CHUNK)
                block = rest + data
                cut = len(block) if not data else block.rfind(b"\n") + 1
                rest = block[cut:]
                if len(rest) > _LONGEST_LINE:
                    raise self._corrupt("a message is too long")
                if cut:
                    yield self._sorted(block[:cut])
                if not data:
                    return

    def _sorted(self, block: bytes) -> tuple[bytes, list[tuple[str, Payload]]]:
        # Metric messages come in long stretches: only the lines around one are looked at one by one.
        first = block.find(_METRIC_LINE)
        start = block.rfind(b"\n", 0, first) + 1 if first >= 0 else len(block)
        end = block.rfind(_METRIC_LINE) + len(_METRIC_LINE) if first >= 0 else len(block)
        middle = block[start:end]
        if middle.count(_METRIC_LINE) != middle.count(b"\n"):
            return self._one_by_one(block)
        before, found = self._one_by_one(block[:start])
        after, more = self._one_by_one(block[end:])
        return before + middle + after, found + more

    def _one_by_one(self, block: bytes) -> tuple[bytes, list[tuple[str, Payload]]]:
        metrics: list[bytes] = []
        others: list[tuple[str, Payload]] = []
        for line in block.split(b"\n"):
            if line.endswith((b'"type":"metric_msg"}', b'"type": "metric_msg"}')):
                metrics.append(line)
            elif line.strip():
                kind, payload = self._message(line)
                if kind == "metric_msg" or (kind == "ws_msg" and payload.get("metric")):
                    metrics.append(json.dumps({"payload": payload, "type": "metric_msg"}).encode())
                else:
                    others.append((kind, payload))
        return b"\n".join([*metrics, b""]), others

    def _message(self, line: bytes) -> tuple[str, Payload]:
        try:
            message = json.loads(line)
            kind, payload = message["type"], message["payload"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._corrupt(
                f"a message of its {MESSAGES} is not JSON as Comet writes it ({error})"
            ) from error
        if not isinstance(kind, str) or not isinstance(payload, dict):
            raise self._corrupt(f"a message of its {MESSAGES} has no type or payload")
        return kind, payload

    def points(self, lines: bytes, shape: Shape) -> pa.RecordBatch:
        """Lines of metric messages, from `chunks`, as points."""
        try:
            return decode(lines, shape)
        except Corrupt as error:
            raise self._corrupt(error.message) from error

    def scan(self) -> tuple[Shape, list[tuple[str, Payload]]]:
        """Everything but the points themselves, in one pass."""
        shape, found = Shape(), []
        for lines, others in self.chunks():
            if lines:
                shape.see(lines)
                shape.summarise(self.points(lines, shape))
            found += others
        return shape, found


class _Checked:
    """A member's stream; a damaged one is `Corrupt`, whichever library notices it."""

    def __init__(self, stream: Any, corrupt: Any) -> None:
        self._stream, self._corrupt = stream, corrupt

    def read(self, size: int = -1) -> bytes:
        try:
            data: bytes = self._stream.read(size)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise self._corrupt(f"it is damaged ({error})") from error
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    @property
    def closed(self) -> bool:
        return bool(self._stream.closed)

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> _Checked:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _optional_text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{value!r} is not text")
    return value or None


def _optional_int(value: object) -> int | None:
    if isinstance(value, bool) or (value is not None and not isinstance(value, int | float)):
        raise ValueError(f"{value!r} is not a time")
    return None if value is None else int(value)
