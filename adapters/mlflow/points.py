"""Points of a run through MLflow's API, as columns on our side of the wire."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import Rejected, Vanished
from .. import batches
from .capabilities import BATCH_BYTES, BATCH_METRICS
from .connection import Connection
from .flow import Flow
from .http import AJAX, API, Http
from .records import LARGEST

BULK_LIMIT = 25_000  # handlers.get_metric_history_bulk_handler: MAX_HISTORY_RESULTS, without paging
PAGE_POINTS = 25_000
READ_ROWS = 1_000
"""Points a batch that is read holds at least, but for the last: writing begins with the first."""


class _Metric(msgspec.Struct, gc=False):
    value: float | str
    timestamp: int
    step: int = 0


class _History(msgspec.Struct):
    metrics: list[_Metric] = []
    next_page_token: str | None = None


Columns = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]


def read_points(connection: Connection, run_id: str, keys: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Every point of the keys, as `batches.POINTS`, in MLflow's order: time, step, value."""
    pending: list[tuple[str, Columns]] = []
    rows = 0
    for key in keys:
        for columns in _histories(connection, run_id, key):
            pending.append((key, columns))
            rows += len(columns[0])
            if rows >= READ_ROWS:
                yield _batch(pending)
                pending, rows = [], 0
    if rows:
        yield _batch(pending)


def _batch(pending: list[tuple[str, Columns]]) -> pa.RecordBatch:
    words = list(dict.fromkeys(key for key, _ in pending))
    index = {word: i for i, word in enumerate(words)}
    indices = np.concatenate([np.full(len(c[0]), index[key], np.int32) for key, c in pending])
    steps, times, values = (np.concatenate([c[i] for _, c in pending]) for i in range(3))
    values = np.where(np.abs(values) >= LARGEST, np.copysign(np.inf, values), values)
    return pa.record_batch(
        [
            pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(words, pa.string())),
            pa.array(steps),
            pa.array(times * 1_000).cast(batches.TIME),
            pa.array(values, pa.float64(), from_pandas=False),
        ],
        schema=batches.POINTS,
    )


def _histories(connection: Connection, run_id: str, key: str) -> Iterator[Columns]:
    if connection.http is None:
        yield from _store_history(connection, run_id, key)
        return
    columns = _bulk_history(connection.http, run_id, key)
    if columns is not None:
        yield columns
    else:
        yield from _paged_history(connection.http, run_id, key)


def _bulk_history(http: Http, run_id: str, key: str) -> Columns | None:
    """The whole series by the call of MLflow's own pages, twice as fast as the documented one.

    None where it may be cut (it has no paging), or where the server does not have it.
    """
    params = {"run_id": run_id, "metric_key": key, "max_results": BULK_LIMIT}
    try:
        answer = http.get(f"{AJAX}/metrics/get-history-bulk", params, f"reading {key!r} of run {run_id}")
    except Vanished:
        return None
    history = _decode(answer)
    return _columns(history.metrics) if 0 < len(history.metrics) < BULK_LIMIT else None


def _paged_history(http: Http, run_id: str, key: str) -> Iterator[Columns]:
    params: dict[str, Any] = {"run_id": run_id, "metric_key": key, "max_results": PAGE_POINTS}
    while True:
        answer = http.get(f"{API}/metrics/get-history", params, f"reading {key!r} of run {run_id}")
        history = _decode(answer)
        if history.metrics:
            yield _columns(history.metrics)
        if not history.next_page_token:
            return
        params["page_token"] = history.next_page_token


def _store_history(connection: Connection, run_id: str, key: str) -> Iterator[Columns]:
    token = None
    while True:
        with connection.calling(f"could not read {key!r} of run {run_id}"):
            page = connection.tracking.get_metric_history(
                run_id, key, max_results=PAGE_POINTS, page_token=token
            )
        if page:
            yield _columns(page)
        if not (token := page.token):
            return


def _decode(answer: bytes) -> _History:
    try:
        return msgspec.json.decode(answer, type=_History, strict=False)
    except msgspec.DecodeError:
        # Flask writes a bare NaN, which is no JSON.
        return msgspec.convert(json.loads(answer), _History, strict=False)


def _columns(metrics: Sequence[Any]) -> Columns:
    """Steps, times in milliseconds, and values (`"NaN"` is a value of protobuf's JSON)."""
    n = len(metrics)
    return (
        np.fromiter((m.step for m in metrics), np.int64, n),
        np.fromiter((m.timestamp for m in metrics), np.int64, n),
        np.fromiter((float(m.value) for m in metrics), np.float64, n),
    )


# --- writing --------------------------------------------------------------------------------------


def write_points(connection: Connection, run_id: str, batch: pa.RecordBatch, flow: Flow) -> None:
    """Points as `batches.POINTS`, in calls of at most 1,000. Replay is idempotent on the server."""
    for part in batches.split(batch, BATCH_METRICS):
        if connection.http is not None:
            for body, rows in _bodies(run_id, part):
                with flow.call(rows):
                    connection.http.post(f"{API}/runs/log-batch", body, f"writing points of run {run_id}")
        else:
            _store_points(connection, run_id, part)


def _plain(batch: pa.RecordBatch) -> tuple[pa.DictionaryArray, list[int], list[int], list[float]]:
    steps, times = batch.column("step"), batch.column("time")
    if steps.null_count or times.null_count:
        raise Rejected("MLflow keeps no point without a step or without a time")
    milliseconds = pc.cast(pc.cast(times, pa.timestamp("ms", "UTC"), safe=False), pa.int64())
    return (
        batch.column("key"),
        pc.cast(steps, pa.int64()).to_pylist(),
        milliseconds.to_pylist(),
        batch.column("value").to_pylist(),
    )


_NONFINITE = {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}


def _bodies(run_id: str, batch: pa.RecordBatch) -> Iterator[tuple[bytes, int]]:
    """JSON bodies of `runs/log-batch`, each below its limit in bytes, and their points."""
    keys, steps, times, values = _plain(batch)
    heads = [f'{{"key":{json.dumps(word)},"value":' for word in keys.dictionary.to_pylist()]
    texts = [repr(value) for value in values]
    if not pc.all(pc.is_finite(batch.column("value"))).as_py():
        texts = [_NONFINITE.get(text, text) for text in texts]
    rows = [
        f'{heads[i]}{value},"timestamp":{time},"step":{step}}}'
        for i, value, time, step in zip(keys.indices.to_pylist(), texts, times, steps, strict=True)
    ]
    size = sum(map(len, rows))
    parts = -(-size // BATCH_BYTES)
    per_part = -(-len(rows) // max(1, parts))
    for start in range(0, len(rows), per_part):
        part = rows[start : start + per_part]
        yield f'{{"run_id":{json.dumps(run_id)},"metrics":[{",".join(part)}]}}'.encode(), len(part)


def _store_points(connection: Connection, run_id: str, batch: pa.RecordBatch) -> None:
    from mlflow.entities import Metric

    keys, steps, times, values = _plain(batch)
    words = keys.to_pylist()
    metrics = [Metric(k, v, t, s) for k, v, t, s in zip(words, values, times, steps, strict=True)]
    with connection.calling(f"could not write points of run {run_id}"):
        connection.tracking.log_batch(run_id, metrics=metrics, params=[], tags=[])
