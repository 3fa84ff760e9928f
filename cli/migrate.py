"""plan, copy, check, status, where: history from one platform to another."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .output import SHOWN, counting, more, print_check, print_copy, print_plan, progress_bar
from .printing import emit_json, heading, print_table, short

if TYPE_CHECKING:
    from ..migrate.ledger import Row
    from ..migrate.report import RunCheck

_sides = [
    click.argument("source"),
    click.argument("target"),
    click.option("--experiment", "experiments", multiple=True, metavar="NAME", help="Only this experiment, by name, id or glob; may be repeated."),
    click.option("--where", metavar="FILTER", help="Only runs for which this expression is true."),
]  # fmt: skip
_workers = click.option("--workers", type=click.IntRange(1, 256), default=8, show_default=True, help="Runs at once.")  # fmt: skip
_ledger = click.option("--ledger", type=click.Path(dir_okay=False), help="The ledger file.  [default: .outgrow/ledger.db]")  # fmt: skip
_json = click.option("--json", "as_json", is_flag=True, help="Complete JSON on stdout.")


def _on_sides(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_sides):
        command = option(command)
    return command


@click.command(short_help="Say what a copy would do.")
@_on_sides
@click.option("--deep", is_flag=True, help="Read every point, so that no loss is only a possibility.")
@_workers
@_json
def plan(
    source: str,
    target: str,
    experiments: tuple[str, ...],
    where: str | None,
    deep: bool,
    workers: int,
    as_json: bool,
) -> None:
    """Say what `outgrow copy SOURCE TARGET` would do. Nothing is written anywhere.

    outgrow plan mlflow:sqlite:///mlflow.db archive:./history
    """
    from ..migrate import plan as make_plan
    from ..migrate import to_json

    with counting("runs looked at") as count:
        report = make_plan(
            source, target, experiments=experiments, where=where, deep=deep, workers=workers, progress=count
        )
    if as_json:
        click.echo(to_json(report))
    else:
        print_plan(report)
    sys.exit(report.exit_code)


@click.command(short_help="Copy history from one location to another.")
@_on_sides
@_workers
@click.option("--retry-failed", is_flag=True, help="Only runs whose last attempt failed.")
@click.option(
    "--again", is_flag=True, help="Complete runs too: files that were added to them later get there."
)
@_ledger
@_json
def copy(
    source: str,
    target: str,
    experiments: tuple[str, ...],
    where: str | None,
    workers: int,
    retry_failed: bool,
    again: bool,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Copy what is not yet in the target. Stopped at any point, the same command goes on.

    outgrow copy mlflow:sqlite:///mlflow.db archive:./history --where 'status == "finished"'
    """
    from ..migrate import copy as make_copy
    from ..migrate import to_json

    with progress_bar() as progress:
        report = make_copy(
            source,
            target,
            experiments=experiments,
            where=where,
            workers=workers,
            retry_failed=retry_failed,
            again=again,
            ledger=ledger,
            progress=progress,
        )
    if as_json:
        click.echo(to_json(report))
    else:
        print_copy(report)
    sys.exit(report.exit_code)


@click.command(short_help="Compare the target with the source.")
@_on_sides
@click.option("--deep", is_flag=True, help="Compare every point, and every file by its SHA-256.")
@_workers
@_json
def check(
    source: str,
    target: str,
    experiments: tuple[str, ...],
    where: str | None,
    deep: bool,
    workers: int,
    as_json: bool,
) -> None:
    """Read the target back and compare it with the source.

    Signs: = equal, - missing in the target, + only in the target, * differs, ! error. Differences
    that the plan declares are expected and do not fail the check.
    """
    from ..migrate import check as make_check
    from ..migrate import to_json

    with counting("runs compared") as count:
        seen: list[str] = []

        def compared(one: RunCheck) -> None:
            seen.append(one.identity)
            count(len(seen))

        report = make_check(
            source,
            target,
            deep=deep,
            experiments=experiments,
            where=where,
            workers=workers,
            progress=compared,
        )
    if as_json:
        click.echo(to_json(report))
    else:
        print_check(report)
    sys.exit(report.exit_code)


@click.command(short_help="What copies have been made from here.")
@click.option("--failed", is_flag=True, help="Only runs that failed or are partial.")
@_ledger
@_json
def status(failed: bool, ledger: str | None, as_json: bool) -> None:
    """What copies have been made from here, by the ledger of this directory."""
    rows = [row for row in _rows(ledger) if not failed or row.state in ("failed", "partial")]
    if as_json:
        emit_json([asdict(row) for row in rows])
        return
    states = ("copied", "partial", "failed", "home")
    pairs = dict.fromkeys((row.source, row.target) for row in rows)
    table = []
    for pair in pairs:
        of_pair = [row for row in rows if (row.source, row.target) == pair]
        numbers = [sum(row.state == state for row in of_pair) for state in states]
        points = sum(row.points for row in of_pair)
        table.append([*pair, *numbers, points, max(row.updated_at for row in of_pair)[:19]])
    print_table(["source", "target", *states, "points", "last change"], table)
    bad = [row for row in rows if row.state in ("failed", "partial")]
    if bad:
        heading("Not complete")
        shown = bad if failed else bad[:SHOWN]
        print_table(
            ["run", "name", "state", "attempts", "reason"],
            [[r.source_run, r.name, r.state, r.attempts, short(r.error or "", 100)] for r in shown],
        )
        more(len(bad), len(shown), "outgrow status --failed")
        click.echo("Try these again with: outgrow copy SOURCE TARGET --retry-failed", err=True)


@click.command(short_help="Where a run was copied to, or came from.")
@click.argument("run", required=False)
@click.option("--csv", "as_csv", is_flag=True, help="All links as CSV: old id and URL, new id and URL.")
@_ledger
@_json
def where(run: str | None, as_csv: bool, ledger: str | None, as_json: bool) -> None:
    """Where RUN was copied to, or came from. RUN is an old or new id, URL, identity or name.

    Without RUN, with --csv or --json: the links of every copied run.
    """
    if run is None and not (as_csv or as_json):
        raise click.UsageError("name a RUN, or export all links with --csv or --json")
    rows = [row for row in _rows(ledger) if row.run_id is not None]
    if run is not None:
        words = ("identity", "source_run", "source_url", "run_id", "url", "name")
        rows = [row for row in rows if run in (getattr(row, word) for word in words)]
    header = ["source", "source_run", "source_url", "target", "run_id", "url", "name", "experiment", "state"]
    links = [[getattr(row, name) for name in header] for row in rows]
    if as_json:
        click.echo(json.dumps([dict(zip(header, link, strict=True)) for link in links], indent=1))
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(links)
    else:
        print_table(header, links)
    if run is not None and not rows:
        click.echo(
            f"outgrow: no copied run {run!r} in the ledger\n  list them with: outgrow where --csv", err=True
        )
        sys.exit(1)


def _rows(ledger: str | None) -> list[Row]:
    from ..migrate.ledger import DEFAULT_PATH, Ledger

    with Ledger(ledger or DEFAULT_PATH, create=False) as book:
        return list(book.rows())
