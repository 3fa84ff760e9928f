"""What an MLflow database can hold when it is written directly: more than through the client."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Literal

from ..base import Capabilities, Concept, Hold, TextLimit
from .artifacts import DIRECT_PATH
from .capabilities import CLIENT, HOLDS

FLUSH_POINTS = 500_000
"""Points that wait for one transaction: about three seconds of writing, 40 MB of memory."""
FLUSH_RUNS = 500

_ONLY_HERE: dict[Concept, Hold] = {
    "experiment_created_at": Hold("creation time", lossless=False, note="milliseconds"),
    "registry_times": Hold("creation and update times", lossless=False, note="milliseconds"),
}


def sql_capabilities(kind: Literal["sqlite", "postgresql"]) -> Capabilities:
    """Lengths of columns count on PostgreSQL only; SQLite does not enforce them."""
    common = replace(
        CLIENT,
        holds=MappingProxyType(HOLDS | _ONLY_HERE),
        file_path=DIRECT_PATH,
        times_before_1970=True,
        chosen_run_ids=True,
        batch_points=200_000,
        writers=None,
        flush_runs=FLUSH_RUNS,
        flush_points=FLUSH_POINTS,
    )
    if kind == "sqlite":
        return replace(
            common,
            run_name=TextLimit(length=8_000, empty=False),
            experiment_name=TextLimit(length=500, empty=False),  # MAX_EXPERIMENT_NAME_LENGTH
        )
    return common
