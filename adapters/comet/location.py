"""What `comet:REST` names: a directory of zips, or a project on a server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ...errors import LocationError
from ...locations import Location

_NAME = r"[^/\\?#\x00]+"
_PROJECT = re.compile(rf"({_NAME})/({_NAME})")


@dataclass(frozen=True, slots=True)
class Project:
    """A project of a workspace on a Comet server."""

    workspace: str
    name: str

    @property
    def id(self) -> str:
        return f"{self.workspace}/{self.name}"


def target(location: Location) -> Path | Project:
    """A path where it starts like one (`.`, `/`, `~`), ends in `/`, has no single `/`, or exists.

    Raises `LocationError` for a file where a directory is expected.
    """
    rest = location.rest
    path = Path(rest).expanduser()
    match = _PROJECT.fullmatch(rest)
    if match and not rest.startswith((".", "/", "~")) and not path.is_dir():
        return Project(match[1], match[2])
    if path.exists() and not path.is_dir():
        raise LocationError(
            f"{location}: {path.name} is a file", hint="name the directory that holds the zips: comet:DIR"
        )
    return path
