"""Warnings that point at the caller's line, however deep inside outgrow they arise."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

_HERE = str(Path(__file__).resolve().parent)


class JournalWarning(UserWarning):
    """Something is wrong with the journal; training goes on."""


class DeliveryWarning(UserWarning):
    """Something is not delivered yet; nothing is lost."""


class PolicyWarning(UserWarning):
    """A run breaks a rule whose level is `warn`."""


class IntegrationWarning(UserWarning):
    """A framework's logger or callback could not log something; training goes on."""


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the first line outside this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
