"""What `define_metric` tells: a metric's step metric, summary rules, goal and whether it is hidden.

A definition is a mapping with the names of `MetricRecord` (wandb/proto/wandb_internal.proto): the log
has it as a record, the server in the run's config under `_wandb`, `m`, by field numbers and with the
step metric as its place in that list (wandb/sdk/lib/proto_util.py: `proto_encode_to_dict`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from wandb.proto import wandb_internal_pb2 as pb

_FIELDS = pb.MetricRecord.DESCRIPTOR.fields_by_number
_INTERNAL = ("_control", "_info", "step_metric_index")

Definition = dict[str, Any]


def of_record(record: pb.MetricRecord) -> Definition:
    told = MessageToDict(record, preserving_proto_field_name=True)
    return {name: value for name, value in told.items() if name not in _INTERNAL}


def of_records(records: Iterable[pb.MetricRecord]) -> list[Definition]:
    """Later records of a metric add to earlier ones, or stand in their stead where they say so."""
    found: dict[tuple[str, str], Definition] = {}
    for record in records:
        name, told = (record.name, record.glob_name), of_record(record)
        if record._control.overwrite:
            found[name] = told
            continue
        before = found.setdefault(name, {})
        for field, value in told.items():
            before[field] = {**before.get(field, {}), **value} if isinstance(value, dict) else value
    return _sorted(found.values())


def of_config(internal: Any) -> list[Definition]:
    """From the config's `_wandb` entry. What is not understood is left out."""
    told = internal.get("m") if isinstance(internal, Mapping) else None
    encoded = [one for one in told if isinstance(one, Mapping)] if isinstance(told, list) else []
    return _sorted(dict(_decoded(one, encoded)) for one in encoded)


def _sorted(definitions: Iterable[Definition]) -> list[Definition]:
    """The log has them in the order of the calls, the server in one of its own."""
    return sorted(definitions, key=lambda d: (str(d.get("name", "")), str(d.get("glob_name", ""))))


def _decoded(one: Mapping[str, Any], every: list[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    for number, value in one.items():
        field = _FIELDS.get(int(number)) if number.isdigit() else None
        if field is None:
            continue
        if field.name == "step_metric_index":
            if isinstance(value, int) and 0 < value <= len(every) and "1" in every[value - 1]:
                yield "step_metric", every[value - 1]["1"]
        elif field.enum_type is not None:
            yield field.name, field.enum_type.values_by_number[value].name
        elif field.message_type is None:
            yield field.name, value
        elif isinstance(value, list) and field.name not in _INTERNAL:
            names = field.message_type.fields_by_number
            if told := {names[n].name: True for n in value if n in names}:
                yield field.name, told


def records(definitions: Any) -> Iterator[pb.Record]:
    """As log records; a definition that this SDK does not understand is left out."""
    for definition in definitions if isinstance(definitions, list) else ():
        record = pb.MetricRecord()
        try:
            ParseDict(definition, record, ignore_unknown_fields=True)
        except ParseError:
            continue
        if record.name or record.glob_name:
            yield pb.Record(metric=record)
