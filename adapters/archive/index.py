"""What an archive holds now: of every record, where its latest row is."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ...model import File, ModelVersion, R, RegisteredModel
from .bulk import Piece
from .manifest import Part, Segment, Segments
from .records import STATS, load
from .storage import Storage
from .tables import TableReader

RUN_COLUMNS = ("id", "experiment", "mark", "url")
"""What is told of a run without reading its record."""


class Place(NamedTuple):
    """A row of a record table."""

    part: Part
    segment: str
    row: int


class RunPlace(NamedTuple):
    place: Place
    experiment: str
    mark: str | None
    url: str | None


class Index:
    """A view of an archive that only `refresh` changes. Safe for use by several threads."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.segments = Segments(storage)
        self.reader = TableReader(storage)
        self.runs: dict[str, RunPlace] = {}
        self.parts: dict[str, Part] = {}
        """Every table file, by its path."""
        self._parts_of: dict[tuple[str, str], list[Part]] = {}
        self._seen: set[str] = set()
        self._places: dict[str, tuple[dict[str, Place], set[str]]] = {}
        self._slices: dict[str, dict[str, tuple[int, int]]] = {}
        self._lock = threading.RLock()

    def refresh(self) -> None:
        """Take in what was committed since. Raises `Corrupt` naming what is damaged."""
        with self._lock:
            self.segments.refresh()
            for segment in self.segments.live:
                if segment.name in self._seen:
                    continue
                for part in segment.parts:
                    self.parts[part.path] = part
                    self._parts_of.setdefault((segment.name, part.table), []).append(part)
                for part in segment.parts_of("runs"):
                    self._add_runs(part, segment)
                self._seen.add(segment.name)

    def _add_runs(self, part: Part, segment: Segment) -> None:
        rows: Iterable[Sequence[Any]]
        if segment.runs is not None:
            rows = segment.runs
        else:
            table = self.reader.read(part, RUN_COLUMNS)
            rows = zip(*(table.column(name).to_pylist() for name in RUN_COLUMNS), strict=True)
        for row, (run_id, experiment, mark, url) in enumerate(rows):
            known = self.runs.get(run_id)
            if known is None or known.place.segment <= segment.name:
                self.runs[run_id] = RunPlace(Place(part, segment.name, row), experiment, mark, url)

    def cell(self, place: Place, column: str) -> Any:
        return self.reader.read(place.part, [column]).column(column)[place.row].as_py()

    def pieces(self, run_id: str) -> list[Piece]:
        known = self.runs.get(run_id)
        return [Piece.of(row) for row in self.cell(known.place, "parts")] if known else []

    def stats(self, run_id: str) -> dict[str, int | None]:
        place = self.runs[run_id].place
        row = self.reader.read(place.part, list(STATS)).slice(place.row, 1).to_pylist()[0]
        return dict(row)

    def run_records(self, experiment: str, ids: Set[str] | None = None) -> Iterator[str]:
        """The records of an experiment's runs (of these ids alone), one table file in memory at a time."""
        wanted: dict[str, list[Place]] = {}
        for id, known in list(self.runs.items()):
            if known.experiment == experiment and (ids is None or id in ids):
                wanted.setdefault(known.place.part.path, []).append(known.place)
        for places in wanted.values():
            rows = pa.array(sorted(place.row for place in places))
            column = self.reader.read(places[0].part, ["record"]).column("record")
            for batch in pc.take(column, rows).chunks:
                for scalar in batch:
                    yield scalar.as_py()

    def latest(
        self, table: str, keys: tuple[str, ...], kind: type[R], *, first: bool = False
    ) -> dict[Any, R]:
        """The record of every key, in order of first appearance; the latest, or the first, counts."""
        found: dict[Any, R] = {}
        for segment in self.segments.live:
            for part in segment.parts_of(table):
                rows = self.reader.read(part, [*keys, "record"])
                columns = [rows.column(name).to_pylist() for name in (*keys, "record")]
                for *key, record in zip(*columns, strict=True):
                    slot = key[0] if len(keys) == 1 else tuple(key)
                    if not (first and slot in found):
                        found[slot] = load(record, kind, f"{slot} in {part.path}")
        return found

    def places(self, table: str, key: str = "id") -> dict[str, Place]:
        """Where the latest row of every id is. Not to be changed by the caller."""
        with self._lock:
            found, seen = self._places.setdefault(table, ({}, set()))
            for segment in self.segments.live:
                if segment.name not in seen:
                    seen.add(segment.name)
                    for part in segment.parts_of(table):
                        for row, slot in enumerate(self.reader.read(part, [key]).column(key).to_pylist()):
                            if slot not in found or found[slot].segment <= segment.name:
                                found[slot] = Place(part, segment.name, row)
            return found

    def small_files(self) -> dict[str, Place]:
        """SHA-256 → where the bytes of a small file are."""
        return self.places("small_files", "sha256")

    def origins(self, table: str) -> dict[str, str]:
        """id → origin, of every row of a table that has both."""
        found: dict[str, str] = {}
        for segment in self.segments.live:
            for part in segment.parts_of(table):
                rows = self.reader.read(part, ["id", "origin"])
                found.update(zip(*(column.to_pylist() for column in rows.columns), strict=True))
        return found

    def files(self, table: str, owner_column: str, owner: str, segment: str) -> list[File]:
        """The files of a run or of an artifact version, whose latest row is in `segment`."""
        rows = self.owned(table, owner_column, owner, segment, ["record"])
        return [load(row["record"], File, f"a file of {owner}") for row in rows]

    def owned(
        self, table: str, owner_column: str, owner: str, segment: str, columns: list[str]
    ) -> list[dict[str, Any]]:
        """The rows that belong to a run or an artifact version, in one segment."""
        found: list[dict[str, Any]] = []
        for part in self._parts_of.get((segment, table), ()):
            start, end = self._slice(part, owner_column).get(owner, (0, 0))
            if end > start:
                found += self.reader.read(part, columns).slice(start, end - start).to_pylist()
        return found

    def _slice(self, part: Part, owner_column: str) -> dict[str, tuple[int, int]]:
        """Owner → its rows, which lie together."""
        if part.path not in self._slices:
            column = self.reader.read(part, [owner_column]).column(owner_column)
            owners = pc.run_end_encode(pc.cast(column.combine_chunks(), pa.string()))
            ends = owners.run_ends.to_pylist()
            starts = [0, *ends[:-1]]
            self._slices[part.path] = dict(
                zip(owners.values.to_pylist(), zip(starts, ends, strict=True), strict=True)
            )
        return self._slices[part.path]

    def models(self) -> dict[tuple[str, str], RegisteredModel]:
        """(kind, name) → model with every version that any segment has of it."""
        models = self.latest("models", ("kind", "name"), RegisteredModel)
        versions = self.latest("model_versions", ("kind", "model", "version"), ModelVersion)
        for (kind, name, _), version in versions.items():
            models[kind, name].versions.append(version)
        return models
