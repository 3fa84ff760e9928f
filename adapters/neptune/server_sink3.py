"""Writing to a 3.x server: a run log as neptune-scale writes it, sent by its own code when it is whole.

The server answers some refusals late or not at all (`StatusTrackingThread._should_error_be_reported`),
so that what was sent is counted on the server before the mark is.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from ...errors import Unavailable
from ...locations import Location
from ...model import Experiment, Origin, Run
from ..base import NATIVE_MARK, Capabilities, Copy, RunWriter, Sink, Throughput
from .capabilities import capabilities
from .places import Place, Server
from .records import MARK_PATH, ORIGIN_PATH, PLATFORM, Attribute
from .scale_logs import NAME
from .scale_output import ScaleOutput
from .vendor3 import Reader, Sender
from .writer import AttributeWriter, native_id

_WAITS = (0.0, 0.2, 1.0, 5.0, 15.0, 30.0)
"""Seconds between looks at the server: what it accepted may take a moment to be readable."""


class ServerSink3(Sink):
    throughput = Throughput(path="Neptune 3.x API", points_per_second=20_000, runs_per_second=2)

    def __init__(self, location: Location, place: Place, server: Server) -> None:
        assert place.project is not None
        self.location = location
        self.project = place.project
        self.reader = Reader(server, place.project)
        self.sender = Sender(server)
        self._scratch = Path(tempfile.mkdtemp(prefix="outgrow-neptune-"))
        self._known: dict[str, str] | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        self.reader.close()
        self.sender.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def capabilities(self) -> Capabilities:
        """As of logs, but for times: the server's reading side has milliseconds."""
        return replace(capabilities("3"), run_times="ms", point_times="ms", replay="append", writers=4)

    def copies(self) -> Iterator[Copy]:
        for native, _, columns in self.reader.entries(ORIGIN_PATH, MARK_PATH):
            if identity := columns.get(ORIGIN_PATH):
                yield Copy(
                    identity=str(identity),
                    run_id=f"{self.project}/{native}",
                    mark=columns.get(MARK_PATH),
                )

    def native(self, run_id: str) -> Copy | None:
        if run_id not in self._natives:
            return None
        return Copy(identity=f"{PLATFORM}:{run_id}", run_id=run_id, mark=NATIVE_MARK)

    @cached_property
    def _natives(self) -> frozenset[str]:
        """The runs that were here first and are no copies."""
        entries = self.reader.entries(ORIGIN_PATH)
        return frozenset(
            f"{self.project}/{native}" for native, _, columns in entries if not columns.get(ORIGIN_PATH)
        )

    def known(self, *, fresh: bool = False) -> dict[str, str]:
        """Run id → short id of every run on the server."""
        with self._lock:
            if fresh or self._known is None:
                self._known = {native: sys_id for native, sys_id, _ in self.reader.entries()}
            return self._known

    def short_id(self, native: str) -> str | None:
        return self.known().get(native) or self.known(fresh=True).get(native)

    def experiment(self, experiment: Experiment) -> str:
        return experiment.name

    def begin(self, run: Run, origin: Origin, existing: Copy | None = None) -> RunWriter:
        native = native_id(origin)
        if existing is not None:
            native = existing.run_id.removeprefix(f"{self.project}/")
        id = f"{self.project}/{native}"
        there = existing is not None or native in self.known()
        staged = _Sent(Path(tempfile.mkdtemp(dir=self._scratch)), self, native)
        output = _Log(staged, self.project, native, None if there else run)
        return AttributeWriter(output, run, origin, id, scale=True, milliseconds=True)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A staged log; `publish` sends it, counts what arrived, and sends the mark."""

    path: Path
    sink: ServerSink3
    native: str
    paths: set[str] = field(default_factory=set)
    series: dict[str, dict[str, tuple[int, float]]] = field(default_factory=dict)
    """Type → path → number of values, lowest step."""

    @property
    def final(self) -> Path:
        return self.path

    def count(self, type_: str, batch: pa.RecordBatch) -> None:
        held = self.series.setdefault(type_, {})
        rows = pa.table({"key": batch.column("key").cast(pa.string()), "step": batch.column("step")})
        found = rows.group_by("key").aggregate([("step", "count"), ("step", "min")])
        for row in found.to_pylist():
            number, first = held.get(row["key"], (0, float("inf")))
            held[row["key"]] = (number + row["step_count"], min(first, float(row["step_min"])))

    def publish(self, mark: str | None) -> None:
        self.sink.sender.send(self.path / NAME)
        self._arrived()
        if mark is not None:
            folder = self.path / "mark"
            folder.mkdir()
            log = ScaleOutput(replace(self, path=folder), self.sink.project, self.native, None)
            log.assign(MARK_PATH, Attribute("string", mark))
            log.end()
            self.sink.sender.send(folder / NAME)
        self.remove()

    def _arrived(self) -> None:
        """Raises `Unavailable` where the server does not show all that it was sent."""
        missing = "the run"
        for wait in _WAITS:
            time.sleep(wait)
            sys_id = self.sink.short_id(self.native)
            if sys_id is not None and (missing := self._missing(sys_id)) == "":
                return
        raise Unavailable(
            f"the server accepted {self.native} and does not show all of it: {missing}",
            hint="run the command again",
        )

    def _missing(self, sys_id: str) -> str:
        """What is not there yet; empty where nothing is."""
        reader = self.sink.reader
        there = {path for path, _, _ in reader.attributes(sys_id)}
        for path in (*self.paths, *(path for paths in self.series.values() for path in paths)):
            if path not in there:
                return path
        for type_, paths in self.series.items():
            read = reader.floats if type_ == "float_series" else reader.objects
            counts = dict.fromkeys(paths, 0)
            for path, values in read(sys_id, list(paths), False):
                # steps have six decimals on the server
                counts[path] += sum(value.step > paths[path][1] - 1e-6 for value in values)
            for path, (number, _) in paths.items():
                if counts[path] < number:
                    return f"{counts[path]} of {number} values of {path}"
        return ""

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class _Log(ScaleOutput):
    """Without the mark, and with what the server must have when it is sent."""

    def __init__(self, place: _Sent, project: str, native: str, run: Run | None) -> None:
        super().__init__(place, project, native, run)
        self._sent = place

    def assign(self, path: str, attribute: Attribute) -> None:
        if path != MARK_PATH:
            super().assign(path, attribute)
            self._sent.paths.add(path)

    def floats(self, batch: pa.RecordBatch) -> None:
        super().floats(batch)
        self._sent.count("float_series", batch)

    def strings(self, batch: pa.RecordBatch) -> None:
        super().strings(batch)
        self._sent.count("string_series", batch)

    def histograms(self, batch: pa.RecordBatch) -> None:
        super().histograms(batch)
        self._sent.count("histogram_series", batch)

    def upload(self, path: str, suffix: str, stream: BinaryIO) -> None:
        super().upload(path, suffix, stream)
        self._sent.paths.add(path)
