"""What differs between runs, most likely explanation first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..adapters.base import Source
from ..adapters.fit import text_of
from ..model import SYSTEM_PREFIX, Environment, Run
from ..reading import Floats, curves, find_run, number, open_location, split_reference

Section = Literal["data", "code", "params", "seeds", "environment", "hardware", "artifacts", "metrics"]
SECTIONS: tuple[Section, ...] = (
    "data", "code", "params", "seeds", "environment", "hardware", "artifacts", "metrics",
)  # fmt: skip
"""In order of what most likely explains another result: other data first, other results last."""

PART_AT = 0.05
"""Curves have parted where they differ by more than this share of their common range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not the same in all runs. `values` are in the order of the runs."""

    section: Section
    key: str
    values: tuple[Any, ...]
    """None where a run does not have it."""
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDiff:
    runs: tuple[Run, ...]
    locations: tuple[str, ...]
    differences: list[Difference]
    same: dict[str, int]
    """Section → how many things are the same in all runs."""


def diff(references: Sequence[str]) -> RunDiff:
    """Compare two or more `LOCATION#RUN`, which may be on different platforms."""
    with ExitStack() as stack:
        opened: dict[str, Source] = {}
        found: list[tuple[Source, Run]] = []
        for reference in references:
            location, name = split_reference(reference)
            if location not in opened:
                opened[location] = stack.enter_context(open_location(location))
            found.append((opened[location], find_run(opened[location], name)[1]))
        return compare(found)


def compare(found: Sequence[tuple[Source, Run]]) -> RunDiff:
    """Compare runs that are already found."""
    runs = [run for _, run in found]
    sections: dict[Section, list[dict[str, Any]]] = {
        "data": [_data(run) for run in runs],
        "code": [_code(run) for run in runs],
        "params": [{k: _plain(v) for k, v in run.params.items()} for run in runs],
        "seeds": [dict((run.environment or Environment()).seeds) for run in runs],
        "environment": [_environment(run) for run in runs],
        "hardware": [_hardware(run) for run in runs],
        "artifacts": [_artifacts(source, run) for source, run in found],
    }
    differences: list[Difference] = []
    same: dict[str, int] = {}
    for section, facts in sections.items():
        notes = {"commit": code_between(facts)} if section == "code" else {}
        part = _differing(section, facts, notes)
        differences += part
        same[section] = len({key for fact in facts for key in fact}) - len(part)
    metrics, equal = _metrics(found)
    same["metrics"] = equal
    return RunDiff(
        runs=tuple(runs),
        locations=tuple(str(source.location) for source, _ in found),
        differences=differences + metrics,
        same=same,
    )


def _differing(
    section: Section, facts: Sequence[dict[str, Any]], notes: dict[str, str | None]
) -> list[Difference]:
    keys = dict.fromkeys(key for fact in facts for key in fact)
    result = []
    for key in keys:
        values = tuple(fact.get(key) for fact in facts)
        if any(not _equal(values[0], value) for value in values[1:]):
            result.append(Difference(section=section, key=key, values=values, note=notes.get(key)))
    # What all runs have but with another value says more than what only some have.
    return sorted(result, key=lambda d: (any(v is None for v in d.values), d.key))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    return bool(a == b)


def _plain(value: Any) -> Any:
    """Across platforms, a number kept as text is the number."""
    as_number = number(value)
    return as_number if as_number is not None else text_of(value)


def _data(run: Run) -> dict[str, Any]:
    return {
        f"{use.context or 'data'}: {use.name}": use.digest or use.version or use.source
        for use in run.datasets
    }


def _code(run: Run) -> dict[str, Any]:
    code = run.code
    if code is None:
        return {}
    facts = {
        "commit": code.commit,
        "branch": code.branch,
        "uncommitted changes": code.dirty,
        "repository": code.repository,
        "entry point": code.entry_point,
    }
    return {key: value for key, value in facts.items() if value is not None}


def _environment(run: Run) -> dict[str, Any]:
    environment = run.environment or Environment()
    facts: dict[str, Any] = dict(environment.packages)
    facts |= {"python": environment.python, "os": environment.os, "image": environment.image}
    facts |= {f"${name}": value for name, value in environment.variables.items()}
    return {key: value for key, value in facts.items() if value is not None}


def _hardware(run: Run) -> dict[str, Any]:
    environment = run.environment or Environment()
    facts = {
        "host": environment.host,
        "cpu": environment.cpu,
        "cpu count": environment.cpu_count,
        "memory bytes": environment.memory_bytes,
        "gpu": environment.gpu,
        "gpu count": environment.gpu_count,
        "cuda": environment.cuda,
    }
    return {key: value for key, value in facts.items() if value is not None}


def _artifacts(source: Source, run: Run) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for file in source.files(run):
        facts[file.path] = file.sha256 or (f"{file.size} bytes" if file.size is not None else "present")
    for artifact in source.artifacts(run):
        facts[f"{artifact.type}: {artifact.name}"] = artifact.digest or artifact.version or "present"
    return facts


def _metrics(found: Sequence[tuple[Source, Run]]) -> tuple[list[Difference], int]:
    all_curves = [curves(source, run) for source, run in found]
    keys = dict.fromkeys(
        [key for run_curves in all_curves for key in run_curves]
        + [key for _, run in found for key, value in run.summary.items() if number(value) is not None]
    )
    result, equal = [], 0
    for key in keys:
        finals = tuple(_final(c, run, key) for c, (_, run) in zip(all_curves, found, strict=True))
        mine = [c.get(key) for c in all_curves]
        if all(_equal(finals[0], f) for f in finals[1:]) and _same_curves(mine):
            equal += 1
            continue
        note = _parting_note(mine)
        if note is None and all(_equal(finals[0], f) for f in finals[1:]):
            note = "the same last value, but not the same points"
        result.append(Difference(section="metrics", key=key, values=finals, note=note))
    ordered = sorted(
        result,
        key=lambda d: (
            d.key.startswith(SYSTEM_PREFIX),
            any(v is None for v in d.values),
            -_spread(d.values),
            d.key,
        ),
    )
    return ordered, equal


def _final(run_curves: dict[str, tuple[Floats, Floats]], run: Run, key: str) -> float | None:
    if key in run_curves:
        return float(run_curves[key][1][-1])
    return number(run.summary.get(key))


def _spread(values: Sequence[Any]) -> float:
    finite: list[float] = [v for v in values if v is not None and math.isfinite(v)]
    if len(finite) < 2:
        return 0.0
    return (max(finite) - min(finite)) / (max(abs(v) for v in finite) or 1.0)


def _same_curves(run_curves: Sequence[tuple[Floats, Floats] | None]) -> bool:
    first = run_curves[0]
    return all(
        (first is None) == (other is None)
        and (
            first is None
            or other is None
            or (np.array_equal(first[0], other[0]) and np.array_equal(first[1], other[1], equal_nan=True))
        )
        for other in run_curves[1:]
    )


def _parting_note(run_curves: Sequence[tuple[Floats, Floats] | None]) -> str | None:
    known = [c for c in run_curves if c is not None and len(c[0]) > 1]
    notes = []
    if len(known) == len(run_curves):
        if len(steps := [s for c in known[1:] if (s := parting_step(known[0], c)) is not None]):
            notes.append(f"curves part at step {min(steps):g}")
        lows, highs = [float(np.nanmin(c[1])) for c in known], [float(np.nanmax(c[1])) for c in known]
        if len(set(lows)) > 1 or len(set(highs)) > 1:
            notes.append("range " + " | ".join(f"{a:.6g}…{b:.6g}" for a, b in zip(lows, highs, strict=True)))
    return "; ".join(notes) or None


def parting_step(a: tuple[Floats, Floats], b: tuple[Floats, Floats]) -> float | None:
    """The first common step from which two curves stay apart by more than `PART_AT` of their range.

    None where they never part, or have no step in common.
    """
    common, in_a, in_b = np.intersect1d(a[0], b[0], return_indices=True)
    if not len(common):
        return None
    one, two = a[1][in_a], b[1][in_b]
    finite = np.isfinite(one) & np.isfinite(two)
    if not finite.any():
        return None
    span = max(one[finite].max(), two[finite].max()) - min(one[finite].min(), two[finite].min())
    apart = np.abs(one - two) > PART_AT * span
    apart[~finite] = (np.isnan(one) != np.isnan(two))[~finite]
    together = np.flatnonzero(~apart)
    start = together[-1] + 1 if len(together) else 0
    return float(common[start]) if start < len(common) else None


def code_between(facts: Sequence[dict[str, Any]], folder: Path | None = None) -> str | None:
    """What changed between the commits of two runs, where this folder's repository has both."""
    commits = list(dict.fromkeys(fact["commit"] for fact in facts if fact.get("commit")))
    if len(commits) != 2:
        return None
    import git

    try:
        repository = git.Repo(folder or Path.cwd(), search_parent_directories=True)
        changed = repository.git.diff("--shortstat", commits[0], commits[1], "--")
        ahead = repository.git.rev_list("--count", f"{commits[0]}..{commits[1]}", "--")
    except (git.InvalidGitRepositoryError, git.NoSuchPathError, git.GitCommandError, ValueError):
        return "the repository with both commits is not at hand"
    return f"{ahead} commits later:{' ' + changed.strip() if changed.strip() else ' no file differs'}"
