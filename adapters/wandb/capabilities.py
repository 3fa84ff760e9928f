"""What W&B can hold and its limits.

Sources: `wandb/sdk/wandb_settings.py` (run id, project), `wandb/sdk/artifacts/_validators.py`
(artifact names and types, tags), `core/internal/filestream` (a history line of 10 MB), and
docs.wandb.ai "Experiments limits and performance".
"""

from __future__ import annotations

from types import MappingProxyType

from ..base import Capabilities, Concept, Hold, TextLimit

_UTF8 = r"[^\x00\ud800-\udfff]"

ARTIFACT_NAME = TextLimit(128, r"[^/:\x00-\x1f\ud800-\udfff]", empty=False)
PROJECT_NAME = TextLimit(128, r"[^/\\#?%:\x00-\x1f\ud800-\udfff]", empty=False)

_SECTION = "config, under `outgrow`"

_RUN_HOLDS: dict[Concept, Hold] = {
    "params": Hold(
        "config, nested at `/`", note="what JSON cannot carry exactly is also in `outgrow.record`"
    ),
    "tags": Hold("config: `outgrow.tags`"),
    "labels": Hold("tags"),
    "summary": Hold("summary"),
    "description": Hold("notes"),
    "user": Hold(_SECTION, note="the run's user in W&B is the one whose key uploads it"),
    "parent": Hold("config: `outgrow.parent`", note="and as the group, where the run has none of its own"),
    "fork": Hold(_SECTION),
    "group": Hold("group"),
    "job_type": Hold("job type"),
    "sweep": Hold("config: `outgrow.sweep`", note="a sweep itself cannot be made for a finished run"),
    "started_at": Hold(
        _SECTION, note="and in `wandb-metadata.json`; W&B's own creation time is the upload's"
    ),
    "ended_at": Hold(_SECTION),
    "created_at": Hold(_SECTION),
    "duration": Hold("summary: `_wandb.runtime`, whole seconds", note="exact in `outgrow.record`"),
    "exit_code": Hold("exit record", note="exact in `outgrow.record`"),
    "points": Hold("history", note="steps and times that a row cannot have are in its side columns"),
    "texts": Hold("history; console/ as console output, and exact in a run file"),
    "histograms": Hold("history"),
    "datasets": Hold("used artifacts of type `dataset`", note="exact in `outgrow.record`"),
    "code": Hold("git and program of the run", note="exact in `outgrow.record`"),
    "environment": Hold("wandb-metadata.json", note="exact in `outgrow.record`"),
    "files": Hold("files"),
    "references": Hold("artifacts: references", note="those of a run itself are in `outgrow.record`"),
    "artifacts": Hold("artifacts", note="equal content under one name is one version"),
    "aliases": Hold("artifact aliases"),
    "artifact_inputs": Hold("used artifacts"),
    "linked_metrics": Hold("artifact metadata: `outgrow`"),
    "registry": Hold("registry collections"),
    "registry_aliases": Hold("aliases of the linked versions"),
}
_LOCAL_HOLDS: dict[Concept, Hold] = _RUN_HOLDS | {
    "experiments": Hold("project of the run record"),
    "experiment_tags": Hold("outgrow-projects/"),
    "experiment_created_at": Hold("outgrow-projects/"),
    "registry": Hold("outgrow-registry/", note="linked when the folders are copied to a server"),
    "registry_aliases": Hold("outgrow-registry/"),
    "registry_times": Hold("outgrow-registry/"),
    "stages": Hold("outgrow-registry/"),
    "prompts": Hold("outgrow-registry/"),
}


def _capabilities(holds: dict[Concept, Hold], **limits: object) -> Capabilities:
    common: dict[str, object] = {
        "metric_key": TextLimit(allowed=_UTF8, empty=False),
        "param_key": TextLimit(allowed=_UTF8),
        "tag_key": TextLimit(allowed=_UTF8),
        "label": TextLimit(64, _UTF8, empty=False),
        "run_name": TextLimit(128, _UTF8),
        "experiment_name": PROJECT_NAME,
        "description": TextLimit(allowed=_UTF8),
        "model_name": ARTIFACT_NAME,
        "chosen_run_ids": True,
        "live": False,
    }
    return Capabilities(holds=MappingProxyType(holds), **(common | limits))  # type: ignore[arg-type]


LOCAL = _capabilities(_LOCAL_HOLDS)
"""Of `wandb:DIR`: one folder per run, complete or absent."""

CLOUD = _capabilities(_RUN_HOLDS, version_numbers="any", flush_runs=40, flush_points=2_000_000)
"""Of `wandb:ENTITY/PROJECT`: folders are uploaded together by the vendor's sync."""
