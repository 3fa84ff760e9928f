"""What a sink's declared limits must mean. See `outgrow.testing.contract`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from . import records
from .memory_source import MemorySource
from .place import Contract, Judge, Place, one_run, written


class LimitsContract(Contract):
    """Texts around every declared limit."""

    @pytest.mark.parametrize("by", [-1, 0, 1])
    @pytest.mark.parametrize(
        "name", ["metric_key", "param_key", "param_value", "tag_key", "tag_value", "label", "run_name", "description", "file_path", "experiment_name"]
    )  # fmt: skip
    def test_length_limit(self, name: str, by: int, place: Place, suffix: str, judge: Judge) -> None:
        """Texts below and at a declared limit come back whole; above it, cut as `fit` says."""
        with place.sink() as sink:
            limit = getattr(sink.capabilities, name)
        if limit.length is None:
            pytest.skip("no limit")
        unit = "é" if limit.bytes and not limit.allowed else "e"
        size = (limit.length + by) // len(unit.encode() if limit.bytes else unit)
        source = _with_text(
            one_run(suffix),
            name,
            (unit * size)[: -len(suffix)] + suffix if name == "experiment_name" else unit * size,
        )
        _, found = written(place, source)
        judge(f"{name}{by:+d}", found)


def _with_text(source: MemorySource, name: str, text: str) -> MemorySource:
    (data,) = source.by_run.values()
    changes: dict[str, dict[str, Any]] = {
        "param_key": {"params": {text: "x"}},
        "param_value": {"params": {"x": text}},
        "tag_key": {"tags": {text: "x"}},
        "tag_value": {"tags": {"x": text}},
        "label": {"labels": [text]},
        "run_name": {"name": text},
        "description": {"description": text},
        "metric_key": {"summary": {text: 1.0}},
    }
    data.run = replace(data.run, **changes.get(name, {}))
    if name == "metric_key":
        data.points = [records.points((text,), 3)]
    if name == "file_path":
        data.files.append(records.file("/".join(_cut(text, 100)), b"x"))
    if name == "experiment_name":
        source.by_experiment = {id_: replace(e, name=text) for id_, e in source.by_experiment.items()}
    return source


def _cut(text: str, length: int) -> list[str]:
    """Parts that are `length` long but for the last, one less for each `/` between them."""
    parts = [text[i : i + length - 1] for i in range(0, len(text), length)]
    return [part for part in parts if part]
