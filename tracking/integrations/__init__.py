"""Loggers and callbacks for people's frameworks. Each imports its framework when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .accelerate import AccelerateTracker
    from .keras import KerasCallback
    from .lightning import LightningLogger
    from .optuna import optuna_callback
    from .transformers import TransformersCallback

_HOMES = {
    "AccelerateTracker": "accelerate",
    "KerasCallback": "keras",
    "LightningLogger": "lightning",
    "TransformersCallback": "transformers",
    "optuna_callback": "optuna",
}

__all__ = ["AccelerateTracker", "KerasCallback", "LightningLogger", "TransformersCallback", "optuna_callback"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
