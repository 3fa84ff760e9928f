"""Neptune: exports, local queues and logs of 2.x and 3.x, and servers of both APIs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .places import TOKEN, place_of, server_of

if TYPE_CHECKING:
    from ...locations import Location
    from ..base import Sink, Source


class _Neptune:
    def source(self, location: Location) -> Source:
        place = place_of(location, target=False)
        if place.path is not None:
            from .source import folder_source

            return folder_source(location, place)
        server = server_of(location)
        if place.api == "3":
            from .server3 import ServerSource3

            return ServerSource3(location, place, server)
        from .server2 import ServerSource2

        return ServerSource2(location, place, server)

    def sink(self, location: Location) -> Sink:
        place = place_of(location, target=True)
        if place.path is not None:
            from .sink import FolderSink

            return FolderSink(location, place)
        server = server_of(location)
        if place.api == "3":
            from .server_sink3 import ServerSink3

            return ServerSink3(location, place, server)
        from .server_sink import ServerSink2

        return ServerSink2(location, place, server)

    def credentials(self) -> str | None:
        return f"environment variable {TOKEN}" if os.environ.get(TOKEN) else None


adapter = _Neptune()
