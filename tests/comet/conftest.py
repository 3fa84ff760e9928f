"""One emulator for the whole folder; each test starts with an empty server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from comet_server import running
from emulators.comet import CometServer


@pytest.fixture(scope="session")
def comet_emulator() -> Iterator[CometServer]:
    with running() as found:
        yield found


@pytest.fixture
def server(comet_emulator: CometServer) -> CometServer:
    comet_emulator.reset()
    return comet_emulator
