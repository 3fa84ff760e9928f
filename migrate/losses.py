"""Losses added up over runs."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace

from ..adapters.fit import Loss
from .report import LossLine

_ORDER = {"dropped": 0, "truncated": 1, "merged": 2, "rounded": 3, "retyped": 4, "renamed": 5, "moved": 6}


class LossTable:
    """Lines per kind, concept and detail, with the runs they touch. Safe for several threads."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str, str], LossLine] = {}
        self._lock = threading.Lock()

    def add(self, losses: Iterable[Loss], runs: int = 1) -> None:
        """The losses of one run, each kind of loss named once. `runs=0`: of something else than a run."""
        with self._lock:
            for loss in losses:
                what = (loss.kind, loss.concept, loss.detail)
                line = self._lines.get(what)
                if line is None:
                    line = LossLine(
                        kind=loss.kind,
                        concept=loss.concept,
                        detail=loss.detail,
                        runs=0,
                        count=0,
                        certain=False,
                    )
                self._lines[what] = replace(
                    line,
                    runs=line.runs + runs,
                    count=line.count + loss.count,
                    example=line.example or loss.example,
                    certain=line.certain or loss.certain,
                )

    def lines(self) -> list[LossLine]:
        """The gravest first."""
        return sorted(
            self._lines.values(), key=lambda line: (_ORDER[line.kind], -line.runs, line.concept, line.detail)
        )
