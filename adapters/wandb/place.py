"""What a `wandb:` location means, and where the vendor keeps credentials and its server's address."""

from __future__ import annotations

import hashlib
import netrc
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ...errors import LocationError
from ...locations import Location
from ...model import Origin

DEFAULT_URL = "https://api.wandb.ai"
_PROJECT_FORM = re.compile(r"[^/\\#?%:\s.~][^/\\#?%:]*/[^/\\#?%:]+")


@dataclass(frozen=True, slots=True)
class Project:
    """`wandb:ENTITY/PROJECT` on a server."""

    entity: str
    name: str

    @property
    def path(self) -> str:
        return f"{self.entity}/{self.name}"


def place_of(location: Location) -> Project | Path:
    """`ENTITY/PROJECT` is a project; a path that starts with `/`, `.` or `~`, or that has no or
    several slashes, is a folder. Raises `LocationError`.
    """
    rest = location.rest
    if _PROJECT_FORM.fullmatch(rest) and not rest.endswith("/"):
        entity, _, name = rest.partition("/")
        return Project(entity, name)
    if any(mark in rest for mark in "?#"):
        raise LocationError(
            f"{location.public} is neither a project nor a folder",
            hint="write wandb:ENTITY/PROJECT, or wandb:./DIR for a folder of run folders",
        )
    return Path(rest).expanduser()


def run_id_for(origin: Origin) -> str:
    """The id of a copy: the same for the same origin, so that repeated and concurrent copies meet."""
    return hashlib.blake2b(origin.identity.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def base_url() -> str:
    """The server: WANDB_BASE_URL, the vendor's settings file, or wandb.ai."""
    if url := os.environ.get("WANDB_BASE_URL"):
        return url.rstrip("/")
    folder = os.environ.get("WANDB_CONFIG_DIR") or Path("~/.config/wandb").expanduser()
    for settings in (Path("wandb") / "settings", Path(folder) / "settings"):
        if settings.is_file():
            found = re.search(r"^base_url\s*=\s*(\S+)", settings.read_text(encoding="utf-8"), re.MULTILINE)
            if found:
                return found[1].rstrip("/")
    return DEFAULT_URL


def credentials() -> str | None:
    """Where the vendor's SDK would find an API key. Never the key itself."""
    if os.environ.get("WANDB_API_KEY"):
        return "WANDB_API_KEY"
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        known = netrc.netrc(str(path)) if path.is_file() else None
    except (netrc.NetrcParseError, OSError):
        return None
    host = urlsplit(base_url()).hostname or ""
    return str(path) if known is not None and known.authenticators(host) else None
