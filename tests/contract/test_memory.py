"""The contract suite against the platform in memory: with every ability, and with few."""

from __future__ import annotations

import pytest
from outgrow.adapters.base import Sink, Source, TextLimit
from outgrow.model import to_json
from outgrow.testing.contract import (
    LimitsContract,
    Place,
    ReadingContract,
    RoundTripContract,
    WritingContract,
)
from outgrow.testing.memory import MemorySink, batches_of, capabilities


class MemoryPlace(Place):
    location = "memory:target"

    def __init__(self, **options: object) -> None:
        self.target = MemorySink(**options)  # type: ignore[arg-type]

    def sink(self) -> Sink:
        return self.target

    def source(self) -> Source:
        return self.target.source()

    def state(self) -> object:
        source = self.target.source()
        runs = {id_: to_json(data.run) for id_, data in source.by_run.items()}
        rows = {id_: sum(b.num_rows for b in batches_of(data.points)) for id_, data in source.by_run.items()}
        return runs, rows


STRICT = capabilities(
    "texts", "histograms", "references", "artifacts", "labels", "fork", "stages", "registry_times",
    metric_key=TextLimit(40, r"[\w./-]", empty=False, path_like=True),
    param_key=TextLimit(40, r"[\w./-]", empty=False, path_like=True),
    param_value=TextLimit(500),
    tag_key=TextLimit(40, r"[\w./-]", empty=False),
    tag_value=TextLimit(100, bytes=True),
    run_name=TextLimit(30),
    experiment_name=TextLimit(50, r"[\w -]", empty=False),
    description=TextLimit(1000),
    file_path=TextLimit(100, bytes=True),
    param_types=frozenset({"str"}),
    nonfinite=frozenset({"nan"}),
    float_steps=False, negative_steps=False, null_steps=False, exact_duplicates=False,
    point_times="ms", null_point_times=False, run_times="s", point_columns=frozenset(),
    max_points_per_series=1_000, version_numbers="sequential", batch_points=700,
)  # fmt: skip


@pytest.fixture(params=["everything", "strict", "appending", "buffered"])
def place(request: pytest.FixtureRequest) -> MemoryPlace:
    match request.param:
        case "strict":
            return MemoryPlace(caps=STRICT)
        case "appending":
            return MemoryPlace(caps=capabilities(replay="append", exact_duplicates=False))
        case "buffered":
            return MemoryPlace(caps=capabilities(chosen_run_ids=True), buffered=True)
    return MemoryPlace()


class TestMemoryWriting(WritingContract):
    pass


class TestMemoryLimits(LimitsContract):
    @pytest.fixture
    def place(self) -> MemoryPlace:
        return MemoryPlace(caps=STRICT)


class TestMemoryReading(ReadingContract):
    pass


class TestMemoryRoundTrip(RoundTripContract):
    @pytest.fixture(params=["strict", "buffered"])
    def place(self, request: pytest.FixtureRequest) -> MemoryPlace:
        if request.param == "strict":
            return MemoryPlace(caps=STRICT)
        return MemoryPlace(caps=capabilities(chosen_run_ids=True), buffered=True)
