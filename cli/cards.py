"""`outgrow card model|dataset`: write, check or publish a card."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import config as configuration
from .printing import emit_json

if TYPE_CHECKING:
    from ..cards import Card, Options

_SHOW = ["user", "host", "paths", "urls"]


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that both cards share."""
    for option in reversed(
        (
            click.option(
                "--out",
                type=click.Path(file_okay=False, path_type=Path),
                help="Folder to write, ./card unless pushed.",
            ),
            click.option(
                "--check",
                "only_check",
                is_flag=True,
                help="Write nothing; exit 1 where the card there is stale, invalid or incomplete.",
            ),
            click.option(
                "--push", metavar="REPO", help="Publish to this Hugging Face repository, OWNER/NAME."
            ),
            click.option(
                "--create",
                is_flag=True,
                help="With --push: create the repository where there is none; private.",
            ),
            click.option("--public", is_flag=True, help="With --create: not private."),
            click.option("--pr", "pull_request", is_flag=True, help="With --push: open a pull request."),
            click.option("--dry-run", is_flag=True, help="Show the difference, write nothing."),
            click.option(
                "--show", multiple=True, type=click.Choice(_SHOW), help="Publish this too; may be repeated."
            ),
            click.option("--license", "license_", metavar="ID", help="License of the front matter."),
            click.option("--json", "as_json", is_flag=True, help="Complete JSON on stdout."),
        )
    ):
        command = option(command)
    return command


@click.group(short_help="Write model cards and dataset cards from tracked facts.")
def card() -> None:
    """Cards whose every number says where it is from, and whose human words survive."""


@card.command("model")
@click.argument("location")
@click.argument("reference", metavar="MODEL[@ALIAS|/VERSION]|RUN")
@click.option("--bom", is_flag=True, help="A CycloneDX ML-BOM beside the card.")
@click.option("--with-files", is_flag=True, help="With --push: the model's own files too.")
@_options
def model(location: str, reference: str, bom: bool, with_files: bool, **shared: Any) -> None:
    """The card of a registered model version, or of a run."""
    from ..cards import model_card
    from ..cards.bom import bill_of_materials
    from ..cards.facts import model_facts
    from ..reading import open_location

    options = _card_options(shared)
    with open_location(location) as source:
        made = model_card(source, reference, options)
        if bom:
            made.files["ml-bom.cdx.json"] = bill_of_materials(model_facts(source, reference), made)
        if with_files and shared["push"]:
            import tempfile

            from ..cards.model_files import download

            with tempfile.TemporaryDirectory(prefix="outgrow-model-") as folder:
                _deliver(made, shared, download(source, reference, Path(folder)))
            return
    _deliver(made, shared)


@card.command("dataset")
@click.argument("location")
@click.argument("name", metavar="DATASET[@DIGEST]")
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    help="The data itself, a file or folder: for columns, rows, hashes and Croissant.",
)
@click.option(
    "--sample",
    "sample_rows",
    type=click.IntRange(min=0, max=50),
    default=0,
    help="Rows to show; none unless asked for.",
)
@_options
def dataset(location: str, name: str, data: Path | None, sample_rows: int, **shared: Any) -> None:
    """The card of a data set that runs have read."""
    from ..cards import dataset_card

    _deliver(dataset_card(location, name, _card_options(shared), data=data, sample_rows=sample_rows), shared)


def _card_options(shared: dict[str, Any]) -> Options:
    from ..cards import Options

    config = configuration.read()
    front = dict(config.cards.front)
    if shared["license_"]:
        front["license"] = shared["license_"]
    return Options(
        front=front,
        show=frozenset(config.cards.show) | frozenset(shared["show"]),
        templates=config.base / config.cards.templates if config.cards.templates else None,
        sections=config.cards.sections,
    )


def _deliver(made: Card, shared: dict[str, Any], extra_files: dict[str, Path] | None = None) -> None:
    from ..cards import check, compose, push, read_folder, write_folder

    if shared["push"]:
        done = push(
            made,
            shared["push"],
            create=shared["create"],
            private=not shared["public"],
            pull_request=shared["pull_request"],
            dry_run=shared["dry_run"],
            extra_files=extra_files,
        )
        _kept(done.written.edited_blocks, done.written.removed_blocks, done.written.their_keys)
        if shared["as_json"]:
            emit_json(
                {"repo": done.repo, "url": done.url, "changed": done.changed, "uploaded": done.uploaded}
            )
        elif shared["dry_run"]:
            click.echo(done.diff, nl=False)
        else:
            click.echo(done.url or "nothing has changed")
        return
    folder = shared["out"] or Path("card")
    existing = read_folder(folder) if folder.is_dir() else {}
    if shared["only_check"]:
        findings = check(made, existing, required=configuration.read().cards.required)
        if shared["as_json"]:
            emit_json(findings)
        else:
            for finding in findings:
                click.echo(f"{folder / str(finding)}" if finding.line else f"{folder}: {finding}")
        sys.exit(1 if findings else 0)
    written = compose(made, existing)
    _kept(written.edited_blocks, written.removed_blocks, written.their_keys)
    if shared["dry_run"]:
        from ..cards.publish import difference

        click.echo(
            difference(existing, {p: d for p, d in written.files.items() if existing.get(p) != d}), nl=False
        )
        return
    paths = write_folder(folder, written.files)
    if shared["as_json"]:
        emit_json({"folder": str(folder), "written": paths, "unknown": made.unknown})
        return
    for path in paths:
        click.echo(str(folder / path))
    if not paths:
        click.echo("nothing has changed", err=True)
    if made.unknown:
        click.echo("not known: " + ", ".join(u.name for u in made.unknown), err=True)


def _kept(edited: list[str], removed: list[str], keys: list[str]) -> None:
    for words, names in (
        ("kept a person's edits in", edited),
        ("left out, as a person did:", removed),
        ("kept a person's value of", keys),
    ):
        if names:
            click.echo(f"{words} {', '.join(names)}", err=True)
