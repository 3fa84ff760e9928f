"""What plan, copy and check print: progress on stderr, results on stdout."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from .printing import heading, print_table, short, size

if TYPE_CHECKING:
    from ..migrate import CheckReport, CopyReport, Plan, Progress
    from ..migrate.report import Counts, Difference, LossLine

SHOWN = 20
"""Lines of a list that may be long."""


# --- progress, on stderr -------------------------------------------------------------------------


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """A counter, where stderr is a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda count: None
        return
    with console.status(f"0 {what}") as shown:
        yield lambda count: shown.update(f"{count:,} {what}")


@contextmanager
def progress_bar() -> Iterator[Callable[[Progress], None]]:
    """A progress bar on a terminal; on anything else a line every ten seconds."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[told]}"),
        bars.TimeElapsedColumn(),
    )
    with bars.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("runs", total=None, told="")
        yield lambda now: bar.update(task, completed=now.settled, total=max(1, now.listed), told=_told(now))


class _Lines:
    def __init__(self) -> None:
        self._next, self._lock = 10.0, threading.Lock()

    def __call__(self, now: Progress) -> None:
        with self._lock:
            if now.seconds < self._next:
                return
            self._next = now.seconds + 10.0
        click.echo(f"{now.settled:,} of {now.listed:,} runs, {_told(now)}", err=True)


def _told(now: Progress) -> str:
    rate = now.points / now.seconds if now.seconds else 0.0
    failed = f", {now.failed:,} failed" if now.failed else ""
    return f"{now.points:,} points ({rate:,.0f}/s), {size(now.bytes)}{failed}"


# --- results, on stdout ---------------------------------------------------------------------------


def print_plan(report: Plan) -> None:
    counts = report.counts
    print_table(
        ["", "location", "way", "points/s"],
        [
            ["from", report.source.location, report.source.path, round(report.source.points_per_second)],
            ["to", report.target.location, report.target.path, round(report.target.points_per_second)],
        ],
    )
    heading("What is there")
    print_table(["what", "count"], list(_counted(counts)))
    heading("Runs in the target now")
    print_table(list(report.present), [list(report.present.values())])
    _print_losses(report.losses, "Losses (the originals travel in the origin records)")
    if report.collisions:
        heading("Names in use in the target")
        print_table(["kind", "name", ""], [[c.concept, c.name, c.detail] for c in report.collisions])
    _print_list("Known to be missing or damaged in the source", report.problems)
    _print_list("Could not be read", [f"{f.type}: {f.message}" for f in report.failures])
    click.echo()
    took = "not known without --deep" if report.seconds is None else f"about {_duration(report.seconds)}"
    click.echo(f"Time of a copy: {took}")
    for side in (report.source, report.target):
        if side.advice:
            click.echo(f"Faster: {side.advice}")


def _counted(counts: Counts) -> Iterator[list[str]]:
    status = ", ".join(f"{number:,} {name}" for name, number in sorted(counts.by_status.items()))
    deleted = f"; {counts.deleted:,} deleted" if counts.deleted else ""
    yield ["experiments", f"{counts.experiments:,}"]
    yield ["runs", f"{counts.runs:,} ({status}{deleted})" if counts.runs else "0"]
    for name in ("series", "points", "texts", "histograms", "files"):
        number = getattr(counts, name)
        if number != 0:
            yield [name, "not known without --deep" if number is None else f"{number:,}"]
    if counts.file_bytes:
        yield ["bytes in files", size(counts.file_bytes)]
    for name in ("artifacts", "registered_models", "model_versions", "traces", "evaluation_datasets"):
        if number := getattr(counts, name):
            yield [name.replace("_", " "), f"{number:,}"]


def print_copy(report: CopyReport) -> None:
    states = ("copied", "unchanged", "home", "partial", "failed")
    print_table(
        [*states, "points", "files", "bytes", "seconds"],
        [
            [
                *(report.counts.get(state, 0) for state in states),
                report.points,
                report.files,
                size(report.bytes),
                round(report.seconds, 1),
            ]
        ],
    )
    beyond = {
        "registered models": report.models,
        "model versions": report.versions,
        "traces": report.traces,
        "evaluation data sets": report.evaluation_datasets,
    }
    if any(beyond.values()):
        click.echo(", ".join(f"{number:,} {name}" for name, number in beyond.items() if number))
    _print_losses(report.losses, "Losses (the originals are in the origin records)")
    bad = [run for run in report.runs if run.state in ("failed", "partial")]
    if bad:
        heading("Not complete")
        print_table(
            ["run", "name", "state", "reason"],
            [
                [r.source_run, r.name, r.state, r.error.message if r.error else "; ".join(r.refused)]
                for r in bad[:SHOWN]
            ],
        )
        more(len(bad), SHOWN, "outgrow status --failed")
    _print_list("Registry versions left out", report.versions_omitted)
    _print_list("Failed beside the runs", [f"{f.type}: {f.message}" for f in report.failures])
    _print_list("Known to be missing or damaged in the source", report.problems)
    if report.stopped_by is not None:
        hint = f"\n  {report.stopped_by.hint}" if report.stopped_by.hint else ""
        click.echo(f"outgrow: stopped: {report.stopped_by.message}{hint}", err=True)
    if report.state == "interrupted":
        click.echo("outgrow: interrupted", err=True)
    if report.state != "done":
        click.echo("The same command goes on where this one ended.", err=True)
    elif report.counts.get("failed"):
        click.echo("Try the failed runs again with --retry-failed.", err=True)


def print_check(report: CheckReport) -> None:
    titles = {"=": "equal", "-": "missing", "+": "only in target", "*": "differ", "!": "errors"}
    print_table(
        [*(f"{sign} {title}" for sign, title in titles.items()), "unexpected", "expected", "seconds"],
        [
            [
                *(report.counts.get(sign, 0) for sign in titles),
                report.unexpected,
                report.expected,
                round(report.seconds, 1),
            ]
        ],
    )
    _print_losses(report.losses, "Declared losses (the originals are in the origin records)")
    rows = [
        [d.sign, run.source_run, run.name, d.what, d.detail]
        for run in report.runs
        for d in run.differences
        if not d.expected
    ]
    rows += [[d.sign, "", "", d.what, d.detail] for d in _unexpected(report.experiments + report.registry)]
    if rows:
        heading("Unexpected differences")
        print_table(["", "run", "name", "what", "detail"], rows[: 2 * SHOWN])
        more(len(rows), 2 * SHOWN, "--json")
    _print_list("Could not be compared", [f"{f.type}: {f.message}" for f in report.failures])
    if report.deep:
        click.echo(
            f"\nReady to be deleted in the source (terminal, complete, equal): {len(report.deletion_ready):,} runs"
        )
        click.echo("The list is in --json; outgrow itself deletes nothing.", err=True)


def _unexpected(differences: Iterable[Difference]) -> list[Difference]:
    return [difference for difference in differences if not difference.expected]


def _print_losses(losses: list[LossLine], title: str) -> None:
    if not losses:
        return
    heading(title)
    rows: list[list[Any]] = [
        [
            line.kind if line.certain else f"may be {line.kind}",
            line.concept,
            line.detail,
            line.runs or None,
            line.count if line.certain else None,
            short(line.example or "", 60),
        ]
        for line in losses
    ]
    print_table(["loss", "of", "", "runs", "count", "example"], rows)


def _print_list(title: str, lines: list[str]) -> None:
    if lines:
        heading(title)
        print_table([""], [[line] for line in lines[:SHOWN]], titles=False)
        more(len(lines), SHOWN, "--json")


def more(total: int, shown: int, where_: str) -> None:
    if total > shown:
        click.echo(f"… and {total - shown:,} more: {where_}")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
