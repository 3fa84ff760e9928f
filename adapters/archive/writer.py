"""Writing one run into an archive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa

from ...model import Artifact, ArtifactUse, DatasetUse, File, Origin, Run, Value, from_json
from ..base import RunWriter
from ..batches import split
from ..replay import Replay
from . import bulk
from .bulk import BulkFile, BulkWriter, Piece, Tally, read_pieces
from .records import artifact_id, stats_of, text

if TYPE_CHECKING:
    from .index import Index
    from .sink import ArchiveSink


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that waits for the next flush."""

    run: Run
    mark: str | None
    pieces: list[Piece]
    files: list[File]
    stats: dict[str, int | None]
    points_by_key: dict[str, int]


class _Present:
    """What the archive has of a run already, read when it is first needed."""

    def __init__(self, index: Index, run_id: str) -> None:
        self._index = index
        place = index.runs[run_id].place
        self.run = from_json(index.cell(place, "record"), Run)
        self.files = index.files("run_files", "run", run_id, place.segment)
        self.pieces = index.pieces(run_id)
        self.stats = index.stats(run_id)
        self.mark = index.runs[run_id].mark

    def points_by_key(self) -> dict[str, int]:
        segment = self._index.runs[self.run.id].place.segment
        rows = self._index.owned("metrics", "run", self.run.id, segment, ["key", "points"])
        return {row["key"]: row["points"] for row in rows if row["points"] is not None}

    def batches(self, table: str) -> Iterator[pa.RecordBatch]:
        return read_pieces(self._index.reader, self._index.parts, self.pieces, table)


class ArchiveWriter(RunWriter):
    """Rows that the archive has already are not added again: see `adapters.replay`."""

    def __init__(self, sink: ArchiveSink, run: Run, origin: Origin, index: Index | None) -> None:
        self.run_id = origin.identity
        self._sink = sink
        self._origin = origin
        present = _Present(index, self.run_id) if index is not None else None
        self._present = present
        self._experiment = run.experiment
        self._params: dict[str, Value] = dict(present.run.params) if present else {}
        self._tags = dict(present.run.tags) if present else {}
        self._labels = list(present.run.labels) if present else []
        self._datasets = list(present.run.datasets) if present else []
        self._uses = list(present.run.artifacts) if present else []
        self._files = {file.path: file for file in present.files} if present else {}
        self._bulk = BulkWriter(self.run_id, sink.scratch(), sink.where)
        self._bulk.pieces = list(present.pieces) if present else []
        self._tally: Tally | None = None if present else Tally()
        self._replays: dict[str, Replay] = {}
        self._staged = False

    def params(self, params: Mapping[str, Value]) -> None:
        self._params |= params

    def tags(self, tags: Mapping[str, str], labels: Sequence[str] = ()) -> None:
        self._tags |= tags
        self._labels = list(dict.fromkeys([*self._labels, *labels]))

    def points(self, batch: pa.RecordBatch) -> None:
        self._add("points", batch)

    def texts(self, batch: pa.RecordBatch) -> None:
        self._add("texts", batch)

    def histograms(self, batch: pa.RecordBatch) -> None:
        self._add("histograms", batch)

    def _add(self, table: str, batch: pa.RecordBatch) -> None:
        if self._present is not None:
            if table not in self._replays:
                self._replays[table] = Replay(self._present.batches(table))
            batch = self._replays[table].new(batch)
        for slice_ in split(batch, bulk.SPILL_ROWS):
            self._counted().add(table, slice_)
            self._bulk.add(table, slice_)

    def _counted(self) -> Tally:
        """The run's tally; what an earlier session wrote is counted first."""
        if self._tally is None:
            assert self._present is not None
            self._tally = Tally()
            for table in ("points", "texts", "histograms"):
                for batch in self._present.batches(table):
                    self._tally.add(table, batch)
        return self._tally

    def datasets(self, uses: Sequence[DatasetUse]) -> None:
        self._datasets += [use for use in uses if use not in self._datasets]

    def file(self, file: File, stream: BinaryIO | None) -> None:
        self._files[file.path] = self._sink.keep(file, stream)

    def artifact(
        self, artifact: Artifact, use: ArtifactUse, files: Iterable[tuple[File, BinaryIO | None]]
    ) -> str:
        # The engine names a version that is here already by its id here.
        known = use.artifact != artifact.id and self._sink.has_artifact(use.artifact)
        target = use.artifact if known else artifact_id(artifact, self._origin)
        held = [replace(self._sink.keep(file, stream), artifact=target) for file, stream in files]
        self._sink.stage_artifact(replace(artifact, id=target), held)
        link = replace(use, artifact=target)
        if link not in self._uses:
            self._uses.append(link)
        return target

    def finish(self, run: Run, mark: str | None) -> None:
        self._params |= run.params
        self.tags(run.tags, run.labels)
        self.datasets(run.datasets)
        record = replace(
            run,
            id=self.run_id,
            experiment=self._experiment,
            params=dict(self._params),
            tags=dict(self._tags),
            labels=list(self._labels),
            datasets=list(self._datasets),
            artifacts=self._uses + [use for use in run.artifacts if use not in self._uses],
            origin=run.origin or self._origin,
        )
        if self._staged or not self._is_as_present(record, mark):
            self._staged = True
            self._sink.stage_run(self._finished(record, mark))

    def _is_as_present(self, record: Run, mark: str | None) -> bool:
        """Whether the archive has exactly this already."""
        present = self._present
        return (
            present is not None
            and self._tally is None
            and mark == present.mark
            and list(self._files.values()) == present.files
            and text(record) == text(present.run)
        )

    def _finished(self, record: Run, mark: str | None) -> Callable[[dict[str, BulkFile]], Finished]:
        files = list(self._files.values())

        def place(shared: dict[str, BulkFile]) -> Finished:
            """Called under the sink's lock, because the shared files are filled here."""
            self._sink.adopt(self._bulk.finish(shared))
            if self._tally is not None:
                stats, by_key = stats_of(self._tally, files), dict(self._tally.keys)
            else:
                assert self._present is not None
                sizes = sum(file.size or 0 for file in files)
                stats = self._present.stats | {"files": len(files), "file_bytes": sizes}
                by_key = self._present.points_by_key()
            return Finished(record, mark, list(self._bulk.pieces), files, stats, by_key)

        return place

    def abort(self) -> None:
        self._bulk.discard()
