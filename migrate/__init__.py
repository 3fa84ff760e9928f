"""Plan, copy and check: history from one platform to another. See `docs/migrating.md`.

`plan`, `copy` and `check` take locations (`"mlflow:sqlite:///mlflow.db"`) or open sides.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checker import check
    from .copier import Progress, copy
    from .ledger import Ledger
    from .planner import plan
    from .report import CheckReport, CopyReport, Event, Plan, to_json

_HOMES = {
    "check": "checker",
    "copy": "copier",
    "Progress": "copier",
    "Ledger": "ledger",
    "plan": "planner",
    "CheckReport": "report",
    "CopyReport": "report",
    "Event": "report",
    "Plan": "report",
    "to_json": "report",
}

__all__ = [
    "CheckReport",
    "CopyReport",
    "Event",
    "Ledger",
    "Plan",
    "Progress",
    "check",
    "copy",
    "plan",
    "to_json",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
