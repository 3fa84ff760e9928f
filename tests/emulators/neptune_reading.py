"""The reading API of a Neptune 3.x server, as far as `neptune-query` goes; the state is `neptune_scale.Server`'s.

Answers are the protobuf messages of the client itself. Times are milliseconds, as on the real server.
"""

from __future__ import annotations

import math
import re
from typing import Any

from neptune_query.generated.neptune_api.proto.neptune_pb.api.v1.model import (
    leaderboard_entries_pb2 as entries,
)
from neptune_query.generated.neptune_api.proto.neptune_pb.api.v1.model.attributes_pb2 import (
    ProtoQueryAttributesResultDTO,
)
from neptune_query.generated.neptune_api.proto.neptune_pb.api.v1.model.series_values_pb2 import (
    ProtoFloatSeriesValuesResponseDTO,
    ProtoSeriesValuesResponseDTO,
)

ROOT = "/api/leaderboard/v1/proto/"
SCALARS = {
    "string": ("string", "string_properties"),
    "int64": ("int", "int_properties"),
    "float64": ("float", "float_properties"),
    "bool": ("bool", "bool_properties"),
    "timestamp": ("datetime", "datetime_properties"),
    "string_set": ("stringSet", "string_set_properties"),
}
SERIES = {
    "float64": "floatSeries",
    "string": "stringSeries",
    "histogram": "histogramSeries",
    "file_ref": "fileRefSeries",
}
JSON = dict[str, Any]


def answer(server: Any, path: str, project: str | None, body: JSON) -> tuple[int, Any]:
    """(status, protobuf bytes or a JSON error)."""
    if project is not None and project not in server.projects:
        return 403, {"code": 403, "message": "no access", "errorType": "ACCESS_DENIED"}
    match path.removeprefix(ROOT):
        case "leaderboard/entries/search/":
            return 200, _search(server, str(project), body).SerializeToString()
        case "leaderboard/attributes/query":
            return 200, _attributes(server, str(project), body).SerializeToString()
        case "attributes/series/float":
            return 200, _floats(server, body).SerializeToString()
        case "attributes/series":
            return 200, _objects(server, body).SerializeToString()
    return 404, {"code": 404, "message": f"{path} is not served here", "errorType": ""}


def _runs(server: Any, project: str) -> list[JSON]:
    return [run for (of, _), run in server.runs.items() if of == project]


def _search(server: Any, project: str, body: JSON) -> Any:
    """Sorted by a `sys/` attribute, page by page, with the attributes that are asked for."""
    assert "query" not in body, "queries are not served"
    wanted = [entry["path"] for entry in body["attributeFilters"]]
    by, falling = body["sorting"]["sortBy"]["name"], body["sorting"]["dir"] == "descending"
    runs = sorted(_runs(server, project), key=lambda run: run["attributes"][by][1], reverse=falling)
    start = body["pagination"].get("offset", 0)
    result = entries.ProtoLeaderboardEntriesSearchResultDTO(matching_item_count=len(runs))
    for run in runs[start : start + body["pagination"]["limit"]]:
        entry = result.entries.add(experiment_id=run["attributes"]["sys/id"][1], type="run")
        for path in wanted:
            if path in run["attributes"]:
                _scalar(server, entry.attributes.add(), path, *run["attributes"][path])
    return result


def _scalar(server: Any, attribute: Any, path: str, kind: str, value: Any) -> None:
    if kind == "file_ref":
        size, mime = server.references[value]
        attribute.name, attribute.type = path, "fileRef"
        found = attribute.file_ref_properties
        found.path, found.sizeBytes, found.mimeType = value, size, mime
    else:
        type_, name = SCALARS[kind]
        attribute.name, attribute.type = path, type_
        properties = getattr(attribute, name)
        if kind == "string_set":
            properties.value.extend(value)
        else:
            properties.value = value // 1_000 if kind == "timestamp" else value
    if kind != "file_ref":
        properties.attribute_name, properties.attribute_type = path, attribute.type
    else:
        found.attribute_name, found.attribute_type = path, attribute.type


