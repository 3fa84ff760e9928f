"""The files of a registered model, fetched to a folder, for publishing beside its card."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..adapters.base import Source
from ..adapters.paths import inside
from .facts import model_facts


def download(source: Source, reference: str, folder: Path) -> dict[str, Path]:
    """Repository path → local file. Hostile names raise `Corrupt`; nothing outside `folder` is written."""
    facts = model_facts(source, reference)
    prefix = (
        f"{facts.version.path.rstrip('/')}/"
        if facts.version and facts.version.path and facts.artifact is None
        else ""
    )
    result = {}
    for file in facts.files:
        if file.reference is not None:
            continue
        relative = file.path.removeprefix(prefix)
        target = inside(folder, relative)
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open(facts.run, file) as stream, target.open("wb") as out:
            shutil.copyfileobj(stream, out, 1 << 20)
        result[f"model/{relative}"] = target
    return result
