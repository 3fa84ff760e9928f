"""Opening what a command was given: a location, or a side that is open already."""

from __future__ import annotations

from contextlib import ExitStack

from ..adapters.base import Sink, Source
from ..locations import Location, open_sink, open_source

Place = str | Location


def source_of(place: Place | Source, opened: ExitStack) -> Source:
    """The reading side; one that is opened here is closed with `opened`."""
    return place if isinstance(place, Source) else opened.enter_context(open_source(place))


def sink_of(place: Place | Sink, opened: ExitStack) -> Sink:
    """The writing side; one that is opened here is closed with `opened`."""
    return place if isinstance(place, Sink) else opened.enter_context(open_sink(place))


def source_of_sink(sink: Sink) -> Source:
    """The reading side of where a sink writes to."""
    read = getattr(sink, "source", None)
    if callable(read):  # a platform in memory has no location to open
        source: Source = read()
        return source
    return open_source(sink.location)


def sink_of_source(source: Source, opened: ExitStack) -> Sink:
    """The writing side of where a source reads from; only its capabilities and listing are used."""
    return opened.enter_context(open_sink(source.location))
