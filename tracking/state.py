"""How far one sink has got with one journal: a small file, replaced as a whole after every delivery."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import msgspec


class SinkState(msgspec.Struct, kw_only=True, omit_defaults=True):
    location: str
    """Without credentials."""
    run_id: str | None = None
    """The run's id there."""
    url: str | None = None
    offset: int = 0
    """Bytes of the journal that are delivered and durable there."""
    done: bool = False
    """The run's end has been delivered too."""
    joined: bool = False
    """The run was there already, from another journal of it or a copy."""
    sending: bool = False
    """A delivery to a sink that only appends was begun and has not been heard of since."""
    artifacts: dict[str, str] = {}
    """Journal's artifact id → the id there."""
    rejected: int = 0
    """Records that the sink refused; they are in `rejected.jsonl`."""
    held_back: bool = False
    """It can be delivered only after its parent run, which the sink gets only when that has ended."""
    error: str | None = None
    """Why the last delivery failed; None after one that did not."""
    hopeless: bool = False
    """Repeating will not help without a change (credentials, configuration)."""


# Made here: msgspec must not learn a type in several threads at once.
_decoder = msgspec.json.Decoder(SinkState)


def sink_name(location: str) -> str:
    """A file name for a location."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", location).strip("-")[:60]
    return f"{words}-{hashlib.blake2b(location.encode(), digest_size=4).hexdigest()}"


def _path(folder: Path, location: str) -> Path:
    return folder / "sinks" / f"{sink_name(location)}.json"


def load(folder: Path, location: str) -> SinkState:
    """A missing or damaged file is a beginning: delivery is idempotent."""
    try:
        return _decoder.decode(_path(folder, location).read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return SinkState(location=location)


def saved_at(folder: Path, location: str) -> float:
    """When it was saved last, in seconds since 1970. Raises `FileNotFoundError`."""
    return _path(folder, location).stat().st_mtime


def save(folder: Path, state: SinkState) -> None:
    path = _path(folder, state.location)
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(msgspec.json.encode(state))
    os.replace(part, path)
