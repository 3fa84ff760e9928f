"""Values ↔ W&B's JSON: a config that nests at `/`, and what JSON cannot carry kept beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ...model import Value, flatten
from .layout import SECTION

EPOCH = datetime.fromtimestamp(0, UTC)
_RESERVED_TOP = (SECTION, "_wandb", "wandb_version")
"""Top-level config keys that are no params."""


def shown(value: Value) -> Any:
    """A value as W&B can show it: JSON without NaN, infinities and integers beyond 64 bits."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, list | tuple):
        return [shown(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): shown(v) for k, v in value.items()}
    return str(value).encode("utf-8", "replace").decode()


def survives(value: Value) -> bool:
    """Whether the uploader (Go) gives it back with its type: it writes 1.0 as 1, and drops {}."""
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    if isinstance(value, float):
        return math.isfinite(value) and not value.is_integer()
    if isinstance(value, str):
        return value.isascii() or value.encode("utf-8", "replace").decode() == value
    if isinstance(value, list):
        return all(survives(v) for v in value)
    return False


def config_of(params: Mapping[str, Value]) -> tuple[dict[str, Any], dict[str, Value]]:
    """Params as a nested config, and those that it cannot give back exactly."""
    nested: dict[str, Any] = {}
    exact: dict[str, Value] = {}
    literal: dict[str, Any] = {}
    for key in sorted(params):
        value = params[key]
        parts = key.split("/")
        if parts[0] in _RESERVED_TOP or key == "":
            exact[key] = value
            continue
        if not survives(value):
            exact[key] = value
        if parts[0] == "":  # the uploader refuses an empty top-level key
            literal[key] = shown(value)
            continue
        at = nested
        for part in parts[:-1]:
            inner = at.setdefault(part, {})
            if not isinstance(inner, dict):
                break
            at = inner
        else:
            if parts[-1] not in at:
                at[parts[-1]] = _Leaf(shown(value))
                continue
        literal[key] = shown(value)
    config: dict[str, Any] = _plain(nested)
    for key, leaf in literal.items():
        config[key] = leaf
    return config, exact


@dataclass(frozen=True, slots=True)
class _Leaf:
    value: Any


def _plain(tree: dict[str, Any]) -> dict[str, Any]:
    return {k: v.value if isinstance(v, _Leaf) else _plain(v) for k, v in tree.items()}


def params_of(config: Mapping[str, Any], exact: Mapping[str, Value]) -> dict[str, Value]:
    params = flatten({k: v for k, v in config.items() if k not in _RESERVED_TOP})
    return with_exact(params, exact, hidden=lambda key: key.split("/")[0] in _RESERVED_TOP or key == "")


def with_exact(
    visible: dict[str, Value], exact: Mapping[str, Value], hidden: Callable[[str], bool]
) -> dict[str, Value]:
    for key, value in exact.items():
        if isinstance(value, Mapping) and value:
            parts = flatten({key: shown(value)})
            if all(part in visible and _same(visible[part], v) for part, v in parts.items()):
                for part in parts:
                    del visible[part]
                visible[key] = value
            continue
        told = visible.get(key, ...)
        gone = told is ... and (hidden(key) or value == {})
        if gone or (told is not ... and _same(told, shown(value))):
            visible[key] = value
    return visible


def _same(told: Any, was: Any) -> bool:
    return bool(told == was) and isinstance(told, bool) == isinstance(was, bool)


def micros(time: datetime) -> int:
    """Microseconds since 1970, exactly."""
    delta = time - EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
