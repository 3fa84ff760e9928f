"""Registry entries ↔ canonical records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...model import ModelVersion, RegisteredModel

_THREE = re.compile(r"\d+\.\d+\.\d+")


def semantic(version: str) -> str:
    """A version as Comet's registry and artifacts want it: three numbers. `7` → `7.0.0`.

    Raises `ValueError` for one that has no such form.
    """
    numbers = version.removeprefix("v").split(".")
    if len(numbers) <= 3 and all(part.isdigit() for part in numbers):
        return ".".join([*(str(int(part)) for part in numbers), "0", "0"][:3])
    raise ValueError(f"{version!r} is no version of three numbers")


def ordered(version: str) -> tuple[int, ...]:
    """A key that sorts semantic versions, oldest first."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def from_messages(payloads: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[RegisteredModel]:
    """Models that archives will register when they are uploaded; `payloads` with their experiment keys."""
    models: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for key, payload in payloads:
        models.setdefault(str(payload["registry_name"]), []).append((key, payload))
    for name, entries in models.items():
        versions = [
            ModelVersion(
                model=name,
                version=str(payload["version"]),
                run=key,
                path=f"models/{payload['model_name']}",
                stage=next(iter(payload.get("stages") or ()), None),
                tags={str(tag): "" for tag in payload.get("tags") or ()},
                description=payload.get("comment"),
                status=payload.get("status"),
            )
            for key, payload in entries
        ]
        versions.sort(key=lambda v: ordered(v.version))
        described = [p.get("description") for _, p in entries if p.get("description")]
        yield RegisteredModel(name=name, description=described[0] if described else None, versions=versions)
