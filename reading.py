"""Reading a location: the runs that a question is about, and their curves.

For `insight` and `cards`, which only read. Copied runs are given back as they were before the copy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from . import filters, locations
from .adapters.base import Source
from .adapters.batches import with_steps
from .adapters.restored import Restored, restored
from .errors import LocationError
from .filters import Filter, Parts
from .model import Experiment, ModelVersion, RegisteredModel, Run

Floats = npt.NDArray[np.float64]


def open_location(location: str | Source) -> Source:
    """The location's source, with copied runs given back as they were before the copy."""
    return restored(locations.open_source(location) if isinstance(location, str) else location)


def select(
    source: Source,
    *,
    where: str | Filter | None = None,
    experiments: Sequence[str] = (),
    deleted: bool = False,
    parts: Parts | None = None,
) -> Iterator[tuple[Experiment, Run]]:
    """Runs with their experiment, in the source's order.

    `experiments` are names or ids; one that does not exist raises `LocationError`.
    Deleted runs and experiments are left out unless `deleted`. With `parts`, no more than these of
    a run need to be true, and a run may be given to no method of the source.
    """
    test = filters.parse(where) if isinstance(where, str) else where
    if parts is not None and test is not None:
        parts |= test.parts
    original = source.experiment_of if isinstance(source, Restored) else None
    missing, known = set(experiments), []
    for experiment in source.experiments():
        names = {experiment.id, experiment.name}
        known.append(experiment.name)
        if experiments and not names & set(experiments):
            continue
        missing -= names
        if experiment.deleted and not deleted:
            continue
        listed = source.runs(experiment, test) if parts is None else source.listed(experiment, test, parts)
        for run in listed:
            if run.deleted and not deleted:
                continue
            if test is None or test(run, (original(run, experiment) if original else experiment).name):
                yield experiment, run
    if missing:
        wanted = sorted(missing)[0]
        raise LocationError(
            f"no experiment {wanted!r} in {source.location}", hint=suggestion(wanted, known, "experiments")
        )


def suggestion(word: str, known: Iterable[str], what: str) -> str:
    """A hint for a word that is not known: those that look like it, else some of those there are."""
    names = sorted(set(known))
    lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), lower, n=3)
    # `accuracy` is meant as `eval/accuracy`, which is too long to be a close match.
    close += [name for name in lower if word.lower() in name and name not in close][:3]
    if close:
        return "did you mean " + " or ".join(lower[name] for name in close[:3]) + "?"
    return f"{what} there: " + (", ".join(names[:20]) + (" …" if len(names) > 20 else "") or "none")


def split_reference(text: str) -> tuple[str, str]:
    """`LOCATION#RUN` → location and run. Raises `LocationError` where the `#RUN` is missing."""
    location, mark, reference = text.rpartition("#")
    if not mark or not location or not reference:
        raise LocationError(
            f"{text!r} names no run", hint="write LOCATION#RUN, where RUN is an id or a unique name"
        )
    return location, reference


def find_run(source: Source, reference: str) -> tuple[Experiment, Run]:
    """The run of that id, of that id's unique beginning (8 characters or more), or of that unique name.

    Raises `LocationError` where there is none or more than one.
    """
    for found in select(source, where=_is("id", reference), deleted=True):
        return found
    named = [run.id for _, run in select(source, where=_is("name", reference), deleted=True, parts=Parts())]
    begun: list[str] = []
    names: set[str] = set()
    looked_at = Parts(fields=frozenset({"name", "origin"}))
    for _, run in () if named else select(source, deleted=True, parts=looked_at):
        names.add(run.name or run.id)
        if run.origin and run.origin.run_id == reference:
            named.append(run.id)
        elif len(reference) >= 8 and run.id.startswith(reference):
            begun.append(run.id)
    matches = named or begun
    if len(matches) == 1:
        return next(select(source, where=_is("id", matches[0]), deleted=True))
    if matches:
        listed = ", ".join(matches[:5])
        raise LocationError(
            f"{len(matches)} runs are named {reference!r} in {source.location}",
            hint=f"use an id: {listed}" + (" …" if len(matches) > 5 else ""),
        )
    close = difflib.get_close_matches(reference, names, n=3)
    raise LocationError(
        f"no run {reference!r} in {source.location}",
        hint=("did you mean " + " or ".join(close) + "?")
        if close
        else f"list them with: outgrow runs {source.location}",
    )


def _is(field: str, value: str) -> Filter:
    return filters.parse(f"{field} == {value!r}")


def resolve_model(
    models: Sequence[RegisteredModel], reference: str
) -> tuple[RegisteredModel | None, ModelVersion | None]:
    """The model version that `NAME`, `NAME@ALIAS` or `NAME/VERSION` means; (None, None) for another word.

    A bare name is its highest version. Names that hold `@` or `/` themselves are tried whole first.
    """
    for model in models:
        if model.kind == "model" and model.versions and reference == model.name:
            return model, model.versions[-1]
    for model in models:
        for mark in ("@", "/"):
            prefix = model.name + mark
            if model.kind != "model" or not reference.startswith(prefix):
                continue
            wanted = reference.removeprefix(prefix)
            for version in model.versions:
                if wanted == version.version if mark == "/" else wanted in version.aliases:
                    return model, version
            known = (
                [v.version for v in model.versions]
                if mark == "/"
                else [a for v in model.versions for a in v.aliases]
            )
            raise LocationError(
                f"{model.name} has no {'version' if mark == '/' else 'alias'} {wanted!r}",
                hint="it has: " + (", ".join(known) or "none"),
            )
    return None, None


def number(value: Any) -> float | None:
    """The value as a number, also where the platform keeps numbers as text; None if it is none."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return None


def curves(source: Source, run: Run) -> dict[str, tuple[Floats, Floats]]:
    """Metric key → (steps, values), ordered by step; points without a step take their position."""
    parts = [_uniform(batch) for batch in source.points(run)]
    if not parts:
        return {}
    table = pa.Table.from_batches(parts).unify_dictionaries().combine_chunks()
    chunk = table.column("key").chunk(0)
    words = chunk.dictionary.to_pylist()
    index = chunk.indices.to_numpy(zero_copy_only=False)
    steps = table.column("step").to_numpy(zero_copy_only=False)
    values = table.column("value").to_numpy(zero_copy_only=False)
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(len(words) + 1))
    result = {}
    for i, word in enumerate(words):
        rows = order[starts[i] : starts[i + 1]]
        if not len(rows):
            continue
        own = steps[rows].astype(np.float64)
        own = np.where(np.isnan(own), np.arange(len(rows), dtype=np.float64), own)
        by_step = np.argsort(own, kind="stable")
        result[word] = (own[by_step], values[rows][by_step].astype(np.float64))
    return result


def _uniform(batch: pa.RecordBatch) -> pa.RecordBatch:
    return with_steps(batch.select(["key", "step", "value"]), pa.float64())
