"""Which place a location means, which API it speaks, and where its server is."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from ...errors import ConfigError, CredentialsError, LocationError
from ...locations import Location

API = Literal["2", "3"]
DEFAULT_API: API = "2"
"""What is written where `outgrow.api` does not say: 2.x, which Minfx speaks. 3.x is asked for."""

TOKEN = "NEPTUNE_API_TOKEN"
PROJECT = "NEPTUNE_PROJECT"
BASE_URL = "NEPTUNE_BASE_URL"
"""Base URL of a server, where the token names none or another one."""

_PROJECT = re.compile(r"[\w.-]+/[\w.-]+")
_OPTIONS = {"api", "forks", "files", "project"}


@dataclass(frozen=True, slots=True)
class Place:
    """Either a folder (`path`) or a project on a server (`project`)."""

    path: Path | None
    project: str | None
    api: API
    forks: Literal["own", "complete"] = "own"
    files: Path | None = None


def place_of(location: Location, *, target: bool) -> Place:
    """Raises `LocationError` for neither a folder nor WORKSPACE/PROJECT, `ConfigError` for an option."""
    options = location.options
    if unknown := sorted(options.keys() - _OPTIONS):
        raise ConfigError(
            f"{location} has the unknown option outgrow.{unknown[0]}",
            hint="known: " + ", ".join(f"outgrow.{name}" for name in sorted(_OPTIONS)),
        )
    asked = options.get("api", DEFAULT_API)
    if asked not in ("2", "3"):
        raise ConfigError(
            f"outgrow.api={asked} is neither 2 nor 3", hint="2 for Minfx and Neptune 2.x, 3 for Neptune 3.x"
        )
    api: API = "3" if asked == "3" else "2"
    forks = options.get("forks", "own")
    if forks not in ("own", "complete"):
        raise ConfigError(
            f"outgrow.forks={forks} is neither own nor complete",
            hint="own: a forked run has its own points; complete: the inherited ones too",
        )
    project = options.get("project") or os.environ.get(PROJECT) or None
    files = Path(options["files"]).expanduser() if "files" in options else None
    rest = location.rest.partition("?")[0]
    path = Path(rest.removeprefix("file://")).expanduser()
    looks_local = rest.startswith((".", "/", "~", "file://")) or path.exists()
    if looks_local:
        if path.is_file() and path.suffix != ".sqlite3":
            raise LocationError(f"{location} is a file, not a folder of Neptune data")
        if not target and not path.exists():
            raise LocationError(
                f"there is no folder {rest}",
                hint="give the folder with the exporter's data/ and files/, or with .neptune/",
            )
        if project is not None and not _PROJECT.fullmatch(project):
            raise ConfigError(
                f"{project!r} is not WORKSPACE/PROJECT", hint=f"see outgrow.project and {PROJECT}"
            )
        return Place(path, project, api, "complete" if forks == "complete" else "own", files)
    if not _PROJECT.fullmatch(rest):
        raise LocationError(
            f"{location} is neither a folder nor WORKSPACE/PROJECT",
            hint="a folder that is not there yet is written ./DIR",
        )
    return Place(None, rest, api, "complete" if forks == "complete" else "own")


@dataclass(frozen=True, slots=True)
class Server:
    """A server and the token for it."""

    url: str
    token: str = field(repr=False)


def server_of(location: Location) -> Server:
    """The server that the token (or `NEPTUNE_BASE_URL`) names.

    Raises `CredentialsError` without a token, `LocationError` for the vendor's closed service.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise CredentialsError(
            f"{location} needs {TOKEN}, which is not set",
            hint="Neptune's own service is closed; take the token of your own installation or of Minfx, "
            "or give the folder of an export: neptune:./DIR",
        )
    try:
        content = json.loads(base64.b64decode(token, validate=True))
        url = os.environ.get(BASE_URL) or content.get("api_url") or content["api_address"]
    except (binascii.Error, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CredentialsError(f"{TOKEN} is not a Neptune API token", hint="copy it again, whole") from error
    refuse_closed(location, str(url))
    if os.environ.get(BASE_URL):
        content |= {"api_address": url, "api_url": url}
        token = base64.b64encode(json.dumps(content).encode()).decode()
    return Server(str(url).rstrip("/"), token)


def refuse_closed(location: Location, url: str) -> None:
    host = urlsplit(url).hostname or ""
    if host == "neptune.ai" or host.endswith(".neptune.ai"):
        raise LocationError(
            f"{location} is on {host}, Neptune's own service, which closed on 5 March 2026 and deleted its data",
            hint="read what you have: neptune:./DIR with an export of neptune-exporter or a .neptune folder. "
            f"For another server set {BASE_URL}, or a token that names it",
        )
