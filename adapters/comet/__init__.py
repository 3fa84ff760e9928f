"""Comet: offline archives in a directory, and projects on a server.

Limits, forms and what is kept where: `docs/platforms/comet.md`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import MissingSDK

if TYPE_CHECKING:
    from ...locations import Location
    from ..base import Sink, Source


class CometAdapter:
    """`comet:DIR` needs no SDK; writing to `comet:WORKSPACE/PROJECT` needs `comet_ml`."""

    def source(self, location: Location) -> Source:
        from .location import target

        place = target(location)
        if isinstance(place, Path):
            from .source import ArchiveSource

            return ArchiveSource(location, place)
        _need("httpx")
        from .cloud_source import CloudSource

        return CloudSource(location, place)

    def sink(self, location: Location) -> Sink:
        from .location import target

        place = target(location)
        if isinstance(place, Path):
            from .sink import ArchiveSink

            return ArchiveSink(location, place)
        _need("httpx", "comet_ml")
        from .cloud_sink import CloudSink

        return CloudSink(location, place)

    def credentials(self) -> str | None:
        """Comet's own places: the variable, then the configuration files of its SDK."""
        from .credentials import found_in

        return found_in()


def _need(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingSDK(
                f"Comet needs the package {package!r}, which is not installed",
                hint="pip install 'outgrow[comet]'",
            )


adapter = CometAdapter()
