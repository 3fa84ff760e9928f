"""Is a written card still true, valid and complete? For CI, and as a gate before promotion."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from . import blocks, front_matter
from .card import README, SIDECAR, Card, read_sidecar

FindingKind = Literal["missing", "stale", "edited", "invalid", "incomplete", "contradiction"]

_PROMPT = re.compile(r"<!--(?! outgrow:).*?-->", re.DOTALL)
_SECTION = re.compile(r"^## (.+?)[ \t]*\n(.*?)(?=^#{1,2} |^<!-- outgrow:begin|\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    kind: FindingKind
    detail: str
    line: int | None = None

    def __str__(self) -> str:
        place = f"{README}:{self.line}: " if self.line else ""
        return f"{place}{self.kind}: {self.detail}"


def check(card: Card, existing: Mapping[str, bytes], *, required: Sequence[str] = ()) -> list[Finding]:
    """What is wrong with the card that is there, beside the facts as they are now.

    `required`: names that may not be unknown (`license`, `split`, `seed`…), keys of the front
    matter, or the headings of sections that people must have written.
    """
    if README not in existing:
        return [Finding(kind="missing", detail=f"there is no {README}")]
    text = existing[README].decode("utf-8", "replace")
    raw, body = front_matter.split(text)
    last = read_sidecar(existing.get(SIDECAR))
    findings = [
        Finding(
            kind="invalid",
            detail=f"{p.key}: {p.message}" + (f" (nearest: {p.suggestion})" if p.suggestion else ""),
            line=p.line,
        )
        for p in front_matter.validate(text, card.kind)
    ]
    if not last:
        findings.append(
            Finding(kind="missing", detail=f"there is no {SIDECAR}, so nothing in the card has a source")
        )
    elif last.get("reference") != card.reference:
        findings.append(
            Finding(
                kind="contradiction",
                detail=f"the card is of {last.get('reference')!r}, not of {card.reference!r}",
            )
        )
    findings += _stale(card, body, text, last)
    findings += _front_changes(card, raw, last)
    unknown = {u.name: u.why for u in card.unknown}
    head = front_matter.load(raw)
    sections = {m.group(1).strip().lower(): m.group(2) for m in _SECTION.finditer(body)}
    for name in required:
        written = _PROMPT.sub("", sections.get(name.lower(), "")).strip()
        if name.lower() in sections and not written:
            findings.append(Finding(kind="incomplete", detail=f"nobody has written the section {name!r}"))
        elif name in unknown and name not in head:
            findings.append(Finding(kind="incomplete", detail=f"{name}: unknown, because {unknown[name]}"))
    return findings


def _stale(card: Card, body: str, text: str, last: Mapping[str, object]) -> list[Finding]:
    here = blocks.find(body)
    touched = set(blocks.edited(body))
    remembered = last.get("blocks")
    before = remembered if isinstance(remembered, dict) else {}
    findings = []
    for name, content in card.blocks.items():
        line = next(
            (
                i
                for i, row in enumerate(text.splitlines(), 1)
                if row.startswith(f"<!-- outgrow:begin {name} ")
            ),
            None,
        )
        if name not in here:
            if name not in before:
                findings.append(Finding(kind="stale", detail=f"the block {name!r} is not there yet"))
        elif name in touched:
            if before.get(name) != content:
                findings.append(
                    Finding(
                        kind="edited",
                        detail=f"the block {name!r} was edited, and its facts have changed since",
                        line=line,
                    )
                )
        elif blocks.render(name, content).splitlines()[0] not in text:
            findings.append(
                Finding(kind="stale", detail=f"the block {name!r} no longer says what is tracked", line=line)
            )
    return findings


def _front_changes(card: Card, raw: str | None, last: Mapping[str, object]) -> list[Finding]:
    before = last.get("front_matter")
    head = front_matter.load(raw)
    findings = []
    for key, value in card.front.items():
        now = front_matter.comparable(front_matter.plain(value))
        here = front_matter.comparable(head.get(key))
        ours = isinstance(before, dict) and front_matter.comparable(before.get(key)) == here
        if here != now and (ours or here is None):
            findings.append(Finding(kind="stale", detail=f"{key} is {here!r}, tracked is {now!r}"))
        elif here != now and key in ("model-index", "metrics"):
            findings.append(
                Finding(kind="contradiction", detail=f"{key} was edited and differs from what is tracked")
            )
    return findings
