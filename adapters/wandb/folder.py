"""One run as a W&B run folder: the `RunWriter` of both forms of target.

Everything is written beside its final place and renamed into it last, so that a folder is whole
or absent whenever the process dies.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...errors import TargetFull
from ...model import (
    CONSOLE_PREFIX,
    Artifact,
    ArtifactUse,
    DatasetUse,
    File,
    Origin,
    Run,
    Value,
    to_builtins,
)
from .. import batches
from ..base import RunWriter
from ..paths import checked, inside
from ..replay import Replay
from . import history, log_records
from .artifacts import Staging
from .layout import SIDECAR, STAGING, TEXTS_FILE, escape_path
from .records import section_of, with_mark
from .rows import RowSpool, histogram_json, text_json
from .run_folders import RunFolders
from .stats_rows import StatsSpool
from .transaction_log import LogWriter
from .values import micros

_LONG_TEXT = 500_000
"""Characters beyond which a text goes to the side file: W&B advises values under 1 MB."""


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """A full disk as `TargetFull`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TargetFull(f"no room left for {what}", hint="make room and copy again") from error
        raise


@dataclass(frozen=True, slots=True)
class Target:
    """Where a run goes in W&B."""

    entity: str
    project: str
    run_id: str
    """The short id."""
    experiment: str | None = None
    """The experiment's name, where the project is not named after it."""

    @property
    def path(self) -> str:
        return "/".join(part for part in (self.entity, self.project, self.run_id) if part)

    def folder(self, run: Run) -> str:
        """The name of its folder."""
        time = run.started_at or run.created_at or datetime.fromtimestamp(0, UTC)
        return f"offline-run-{time.astimezone(UTC):%Y%m%d_%H%M%S}-{self.run_id}"


