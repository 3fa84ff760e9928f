"""A place that the contract suite writes to and reads from, and the suite's common parts."""

from __future__ import annotations

import fnmatch
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from ..adapters.base import Copy, Sink, Source
from ..adapters.fit_stream import Stream
from ..errors import OutgrowError
from ..locations import open_sink, open_source
from ..model import Origin, Run
from . import records
from .compare import Difference, compare
from .drive import Expected, write
from .memory_source import MemorySource, RunData

Judge = Callable[[str, Iterable[Difference]], None]


class Place(ABC):
    """Somewhere that can be written to and read back."""

    location: str
    """Its location; `sink` and `source` open it. Override them where that is not enough."""

    def sink(self) -> Sink:
        return open_sink(self.location)

    def source(self) -> Source:
        return open_source(self.location)

    def settle(self) -> None:  # noqa: B027 - most platforms need nothing
        """Make what sinks have flushed visible to sources (the vendor's sync, an index that lags)."""

    @abstractmethod
    def state(self) -> object:
        """What is stored, in any comparable form: reading must not change it."""


class Gaps:
    """The known gaps of a class, and the verdict on what was found."""

    def __init__(self, gaps: Mapping[str, str]) -> None:
        self._gaps = gaps

    def reason(self, name: str) -> str | None:
        return next((why for pattern, why in self._gaps.items() if fnmatch.fnmatchcase(name, pattern)), None)

    def judge(self, case: str, found: Iterable[Difference]) -> None:
        """Fails on an unknown difference, xfails where all are known, passes where there is none."""
        found = list(found)
        unknown = [d for d in found if self.reason(f"{case}:{d.aspect}") is None]
        if unknown:
            pytest.fail("\n".join(f"{d.aspect}: {d.text}" for d in unknown), pytrace=False)
        seen = {f"{case}:{d.aspect}" for d in found}
        closed = [
            p for p in self._gaps if p.startswith(f"{case}:") and not set("*?[") & set(p) and p not in seen
        ]
        if closed:
            pytest.fail(f"no gap any more, remove it from `gaps`: {', '.join(closed)}", pytrace=False)
        if seen:
            pytest.xfail("; ".join(sorted({self.reason(name) or "" for name in seen})))


class Contract:
    gaps: ClassVar[Mapping[str, str]] = {}

    @pytest.fixture(autouse=True)
    def _known_gap(self, request: pytest.FixtureRequest) -> None:
        name = request.node.originalname
        if name in self.gaps:
            request.applymarker(pytest.mark.xfail(reason=self.gaps[name], strict=True))

    @pytest.fixture
    def suffix(self) -> str:
        """Makes ids and names unique."""
        return f"-{uuid.uuid4().hex[:8]}"

    @pytest.fixture
    def judge(self) -> Judge:
        return Gaps(self.gaps).judge


def rows_of(place: Place) -> Callable[[Stream, Copy], Iterator[pa.RecordBatch]]:
    """The rows that a place has of a run, for sinks whose replay is `append`."""

    def read(stream: Stream, copy: Copy) -> Iterator[pa.RecordBatch]:
        place.settle()
        with place.source() as source:
            run = find_run(source, copy.run_id)
            if run is not None:
                yield from getattr(source, stream)(run)

    return read


def find_run(source: Source, run_id: str) -> Run | None:
    for experiment in source.experiments():
        for run in source.runs(experiment):
            if run.id == run_id:
                return run
    return None


def written(place: Place, source: Source, mark: str | None = "mark-1") -> tuple[Expected, list[Difference]]:
    """Write a source into a place and read it back; a refusal is a difference, too."""
    with place.sink() as sink:
        try:
            expected = write(source, sink, mark=mark, target_rows=rows_of(place))
        except OutgrowError as error:
            return Expected(), [Difference("refused", f"{type(error).__name__}: {error}")]
        sink.flush()
    place.settle()
    with place.source() as back:
        return expected, compare(expected, back, sink)


def copies_of(place: Place, identities: Iterable[str]) -> list[Copy]:
    wanted = set(identities)
    with place.sink() as sink:
        return [copy for copy in sink.copies() if copy.identity in wanted]


def one_run(suffix: str, *, steps: int = 20, **changes: Any) -> MemorySource:
    """An ordinary run with points and a file, in an experiment of its own."""
    experiment = records.experiment(name=f"contract{suffix}")
    run = records.run(experiment=experiment.id, **({"id": f"run{suffix}"} | changes))
    data = RunData(run, [records.points(steps=steps)], files=[records.file("split.json", b"[1, 2]")])
    return MemorySource([experiment], [data], platform="contract")


def origin_of(source: MemorySource, run: Run) -> Origin:
    return run.origin or Origin(platform=source.location.platform, run_id=run.id)
