"""Managed blocks of a card's body, between markers that carry a hash of what we wrote.

    <!-- outgrow:begin results 1a2b3c4d5e6f -->
    …
    <!-- outgrow:end results -->

Everything outside is a person's and is kept byte for byte. A block whose content still has its
hash is replaced; one that a person has edited is merged with the new content against the old one,
and where both changed the same lines the card is refused with the difference, never overwritten.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import merge3

from ..errors import OutgrowError, Terminal

_BLOCK = re.compile(
    r"^<!-- outgrow:begin (?P<name>[\w-]+) (?P<hash>[0-9a-f]{12}) -->\r?\n(?P<content>.*?)^<!-- outgrow:end (?P=name) -->[ \t]*$",
    re.DOTALL | re.MULTILINE,
)
_ANY_MARKER = re.compile(r"<!--\s*outgrow:(begin|end)\b", re.IGNORECASE)


class CardConflict(OutgrowError, Terminal):
    """A person and the facts changed the same lines of a managed block."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Merged:
    text: str
    edited: list[str] = field(default_factory=list)
    """Blocks that hold a person's edits, kept."""
    removed: list[str] = field(default_factory=list)
    """Blocks that a person took out; they stay out."""


def content_hash(content: str) -> str:
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def render(name: str, content: str) -> str:
    """A block with its markers. The content's own markers, if any, are defused."""
    body = _closed(_ANY_MARKER.sub("<!-- outgrow (text):", content))
    return f"<!-- outgrow:begin {name} {content_hash(body)} -->\n{body}<!-- outgrow:end {name} -->"


def _closed(content: str) -> str:
    return content if not content or content.endswith("\n") else content + "\n"


def find(text: str) -> dict[str, str]:
    """Block name → content, as it stands."""
    return {m["name"]: m["content"] for m in _BLOCK.finditer(text)}


def without(text: str) -> str:
    """What stands outside the managed blocks."""
    return _BLOCK.sub("", text).strip()


def edited(text: str) -> list[str]:
    """Blocks whose content is not what their marker says."""
    return [m["name"] for m in _BLOCK.finditer(text) if content_hash(m["content"]) != m["hash"]]


def merge(existing: str, new: Mapping[str, str], last: Mapping[str, str]) -> Merged:
    """The existing body with its managed blocks brought up to date.

    `new`: block → content, in the order of the page. `last`: what we wrote the time before (from
    `card.json`). A new block goes behind the one that stands before it in `new`. Raises
    `CardConflict` with the difference.
    """
    kept_edits: list[str] = []
    conflicts: list[str] = []
    present = {m["name"] for m in _BLOCK.finditer(existing)}

    def replaced(match: re.Match[str]) -> str:
        name, here = match["name"], match["content"]
        if name not in new:
            return match[0] if content_hash(here) != match["hash"] else ""
        fresh = _closed(_ANY_MARKER.sub("<!-- outgrow (text):", new[name]))
        if content_hash(here) == match["hash"] or here == fresh:
            return render(name, fresh)
        kept_edits.append(name)
        merged = _three_way(_closed(last.get(name, "")), here, fresh) if name in last else None
        if merged is None:
            conflicts.append(_difference(name, here, fresh))
            return match[0]
        return _with_hash_of(name, merged, fresh)

    text = _BLOCK.sub(replaced, existing)
    if conflicts:
        raise CardConflict(
            "a managed block was edited where its facts changed too:\n" + "\n".join(conflicts),
            hint="take your words out of the block (they are safe anywhere else), or delete the block to have it made anew",
        )
    removed = [name for name in new if name not in present and name in last]
    previous: str | None = None
    for name, content in new.items():
        if name not in present and name not in last:
            text = _insert(text, render(name, content), previous)
        if name not in removed:
            previous = name
    return Merged(text, kept_edits, removed)


def _with_hash_of(name: str, content: str, ours: str) -> str:
    """An edited block keeps the hash of what we would have written, so that it stays known as edited."""
    return f"<!-- outgrow:begin {name} {content_hash(ours)} -->\n{content}<!-- outgrow:end {name} -->"


def _three_way(base: str, here: str, fresh: str) -> str | None:
    if base == fresh:
        return here
    merge = merge3.Merge3(base.splitlines(True), here.splitlines(True), fresh.splitlines(True))
    if any(group[0] == "conflict" for group in merge.merge_groups()):
        return None
    return "".join(merge.merge_lines())


def _insert(text: str, block: str, behind: str | None) -> str:
    if behind is not None:
        for match in _BLOCK.finditer(text):
            if match["name"] == behind:
                return f"{text[: match.end()]}\n\n{block}{text[match.end() :]}"
    return f"{text.rstrip()}\n\n{block}\n" if text.strip() else f"{block}\n"


def _difference(name: str, here: str, fresh: str) -> str:
    lines = difflib.unified_diff(
        here.splitlines(),
        fresh.splitlines(),
        f"{name} (in the card)",
        f"{name} (from the facts)",
        lineterm="",
    )
    return "\n".join(lines)
