"""The 2.x model registry of an export: models and their versions."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import OutgrowError
from ...model import ModelVersion, RegisteredModel, Run
from . import export_rows
from .export_layout import Layout, Scope
from .records import run_of
from .registry import in_order, model_of, version_of


def _read(layout: Layout, folder: str, scope: Scope) -> Iterator[tuple[Run, export_rows.Scan]]:
    for entity in layout.entities(folder, scope):
        try:
            identity = export_rows.identity(entity)
            if identity is None:
                continue
            found = export_rows.scan(entity, identity[1])
        except OutgrowError:
            continue  # told by problems(), and its run fails
        run = run_of(found.attributes, id="/".join(identity), experiment=identity[0], native_id=identity[1])
        yield run, found


def models(layout: Layout, folder: str) -> Iterator[RegisteredModel]:
    """Models by their id (`PROJECT-MODEL`), with their versions."""
    versions: dict[str, list[ModelVersion]] = {}
    for run, found in _read(layout, folder, "model_version"):
        version = version_of(run, f"{run.id}:files" if found.files else None)
        versions.setdefault(version.model, []).append(version)
    for run, found in _read(layout, folder, "model"):
        yield model_of(run, found.attributes, versions.pop(run.id.rpartition("/")[2], []))
    for name, orphans in sorted(versions.items()):  # the model itself was not exported
        yield RegisteredModel(name=name, versions=in_order(orphans))
