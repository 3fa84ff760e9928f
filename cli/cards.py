"""`outgrow card model|dataset`: write, check or publish a card."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from .. import config as configuration
from .printing import emit_json

if TYPE_CHECKING:
    from ..cards import Card, Options
    from ..cards.card import Written
    from ..cards.write_back import Place, WrittenBack

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
@click.option(
    "--write-back",
    "places",
    multiple=True,
    type=click.Choice(["artifact", "description"]),
    help="Write the card to the run's own files too, or its summary into the version's description; may be repeated.",
)
@_options
def model(
    location: str, reference: str, bom: bool, with_files: bool, places: tuple[Place, ...], **shared: Any
) -> None:
    """The card of a registered model version, or of a run."""
    from ..cards import open_annotator, write_back
    from ..cards.bom import bill_of_materials
    from ..cards.facts import model_facts
    from ..cards.model_card import render
    from ..cards.model_files import download
    from ..reading import open_location

    if places and shared["only_check"]:
        raise click.UsageError("--check writes nothing, so it goes without --write-back")
    options = _card_options(shared)
    with ExitStack() as stack:
        model_files: dict[str, Path] | None = None
        with open_location(location) as source:
            facts = model_facts(source, reference)
            made = render(facts, reference, options)
            if bom:
                made.files["ml-bom.cdx.json"] = bill_of_materials(facts, made)
            if with_files and shared["push"]:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="outgrow-model-"))
                model_files = download(source, reference, Path(folder))
        # Opened first: a card that cannot be written back is not written anywhere.
        annotator = stack.enter_context(open_annotator(location, made, places)) if places else None
        written, report = _deliver(made, shared, model_files)
        if annotator is not None:
            done = write_back(location, made, written, places, annotator, dry_run=shared["dry_run"])
            report["written_back"] = done
            if not shared["as_json"]:
                _say_written_back(done, made, "would write" if shared["dry_run"] else "wrote")
    if shared["as_json"]:
        emit_json(report)


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

    made = dataset_card(location, name, _card_options(shared), data=data, sample_rows=sample_rows)
    _, report = _deliver(made, shared)
    if shared["as_json"]:
        emit_json(report)


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


def _deliver(
    made: Card, shared: dict[str, Any], extra_files: dict[str, Path] | None = None
) -> tuple[Written, dict[str, Any]]:
    """Push the card or write it to its folder; its files, and the report for `--json`."""
    if shared["push"]:
        return _push(made, shared, extra_files)
    from ..cards import compose, read_folder, write_folder
    from ..cards.publish import difference

    folder = shared["out"] or Path("card")
    existing = read_folder(folder) if folder.is_dir() else {}
    if shared["only_check"]:
        _check(made, folder, existing, shared["as_json"])
    written = compose(made, existing)
    _kept(written)
    report: dict[str, Any] = {"folder": str(folder), "written": [], "unknown": made.unknown}
    if shared["dry_run"]:
        changed = {p: d for p, d in written.files.items() if existing.get(p) != d}
        report["would_write"] = sorted(changed)
        if not shared["as_json"]:
            click.echo(difference(existing, changed), nl=False)
        return written, report
    report["written"] = paths = write_folder(folder, written.files)
    if not shared["as_json"]:
        for path in paths:
            click.echo(str(folder / path))
        if not paths:
            click.echo("nothing has changed", err=True)
        if made.unknown:
            click.echo("not known: " + ", ".join(u.name for u in made.unknown), err=True)
    return written, report


def _push(
    made: Card, shared: dict[str, Any], extra_files: dict[str, Path] | None
) -> tuple[Written, dict[str, Any]]:
    from ..cards import push

    done = push(
        made,
        shared["push"],
        create=shared["create"],
        private=not shared["public"],
        pull_request=shared["pull_request"],
        dry_run=shared["dry_run"],
        extra_files=extra_files,
    )
    _kept(done.written)
    if not shared["as_json"]:
        if shared["dry_run"]:
            click.echo(done.diff, nl=False)
        else:
            click.echo(done.url or "nothing has changed")
    return done.written, {
        "repo": done.repo,
        "url": done.url,
        "changed": done.changed,
        "uploaded": done.uploaded,
    }


def _check(made: Card, folder: Path, existing: dict[str, bytes], as_json: bool) -> NoReturn:
    from ..cards import check

    findings = check(made, existing, required=configuration.read().cards.required)
    if as_json:
        emit_json(findings)
    else:
        for finding in findings:
            click.echo(f"{folder / str(finding)}" if finding.line else f"{folder}: {finding}")
    sys.exit(1 if findings else 0)


def _say_written_back(done: WrittenBack, made: Card, verb: str) -> None:
    for path in done.attached:
        click.echo(f"{verb} {path} of run {done.run}")
    if done.description is not None and made.version is not None:
        click.echo(f"{verb} the description of {made.version[0]} version {made.version[1]}")


def _kept(written: Written) -> None:
    for words, names in (
        ("kept a person's edits in", written.edited_blocks),
        ("left out, as a person did:", written.removed_blocks),
        ("kept a person's value of", written.their_keys),
    ):
        if names:
            click.echo(f"{words} {', '.join(names)}", err=True)
