"""Exact history from a server: Parquet exports first, then the rows that are not exported yet.

A page asks for at most as many samples as it asks for steps, or takes an answer shorter than what
it asked for: either way the server left no row out. Step ranges without rows grow, so that sparse
steps do not cost a request for every few thousand.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from ...errors import Vanished
from . import queries
from .history import FRAME_ROWS, Frame, from_rows, from_table
from .server import Server

_PAGE_ROWS = 10_000


class HistoryReader:
    def __init__(self, server: Server, *, parquet: bool = True) -> None:
        self._server = server
        self._parquet = parquet
        self._lock = threading.Lock()
        self._notes: dict[str, str] = {}

    def notes_of(self, run_id: str) -> list[str]:
        with self._lock:
            return [note for key, note in self._notes.items() if key == run_id]

    def frames(self, of: dict[str, str], text_keys: frozenset[str]) -> Iterator[Frame]:
        """The rows of a run in step order. `of`: entity, project, run."""
        name = "/".join(of.values())
        found = self._server.graphql(
            queries.PARQUET, f"asking for the history of {name}", liveKeys=["_step"], **of
        )
        run = (found.get("project") or {}).get("run")
        if run is None:
            raise Vanished(f"run {name} is no longer there")
        rows, next_step = 0, 0
        told = run.get("parquetHistory") or {}
        if self._parquet:
            for table in self._exports(told.get("parquetUrls") or (), name):
                rows += table.num_rows
                steps = table.column("_step").to_numpy()
                next_step = max(next_step, int(steps.max()) + 1) if len(steps) else next_step
                for start in range(0, table.num_rows, FRAME_ROWS):
                    yield from_table(table.slice(start, FRAME_ROWS), text_keys)
        keys = run.get("historyKeys") or {}
        last = int(keys.get("lastStep", -1)) if isinstance(keys, dict) else -1
        for lines in self._live(of, name, next_step, last):
            rows += len(lines)
            yield frame_of_lines(lines, text_keys)
        expected = run.get("historyLineCount") or 0
        if rows < expected:
            with self._lock:
                self._notes[name] = f"run {name}: the server gave {rows} of {expected} history rows"

    def _exports(self, urls: Any, name: str) -> Iterator[pa.Table]:
        tables = []
        for url in urls:
            with self._server.download(url, f"reading the exported history of {name}") as stream:
                tables.append(pq.read_table(stream))
        # Not always given in order.
        for table in sorted(tables, key=lambda t: t.column("_step")[0].as_py() if t.num_rows else 0):
            yield table.sort_by("_step")

    def _live(self, of: dict[str, str], name: str, start: int, last: int) -> Iterator[list[str]]:
        width = _PAGE_ROWS
        while start <= last:
            stop = min(start + width, last + 1)
            found = self._server.graphql(
                queries.HISTORY,
                f"reading the history of {name}",
                minStep=start,
                maxStep=stop,
                pageSize=_PAGE_ROWS,
                **of,
            )
            lines = (found.get("project") or {}).get("run", {}).get("history") or []
            if len(lines) >= _PAGE_ROWS and width > _PAGE_ROWS:
                width = max(width // 16, _PAGE_ROWS)  # some rows may have been left out
                continue
            if lines:
                yield lines
            start = stop
            width = width * 16 if len(lines) < _PAGE_ROWS // 16 else width


def frame_of_lines(lines: list[str], text_keys: frozenset[str]) -> Frame:
    """Rows as JSON texts: by column where Arrow can read them, else one by one."""
    try:
        table = pyarrow.json.read_json(
            io.BytesIO("\n".join(lines).encode("utf-8", "surrogatepass")),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=256 << 20),
        )
    except pa.ArrowInvalid:  # a NaN, or a key with values of several types
        table = None
    if table is None or table.num_rows != len(lines) or not _plain(table.schema):
        return from_rows([json.loads(line) for line in lines], text_keys)
    return from_table(table, text_keys)


def _plain(schema: pa.Schema) -> bool:
    """Whether Arrow guessed no type that changes a value: it reads some texts as times."""
    return not any(pa.types.is_timestamp(field.type) or pa.types.is_nested(field.type) for field in schema)
