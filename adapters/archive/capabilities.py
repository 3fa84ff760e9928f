"""What an archive holds: everything, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from ..base import Capabilities, Concept, Hold
from ..batches import OPTIONAL_POINT_COLUMNS

_PLACES: Mapping[str, str] = {
    "experiments": "table experiments",
    "experiment_tags": "table experiments, record",
    "experiment_created_at": "table experiments",
    "params": "table params; typed in record of table runs",
    "tags": "table tags",
    "labels": "table runs",
    "summary": "table metrics",
    "points": "table points",
    "texts": "table texts",
    "histograms": "table histograms",
    "files": "files/, listed in table run_files",
    "references": "table run_files",
    "artifacts": "files/, listed in tables artifacts and artifact_files",
    "aliases": "table artifacts, record",
    "artifact_inputs": "table runs, record",
    "linked_metrics": "table artifacts, record",
    "registry": "tables models and model_versions",
    "registry_aliases": "table model_versions",
    "stages": "table model_versions",
    "registry_times": "tables models and model_versions",
    "prompts": "tables models and model_versions",
    "traces": "table traces",
    "evaluation_datasets": "table evaluation_datasets",
}

CAPABILITIES = Capabilities(
    holds={concept: Hold(_PLACES.get(concept, "table runs, record")) for concept in get_args(Concept)},
    point_columns=frozenset(OPTIONAL_POINT_COLUMNS),
    exact=True,
    chosen_run_ids=True,
    replay="idempotent",
    batch_points=262_144,
    flush_runs=500,
    flush_points=5_000_000,
)
"""No limit on keys, values or names. One flush is one segment: see `manifest`."""