class FolderWriter(RunWriter):
    """Collects one run and, on `finish`, writes its folder."""

    def __init__(
        self, target: Target, run: Run, origin: Origin, folders: RunFolders, *, first_step: int = 0
    ) -> None:
        self.target, self.origin, self.folders = target, origin, folders
        self.run_id = target.path
        self.folder = folders.root / target.folder(run)
        self._run = run
        self._partial = partial = folders.begin(target.run_id)
        self._files: list[str] = []
        self._references: list[File] = []
        self._media: dict[tuple[str, Any, int | None, str], None] = {}
        self._uses: list[ArtifactUse] = []
        self._texts: pq.ParquetWriter | None = None
        self._text_keys: set[str] = set()
        self._last_time: int | None = None
        self._first_step = first_step
        self.rows_written = 0
        self._replay = {name: Replay() for name in ("points", "texts", "side", "histograms", "media")}
        self._fractional = False
        self._without: set[str] = set()
        with disk_errors(str(partial)):
            (partial / "files").mkdir(parents=True)
        self._spool = RowSpool(partial)
        self._stats = StatsSpool(partial)
        self._staging = Staging(
            partial / STAGING, self.folder / STAGING, target.entity, target.project, target.run_id
        )

    def already(self, name: str, present: Iterable[pa.RecordBatch]) -> None:
        """Rows that the target has: they are not written again.

        `name`: points, texts (of the history), side (texts beside it), histograms or media.
        """
        self._replay[name] = Replay(present)

    def continues(self, record: Mapping[str, Any]) -> None:
        """What an earlier copy told of its rows (`records.record_of`) stays true of them."""
        self._text_keys.update(record.get("text_keys") or ())
        self._fractional |= bool(record.get("fractional"))

    def without(self, what: Literal["stats", "console"]) -> None:
        """Leave out what the target shows already; its exact form is elsewhere."""
        self._without.add(what)

    # --- what a run is made of ---

    def params(self, params: Mapping[str, Value]) -> None:
        self._run = replace(self._run, params=self._run.params | dict(params))

    def tags(self, tags: Mapping[str, str], labels: Sequence[str] = ()) -> None:
        every = list(dict.fromkeys([*self._run.labels, *labels]))
        self._run = replace(self._run, tags=self._run.tags | dict(tags), labels=every)

    def datasets(self, uses: Sequence[DatasetUse]) -> None:
        known = self._run.datasets
        self._run = replace(self._run, datasets=known + [use for use in uses if use not in known])

    def points(self, batch: pa.RecordBatch) -> None:
        batch = self._replay["points"].new(batch)
        if not batch.num_rows:
            return
        with disk_errors(str(self._partial)):
            self._spool.add(batch)
            if "stats" not in self._without:
                self._stats.add(batch)
        newest = pc.max(batch.column("time").cast(pa.int64())).as_py()
        if newest is not None:
            self._last_time = max(newest, self._last_time or newest)

    def texts(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        names = batch.column("key").dictionary
        console = pc.take(pc.starts_with(names, CONSOLE_PREFIX), batch.column("key").indices)
        aside = pc.or_(console, pc.greater(pc.utf8_length(batch.column("text")), _LONG_TEXT))
        with disk_errors(str(self._partial)):
            if (side := self._replay["side"].new(batch.filter(aside))).num_rows:
                if self._texts is None:
                    path = self._partial / "files" / TEXTS_FILE
                    self._texts = pq.ParquetWriter(path, batches.TEXTS, compression="zstd")
                self._texts.write_batch(side)
            rows = batch.filter(pc.invert(aside))
            self._text_keys.update(batches.keys_of(rows))
            if (rows := self._replay["texts"].new(rows)).num_rows:
                self._spool.add(rows, text_json(rows.column("text")))

    def histograms(self, batch: pa.RecordBatch) -> None:
        batch = self._replay["histograms"].new(batch)
        if batch.num_rows:
            with disk_errors(str(self._partial)):
                self._spool.add(batch, histogram_json(batch.column("edges"), batch.column("counts")))

    def file(self, file: File, stream: BinaryIO | None) -> None:
        path = escape_path(checked(file.path))
        if stream is None:
            self._references = [f for f in self._references if f.path != file.path] + [file]
            return
        target = inside(self._partial / "files", path)
        with disk_errors(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:
                shutil.copyfileobj(stream, out, 1 << 20)
        if path not in self._files:
            self._files.append(path)
        if (cell := history.media_cell(file)) is not None:
            self._media[cell] = None

    def artifact(
        self, artifact: Artifact, use: ArtifactUse, files: Iterable[tuple[File, BinaryIO | None]]
    ) -> str:
        with disk_errors(str(self._partial)):
            target = self._staging.add(artifact, use, files)
        link = replace(use, artifact=target)
        if link not in self._uses:
            self._uses.append(link)
        return target

    # --- the end ---

    def finish(self, run: Run, mark: str | None) -> None:
        self.write(run, mark)
        self.publish()

    def write(self, run: Run, mark: str | None) -> Run:
        """Write the log and everything beside it; `publish` then makes it visible."""
        here = self._run
        run = replace(
            run,
            params=here.params | run.params,
            tags=here.tags | run.tags,
            labels=list(dict.fromkeys([*here.labels, *run.labels])),
            datasets=here.datasets + [use for use in run.datasets if use not in here.datasets],
        )
        with disk_errors(str(self._partial)):
            if self._texts is not None:
                self._texts.close()
                self._files.append(TEXTS_FILE)
            self._write_log(run, mark)
            sidecar = {"identity": self.origin.identity, "run_id": self.run_id, "mark": mark}
            (self._partial / SIDECAR).write_text(json.dumps(sidecar), encoding="utf-8")
        return run

    def _write_log(self, run: Run, mark: str | None) -> None:
        if self._media:
            cells = self._replay["media"].new(history.texts_batch(list(self._media)))
            self._spool.add(cells, cells.column("text").cast(pa.large_binary()))
        group = run.group or (run.parent.rsplit("/", 1)[-1] if run.parent else None) or self.target.experiment
        for use in run.datasets:
            self._staging.dataset(use)
        more: dict[str, Any] = {
            "text_keys": sorted(self._text_keys),
            "fractional": self._fractional or self._spool.fractional,
            "uses": [to_builtins(use) for use in self._uses],
            "references": [to_builtins(file) for file in self._references],
        }
        section = section_of(run, self.origin, self.target.experiment, group, more)
        started = run.started_at or run.created_at
        started_us = None if started is None else micros(started)
        with (self._partial / "log.partial").open("wb") as stream:
            log = LogWriter(stream)
            for record in log_records.head(run, self.target, with_mark(section, mark), group):
                log.append(record.SerializeToString())
            for row in self._spool.rows(self._first_step, started_us):
                log.append(row)
                self.rows_written += 1
            for row in self._stats.rows():
                log.append(row)
            tail = chain(
                log_records.console(() if "console" in self._without else self._console()),
                log_records.files(self._files),
                log_records.artifacts(self._staging.records),
                log_records.tail(run, self._spool.last_step, self._last_time),
            )
            for record in tail:
                log.append(record.SerializeToString())
            log.flush()
            os.fsync(stream.fileno())
        (self._partial / "log.partial").rename(self._partial / f"run-{self.target.run_id}.wandb")

    def _console(self) -> Iterator[pa.RecordBatch]:
        path = self._partial / "files" / TEXTS_FILE
        if self._texts is not None:
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches()

    def publish(self) -> None:
        """Make it visible."""
        self.folders.publish(self._partial, self.folder, self.target.run_id)

    def abort(self) -> None:
        if self._texts is not None:
            self._texts.close()
        shutil.rmtree(self._partial, ignore_errors=True)
