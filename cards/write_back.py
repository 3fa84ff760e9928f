"""Writing a card back to where its facts are from: as files of the run, as a version's description.

Only what differs is written. A person's words stay: those of a description stand outside a managed
block, and files that are no card of ours are never replaced.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from .. import locations
from ..adapters.base import Annotator, Source, TextLimit
from ..errors import ConfigError, Rejected, Unsupported
from ..reading import find_run, open_location
from . import blocks
from .card import CARD_FOLDER, README, SIDECAR, Card, Written, read_sidecar

if TYPE_CHECKING:
    from ..model import Run

Place = Literal["artifact", "description"]
_BLOCK = "summary"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenBack:
    """What was written back, or with `dry_run` would be."""

    run: str
    attached: list[str] = field(default_factory=list)
    """Paths of the run's files."""
    description: str | None = None
    """The version's new description, where it is another than before."""


def open_annotator(location: str, card: Card, places: Collection[Place]) -> Annotator:
    """The annotator of a location. Raises `Unsupported` where its platform has none, `ConfigError`
    where the card has nothing of the kind that it should be written to.
    """
    parsed, adapter = locations.load(location)
    opener = getattr(adapter, "annotator", None)
    if opener is None:
        raise Unsupported(
            f"{parsed.platform} takes no card back",
            hint="leave out --write-back, and keep the card in a folder with --out",
        )
    if card.run is None:
        raise ConfigError(f"the card of {card.title!r} is of no run, so it cannot be written back")
    if "description" in places and card.version is None:
        raise ConfigError(
            f"{card.reference!r} is a run: it has no version to describe",
            hint="name a registered model, MODEL@ALIAS or MODEL/VERSION, or use --write-back artifact",
        )
    annotator: Annotator = opener(parsed)
    return annotator


def write_back(
    location: str,
    card: Card,
    written: Written,
    places: Collection[Place],
    annotator: Annotator,
    *,
    dry_run: bool = False,
) -> WrittenBack:
    """Write the card to the places asked for; what is there already is not written again.

    Raises `blocks.CardConflict` where a person has edited our part of the description, `Rejected`
    where the run holds files of that name that are no card, or the description has no room.
    """
    if card.run is None:
        raise ConfigError(f"the card of {card.title!r} is of no run, so it cannot be written back")
    with open_location(location) as source:
        _, run = find_run(source, card.run)
        files = _differing(source, run, written) if "artifact" in places else {}
        text = _description(source, card, annotator.description) if "description" in places else None
    if files and not dry_run:
        annotator.attach(run.id, files)
    if text is not None and card.version is not None and not dry_run:
        annotator.describe(*card.version, text)
    return WrittenBack(run=run.id, attached=sorted(files), description=text)


def _differing(source: Source, run: Run, written: Written) -> dict[str, bytes]:
    """Path in the run → bytes, of the files that are not there yet or are others there."""
    wanted = {f"{CARD_FOLDER}/{path}": data for path, data in written.files.items()}
    here = {}
    for file in source.files(run):
        if file.path in wanted or file.path == f"{CARD_FOLDER}/{SIDECAR}":
            with source.open(run, file) as stream:
                here[file.path] = stream.read()
    sidecar = here.get(f"{CARD_FOLDER}/{SIDECAR}")
    if sidecar is None and f"{CARD_FOLDER}/{README}" in here:
        raise Rejected(
            f"run {run.id} has a file {CARD_FOLDER}/{README} that outgrow did not write",
            hint="move it away, or take it into the folder of the card",
        )
    read_sidecar(sidecar)
    return {path: data for path, data in wanted.items() if here.get(path) != data}


def _description(source: Source, card: Card, limit: TextLimit) -> str | None:
    """The version's description with our summary brought up to date; None where it is that already."""
    here = next(
        v.description or ""
        for model in source.registry()
        for v in model.versions
        if (v.model, v.version) == card.version
    )
    text = blocks.merge(here, {_BLOCK: card.description}, {}).text
    lines = card.description.splitlines(keepends=True)
    while limit.length is not None and len(text) > limit.length and len(lines) > 1:
        lines.pop()
        text = blocks.merge(here, {_BLOCK: "".join(lines).rstrip() + "\n"}, {}).text
    if limit.length is not None and len(text) > limit.length:
        raise Rejected(
            f"the description of version {card.version} would have {len(text)} characters of {limit.length}",
            hint="shorten what people wrote there, or use --write-back artifact",
        )
    return text if text != here else None
