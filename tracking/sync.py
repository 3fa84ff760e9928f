"""Delivering journals on demand: later, on another machine, many at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from ..adapters.base import Sink
from ..config import Config
from ..errors import LocationError
from ..locations import open_sink, open_source, parse
from . import journal
from .delivery import targets
from .report import Report, report
from .spawn import public_locations
from .worker import Lane

BUSY_WAIT = 30.0
"""Seconds to wait for a journal that another process is delivering."""


def find(folders: Sequence[Path]) -> list[Path]:
    """The journals meant by folders: a journal, a folder of journals, or a project with `.outgrow/journal`.

    Raises `LocationError` for a folder that is none of these.
    """
    found: list[Path] = []
    for folder in folders:
        if (folder / journal.RECORDS).is_file():
            found.append(folder)
        elif here := journal.journals(folder) or journal.journals(folder / ".outgrow" / "journal"):
            found += here
        elif not folder.is_dir():
            raise LocationError(
                f"there is no folder {folder}", hint="name a folder of journals: outgrow sync FOLDER"
            )
    return found


def sync(
    folders: Sequence[Path],
    config: Config,
    *,
    to: Sequence[str] = (),
    ended: bool = False,
    openers: dict[str, Sink] | None = None,
) -> list[Report]:
    """Deliver the journals to the locations that they name (or to `to`), and say what is left.

    Credentials in locations come from the configuration, since a journal keeps none. `ended`
    takes runs of other machines that said no goodbye as ended (killed). Relative locations start
    at the working directory.
    """
    known = public_locations(config)
    chosen = {parse(text).public: text for text in to}
    wanted = {folder: list(chosen) or list(targets(folder)) for folder in folders}
    stop = threading.Event()
    lanes: dict[str, tuple[Lane, list[Path]]] = {}
    for folder, locations in wanted.items():
        for location in locations:
            full = chosen.get(location) or known.get(location, location)
            if location not in lanes:
                opener = partial(_opened, (openers or {}).get(location), full)
                lane = Lane(location, opener, partial(open_source, full), stop, ended=ended)
                lanes[location] = (lane, [])
            lane, its = lanes[location]
            if lane.add(folder):
                its.append(folder)
    try:
        for lane, its in lanes.values():
            if its:
                lane.open()  # one after the other: SDKs do not bear being imported in two threads
        if lanes:
            with ThreadPoolExecutor(len(lanes)) as pool:
                list(pool.map(lambda pair: _drain(*pair), lanes.values()))
    finally:
        stop.set()
        for lane, _ in lanes.values():
            lane.close()
    return [report(folder, locations) for folder, locations in wanted.items()]


def _opened(given: Sink | None, location: str) -> Sink:
    return given or open_sink(location)


def _drain(lane: Lane, folders: list[Path]) -> None:
    """Each journal once, and again those that had to wait."""
    deadline = time.monotonic() + BUSY_WAIT
    lane.step(folders)
    while (busy := [f for f in folders if lane.busy(f)]) and time.monotonic() < deadline:
        time.sleep(0.2)
        lane.step(busy)
