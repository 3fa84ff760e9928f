"""Weights & Biases: `wandb:ENTITY/PROJECT` on a server, `wandb:DIR` for local run folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from . import place

if TYPE_CHECKING:
    from ...locations import Location
    from ..base import Sink, Source


class WandbAdapter:
    """Opens both forms of location; nothing of the SDK is imported before that."""

    def source(self, location: Location) -> Source:
        where = place.place_of(location)
        if isinstance(where, Path):
            from .source import FolderSource

            return FolderSource(location, where)
        from .cloud_source import ProjectSource

        return ProjectSource(location, where)

    def sink(self, location: Location) -> Sink:
        where = place.place_of(location)
        if isinstance(where, Path):
            from .sink import FolderSink

            return FolderSink(location, where)
        from .cloud_sink import ProjectSink

        return ProjectSink(location, where)

    def credentials(self) -> str | None:
        return place.credentials()


adapter = WandbAdapter()
