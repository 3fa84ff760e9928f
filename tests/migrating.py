"""Helpers of the tests in `tests/migrate`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from outgrow.model import Experiment, Run
from outgrow.testing import records
from outgrow.testing.memory import MemorySink, MemorySource, RunData, capabilities

POOR = capabilities(
    "texts", "histograms", "artifacts", "artifact_inputs", "labels", "environment", "code", "registry",
    "summary", "references", "parent", "experiment_tags", "experiment_created_at", "group", "user",
    param_types=frozenset({"str"}), float_steps=False, null_steps=False, point_times="s", run_times="s",
    exact_duplicates=False, nonfinite=frozenset(), point_columns=frozenset(),
)  # fmt: skip
"""A platform of strings, whole steps and whole seconds, which has no place for most concepts."""

WRITES = ("begin", "writer.*", "register", "trace", "evaluation_dataset")


def written(sink: MemorySink) -> Counter[str]:
    """Calls that change the sink."""
    return Counter(
        {
            name: count
            for name, count in sink.faults.calls.items()
            if name.startswith("writer.") or name in ("begin", "register", "trace", "evaluation_dataset")
        }
    )


def source_of(*runs: RunData | Run, experiments: tuple[Experiment, ...] = ()) -> MemorySource:
    """A source of these runs, each with some points unless it brings its own."""
    held = [run if isinstance(run, RunData) else RunData(run, [records.points()]) for run in runs]
    return MemorySource(experiments or (records.experiment(),), held)


def add_points(source: MemorySource, run_id: str, steps: int, first_step: int) -> None:
    """As if the run had logged more."""
    data = source.by_run[run_id]
    data.points = [*data.points, records.points(steps=steps, first_step=first_step, seed=first_step)]


def change(source: MemorySource, run_id: str, **changes: object) -> None:
    data = source.by_run[run_id]
    data.run = replace(data.run, **changes)


def points_in(sink: MemorySink) -> dict[str, int]:
    """Rows by the identity of the run they belong to."""
    source = sink.source()
    return {
        data.run.origin.identity if data.run.origin else run_id: sum(b.num_rows for b in data.points)
        for run_id, data in source.by_run.items()
    }
