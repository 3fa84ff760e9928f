"""Notebooks (IPython, Jupyter), where a program goes on after an exception and a cell runs again.

- A cell that runs again ends the runs that its earlier execution left open.
- An exception in a cell, or its interruption, is the end of a training by a logger or callback. A
  run that this cell began without `with` stays open for the next cell; left so, it is not finished
  but failed or killed.
"""

from __future__ import annotations

import sys
import weakref
from dataclasses import dataclass, field
from typing import Any

from ..errors import PolicyViolation
from . import run as running
from .ending import ending
from .run import Run
from .warning import PolicyWarning, warn


@dataclass
class _Cells:
    """What happens in one shell."""

    now: tuple[str, ...] = ()
    """Names of the cell that runs: its id in the notebook, and its text."""
    begun: list[weakref.ref[Run]] = field(default_factory=list)
    """Runs of the present execution."""
    earlier: dict[str, list[weakref.ref[Run]]] = field(default_factory=dict)
    """Runs of the last execution of each other cell, by its id, else by its text."""

    def before(self, info: Any) -> None:
        if self.now and self.begun:
            self.earlier[self.now[0]] = self.begun
        self.begun = []
        self.now = _names(getattr(info, "cell_id", None), info.raw_cell)

    def after(self, result: Any) -> None:
        error = result.error_before_exec or result.error_in_exec
        if error is None:
            return
        for run in [*running._open]:
            if run._if_left == "failed":
                run._end_with(error, timeout=0)
        for run in _alive(self.begun):
            run._if_left = ending(error)


_shell: Any = None
_cells = _Cells()


def _alive(runs: list[weakref.ref[Run]]) -> list[Run]:
    return [run for ref in runs if (run := ref()) is not None and not run._finished]


def inside() -> Any:
    """The IPython shell of this process; None outside of one."""
    module = sys.modules.get("IPython")
    return None if module is None else module.get_ipython()


def began(run: Run) -> None:
    """Tell of a run that `start_run` has begun."""
    global _shell, _cells
    shell = inside()
    if shell is None:
        return
    if shell is not _shell:
        _shell, _cells = shell, _Cells(now=_first_cell(shell))
        shell.events.register("pre_run_cell", _cells.before)
        shell.events.register("post_run_cell", _cells.after)
    for name in _cells.now:
        for left in _alive(_cells.earlier.pop(name, [])):
            try:
                left.finish(left._if_left, timeout=0)
            except PolicyViolation as violation:
                warn(str(violation), PolicyWarning)
    _cells.begun.append(weakref.ref(run))


def _names(identity: str | None, text: str | None) -> tuple[str, ...]:
    return tuple(name for name in (identity, (text or "").strip()) if name)


def _first_cell(shell: Any) -> tuple[str, ...]:
    """The cell that runs already when this module hears of the shell."""
    parent = shell.get_parent() if hasattr(shell, "get_parent") else None
    identity = ((parent or {}).get("metadata") or {}).get("cellId")
    history = shell.history_manager.input_hist_raw if shell.history_manager else []
    return _names(identity, history[-1] if history else None)
