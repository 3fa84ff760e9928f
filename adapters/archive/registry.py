"""Merging a registered model into the one of that name that an archive has already."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...model import ModelVersion, RegisteredModel
from ..fit import short_hash
from ..merge import losing_aliases


@dataclass(frozen=True, slots=True)
class Merged:
    model: RegisteredModel
    """As it is here afterwards, all versions included."""
    versions: list[ModelVersion]
    """Those that are new or changed."""
    changed: bool
    """Whether the model's own facts are new or changed."""
    numbers: dict[str, str]
    """The source's version → the version here."""


def merge(here: RegisteredModel | None, model: RegisteredModel) -> Merged:
    """Versions keep their numbers, unless another platform's model of that name has it already. An alias
    leaves a version that is here for one of the same platform that comes with it."""
    facts = replace(model, versions=[])
    versions = {version.version: version for version in here.versions} if here else {}
    changed: list[ModelVersion] = []
    numbers: dict[str, str] = {}
    for version in model.versions:
        number = _number(version, versions)
        numbers[version.origin_version] = number
        new = replace(version, version=number)
        if versions.get(number) != new:
            versions[number] = new
            changed.append(new)
    staying = [v for number, v in versions.items() if number not in numbers.values()]
    for platform in {_platform(version) for version in model.versions}:
        coming = [v for v in model.versions if _platform(v) == platform]
        for version in losing_aliases([v for v in staying if _platform(v) == platform], coming):
            versions[version.version] = version
            changed.append(version)
    return Merged(
        replace(facts, versions=list(versions.values())),
        changed,
        here is None or replace(here, versions=[]) != facts,
        numbers,
    )


def _platform(version: ModelVersion) -> str:
    """Where its run was first recorded: the ids of runs in an archive are identities."""
    return (version.run or "").partition(":")[0]


def _number(version: ModelVersion, versions: dict[str, ModelVersion]) -> str:
    same = [
        n for n, v in versions.items() if v.origin_version == version.origin_version and _same(v, version)
    ]
    if same:
        return same[0]
    if version.version not in versions:
        return version.version
    facts = f"{version.run} {version.artifact} {version.source}"
    return f"{version.version}-{short_hash(facts)}"


def _same(one: ModelVersion, other: ModelVersion) -> bool:
    """Nothing that both tell of where they come from differs."""
    pairs = ((one.run, other.run), (one.artifact, other.artifact), (one.source, other.source))
    return all(a is None or b is None or a == b for a, b in pairs)
