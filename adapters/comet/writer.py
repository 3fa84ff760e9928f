"""One run being written as an offline archive, for the directory and for the server."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import Rejected
from ...model import ArtifactUse, DatasetUse, File, Origin, Run, Status, Value
from .. import batches
from ..base import MARK_KEY, RunWriter
from ..paths import checked
from ..replay import Replay
from . import points as metric
from . import texts
from .archives import Archive
from .assets import TEXTS, asset_of, files_of, own, upload_message
from .building import Builder
from .messages import (
    Contents,
    contents,
    environment_messages,
    other_messages,
    output_messages,
    param_messages,
)
from .records import millis, origin_others, run_of, run_others, tag_others, uses_others

Publish = Callable[[Builder, Mapping[str, Any], Mapping[str, Any], Run, str | None], None]
"""Takes the builder, `experiment.json`, the comment, the finished run and its mark."""


class ArchiveWriter(RunWriter):
    """Collects a run into a `Builder` and hands it over in `finish`.

    `before`, an archive of the same run, is taken up: what it holds stays, and points sent
    again are not written twice.
    """

    def __init__(
        self,
        builder: Builder,
        run: Run,
        origin: Origin,
        publish: Publish,
        *,
        project: str | None,
        workspace: str | None,
        strategy: str = "create",
        mark_inside: bool = True,
        before: Path | None = None,
    ) -> None:
        self.run_id = builder.key
        self.run, self.origin = run, origin
        self.shape = metric.Shape()
        self._builder, self._publish = builder, publish
        self._meta = {"project_name": project, "workspace": workspace, "resume_strategy": strategy}
        self._mark_inside = mark_inside
        self._start = millis(run.started_at or run.created_at) or 0
        self._params: dict[str, Value] = {}
        self._tags: dict[str, str] = {}
        self._labels: list[str] = []
        self._datasets: list[DatasetUse] = []
        self._uses: list[ArtifactUse] = []
        self._paths: set[str] = set()
        self._texts: pq.ParquetWriter | None = None
        self._texts_file: Any = None
        self._before, self._points, self._present_texts = before, Replay(), Replay()
        for kind, payload in other_messages(origin_others(origin)):
            builder.message(kind, payload)
        if before is not None:
            self._take_up(before)

    # --- an earlier archive of the same run ---------------------------------------------------

    def _take_up(self, path: Path) -> None:
        with Archive(path) as archive:
            held = contents(archive)
            known = run_of(held.native)
            self._params, self._tags = dict(known.params), dict(known.tags)
            self._labels, self._datasets = list(known.labels), list(known.datasets)
            self._uses = list(known.artifacts)
            self._points = Replay(self._carried(archive, held))
            old = list(texts.within(archive, held))
        self.take_up_texts(old)

    def take_up_texts(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Texts that the target already has: they stay, and are not written twice."""
        held = list(batches)
        self._present_texts = Replay(held)
        for batch in held:
            self._add_texts(batch)

    def _carried(self, archive: Archive, held: Contents) -> Iterator[pa.RecordBatch]:
        for lines, _ in archive.chunks():
            if lines:
                self._builder.raw(lines)
                batch = archive.points(lines, held.shape)
                self.shape.see_batch(batch)
                yield batch

    def _carry_files(self) -> None:
        if self._before is None:
            return
        with Archive(self._before) as archive:
            for file, asset in files_of(contents(archive).assets):
                if file.path in self._paths or own(asset):
                    continue
                if asset.member is not None:
                    with archive.open(asset.member) as stream:
                        asset.member = self._builder.member(stream)[0]
                self._builder.message(*upload_message(asset, self._start))

    # --- RunWriter ----------------------------------------------------------------------------

    def params(self, params: Mapping[str, Value]) -> None:
        self._params |= params

    def tags(self, tags: Mapping[str, str], labels: Sequence[str] = ()) -> None:
        self._tags |= tags
        self._labels = list(dict.fromkeys([*self._labels, *labels]))

    def points(self, batch: pa.RecordBatch) -> None:
        batch = self._points.new(metric.in_milliseconds(batch))
        try:
            lines = metric.encode(batch)
        except ValueError as error:
            raise Rejected(f"run {self.origin.identity}: {error}") from error
        self._builder.raw(lines)
        self.shape.see_batch(batch)

    def texts(self, batch: pa.RecordBatch) -> None:
        self._add_texts(self._present_texts.new(batch))

    def _add_texts(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        if self._texts is None:
            self._texts_file = tempfile.TemporaryFile()  # noqa: SIM115 (closed in finish or abort)
            self._texts = pq.ParquetWriter(self._texts_file, batches.TEXTS)
        self._texts.write_batch(batch.cast(batches.TEXTS))
        for kind, payload in output_messages(texts.console_lines(batch)):
            self._builder.message(kind, payload)

    def datasets(self, uses: Sequence[DatasetUse]) -> None:
        self._datasets += [use for use in uses if use not in self._datasets]

    def file(self, file: File, stream: BinaryIO | None) -> None:
        checked(file.path)
        self._file(file, stream)
        self._paths.add(file.path)

    def _file(self, file: File, stream: BinaryIO | None) -> None:
        if stream is None:
            if not file.reference:
                raise Rejected(f"{file.path!r} has neither bytes nor a reference")
            asset = asset_of(file, self.run_id)
        else:
            member, size, sha256 = self._builder.member(stream)
            asset = asset_of(replace(file, reference=None), self.run_id, sha256)
            asset.member, asset.size = member, size
        self._builder.message(*upload_message(asset, self._start))

    def finish(self, run: Run, mark: str | None) -> None:
        self.params(run.params)
        self.tags(run.tags, run.labels)
        self.datasets(run.datasets)
        self._uses = list(dict.fromkeys([*self._uses, *run.artifacts]))
        self._carry_files()
        self._store_texts()
        run = replace(run, datasets=self._datasets)
        others = tag_others(self._tags) | run_others(run, self._params)
        if self._uses:
            others |= uses_others(self._uses)
        start = millis(run.started_at or run.created_at) or self._start
        for kind, payload in (
            *environment_messages(run.environment, run.code, run.user),
            *param_messages(self._params, start),
            *other_messages(others),
            *(other_messages({MARK_KEY: mark}) if mark is not None and self._mark_inside else ()),
        ):
            self._builder.message(kind, payload)
        crashed = run.status in (Status.FAILED, Status.KILLED)
        meta = self._meta | {
            "offline_id": self.run_id,
            "start_time": start,
            "stop_time": millis(run.ended_at) or start,
            "tags": self._labels,
            "customer_error_reported": crashed,
            "customer_error_message": str(run.status) if crashed else None,
            "user_provided_experiment_key": True,
            "comet_start_sourced": False,
        }
        comment = {"identity": self.origin.identity, "mark": mark, "points": self.shape.count}
        self._publish(self._builder, meta, comment, run, mark)

    def _store_texts(self) -> None:
        if self._texts is None:
            return
        self._texts.close()
        self._texts_file.seek(0)
        self._file(File(path=TEXTS), self._texts_file)
        self._texts_file.close()
        self._texts = None

    def abort(self) -> None:
        if self._texts is not None:
            self._texts.close()
            self._texts_file.close()
            self._texts = None
        self._builder.abort()
