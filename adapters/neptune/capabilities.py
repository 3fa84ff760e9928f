"""What Neptune holds: 2.x (and Minfx), and 3.x, whose forms hold more.

Sources of the limits: 2.x `neptune/attributes/atoms/string.py` (16,384 characters), `…/integer.py`
(32 bits), `neptune/types/series/string_series.py` (1,000 characters), `neptune/attributes/utils.py`
(no NaN, no infinities); 3.x `neptune_scale/sync/parameters.py` and the error codes in
`neptune_scale/sync/sync_process.py` (a series' steps must increase). Both: a path is a folder name
to the web application, so its parts may not be empty.
"""

from __future__ import annotations

from types import MappingProxyType

from ..base import Capabilities, Concept, Hold, TextLimit
from .places import API

_FIELD = Hold("outgrow/run/…", note="Neptune lets no client set it: an attribute of its own")
_HELD: dict[Concept, Hold] = {
    "experiments": Hold("outgrow/experiment", note="a location is one project"),
    "params": Hold("attributes", note="null, nested and mixed lists: as JSON below outgrow/json/"),
    "tags": Hold("outgrow/tags/…"),
    "labels": Hold("sys/tags"),
    "description": Hold("sys/description"),
    "group": Hold("sys/group_tags"),
    "user": _FIELD,
    "parent": _FIELD,
    "job_type": _FIELD,
    "sweep": _FIELD,
    "started_at": _FIELD,
    "ended_at": _FIELD,
    "created_at": _FIELD,
    "duration": _FIELD,
    "exit_code": _FIELD,
    "deleted": _FIELD,
    "fork": _FIELD,
    "points": Hold("float series"),
    "texts": Hold("string series"),
    "files": Hold("file attributes"),
    "references": Hold("outgrow/references/…", note="the URI, as text"),
}

# Neptune takes paths of 1,024 bytes; a name that is taken gets a prefix of ours (`records.Paths`).
_KEY = TextLimit(length=1_000, bytes=True, empty=False, path_like=True)
_COMMON = {
    "metric_key": _KEY,
    "param_key": _KEY,
    "tag_key": _KEY,
    "file_path": _KEY,
    "null_steps": False,
    "repeated_steps": False,
    "decreasing_steps": False,
    "exact_duplicates": False,
    "null_point_times": False,
    "param_types": frozenset({"null", "bool", "int", "float", "str", "list", "dict", "datetime"}),
    "chosen_run_ids": True,
    "live": False,
}


def capabilities(api: API) -> Capabilities:
    """Of local queues (`api` 2) and logs (`api` 3)."""
    if api == "2":
        text = TextLimit(length=16_384)
        return Capabilities(
            holds=MappingProxyType(_HELD),
            int_bits=32,
            nonfinite=frozenset(),
            run_times="ms",
            point_times="ms",
            param_value=text,
            tag_value=text,
            description=text,
            max_step=2**53,
            max_text=1_000,
            **_COMMON,  # type: ignore[arg-type]
        )
    held = _HELD | {
        "histograms": Hold("histogram series", lossless=False, note="counts must be whole numbers"),
        "fork": Hold("fork point"),
    }
    text = TextLimit(length=1_000_000, bytes=True)
    return Capabilities(
        holds=MappingProxyType(held),
        int_bits=64,
        negative_steps=False,
        step_decimals=6,
        max_step=10**12,
        run_name=TextLimit(length=730, bytes=True),
        param_value=text,
        tag_value=text,
        description=text,
        max_text=250_000,
        **_COMMON,  # type: ignore[arg-type]
    )
