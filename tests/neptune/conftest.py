from __future__ import annotations

from collections.abc import Iterator

import pytest
from emulators.neptune_legacy import Server


@pytest.fixture(scope="module")
def legacy() -> Iterator[Server]:
    """A 2.x server, with its token and what plain http needs in the environment."""
    with pytest.MonkeyPatch.context() as patch, Server("ws/project") as server:
        patch.setenv("NEPTUNE_API_TOKEN", server.token)
        patch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
        yield server
