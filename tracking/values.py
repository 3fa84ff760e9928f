"""What a caller hands over → what a record holds. A caller's mistake is raised here, at once."""

from __future__ import annotations

import dataclasses
import enum
import math
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePath
from time import time_ns
from typing import Any, TypeVar

from ..model import Value, flatten

KEY_LENGTH = 1_000
_FIRST, _LAST = -62_135_596_800, 253_402_300_800
"""The years 1 to 9999, which is what a `datetime` holds, in seconds since 1970."""
T = TypeVar("T")


def check_key(key: Any, what: str = "metric") -> str:
    """A key of a metric, param or tag. Raises `TypeError` or `ValueError`."""
    if not isinstance(key, str):
        raise TypeError(f"a {what} key is text, not {type(key).__name__}: {key!r}")
    if not key or len(key) > KEY_LENGTH or any(ord(c) < 32 for c in key) or text(key) != key:
        raise ValueError(f"a {what} key has 1 to {KEY_LENGTH} printable characters, unlike {key[:80]!r}")
    return key


def text(given: str) -> str:
    """Text that UTF-8 can hold: lone surrogates, as of a file name that is not UTF-8, are written out."""
    return given if given.isascii() else given.encode("utf-8", "backslashreplace").decode()


def number(key: str, value: Any) -> float | str:
    """A metric value: a float, or `nan`, `inf`, `-inf`. Takes scalars of NumPy, torch, JAX…

    Raises `TypeError` for what is no number, `ValueError` for an integer beyond a float's range.
    """
    if not isinstance(value, int | float):
        item = getattr(value, "item", None)
        if item is not None and getattr(value, "size", 1) != 1 and not callable(getattr(value, "size", 1)):
            raise TypeError(
                f"metric {key!r} is an array of {value.size} values; log one number, such as its mean"
            )
        try:
            value = item() if item is not None else float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            kind = type(value).__name__
            raise TypeError(f"metric {key!r} must be a number, not {kind}; for words use log_text") from error
    if isinstance(value, complex) or not isinstance(value, int | float):
        raise TypeError(f"metric {key!r} must be a real number, not {type(value).__name__}")
    try:
        result = float(value)
    except OverflowError as error:
        raise ValueError(f"metric {key!r} is an integer beyond the range of a float") from error
    if math.isfinite(result):
        return result
    return "nan" if math.isnan(result) else "inf" if result > 0 else "-inf"


def numbers(values: Sequence[Any]) -> list[float | str]:
    """Numbers as a record holds them."""
    return [v if math.isfinite(v) else str(v) for v in map(float, values)]


def metrics(data: Mapping[str, Any]) -> dict[str, float | str]:
    """Nested mappings become `/`-joined keys."""
    if not isinstance(data, Mapping):
        raise TypeError(f"log takes a mapping of metric keys to numbers, not {type(data).__name__}")
    for key in data:
        check_key(key)
    return {check_key(key): number(key, value) for key, value in flatten(data).items()}


def step(value: Any) -> int | float:
    """A step: an integer, or a fraction of one. Raises `TypeError` or `ValueError`."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a step is a number, not {type(value).__name__}")
    if not -(2**62) < value < 2**62:  # also false for NaN
        raise ValueError(f"a step is finite and below 2**62, unlike {value!r}")
    return int(value) if isinstance(value, float) and value.is_integer() else value


def now_us() -> int:
    """Now, in microseconds since 1970 UTC, at whole milliseconds: what every platform can hold."""
    return time_ns() // 1_000_000 * 1_000


def microseconds(value: datetime | float | None) -> int:
    """A point's time since 1970 UTC; None: now. Numbers are seconds."""
    if value is None:
        return now_us()
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("a time needs a time zone, such as datetime.now(UTC)")
        return int(value.timestamp()) * 1_000_000 + value.microsecond
    if isinstance(value, int | float) and math.isfinite(value):
        if not _FIRST <= value < _LAST:
            raise ValueError(f"a time is in seconds since 1970, and of the years 1 to 9999, unlike {value!r}")
        return round(value * 1_000_000)
    raise TypeError(f"a time is a datetime or seconds since 1970, not {value!r}")


def moment(time_us: int) -> datetime:
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).replace(microsecond=time_us % 1_000_000)


def params(given: Any) -> dict[str, Value]:
    """A mapping, dataclass or namespace as flat params."""
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        given = dataclasses.asdict(given)
    elif not isinstance(given, Mapping) and hasattr(given, "__dict__"):
        given = vars(given)
    if not isinstance(given, Mapping):
        raise TypeError(f"params are a mapping, not {type(given).__name__}")
    flat = flatten({str(key): value for key, value in given.items()})
    return {check_key(key, "param"): plain(value) for key, value in flat.items()}


def plain(value: Any) -> Value:
    """A param value in the types of the model; what is none of them becomes its name or text."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, str):
        return text(str(value))
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return value if type(value) is kind else kind(value)  # such as numpy.float64
    if value is None:
        return None
    if isinstance(value, datetime):
        return value if value.tzinfo else value.astimezone()
    if isinstance(value, Mapping):
        return {text(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray):
        return [plain(item) for item in value]
    if isinstance(value, PurePath | os.PathLike):
        return text(str(os.fspath(value)))
    if hasattr(value, "tolist"):  # NumPy scalars and arrays, torch tensors
        return plain(value.tolist())
    if isinstance(value, type) or callable(value):
        return (
            f"{value.__module__}.{value.__qualname__}"
            if hasattr(value, "__qualname__")
            else type(value).__name__
        )
    shown = text(repr(value))
    return type(value).__name__ if " at 0x" in shown else shown


def tags(given: Mapping[str, Any]) -> dict[str, str]:
    """Tags are text; numbers and booleans are written as Python writes them."""
    if not isinstance(given, Mapping):
        raise TypeError(f"tags are a mapping of text to text, not {type(given).__name__}")
    result = {}
    for key, value in given.items():
        check_key(key, "tag")
        if key.startswith("outgrow."):
            raise ValueError(f"tag {key!r}: the prefix 'outgrow.' is kept for outgrow itself")
        if not isinstance(value, str | int | float | bool):
            raise TypeError(f"tag {key!r} must be text, not {type(value).__name__}")
        result[key] = text(str(value))
    return result


def _name(path: str) -> str:
    """The path with the bytes of a name that is not UTF-8 as hexadecimal numbers."""
    return re.sub("[\ud800-\udfff]", lambda found: f"_{ord(found[0]) & 0xFF:02x}", path)


def file_path(path: str) -> str:
    """A file's path within a run. Raises `ValueError` for one that could climb out."""
    from ..adapters.paths import checked
    from ..errors import Corrupt

    try:
        return checked(_name(path))
    except Corrupt as error:
        raise ValueError(f"{path!r} is not a relative path without '..'") from error


def files_below(folder: Path) -> list[tuple[str, Path]]:
    """Every file below a folder, as (`/`-separated relative path, file), in order."""
    found = (entry for entry in folder.rglob("*") if entry.is_file())
    return sorted((_name(entry.relative_to(folder).as_posix()), entry) for entry in found)
