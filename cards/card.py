"""A card as a set of files: README.md, its machine-readable sidecar, and figures.

`card.json` holds every fact with its source, what is not known and why, and what we wrote into
each block and key the last time, so that the next writing can tell our words from a person's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jinja2
import jinja2.sandbox

from .. import __version__
from ..adapters.paths import inside
from ..errors import Corrupt, SchemaVersionError
from . import blocks, front_matter

SIDECAR = "card.json"
SIDECAR_FORMAT = 1
README = "README.md"
CARD_FOLDER = "card"
"""Where a run keeps its own card, once that was written back."""

CardKind = Literal["model", "dataset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing that a card says, and where it is recorded."""

    name: str
    value: Any
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """One thing that a reader would look for and that is not recorded, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What the facts say now, before it meets what is already written."""

    kind: CardKind
    title: str
    reference: str
    front: dict[str, Any]
    blocks: dict[str, str]
    """Block → Markdown, in the order of the page."""
    skeleton: str
    """The first page: headings and prompts for people, `[[block]]` where a block goes."""
    facts: list[Fact]
    unknown: list[Unknown]
    run: str | None = None
    """Id of the run that a model card is about."""
    version: tuple[str, str] | None = None
    """The registered model and its version that the card is about."""
    description: str = ""
    """What the registry's description of the version can say: the summary, without that description."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Figures and other generated files, by path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The files of a card that is ready to be written or pushed, and what was kept of a person's."""

    files: dict[str, bytes]
    edited_blocks: list[str] = field(default_factory=list)
    removed_blocks: list[str] = field(default_factory=list)
    their_keys: list[str] = field(default_factory=list)


def environment(folder: Path | None = None) -> jinja2.Environment:
    """Templates from `folder` first, then our own. Sandboxed: a template reaches no Python."""
    loaders: list[jinja2.BaseLoader] = [jinja2.PackageLoader("outgrow.cards", "templates")]
    if folder is not None:
        loaders.insert(0, jinja2.FileSystemLoader(folder))
    result = jinja2.sandbox.ImmutableSandboxedEnvironment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    result.filters |= {"md": escape, "code": code, "num": number_text}
    return result


_ESCAPED = str.maketrans({c: "\\" + c for c in "\\`*_[]#|~$"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})


def escape(value: Any) -> str:
    """Text that Markdown and HTML show as it is, on one line."""
    text = " ".join(str(value).split())
    escaped = text.translate(_ESCAPED)
    return escaped.replace("://", ":&#8203;//") if "://" in escaped else escaped


def code(value: Any) -> str:
    """Text as inline code, whatever backticks it holds; safe within a table."""
    text = " ".join(str(value).split()).replace("|", "\\|")
    ticks = "`"
    while ticks in text:
        ticks += "`"
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{pad}{text}{pad}{ticks}" if text else "` `"


def number_text(value: Any) -> str:
    """A number with at most six significant digits; anything else as text."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return escape(value)


def compose(card: Card, existing: Mapping[str, bytes] | None = None) -> Written:
    """The card's files, merged with the card that is there.

    Raises `blocks.CardConflict` where a person and the facts changed the same lines, `Corrupt`
    where the existing files cannot be read.
    """
    existing = existing or {}
    last = read_sidecar(existing.get(SIDECAR))
    readme = _decode(existing[README]) if README in existing else None
    if readme is None:
        body = card.skeleton
        for name, content in card.blocks.items():
            body = body.replace(f"[[{name}]]", blocks.render(name, content))
        head = front_matter.load(None)
        merged = blocks.Merged(body)
    else:
        raw, body = front_matter.split(readme)
        head = front_matter.load(raw)
        merged = blocks.merge(body, card.blocks, last.get("blocks", {}))
    head, theirs = front_matter.update(head, card.front, last.get("front_matter", {}))
    files = {
        README: front_matter.join(head, merged.text).encode(),
        SIDECAR: sidecar(card).encode(),
        **card.files,
    }
    return Written(files=files, edited_blocks=merged.edited, removed_blocks=merged.removed, their_keys=theirs)


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Corrupt(f"{README} is not UTF-8 text: {error}", hint="convert it, or move it away") from error


def sidecar(card: Card) -> str:
    """`card.json`. Holds no time of writing: the same facts give the same bytes."""
    data = {
        "format": SIDECAR_FORMAT,
        "generator": f"outgrow {__version__}",
        "kind": card.kind,
        "title": card.title,
        "reference": card.reference,
        "facts": [{"name": f.name, "value": f.value, "source": f.source} for f in card.facts],
        "unknown": [{"name": u.name, "why": u.why} for u in card.unknown],
        "front_matter": front_matter.comparable(front_matter.plain(card.front)),
        "blocks": card.blocks,
    }
    return json.dumps(data, indent=1, ensure_ascii=False, default=str) + "\n"


def read_sidecar(data: bytes | None) -> dict[str, Any]:
    """The card's memory; empty where there is none. Raises `Corrupt`, `SchemaVersionError`."""
    if data is None:
        return {}
    try:
        found = json.loads(data)
    except ValueError as error:
        raise Corrupt(f"{SIDECAR} is not JSON: {error}", hint="restore it from the last commit") from error
    if not isinstance(found, dict) or not isinstance(found.get("format"), int):
        raise Corrupt(f"{SIDECAR} is not a card's sidecar", hint="restore it from the last commit")
    if found["format"] > SIDECAR_FORMAT:
        raise SchemaVersionError(
            f"{SIDECAR} was written by a newer outgrow (format {found['format']})",
            hint="pip install -U outgrow",
        )
    return found


def read_folder(folder: Path) -> dict[str, bytes]:
    """The files of a card that matter for the next one."""
    return {name: (folder / name).read_bytes() for name in (README, SIDECAR) if (folder / name).is_file()}


def write_folder(folder: Path, files: Mapping[str, bytes]) -> list[str]:
    """Write what differs; returns the paths written. Nothing outside `folder` is touched."""
    written = []
    for path, data in files.items():
        target = inside(folder, path)
        if target.is_file() and target.read_bytes() == data:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        part.write_bytes(data)
        part.replace(target)
        written.append(path)
    return written
