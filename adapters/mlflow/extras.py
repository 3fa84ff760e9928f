"""Traces with their spans and assessments, and evaluation data sets.

A trace keeps its id, its times and its spans. What refers to other things is put right: the
experiment, the run it was recorded in, the logged model. Where a server keeps the spans is its own
affair, and is left out. An evaluation data set gets a new id, new times and a new digest, which
MLflow computes from the time; its records are told apart by their inputs, as in MLflow itself.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ...errors import Corrupt, Rejected, Unsupported, Vanished
from ...model import EvaluationDataset, Experiment, Origin, Trace
from ..base import RESERVED
from . import assets, entities, records
from .artifacts import files_at
from .connection import Connection

PAGE_TRACES = 100
SPANS_PER_CALL = 500
PAGE_DATASETS = 100
RECORDS_PER_CALL = 200

REQUEST_ID = "mlflow.traceRequestId"
SOURCE_RUN = "mlflow.sourceRun"
MODEL_ID = "mlflow.modelId"
ARTIFACT_LOCATION = "mlflow.artifactLocation"
SPANS_LOCATION = "mlflow.trace.spansLocation"
IN_DATABASE = ("TRACKING_STORE", "ARCHIVE_REPO")  # tracing.constant.SpansLocation
PLACE_TAGS = (ARTIFACT_LOCATION, SPANS_LOCATION)
INFO = ("client_request_id", "request_preview", "response_preview")


# --- traces ---------------------------------------------------------------------------------------


def read_traces(connection: Connection, experiment: Experiment) -> Iterator[Trace]:
    """Every trace of the experiment, with spans, as far as the server still has them."""
    token = None
    while True:
        try:
            with connection.calling(f"could not list the traces of {experiment.name!r}"):
                infos, token = connection.tracking.search_traces(
                    locations=[experiment.id],
                    max_results=PAGE_TRACES,
                    order_by=["timestamp_ms ASC"],
                    page_token=token,
                )
        except Vanished:
            return  # a server without traces
        for info in infos:
            yield trace_record(info, _spans(connection, info))
        if not token:
            return


def _spans(connection: Connection, info: Any) -> list[dict[str, Any]]:
    """The spans, from the server's database, or from the trace's own artifact (before MLflow 3.4)."""
    tags = info.tags or {}
    if tags.get(SPANS_LOCATION) in IN_DATABASE:
        with connection.calling(f"could not read the trace {info.trace_id}"):
            traces = connection.tracking.batch_get_traces([info.trace_id])
        return [span.to_dict() for trace in traces for span in trace.data.spans]
    if not (uri := tags.get(ARTIFACT_LOCATION)):
        return []
    try:
        with files_at(uri, connection.location, connection.http).open("traces.json") as stream:
            return list(json.loads(stream.read()).get("spans", []))
    except (Vanished, Unsupported):
        return []  # a trace without spans has no such file
    except (ValueError, AttributeError) as error:
        raise Corrupt(f"the spans of the trace {info.trace_id} in {uri} are damaged") from error


def trace_record(info: Any, spans: list[dict[str, Any]]) -> Trace:
    """A trace, from MLflow's `TraceInfo` and its spans as dictionaries."""
    facts = {name: getattr(info, name) for name in INFO if getattr(info, name) is not None}
    metadata = {k: v for k, v in info.trace_metadata.items() if k != SOURCE_RUN}
    return Trace(
        id=info.trace_id,
        experiment=str(info.experiment_id),
        run=info.trace_metadata.get(SOURCE_RUN) or None,
        started_at=records.time_of(info.request_time),
        duration_ms=info.execution_duration,
        status=getattr(info.state, "value", None) or str(info.state),
        tags={k: v for k, v in info.tags.items() if not k.startswith(RESERVED) and k not in PLACE_TAGS},
        metadata=metadata,
        spans=spans,
        assessments=[assessment.to_dictionary() for assessment in info.assessments],
        extra={records.PLATFORM: facts} if facts else {},
    )


def write_trace(connection: Connection, trace: Trace, origin: Origin) -> str:
    """Write a trace, under its own id where MLflow can, unless it is here; its id.

    Raises `Rejected` for spans that are not MLflow's.
    """
    trace = replace(trace, id=_native_id(trace, origin))
    try:
        with connection.calling(f"could not look for the trace {trace.id}"):
            found = connection.tracking.get_trace_info(trace.id)
        # Its tags and metadata are written last: without them it was begun and never finished.
        if set(trace.metadata) <= set(found.trace_metadata or {}) and found.tags:
            return trace.id
    except Vanished:
        pass
    info, spans = _native_trace(connection, trace, origin)
    with connection.calling(f"could not write the trace {trace.id}"):
        for start in range(0, len(spans), SPANS_PER_CALL):
            connection.tracking.log_spans(trace.experiment, spans[start : start + SPANS_PER_CALL])
        connection.tracking.start_trace(info)
    return trace.id


