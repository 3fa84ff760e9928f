"""Names that this adapter gives to what W&B has no native place for.

W&B's own panels leave out history columns that start with an underscore, so the two side columns
do not show as metrics.
"""

from __future__ import annotations

import re

SECTION = "outgrow"
"""Top-level key of a run's config that holds what W&B has no field for."""

STEP_COLUMN = "_outgrow_step"
"""History column: the step as it was, where `_step` could not be it; text, "" for no step."""
TIME_COLUMN = "_outgrow_time"
"""History column: microseconds after `_timestamp` of each key of the row, keys in sorted order,
comma-separated, "" for a point without a time; where the row's keys do not share one time."""

HIDDEN_COLUMNS = frozenset({"_step", "_timestamp", "_runtime", "_wandb", STEP_COLUMN, TIME_COLUMN})
"""History columns that are no series."""

_KEY_ESCAPE = "outgrow/key/"
_FILE_ESCAPE = "outgrow-files/"

TEXTS_FILE = "outgrow-texts.parquet"
"""Run file with the exact text series that W&B's history and console log cannot hold exactly."""
STAGING = "artifacts"
"""Folder, within a run folder, of the bytes of its artifact versions."""
SIDECAR = "outgrow.json"
"""File, within a run folder, with the identity and the mark of a copy: the cheap listing."""

GENERATED_FILES = frozenset(
    {"config.yaml", "wandb-summary.json", "wandb-metadata.json", "output.log", "requirements.txt"}
)
"""Run files that W&B's own uploader writes (core/internal/stream/sender.go)."""

_MAX_ID = 64
_BAD_ID = re.compile(r"[:;,#?/'\\\s]")


def escape_key(key: str) -> str:
    """The history column of a series: itself, unless W&B or this adapter owns that name."""
    return _KEY_ESCAPE + key if key in HIDDEN_COLUMNS or key.startswith(_KEY_ESCAPE) or not key else key


def unescape_key(column: str) -> str:
    return column.removeprefix(_KEY_ESCAPE)


def escape_path(path: str) -> str:
    """Where a loose file goes: as it is, unless the vendor's uploader would write over it."""
    owned = path in GENERATED_FILES or path == TEXTS_FILE or path.startswith(_FILE_ESCAPE)
    return _FILE_ESCAPE + path if owned else path


def unescape_path(path: str) -> str:
    return path.removeprefix(_FILE_ESCAPE)


def valid_run_id(run_id: str) -> bool:
    """Whether W&B takes it (wandb/sdk/wandb_settings.py: `_validate_run_id`, 128 characters at most)."""
    return 0 < len(run_id) <= _MAX_ID and not _BAD_ID.search(run_id) and run_id.isprintable()
