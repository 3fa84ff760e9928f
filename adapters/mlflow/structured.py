"""Structured facts of a run that MLflow keeps in tags: its code and its environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ...model import CodeVersion, Environment, from_json, to_builtins
from .capabilities import TAG_VALUE_LENGTH

CODE_TAGS = {
    "repository": "mlflow.source.git.repoURL",
    "commit": "mlflow.source.git.commit",
    "branch": "mlflow.source.git.branch",
    "dirty": "mlflow.source.git.dirty",
    "entry_point": "mlflow.source.name",
}
CODE = "outgrow.code"
"""What `CODE_TAGS` has no place for, as JSON."""
ENVIRONMENT = "outgrow.environment"


def pieces(key: str, text: str, length: int = TAG_VALUE_LENGTH) -> dict[str, str]:
    """A long text as tags `key`, `key.1`, `key.2`… of at most `length` characters."""
    parts = [text[i : i + length] for i in range(0, len(text), length)] or [""]
    return {f"{key}.{i}" if i else key: part for i, part in enumerate(parts)}


def joined(key: str, tags: Mapping[str, str | None]) -> str | None:
    """The inverse of `pieces`."""
    if key not in tags:
        return None
    parts = [tags[key] or ""]
    while (part := tags.get(f"{key}.{len(parts)}")) is not None:
        parts.append(part)
    return "".join(parts)


def code_of(native: dict[str, str], tags: Mapping[str, str | None]) -> CodeVersion | None:
    found: dict[str, Any] = {f: native.pop(t) for f, t in CODE_TAGS.items() if t in native and f != "dirty"}
    if (word := native.get(CODE_TAGS["dirty"], "").lower()) in ("true", "false"):
        found["dirty"] = word == "true"
        del native[CODE_TAGS["dirty"]]
    if tags.get(CODE):
        try:
            ours = json.loads(tags[CODE] or "{}")
        except ValueError:
            ours = {}
        names = {f.name for f in fields(CodeVersion)}
        found |= {k: v for k, v in ours.items() if k in names} if isinstance(ours, dict) else {}
    return CodeVersion(**found) if found else None


def code_tags(code: CodeVersion | None) -> dict[str, str]:
    if code is None:
        return {}
    tags, rest = {}, {}
    for field in fields(CodeVersion):
        value = getattr(code, field.name)
        if value is None:
            continue
        if tag := CODE_TAGS.get(field.name):
            tags[tag] = str(value).lower() if isinstance(value, bool) else str(value)
        else:
            rest[field.name] = value
    return tags | ({CODE: json.dumps(rest, ensure_ascii=False)} if rest or not tags else {})


def environment_tags(environment: Environment | None) -> dict[str, str]:
    if environment is None:
        return {}
    told = {k: v for k, v in to_builtins(environment).items() if v not in (None, {}, [])}
    return pieces(ENVIRONMENT, json.dumps(told, ensure_ascii=False, sort_keys=True))


def environment_of(tags: Mapping[str, str | None]) -> Environment | None:
    try:
        return from_json(text, Environment) if (text := joined(ENVIRONMENT, tags)) else None
    except ValueError:
        return None  # edited by hand: it is no longer ours to read
