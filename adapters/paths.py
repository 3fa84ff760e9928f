"""Paths that come from a platform are hostile until they have been through here."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from ..errors import Corrupt

_DRIVE = re.compile(r"^[A-Za-z]:")


def checked(path: str) -> str:
    """The path, if it is a clean relative one. Raises `Corrupt` for any that could climb out.

    Refused: empty, absolute, NUL or backslash, a drive letter, and `.`, `..` or empty parts.
    """
    parts = path.split("/")
    if (
        not path
        or "\x00" in path
        or "\\" in path
        or _DRIVE.match(path)
        or any(part in ("", ".", "..") for part in parts)
    ):
        raise Corrupt(
            f"refused the artifact path {path!r}: it could reach outside its folder",
            hint="rename that file in the source, or leave its run out with --where",
        )
    return str(PurePosixPath(path))


def inside(root: Path, path: str) -> Path:
    """`root/path`, where neither the path nor a symbolic link on the way leaves `root`."""
    target = root / checked(path)
    resolved_root = root.resolve()
    if not target.resolve().is_relative_to(resolved_root):
        raise Corrupt(
            f"refused {path!r}: a symbolic link leads outside {root}",
            hint="remove the link, or leave its run out with --where",
        )
    return target
