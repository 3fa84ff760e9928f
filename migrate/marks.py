"""Completion marks: what a copy leaves in the target, last, so that the next copy can tell.

A mark is `VERSION.RECORD.CONTENT.REFUSED`: a digest of the source's record of the run (and of
what it cheaply tells of the bulk), one of the bulk itself where the run was still running, and
how many files were refused for good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

from ..adapters.base import RunStats
from ..adapters.batches import Fingerprint
from ..model import File, Run, digest

MARK_VERSION = "1"


@dataclass(frozen=True, slots=True)
class Mark:
    record: str
    content: str = ""
    refused: int = 0

    def __str__(self) -> str:
        return f"{MARK_VERSION}.{self.record}.{self.content or '-'}.{self.refused}"

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """None for no mark, or one of another version: the run is then copied again."""
        parts = (text or "").split(".")
        if len(parts) != 4 or parts[0] != MARK_VERSION or not parts[3].isdigit():
            return None
        return cls(parts[1], "" if parts[2] == "-" else parts[2], int(parts[3]))


def record_digest(raw: Run, stats: RunStats, context: object = None) -> str:
    """Digest of what the source tells without being read whole; `context` is what else matters."""
    told = replace(raw, url=None, origin=None)
    return digest([told, stats, context])[:24]


def content_digest(streams: Mapping[str, Fingerprint], files: Iterable[File]) -> str:
    """Digest of the bulk: every row of every stream, every file's path and size."""
    told = [[name, sorted(print_.by_key.items())] for name, print_ in sorted(streams.items())]
    sizes = sorted((file.path, file.size or 0, file.sha256 or "") for file in files)
    return hashlib.sha256(repr((told, sizes)).encode("utf-8", "surrogatepass")).hexdigest()[:16]
