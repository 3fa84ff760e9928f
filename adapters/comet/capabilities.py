"""What a Comet target can hold, as data.

Limits are those of the SDK 3.58 (`comet_ml.constants`, `comet_ml.schemas`) and of Comet's
documentation (15,000 values of a metric are stored online).
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from ..base import Capabilities, Concept, Hold, TextLimit

KEY_LENGTH = 100
VALUE_LENGTH = 1_000
STORED_POINTS = 15_000
"""Values of one metric that the server stores."""

_COMMON: dict[Concept, Hold] = {
    "params": Hold("parameters", note="types that Comet shows as text are kept in the other `outgrow.types`"),
    "tags": Hold("others, under the tag's own key"),
    "labels": Hold("tags"),
    "description": Hold("other `outgrow.description`"),
    "user": Hold("other `outgrow.user`; system details"),
    "parent": Hold("other `outgrow.parent`"),
    "group": Hold("other `outgrow.group`"),
    "job_type": Hold("other `outgrow.job_type`"),
    "sweep": Hold("other `outgrow.sweep`"),
    "started_at": Hold("start time", note="beyond milliseconds: other `outgrow.started_at`"),
    "ended_at": Hold("end time", note="beyond milliseconds: other `outgrow.ended_at`"),
    "created_at": Hold("other `outgrow.created_at`"),
    "duration": Hold("other `outgrow.duration`"),
    "exit_code": Hold("other `outgrow.exit_code`"),
    "deleted": Hold("archived", note="in a zip: other `outgrow.deleted`"),
    "points": Hold("metrics; `system/…` as `sys.…`", lossless=False, note="times in milliseconds"),
    "texts": Hold("asset `outgrow/comet/texts.parquet`; `console/…` also as output"),
    "datasets": Hold("other `outgrow.datasets`"),
    "code": Hold("other `outgrow.code`; git metadata"),
    "environment": Hold("other `outgrow.environment`; system details, packages"),
    "files": Hold("assets; `models/NAME/…` as elements of the model NAME"),
    "references": Hold("remote assets"),
}

# The patterns `^(.*)$` of `comet_ml.schemas`; one bad metric name makes the uploader drop all metrics.
_LINE = r"[^\n]"

OFFLINE = Capabilities(
    holds=MappingProxyType(_COMMON | {"experiments": Hold("the project named in the zip")}),
    metric_key=TextLimit(length=KEY_LENGTH, allowed=_LINE, empty=False),
    param_key=TextLimit(length=KEY_LENGTH, allowed=_LINE, empty=False),
    param_value=TextLimit(length=VALUE_LENGTH),
    # Five characters less than Comet takes: a key that is taken is kept as `tag:<key>`.
    tag_key=TextLimit(length=KEY_LENGTH - 5, empty=False),
    tag_value=TextLimit(length=VALUE_LENGTH),
    label=TextLimit(length=KEY_LENGTH, allowed=_LINE, empty=False),
    run_name=TextLimit(length=VALUE_LENGTH, empty=False),
    experiment_name=TextLimit(length=KEY_LENGTH, empty=False),
    file_path=TextLimit(allowed=_LINE),
    param_types=frozenset({"null", "bool", "int", "float", "str"}),
    int_bits=64,
    point_times="ms",
    null_point_times=False,
    point_columns=frozenset({"epoch", "context"}),
    chosen_run_ids=True,
    live=False,
    batch_points=50_000,
)
"""Zips in a directory (`comet:DIR`)."""

ONLINE = replace(
    OFFLINE,
    holds=MappingProxyType(
        _COMMON
        | {
            "artifacts": Hold("artifact versions", note="version X as X.0.0 where Comet wants three numbers"),
            "aliases": Hold("aliases"),
            "artifact_inputs": Hold("artifact lineage"),
            "registry": Hold("model registry", note="version X as X.0.0"),
            "registry_aliases": Hold("metadata `outgrow.version` of a model version"),
            "registry_times": Hold("metadata `outgrow.version`, `outgrow.model`"),
            "stages": Hold("tags of a model version"),
        }
    ),
    model_name=TextLimit(length=KEY_LENGTH, allowed=r"[a-z0-9-]", empty=False),
    version_numbers="semantic",
    float_steps=False,
    max_points_per_series=STORED_POINTS,
    writers=4,
    flush_runs=8,
    flush_points=200_000,
)
"""A project on a Comet server (`comet:WORKSPACE/PROJECT`)."""
