"""Experiment keys derived from a run's identity, so that repeated and concurrent copies meet."""

from __future__ import annotations

import hashlib

PREFIX = "outgrow"


def experiment_key(identity: str, place: str = "") -> str:
    """48 letters and digits (Comet wants 32 to 50).

    `place` tells targets on one server apart: a key may be used once on a server.
    """
    digest = hashlib.sha256(f"{identity}\n{place}".encode("utf-8", "surrogatepass")).hexdigest()
    return PREFIX + digest[:41]


def is_ours(key: str) -> bool:
    """Whether a key could be one of `experiment_key`."""
    return len(key) == 48 and key.startswith(PREFIX)
