from __future__ import annotations

import functools
import ssl
from collections.abc import Iterator

import pytest
from emulators import neptune_legacy, neptune_scale


@pytest.fixture(scope="session", autouse=True)
def one_ssl_context() -> Iterator[None]:
    """The vendor's clients make several for each connection, and half of these tests' time was theirs;
    the servers here speak plain http."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield


@pytest.fixture(scope="module")
def legacy_server() -> Iterator[neptune_legacy.Server]:
    with neptune_legacy.Server("ws/project") as server:
        yield server


@pytest.fixture(scope="module")
def scale_server() -> Iterator[neptune_scale.Server]:
    with neptune_scale.Server("ws/project") as server:
        yield server


@pytest.fixture
def legacy(legacy_server: neptune_legacy.Server, monkeypatch: pytest.MonkeyPatch) -> neptune_legacy.Server:
    """A 2.x server, with its token and what plain http needs in the environment."""
    monkeypatch.setenv("NEPTUNE_API_TOKEN", legacy_server.token)
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    return legacy_server


@pytest.fixture
def scale(scale_server: neptune_scale.Server, monkeypatch: pytest.MonkeyPatch) -> neptune_scale.Server:
    """A 3.x server, with its token in the environment."""
    monkeypatch.setenv("NEPTUNE_API_TOKEN", scale_server.token)
    return scale_server