def _attributes(server: Any, project: str, body: JSON) -> Any:
    """Pages of attributes of the runs asked for, of the types asked for."""
    types = {entry["attributeType"] for entry in body.get("attributeFilter") or []}
    ids = set(body["experimentIdsFilter"])
    found: list[tuple[JSON, str]] = []
    for run in _runs(server, project):
        if f"{project}/{run['attributes']['sys/id'][1]}" in ids:
            found += [(run, path) for path in sorted({*run["attributes"], *run["series"]})]
    start, limit = int(body["nextPage"].get("nextPageToken") or 0), body["nextPage"]["limit"]
    result = ProtoQueryAttributesResultDTO()
    for run, path in found[start : start + limit]:
        short = run["attributes"]["sys/id"][1]
        entry = result.entries.add(experimentId=short, experimentShortId=short)
        if path in run["series"]:
            _last(server, entry.attributes.add(), path, run["kinds"][path], run["series"][path])
        else:
            _scalar(server, entry.attributes.add(), path, *run["attributes"][path])
        if types and entry.attributes[0].type not in types:
            del result.entries[-1]
    if start + limit < len(found):
        result.nextPage.nextPageToken = str(start + limit)
    return result


def _last(server: Any, attribute: Any, path: str, kind: str, series: list[Any]) -> None:
    attribute.name, attribute.type = path, SERIES[kind]
    step, _, value = series[-1]
    match kind:
        case "float64":
            finite = [v for _, _, v in series if math.isfinite(v)] or [math.nan]
            found = attribute.float_series_properties
            found.last, found.min, found.max = value, min(finite), max(finite)
        case "string":
            found = attribute.string_series_properties
            found.last = value
        case "histogram":
            found = attribute.histogram_series_properties
            _histogram(found.last, value)
        case _:
            found = attribute.file_ref_series_properties
            _reference(server, found.last, value)
    found.last_step, found.attribute_name, found.attribute_type = step, path, SERIES[kind]


def _histogram(message: Any, value: Any) -> None:
    edges, counts = value
    message.type = "COUNTING" if all(isinstance(count, int) for count in counts) else "DENSITY"
    message.edges.extend(edges)
    message.values.extend(counts)


def _reference(server: Any, message: Any, path: str) -> None:
    message.path, (message.sizeBytes, message.mimeType) = path, server.references[path]


def _series(server: Any, series: JSON, body: JSON) -> list[Any] | None:
    """The values of one series in the order asked for, with those of the parents up to the fork (`FULL`)."""
    found = re.fullmatch(r"(.+/.+)/([^/]+)", series["holder"]["identifier"])
    assert found is not None
    (run,) = (r for r in _runs(server, found[1]) if r["attributes"]["sys/id"][1] == found[2])
    values = list(run["series"].get(series["attribute"], []))
    create = run["create"]
    while series["lineage"] == "FULL" and create.HasField("fork_point"):
        fork = create.fork_point
        limit = fork.step.whole + fork.step.micro / 1e6
        run = server.runs[fork.parent_project or found[1], fork.parent_run_id]
        values = [v for v in run["series"].get(series["attribute"], []) if v[0] <= limit] + values
        create = run["create"]
    if not values:
        return None
    return values if body.get("order") == "ascending" else values[::-1]


def _floats(server: Any, body: JSON) -> Any:
    result = ProtoFloatSeriesValuesResponseDTO()
    for request in body["requests"]:
        values = _series(server, request["series"], body) or []
        if (after := request.get("afterStep")) is not None:
            values = [v for v in values if (v[0] > after) == (body["order"] == "ascending") and v[0] != after]
        one = result.series.add(requestId=request["requestId"]).series
        for step, micros, value in values[: body["perSeriesPointsLimit"]]:
            one.values.add(step=step, timestamp_millis=micros // 1_000, value=value)
    return result


def _objects(server: Any, body: JSON) -> Any:
    """The token says how many values were sent; a series that does not exist is left out."""
    result = ProtoSeriesValuesResponseDTO()
    limit = body.get("perSeriesPointsLimit", 1_000)
    for request in body["requests"]:
        values = _series(server, request["series"], body)
        if values is None:
            continue
        start = int((request.get("searchAfter") or {}).get("token") or 0)
        one = result.series.add(requestId=request["requestId"])
        for step, micros, value in values[start : start + limit]:
            point = one.seriesValues.values.add(step=step, timestamp_millis=micros // 1_000)
            if isinstance(value, tuple):
                _histogram(point.object.histogram, value)
            elif value in server.references:
                _reference(server, point.object.fileRef, value)
            else:
                point.object.stringValue = value
        one.searchAfter.finished = start + limit >= len(values)
        one.searchAfter.token = str(start + limit)
    return result
