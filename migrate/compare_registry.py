"""Comparing the registries: every version that was to be copied, with its aliases, stage and run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from ..adapters.base import Capabilities, Source
from ..adapters.fit import fit_model
from ..adapters.restored import Restored
from ..model import ModelVersion, RegisteredModel
from .names import concept_of
from .report import Difference


def compare_registry(
    source: Restored,
    target: Source,
    caps: Capabilities,
    runs: Mapping[str, str],
    home: Collection[str],
    *,
    filtered: bool,
) -> list[Difference]:
    """`runs`: the source's run ids → ids in the target. `home`: those of runs that were recorded
    there, whose versions are not copies. `filtered`: only some runs were asked for."""
    models = [
        replace(model, versions=[version for version in model.versions if version.run not in home])
        for model in source.registry()
        if caps.native(concept_of(model)) and not (home and {v.run for v in model.versions} <= {*home, None})
    ]
    if not models:
        return []
    here: dict[tuple[str, str], RegisteredModel] = {
        (model.kind, model.name): model for model in target.registry()
    }
    return [
        difference for model in models for difference in _compare(model, here, caps, runs, filtered=filtered)
    ]


def _compare(
    model: RegisteredModel,
    here: Mapping[tuple[str, str], RegisteredModel],
    caps: Capabilities,
    runs: Mapping[str, str],
    *,
    filtered: bool,
) -> Iterator[Difference]:
    fitted, _ = fit_model(model, caps)
    what = f"registry/{fitted.name}"
    copy = here.get((fitted.kind, fitted.name))
    if copy is None:
        yield Difference(sign="-", what=what, expected=filtered)
        return
    if fitted.description and fitted.description != copy.description:
        yield Difference(sign="*", what=f"{what}/description")
    versions = {version.origin_version: version for version in copy.versions}
    for original, version in zip(model.versions, fitted.versions, strict=True):
        where = f"{what}/{original.version}"
        twin = versions.get(original.version)
        if twin is None:
            unknown = original.run is not None and original.run not in runs
            detail = "its run was not copied" if unknown else ""
            yield Difference(sign="-", what=where, detail=detail, expected=filtered)
            continue
        yield from _compare_version(where, version, twin, runs)


def _compare_version(
    where: str, wanted: ModelVersion, here: ModelVersion, runs: Mapping[str, str]
) -> Iterator[Difference]:
    if wanted.run is not None and runs.get(wanted.run) != here.run:
        detail = f"{runs.get(wanted.run)!r} expected, {here.run!r} found"
        yield Difference(sign="*", what=f"{where}/run", detail=detail)
    for alias in sorted(set(wanted.aliases) - set(here.aliases)):
        yield Difference(sign="-", what=f"{where}/aliases/{alias}")
    if wanted.stage is not None and wanted.stage != here.stage:
        detail = f"{wanted.stage!r} expected, {here.stage!r} found"
        yield Difference(sign="*", what=f"{where}/stage", detail=detail)
    for key, value in wanted.tags.items():
        if here.tags.get(key) != value:
            yield Difference(sign="*" if key in here.tags else "-", what=f"{where}/tags/{key}")