def _native_trace(connection: Connection, trace: Trace, origin: Origin) -> tuple[Any, list[Any]]:
    from mlflow.entities import Span, TraceInfo, TraceLocation
    from mlflow.entities.assessment import Assessment
    from mlflow.entities.trace_state import TraceState

    metadata = dict(trace.metadata)
    if trace.run:
        metadata[SOURCE_RUN] = trace.run
    if model := metadata.pop(MODEL_ID, None):
        here = entities.find_model(connection, trace.experiment, f"{origin.platform}:{model}")
        metadata[MODEL_ID] = here.model_id if here is not None else model
    facts = trace.extra.get(records.PLATFORM, {})
    try:
        info = TraceInfo(
            trace_id=trace.id,
            trace_location=TraceLocation.from_experiment_id(trace.experiment),
            request_time=records.ms_of(trace.started_at) or 0,
            state=TraceState(trace.status or "STATE_UNSPECIFIED"),
            execution_duration=trace.duration_ms,
            trace_metadata=metadata,
            tags={**trace.tags, assets.ORIGIN_ID: origin.identity},
            assessments=[Assessment.from_dictionary(a) for a in trace.assessments],
            **{name: facts.get(name) for name in INFO},
        )
        return info, [Span.from_dict(_of_trace(span, trace.id)) for span in trace.spans]
    except Exception as error:
        raise Rejected(f"the trace {trace.id} is not one that MLflow understands: {error}") from error


def _native_id(trace: Trace, origin: Origin) -> str:
    """The trace's id where it is one of OpenTelemetry's, by which a server files spans; else a new one."""
    if re.fullmatch(r"tr-[0-9a-f]{32}", trace.id):
        return trace.id
    return "tr-" + hashlib.blake2b(origin.identity.encode(), digest_size=16).hexdigest()


def _of_trace(span: dict[str, Any], trace_id: str) -> dict[str, Any]:
    """The span with its trace's id."""
    own = {**span, "attributes": {**span.get("attributes", {}), REQUEST_ID: json.dumps(trace_id)}}
    if "trace_id" in span:
        own["trace_id"] = base64.b64encode(bytes.fromhex(trace_id.removeprefix("tr-"))).decode()
    return own


# --- evaluation data sets -------------------------------------------------------------------------


def read_datasets(connection: Connection) -> Iterator[EvaluationDataset]:
    """Every evaluation data set that belongs to an experiment here, with its records."""
    seen: set[str] = set()
    for some in entities.chunks(entities.experiment_ids(connection)):
        for native in _search_datasets(connection, some, None):
            if native.dataset_id not in seen:
                seen.add(native.dataset_id)
                yield _dataset(connection, native)


def _search_datasets(connection: Connection, experiment_ids: list[str], where: str | None) -> Iterator[Any]:
    token = None
    while True:
        try:
            with connection.calling("could not list evaluation data sets"):
                page = connection.tracking.search_datasets(
                    experiment_ids, where, max_results=PAGE_DATASETS, page_token=token
                )
        except Vanished:
            return  # a server without them
        yield from page
        if not (token := page.token or None):
            return


def _dataset(connection: Connection, native: Any) -> EvaluationDataset:
    with connection.calling(f"could not read the evaluation data set {native.name!r}"):
        rows, _ = connection.tracking._load_dataset_records(native.dataset_id)
        experiments = connection.tracking.get_dataset_experiment_ids(native.dataset_id)
    return EvaluationDataset(
        id=native.dataset_id,
        name=native.name,
        experiments=[str(e) for e in experiments],
        digest=native.digest,
        schema=native.schema or None,
        profile=native.profile or None,
        tags={k: v for k, v in (native.tags or {}).items() if not k.startswith(RESERVED)},
        records=[_record(row) for row in rows],
        created_at=records.time_of(native.created_time),
        modified_at=records.time_of(native.last_update_time),
    )


def _record(row: Any) -> dict[str, Any]:
    """A record as MLflow takes it again; its id and times are the server's."""
    found = {
        "inputs": row.inputs,
        "outputs": row.outputs,
        "expectations": row.expectations,
        "tags": row.tags,
        "source": row.source.to_dict() if row.source is not None else None,
    }
    return {name: value for name, value in found.items() if value not in (None, {})}


def write_dataset(connection: Connection, dataset: EvaluationDataset) -> str:
    """Write an evaluation data set, or bring the copy that is here up to date."""
    origin = dataset.id
    found = None
    for some in entities.chunks(entities.experiment_ids(connection)):
        where = f"name {entities.equals(dataset.name)}"
        for native in _search_datasets(connection, some, where):
            if (native.tags or {}).get(assets.ORIGIN_ID) == origin:
                found = native
    with connection.calling(f"could not write the evaluation data set {dataset.name!r}"):
        if found is None:
            found = connection.tracking.create_dataset(
                dataset.name, {**dataset.tags, assets.ORIGIN_ID: origin}, list(dataset.experiments)
            )
        for start in range(0, len(dataset.records), RECORDS_PER_CALL):
            some_records = dataset.records[start : start + RECORDS_PER_CALL]
            connection.tracking.upsert_dataset_records(
                found.dataset_id, [{"outputs": None, **record} for record in some_records]
            )
    return str(found.dataset_id)
