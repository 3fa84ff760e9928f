"""Text series: our own Parquet asset, and console output as Comet has it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import Corrupt
from ...model import CONSOLE_PREFIX
from .. import batches
from .archives import Archive
from .assets import TEXTS
from .messages import Contents, Line, lines
from .records import at, millis

_ROWS = 10_000


def read(stream: BinaryIO) -> Iterator[pa.RecordBatch]:
    """The batches of a texts table. Raises `Corrupt` where it is none."""
    with tempfile.TemporaryFile() as whole:
        shutil.copyfileobj(stream, whole)
        whole.seek(0)
        try:
            for batch in pq.ParquetFile(whole).iter_batches(_ROWS, columns=batches.TEXTS.names):
                yield batch.cast(batches.TEXTS)
        except (pa.ArrowException, OSError) as error:
            raise Corrupt(f"the table of texts {TEXTS} is damaged ({error})") from error


def output(pieces: Iterable[Line]) -> Iterator[pa.RecordBatch]:
    """Console output, line by line."""
    rows = lines(pieces)
    while part := list(islice(rows, _ROWS)):
        keys, texts, times = zip(*part, strict=True)
        yield pa.record_batch(
            [
                pa.array(keys, pa.string()).dictionary_encode(),
                pa.nulls(len(part), pa.float64()),
                pa.array([at(time) for time in times], batches.TIME),
                pa.array(texts, pa.large_string()),
            ],
            schema=batches.TEXTS,
        )


def within(archive: Archive, held: Contents) -> Iterator[pa.RecordBatch]:
    """The text series of an archive: our own table where there is one, else its output."""
    for asset in held.assets:
        if asset.name == TEXTS and asset.member is not None:
            with archive.open(asset.member) as stream:
                yield from read(stream)
            return
    yield from output(held.output)


def console_lines(batch: pa.RecordBatch) -> list[Line]:
    """The rows of a batch of texts that are output of the process."""
    columns = (batch.column(name).to_pylist() for name in ("key", "time", "text"))
    return [
        (str(key), str(text), millis(time))
        for key, time, text in zip(*columns, strict=True)
        if str(key).startswith(CONSOLE_PREFIX)
    ]
