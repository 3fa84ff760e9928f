"""Writing to a server through the vendor's clients. A run is staged on disk and sent when it is finished.

The staged form is the client's own queue (2.x) or log (3.x), and what sends it is the client's own
code; unlike `neptune sync` it looks at every answer and refuses to call a run complete that was not.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import Rejected
from ...locations import Location
from ...model import Experiment, Origin, Run
from ..base import NATIVE_MARK, Capabilities, Copy, RunWriter, Sink, Throughput
from .capabilities import capabilities
from .places import Place, Server
from .queue_lines import lines
from .queue_output import QueueOutput
from .records import MARK_PATH, ORIGIN_PATH, PLATFORM, Attribute
from .vendor2 import Backend, errors
from .writer import AttributeWriter, container_id

OPERATIONS = 1_000
"""Operations of one request, as `neptune sync` sends them."""


class ServerSink2(Sink):
    throughput = Throughput(path="Neptune 2.x API", points_per_second=20_000, runs_per_second=5)

    def __init__(self, location: Location, place: Place, server: Server) -> None:
        assert place.project is not None
        self.location = location
        self.project = place.project
        self.backend = Backend(location, server, place.project)
        self._scratch = Path(tempfile.mkdtemp(prefix="outgrow-neptune-"))

    def close(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def capabilities(self) -> Capabilities:
        return replace(capabilities("2"), replay="append", writers=4)

    def copies(self) -> Iterator[Copy]:
        for _, columns in self.backend.entries(self.backend.run_type, ORIGIN_PATH, MARK_PATH):
            if identity := columns.get(ORIGIN_PATH):
                sys_id = str(columns["sys/id"])
                mark = columns.get(MARK_PATH)
                yield Copy(
                    identity=str(identity),
                    run_id=f"{self.project}/{sys_id}",
                    mark=None if mark is None else str(mark),
                    url=self.backend.url(sys_id),
                )

    def native(self, run_id: str) -> Copy | None:
        if run_id not in self._natives:
            return None
        return Copy(identity=f"{PLATFORM}:{run_id}", run_id=run_id, mark=NATIVE_MARK)

    @cached_property
    def _natives(self) -> frozenset[str]:
        """The runs that were here first and are no copies."""
        entries = self.backend.entries(self.backend.run_type, ORIGIN_PATH)
        return frozenset(
            f"{self.project}/{columns['sys/id']}" for _, columns in entries if not columns.get(ORIGIN_PATH)
        )

    def experiment(self, experiment: Experiment) -> str:
        return experiment.name

    def begin(self, run: Run, origin: Origin, existing: Copy | None = None) -> RunWriter:
        with errors(f"creating the copy of {origin.identity}"):
            if existing is not None:
                name = existing.run_id.removeprefix(f"{self.project}/")
                made = self.backend.api.get_metadata_container(
                    f"{self.project}/{name}", self.backend.run_type
                )
            else:  # the same run again, where a crash came before its first attribute
                made = self.backend.api.create_run(
                    self.backend.project.id, custom_run_id=container_id(origin)
                )
        staged = _Staged(Path(tempfile.mkdtemp(dir=self._scratch)) / "run", self, str(made.id))
        staged.path.mkdir()
        staged.send([{"type": "AssignString", "path": ORIGIN_PATH.split("/"), "value": origin.identity}])
        output = _MarkLast(staged, str(made.id))
        return AttributeWriter(
            output,
            run,
            origin,
            f"{self.project}/{made.sys_id}",
            scale=False,
            url=self.backend.url(made.sys_id),
        )


@dataclass(frozen=True, slots=True)
class _Staged:
    """A staged queue; `publish` sends it."""

    path: Path
    sink: ServerSink2
    container: str

    def send(self, operations: list[dict[str, Any]]) -> None:
        """Raises `Rejected` with the server's first complaint."""
        from neptune.core.components.operation_storage import OperationStorage
        from neptune.internal.operation import Operation

        backend = self.sink.backend
        batch = [Operation.from_dict(operation) for operation in operations]
        with errors(f"writing to {self.sink.project}"):
            while batch:
                done, refused = backend.api.execute_operations(
                    self.container, backend.run_type, batch, OperationStorage(self.path)
                )
                if refused:
                    more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
                    raise Rejected(f"the server refused: {refused[0]}{more}")
                batch = batch[done:]

    def publish(self, mark: str | None) -> None:
        held: list[dict[str, Any]] = []
        for line in lines(self.path):
            held.append(line.operation())
            if len(held) >= OPERATIONS:
                self.send(held)
                held = []
        self.send(held)
        if mark is not None:
            self.send([{"type": "AssignString", "path": MARK_PATH.split("/"), "value": mark}])
        self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.path.parent, ignore_errors=True)


class _MarkLast(QueueOutput):
    """The mark is no part of the staged queue: it is sent when all of that was accepted."""

    def assign(self, path: str, attribute: Attribute) -> None:
        if path != MARK_PATH:
            super().assign(path, attribute)
