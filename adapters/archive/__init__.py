"""The archive: a directory or object-store prefix of Parquet and files in the canonical model.

It is a platform like any other, with a place for everything. The layout is in `docs/archive.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...locations import Location
    from ..base import Sink, Source


class ArchiveAdapter:
    def source(self, location: Location) -> Source:
        from .source import ArchiveSource

        return ArchiveSource(location)

    def sink(self, location: Location) -> Sink:
        from .sink import ArchiveSink

        return ArchiveSink(location)

    def credentials(self) -> str | None:
        """An archive has none of its own; an object store's are found by its fsspec package."""
        return None


adapter = ArchiveAdapter()
