"""Reading a directory of offline archives, ours and the SDK's."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from ...errors import Corrupt, LocationError, Vanished
from ...filters import Filter
from ...locations import Location
from ...model import Experiment, Extra, File, RegisteredModel, Run
from ..base import RunStats, Source, Throughput
from . import points as metric
from . import texts
from .archives import Archive
from .assets import Asset, files_of, own
from .messages import UNCATEGORIZED, Contents, contents, project_id
from .records import PLATFORM, run_of
from .registry import from_messages

_CACHED = 64

Part = tuple[Path, Contents]


class ArchiveSource(Source):
    """Zips of one directory. Several zips of one experiment (resumed runs) are one run, oldest first.

    A zip that is not whole is left out and named by `problems`.
    """

    throughput = Throughput(path="offline zips", points_per_second=200_000, files_per_second=1_000)

    def __init__(self, location: Location, folder: Path) -> None:
        if not folder.is_dir():
            raise LocationError(
                f"{location}: there is no such directory", hint="name the directory that holds the zips"
            )
        self.location, self.folder = location, folder
        self._lock = threading.Lock()
        self._cache: OrderedDict[Path, tuple[tuple[int, int], Contents]] = OrderedDict()
        self._index: dict[str, list[Path]] | None = None
        self._projects: dict[str, list[str]] = {}
        self._names: dict[str, tuple[str | None, str]] = {}
        self._problems: list[str] = []

    # --- the directory ------------------------------------------------------------------------

    def _keys(self) -> dict[str, list[Path]]:
        """Experiment key → its zips, oldest first. Reads `experiment.json` of each, once."""
        with self._lock:
            if self._index is None:
                found: dict[str, list[tuple[int, Path]]] = {}
                for path in sorted(self.folder.glob("*.zip")):
                    try:
                        with Archive(path) as archive:
                            meta = archive.meta()
                    except Corrupt as error:
                        self._problems.append(error.message)
                        continue
                    found.setdefault(meta.key, []).append((meta.start or 0, path))
                    project = project_id(meta)
                    self._names.setdefault(project, (meta.workspace, meta.project or UNCATEGORIZED))
                    keys = self._projects.setdefault(project, [])
                    if meta.key not in keys:
                        keys.append(meta.key)
                self._index = {key: [path for _, path in sorted(parts)] for key, parts in found.items()}
            return self._index

    def _contents(self, path: Path) -> Contents:
        try:
            stat = path.stat()
        except FileNotFoundError:
            raise Vanished(f"{path.name} is no longer in {self.location}") from None
        version = (stat.st_mtime_ns, stat.st_size)
        with self._lock:
            if (known := self._cache.get(path)) and known[0] == version:
                self._cache.move_to_end(path)
                return known[1]
        with Archive(path) as archive:
            held = contents(archive)
        with self._lock:
            self._cache[path] = version, held
            while len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        return held

    def _parts(self, key: str) -> list[Part]:
        paths = self._keys().get(key)
        if not paths:
            raise Vanished(f"there is no archive of the experiment {key} in {self.location}")
        return [(path, self._contents(path)) for path in paths]

    # --- Source -------------------------------------------------------------------------------

    def experiments(self) -> Iterator[Experiment]:
        self._keys()
        for project, (workspace, name) in self._names.items():
            extra: Extra = {PLATFORM: {"workspace": workspace}} if workspace else {}
            yield Experiment(id=project, name=name, extra=extra)

    def runs(self, experiment: Experiment, where: Filter | None = None) -> Iterator[Run]:
        self._keys()
        for key in self._projects.get(experiment.id, []):
            try:
                yield merged([held for _, held in self._parts(key)])
            except Corrupt as error:
                self._problems.append(error.message)

    def points(self, run: Run) -> Iterator[pa.RecordBatch]:
        parts = self._parts(run.id)
        shape = metric.Shape(
            fractional=any(held.shape.fractional for _, held in parts),
            epoch=any(held.shape.epoch for _, held in parts),
            context=any(held.shape.context for _, held in parts),
        )
        for path, _ in parts:
            with Archive(path) as archive:
                for lines, _ in archive.chunks():
                    if lines:
                        yield archive.points(lines, shape)

    def texts(self, run: Run) -> Iterator[pa.RecordBatch]:
        for path, held in self._parts(run.id):
            with Archive(path) as archive:
                yield from texts.within(archive, held)

    def _files(self, run: Run) -> Iterator[tuple[File, Asset, Path]]:
        parts = self._parts(run.id)
        owners = {id(asset): path for path, held in parts for asset in held.assets}
        listed = (asset for _, held in parts for asset in held.assets if not own(asset))
        for file, asset in files_of(listed):
            yield file, asset, owners[id(asset)]

    def files(self, run: Run) -> Iterator[File]:
        for file, _, _ in self._files(run):
            yield file

    def open(self, run: Run, file: File) -> BinaryIO:
        for known, asset, path in self._files(run):
            if known.path == file.path and asset.member is not None:
                return Archive(path).open(asset.member)
        raise Vanished(f"{file.path!r} is not among the files of {run.id} in {self.location}")

    def registry(self) -> Iterator[RegisteredModel]:
        payloads = [
            (key, payload) for key in self._keys() for _, held in self._parts(key) for payload in held.models
        ]
        yield from from_messages(payloads)

    def stats(self, run: Run) -> RunStats:
        parts = self._parts(run.id)
        files = [asset for _, held in parts for asset in held.assets if not own(asset)]
        counts: dict[str, int] = {}
        for _, held in parts:
            for key, count in held.shape.counts.items():
                counts[key] = counts.get(key, 0) + count
        return RunStats(
            series=len(counts),
            longest_series=max(counts.values(), default=0),
            points=sum(held.shape.count for _, held in parts),
            files=len(files),
            file_bytes=sum(asset.size or 0 for asset in files),
        )

    def problems(self) -> Iterable[str]:
        self._keys()
        return list(self._problems)


def merged(parts: Sequence[Contents]) -> Run:
    """The run of an experiment whose archives are given, oldest first: later ones add and replace."""
    first = parts[0].native
    if len(parts) == 1:
        return run_of(first)
    every = [held.native for held in parts]
    whole = replace(every[-1], start=first.start, params={}, others={}, labels=[], extra={})
    for native in every:
        whole.params |= native.params
        whole.others |= native.others
        whole.labels = list(dict.fromkeys([*whole.labels, *native.labels]))
        whole.extra |= native.extra
        whole.summary = whole.summary | native.summary
    return run_of(whole)
