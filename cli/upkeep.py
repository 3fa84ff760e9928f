"""audit, retain, advise, report: what a history needs, and a page about it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import config as configuration
from .. import locations
from ..errors import Unsupported
from ..model import to_builtins
from .answers import experiments_option, json_option, where_option
from .output import more
from .printing import emit_json, heading, print_table, short_ids, size

if TYPE_CHECKING:
    from ..insight.retain import RetentionPlan

SHOWN = 50
"""Lines of a list that may be long."""


@click.command(short_help="Which runs could be reproduced or redeployed, and what the others lack.")
@click.argument("location")
@where_option
@experiments_option
@click.option("--deep", is_flag=True, help="Read every file whole and compare its SHA-256.")
@click.option(
    "--threshold",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Exit 1 above this many violating runs.",
)
@click.option("--limit", type=click.IntRange(min=1), default=30, show_default=True, help="Runs to show.")
@json_option
def audit(
    location: str,
    where: str | None,
    experiments: tuple[str, ...],
    deep: bool,
    threshold: int,
    limit: int,
    as_json: bool,
) -> None:
    """Grade every finished run against what reproduction and redeployment need, worst first."""
    from ..insight import audit as grade

    result = grade(
        location, where=where, experiments=experiments, deep=deep, policy=configuration.read().policy
    )
    if as_json:
        emit_json(result)
    else:
        heading("by project")
        print_table(
            ["project", "runs", "reproducible", "redeployable", "findings"],
            [dataclasses.astuple(s) for s in result.by_project],
        )
        heading("by owner")
        print_table(
            ["owner", "runs", "reproducible", "redeployable", "findings"],
            [dataclasses.astuple(s) for s in result.by_owner],
        )
        violating = [a for a in result.runs if a.findings]
        if violating:
            heading(f"worst first ({min(limit, len(violating))} of {len(violating)})")
            ids = [a.run.id for a in violating[:limit]]
            rows = [
                (
                    id,
                    a.run.name,
                    "yes" if a.reproducible else "no",
                    "yes" if a.redeployable else "no",
                    ", ".join(f.brief for f in a.findings),
                )
                for id, a in zip(short_ids(ids) if sys.stdout.isatty() else ids, violating, strict=False)
            ]
            print_table(["run", "name", "reproducible", "redeployable", "lacks"], rows)
            more(len(violating), limit, "--limit N, or --json with every detail")
        if result.registry:
            heading("registry")
            for finding in result.registry:
                click.echo(f"  {finding.detail}")
        advice = dict.fromkeys(f"{f.rule}: {f.advice}" for a in violating for f in a.findings if f.advice)
        if advice:
            heading("what to add")
            for line in advice:
                click.echo(f"  {line}")
        count = f"{result.violating:,} of {len(result.runs) + len(result.registry):,}"
        click.echo(
            f"\n{count} runs and registry entries have findings; allowed by --threshold: {threshold:,}"
        )
    sys.exit(1 if result.violating > threshold else 0)


@click.command(short_help="What may be deleted, by policy. Deletes nothing without --apply HASH.")
@click.argument("location")
@where_option
@click.option("--apply", "confirm", metavar="HASH", help="Delete what the plan of this hash says.")
@click.option(
    "--archive",
    "archive_to",
    metavar="LOCATION",
    help="Before deleting, copy everything there and check it deeply.",
)
@json_option
def retain(
    location: str, where: str | None, confirm: str | None, archive_to: str | None, as_json: bool
) -> None:
    """Plan a clean-up by the [retention] policy of the configuration."""
    from ..insight import apply_retention
    from ..insight import retain as plan_retention

    policy = configuration.read().retention
    parsed, adapter = locations.load(location)
    opener = getattr(adapter, "remover", None)
    remover = opener(parsed) if opener else None
    plan = plan_retention(location, policy, where=where, remover=remover)
    if confirm is not None:
        if remover is None:
            raise Unsupported(
                f"outgrow deletes nothing from {parsed.platform}: its adapter has no remover",
                hint=f"delete with the platform's own tools what `outgrow retain {parsed} --json` lists, "
                "or copy what stays elsewhere: outgrow copy … --where",
            )
        if archive_to:
            _archive_first(location, archive_to)
        done = apply_retention(plan, confirm, location, policy, remover, where=where)
        click.echo(f"deleted {len(done)} items")
        return
    if as_json:
        emit_json(to_builtins(plan) | {"hash": plan.hash, "bytes": plan.bytes})
        return
    _print_plan(plan)
    if plan.expiring or plan.orphans:
        click.echo(
            f"\nNothing was deleted. To delete exactly this: outgrow retain {location} --apply {plan.hash}"
        )
    else:
        click.echo(
            f"\nNothing may go: the promotion window is {policy.promotion_window_days} days "
            "([retention] of outgrow.toml)"
        )


def _print_plan(plan: RetentionPlan) -> None:
    if plan.expiring:
        heading(f"{len(plan.expiring):,} runs may lose files, {size(plan.bytes)} in all")
        ids = [e.run_id for e in plan.expiring[:SHOWN]]
        print_table(
            ["run", "name", "experiment", "what goes", "files", "size", "why"],
            [
                (id, e.name, e.experiment, "files" if e.what == "files" else "files and record", e.files, size(e.bytes), e.reason)
                for id, e in zip(short_ids(ids) if sys.stdout.isatty() else ids, plan.expiring, strict=False)
            ],
        )  # fmt: skip
        more(len(plan.expiring), SHOWN, "--json")
    if plan.orphans:
        heading(f"{len(plan.orphans):,} stored files belong to no run, {size(plan.orphan_bytes)}")
        for path in plan.orphans[:SHOWN]:
            click.echo(f"  {path}")
        more(len(plan.orphans), SHOWN, "--json")
    heading(f"{len(plan.kept):,} runs keep everything")
    kept: dict[str, list[str]] = {}
    for item in plan.kept:  # by reason, without what is another in every run
        kept.setdefault(item.reason.partition(" (")[0], []).append(item.name)
    rows = sorted(kept.items(), key=lambda pair: -len(pair[1]))
    print_table(["why", "runs", "for example"], [(why, len(names), names[0]) for why, names in rows[:SHOWN]])
    more(len(rows), SHOWN, "--json")


def _archive_first(location: str, target: str) -> None:
    """Deleting is allowed only once a deep check of the copy is clean."""
    from .. import migrate
    from ..errors import OutgrowError

    migrate.copy(location, target)
    report = migrate.check(location, target, deep=True)
    if report.exit_code:
        raise OutgrowError(
            f"the copy in {target} is not complete, so nothing was deleted",
            hint=f"outgrow check {location} {target} --deep",
        )


@click.command(short_help="Is it time to move to another platform?")
@click.argument("location")
@click.option(
    "--need",
    "needs",
    multiple=True,
    metavar="WORD",
    help="Something the team needs: audit-trail, access-control, air-gap, media, managed…",
)
@json_option
def advise(location: str, needs: tuple[str, ...], as_json: bool) -> None:
    """Measure this location against the thresholds of [advise], and say stay or move."""
    from ..insight import advise as judge

    limits = configuration.read().advise
    if needs:
        limits = dataclasses.replace(limits, needs=[*limits.needs, *needs])
    result = judge(location, thresholds=limits)
    if as_json:
        emit_json(result)
        return
    heading(f"verdict: {result.verdict}")
    for reason in result.reasons:
        click.echo(f"  {reason}")
    heading("measured")
    print_table(
        ["what", "value", "unit", "threshold", "from"],
        [(r.name, r.value, r.unit, r.threshold, r.source) for r in result.readings],
        keep=4,
    )
    if result.needs:
        heading("needs")
        print_table(
            ["need", "why", "offered by"], [(n.name, n.why, ", ".join(n.met_by)) for n in result.needs]
        )
    if result.candidates and result.verdict != "stay":
        click.echo(f"\ncandidates: {', '.join(result.candidates)}")
    click.echo(f"next: {result.command}")


@click.command(short_help="One self-contained HTML page about a location or a copy.")
@click.argument("location", metavar="LOCATION|LEDGER")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("report.html"), show_default=True
)
@click.option("--metric", metavar="KEY", help="What the sweep and the curves are chosen by.")
@click.option(
    "--mode",
    type=click.Choice(["min", "max"]),
    help="Whether less or more of it is better. By default min for a loss or an error.",
)
@click.option("--deep", is_flag=True, help="For a ledger: check every point and file.")
@where_option
def report(location: str, out: Path, metric: str | None, mode: Any, deep: bool, where: str | None) -> None:
    """Write a page that opens anywhere, without a network."""
    ledger = Path(location)
    if ledger.is_file():
        from ..migrate.page import report as ledger_report

        html = ledger_report(ledger, deep=deep)
    else:
        from ..insight.page import report as location_report

        policy = configuration.read().policy
        html = location_report(location, metric=metric, mode=mode, where=where, policy=policy)
    part = out.with_name(out.name + ".part")
    part.write_text(html, "utf-8")
    part.replace(out)
    click.echo(str(out))
