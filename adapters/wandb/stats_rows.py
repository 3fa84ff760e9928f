"""`system/` points that have a time → W&B's system metrics, serialised, in bounded memory.

One record for each time (microseconds); a key that repeats at a time opens a further one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from wandb.proto import wandb_internal_pb2 as pb

from ...model import SYSTEM_PREFIX
from .. import batches
from .rows import Cells, RowSpool, items, tag, varint

_RECORD = tag(pb.Record, "stats")
_TIME = tag(pb.StatsRecord, "timestamp")
_ITEM = (tag(pb.StatsRecord, "item"), tag(pb.StatsItem, "key"), tag(pb.StatsItem, "value_json"))


class StatsSpool:
    def __init__(self, directory: Path) -> None:
        self._cells = RowSpool(directory, "stats")

    def add(self, batch: pa.RecordBatch) -> None:
        """A batch of points; those of other series, and those without a time, are left out."""
        names = batch.column("key").dictionary
        system = pc.starts_with(names, SYSTEM_PREFIX)
        if not pc.any(system).as_py():
            return
        chosen = pc.and_(pc.take(system, batch.column("key").indices), batch.column("time").is_valid())
        batch = batch.filter(chosen)
        batch = batches.rename(batch, {name: name.removeprefix(SYSTEM_PREFIX) for name in names.to_pylist()})
        step = batch.schema.get_field_index("step")
        self._cells.add(batch.set_column(step, "step", batch.column("time").cast(pa.int64())))

    def rows(self) -> Iterator[bytes]:
        """Serialised `Record`s in the order of their times. Ends the spool."""
        ranks, keys = self._cells.ranks()
        for part in self._cells.parts():
            cells, starts = Cells.of(part, ranks).in_rows()
            encoded, cuts = items(cells, keys, starts, _ITEM)
            for row, time in enumerate(cells.whole[starts].tolist()):
                seconds, micros = divmod(time, 1_000_000)
                at = b"\x08" + varint(seconds & (2**64 - 1)) + b"\x10" + varint(micros * 1000)
                body = _TIME + varint(len(at)) + at + encoded[cuts[row] : cuts[row + 1]]
                yield _RECORD + varint(len(body)) + body
