"""Where Comet's own SDK looks for an API key. The key itself is never shown or stored."""

from __future__ import annotations

import configparser
import os
from collections.abc import Iterator
from pathlib import Path

from ...errors import CredentialsError

VARIABLE = "COMET_API_KEY"
_HINT = "set COMET_API_KEY, or run `comet login`, which writes ~/.comet.config"


def _files() -> Iterator[Path]:
    # comet_ml.config.config_io: COMET_CONFIG, the working directory, the home directory
    if named := os.environ.get("COMET_CONFIG"):
        yield Path(named).expanduser()
    yield Path(".comet.config")
    yield Path.home() / ".comet.config"


def _setting(name: str) -> tuple[str, str] | None:
    """A setting of section `[comet]` and the place it was found in."""
    variable = f"COMET_{name.upper()}"
    if value := os.environ.get(variable):
        return value, variable
    for path in _files():
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(path)
            value = parser.get("comet", name, fallback="").strip()
        except (OSError, configparser.Error):
            continue
        if value:
            return value, str(path)
    return None


def found_in() -> str | None:
    """The place of the API key, never the key."""
    found = _setting("api_key")
    return found[1] if found else None


def api_key() -> str:
    """Raises `CredentialsError` where there is none."""
    found = _setting("api_key")
    if found is None:
        raise CredentialsError("there is no Comet API key", hint=_HINT)
    return found[0]


def server() -> str:
    """The server's address, without a trailing slash or `/clientlib` (`comet_ml.config` adds it)."""
    found = _setting("url_override")
    address = found[0] if found else "https://www.comet.com"
    return address.rstrip("/").removesuffix("/clientlib").rstrip("/")
