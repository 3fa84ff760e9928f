"""The 2.x model registry of an export: models and their versions."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import OutgrowError
from ...model import ModelVersion, RegisteredModel, Run
from ..fit import text_of
from . import export_rows
from .export_layout import Entity, Layout, Scope
from .records import PLATFORM, decode, run_of


def _read(layout: Layout, folder: str, scope: Scope) -> Iterator[tuple[Run, export_rows.Scan, Entity]]:
    for entity in layout.entities(folder, scope):
        try:
            identity = export_rows.identity(entity)
            if identity is None:
                continue
            found = export_rows.scan(entity, identity[1])
        except OutgrowError:
            continue  # told by problems(), and its run fails
        run = run_of(found.attributes, id="/".join(identity), experiment=identity[0], native_id=identity[1])
        yield run, found, entity


def models(layout: Layout, folder: str, project: str) -> Iterator[RegisteredModel]:
    """Models by their id (`PROJECT-MODEL`); versions by the number after it, oldest first."""
    versions: dict[str, list[ModelVersion]] = {}
    for run, found, _ in _read(layout, folder, "model_version"):
        native = run.id.removeprefix(f"{project}/")
        model = native.rpartition("-")[0]
        if (named := found.attributes.get("sys/model_id")) is not None:
            model = str(named.value)
        stage = found.attributes.get("sys/stage")
        versions.setdefault(model, []).append(
            ModelVersion(
                model=model,
                version=native.removeprefix(f"{model}-"),
                run=run.id,
                artifact=f"{run.id}:files" if found.files else None,
                stage=None if stage is None or stage.value == "none" else str(stage.value),
                tags={key: text_of(value) for key, value in run.params.items()},
                description=run.description,
                user=run.user,
                created_at=run.started_at,
                modified_at=run.modified_at,
                extra=run.extra,
            )
        )
    for run, found, _ in _read(layout, folder, "model"):
        native = run.id.removeprefix(f"{project}/")
        name = found.attributes.get("sys/name")
        yield RegisteredModel(
            name=native,
            description=run.description,
            tags={key: text_of(value) for key, value in run.params.items()},
            created_at=run.started_at,
            modified_at=run.modified_at,
            versions=_sorted(versions.pop(native, [])),
            extra={PLATFORM: run.extra.get(PLATFORM, {}) | ({"name": decode(name)} if name else {})},
        )
    for native, orphans in sorted(versions.items()):  # the model itself was not exported
        yield RegisteredModel(name=native, versions=_sorted(orphans))


def _sorted(versions: list[ModelVersion]) -> list[ModelVersion]:
    return sorted(
        versions, key=lambda v: (0, int(v.version), "") if v.version.isdigit() else (1, 0, v.version)
    )
