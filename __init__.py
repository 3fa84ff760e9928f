"""outgrow: track ML experiments on one platform, move their whole history to another.

The public face of live logging. Each name is imported when it is first used, so that
`import outgrow` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tracking.run import Run, active_run, log
    from .tracking.start import start_run

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "active_run", "log", "start_run"]

_HOME = {"Run": "run", "active_run": "run", "log": "run", "start_run": "start"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f".tracking.{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
