from __future__ import annotations

import functools
import ssl
from collections.abc import Iterator

import pytest
from emulators.neptune_legacy import Server


@pytest.fixture(scope="session", autouse=True)
def one_ssl_context() -> Iterator[None]:
    """The vendor's clients make several for each connection, and half of these tests' time was theirs;
    the servers here speak plain http."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield


@pytest.fixture(scope="module")
def legacy() -> Iterator[Server]:
    """A 2.x server, with its token and what plain http needs in the environment."""
    with pytest.MonkeyPatch.context() as patch, Server("ws/project") as server:
        patch.setenv("NEPTUNE_API_TOKEN", server.token)
        patch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
        yield server
