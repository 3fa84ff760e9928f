"""What every card is written with: its options, and a page that keeps its facts and its secrets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..adapters.fit import text_of
from ..model import Run
from . import redact
from .card import CardKind, Fact, Unknown, environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How cards are written: `[cards]` of the configuration, and the command line."""

    front: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the front matter that the configuration gives; they win over tags."""
    show: frozenset[str] = frozenset()
    """What may be shown although it is private: user, host, paths, urls."""
    templates: Path | None = None
    """A folder whose templates go before our own."""
    sections: Mapping[str, str] = field(default_factory=dict)
    """Blocks of the organisation, the same in all its cards: name → Markdown."""


class Page:
    """What the blocks are made from: redacted values, and the facts as they are named."""

    def __init__(self, options: Options, hidden: Iterable[str | None]) -> None:
        self.options = options
        self.names = frozenset(name for name in hidden if name and len(name) > 1)
        self.recorded: list[Fact] = []
        self.unknown: list[Unknown] = []

    def clean(self, value: Any) -> str:
        return redact.text(text_of(value), show=self.options.show, names=self.names)

    def fact(self, name: str, value: Any, source: str) -> Any:
        shown = value if isinstance(value, bool | int | float) or value is None else self.clean(value)
        if isinstance(shown, float) and not math.isfinite(shown):
            shown = repr(shown)
        self.recorded.append(Fact(name=name, value=shown, source=self.clean(source)))
        return shown

    def missing(self, name: str, why: str) -> None:
        self.unknown.append(Unknown(name=name, why=why))


def body(
    kind: CardKind, contexts: Mapping[str, Mapping[str, Any]], options: Options, **skeleton: Any
) -> tuple[dict[str, str], str]:
    """The managed blocks of a page, in the order of `contexts`, and its skeleton.

    A template of the kind goes before one that both kinds share; the organisation's sections come last.
    """
    jinja = environment(options.templates)
    blocks = {
        name: jinja.select_template([f"{kind}/{name}.md.j2", f"shared/{name}.md.j2"]).render(context).strip()
        + "\n"
        for name, context in contexts.items()
    }
    own = {f"org-{name}": content for name, content in options.sections.items()}
    page = jinja.get_template(f"{kind}/skeleton.md.j2").render(skeleton)
    return blocks | own, page + "".join(f"\n[[{name}]]\n" for name in own)


def hidden_names(run: Run, options: Options) -> Iterator[str | None]:
    """The user and host of a run, unless they may be shown."""
    if "user" not in options.show:
        yield run.user
    if "host" not in options.show and run.environment:
        yield run.environment.host
