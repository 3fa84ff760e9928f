"""A running Comet emulator with the environment that the vendor's SDK reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from emulators.comet import API_KEY, CometServer

ENVIRONMENT = {
    "COMET_API_KEY": API_KEY,
    "COMET_INTERNAL_REPORTING": "0",
    "COMET_ERROR_TRACKING_ENABLE": "0",
    "COMET_DISABLE_ANNOUNCEMENT": "1",
}


@contextmanager
def running() -> Iterator[CometServer]:
    """An emulator; inside, COMET_URL_OVERRIDE and COMET_API_KEY name it."""
    with CometServer() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("COMET_URL_OVERRIDE", f"{server.url}/clientlib/")
        yield server
