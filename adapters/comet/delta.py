"""What of an archive a server does not have yet: the same test verifies an upload and completes it."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..replay import Replay
from . import points as metric
from .archives import Archive, Payload
from .assets import Asset, asset_in
from .building import Builder
from .messages import contents
from .records import guessed
from .remote import Remote

_ALWAYS = frozenset({"system_details", "installed_packages", "git_metadata", "file_name"})
"""Sent with anything else, but no reason to send."""


@dataclass(slots=True)
class Missing:
    """What an experiment lacks of an archive, in numbers, and as an archive of its own."""

    points: int = 0
    params: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    lines: int = 0
    labels: list[str] = field(default_factory=list)
    archive: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.points or self.params or self.others or self.files or self.lines or self.labels)

    def __str__(self) -> str:
        parts = [f"{self.points:,} points"] if self.points else []
        for name in ("params", "others", "files", "labels"):
            if found := getattr(self, name):
                parts.append(f"{len(found)} {name} ({', '.join(found[:3])}{', …' if len(found) > 3 else ''})")
        if self.lines:
            parts.append(f"{self.lines} lines of output")
        return ", ".join(parts)


def missing(remote: Remote, path: Path, folder: Path) -> Missing:
    """Compare an archive with its experiment on the server; what lacks becomes an archive in `folder`."""
    with Archive(path) as archive:
        held = contents(archive)
        there = _There(remote, held.native.key)
        found = Missing(labels=[label for label in held.native.labels if label not in there.labels])
        builder = Builder(folder, held.native.key)
        try:
            for lines, messages in archive.chunks():
                for kind, payload in messages:
                    _message(found, there, builder, archive, kind, payload)
                if lines:
                    fresh = there.points.new(archive.points(lines, held.shape))
                    found.points += fresh.num_rows
                    builder.raw(metric.encode(fresh))
            if not found:
                builder.abort()
                return found
            with archive.open("experiment.json") as stream:
                meta = json.load(stream)
            found.archive = folder / f"{builder.key}-{secrets.token_hex(4)}.zip"
            builder.finish(meta, {}, found.archive)
        except BaseException:
            builder.abort()
            raise
    return found


class _There:
    """What the server has of one experiment."""

    def __init__(self, remote: Remote, key: str) -> None:
        self.labels = set(remote.api.get("experiment/tags", experimentKey=key).get("tags") or ())
        self.params = remote.values("experiment/parameters", key)
        self.others = remote.others(key)
        self.assets = {(asset.name, asset.group): asset for asset in remote.assets(key)}
        self.lines = Counter(line for _, text, _ in remote.output(key) for line in text.splitlines())
        self.points = Replay(batch for _, batch in remote.series(key))

    def has_param(self, name: str, value: Any) -> bool:
        if value is None:  # a server keeps no null: the type hint brings it back
            return True
        if name not in self.params:
            return False
        text = value if isinstance(value, str) else json.dumps(value)
        here = str(self.params[name])
        return here == text or guessed(here) == guessed(text)

    def has_asset(self, asset: Asset, size: int | None) -> bool:
        here = self.assets.get((asset.name, asset.group))
        if here is None or (asset.link is not None and here.link != asset.link):
            return False
        if asset.link is None and here.size != size:
            return False
        known, wanted = here.metadata.get("outgrow.sha256"), asset.metadata.get("outgrow.sha256")
        return known is None or wanted is None or known == wanted

    def takes(self, text: str) -> bool:
        """Whether output is there; a line there once is there for one message."""
        wanted = Counter(text.splitlines())
        if any(self.lines[line] < count for line, count in wanted.items()):
            return False
        self.lines -= wanted
        return True


def _message(
    found: Missing, there: _There, builder: Builder, archive: Archive, kind: str, payload: Payload
) -> None:
    if kind == "parameter_msg":
        param = payload.get("param") or payload["params"]
        if there.has_param(param["paramName"], param["paramValue"]):
            return
        found.params.append(param["paramName"])
    elif kind == "log_other":
        if str(there.others.get(payload["key"])) == str(payload["value"]):
            return
        found.others.append(payload["key"])
    elif kind == "standard_output":
        if there.takes(payload["output"]):
            return
        found.lines += 1
    elif kind in ("file_upload", "remote_file"):
        asset = asset_in(kind, payload)
        if there.has_asset(asset, archive.size(asset.member) if asset.member else None):
            return
        found.files.append(asset.name)
        if asset.member:
            with archive.open(asset.member) as stream:
                payload = payload | {"file_path": builder.member(stream)[0]}
    elif kind not in _ALWAYS:
        return
    builder.message(kind, payload)
