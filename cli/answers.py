"""runs, show, diff, best, lineage, audit, retain, advise: questions about history."""

from __future__ import annotations

import csv
import dataclasses
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from .. import config as configuration
from .. import locations
from ..errors import Unsupported
from ..model import to_builtins
from .printing import emit_json, heading, print_table, short, size

_where = click.option("--where", metavar="FILTER", help="Only runs for which this expression is true.")
_experiments = click.option(
    "--experiment",
    "experiments",
    multiple=True,
    metavar="NAME",
    help="Only this experiment; may be repeated.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Complete JSON on stdout.")


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    click.echo(stream.getvalue(), nl=False)


@click.command(short_help="List runs.")
@click.argument("location")
@_where
@_experiments
@click.option(
    "--sort",
    multiple=True,
    metavar="COLUMN",
    help="Sort by this column, -COLUMN for descending; may be repeated.",
)
@click.option(
    "--columns",
    metavar="A,B,…",
    help="Columns to show: id, name, status…, params.KEY, metrics.KEY, tags.KEY, metrics.*",
)
@click.option("--limit", type=click.IntRange(min=1), help="At most this many runs.")
@click.option("--deleted", is_flag=True, help="Deleted runs too.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV on stdout.")
@_json
def runs(
    location: str,
    where: str | None,
    experiments: tuple[str, ...],
    sort: tuple[str, ...],
    columns: str | None,
    limit: int | None,
    deleted: bool,
    as_csv: bool,
    as_json: bool,
) -> None:
    """List the runs of a location, for example:

    outgrow runs mlflow:sqlite:///mlflow.db --where 'metrics["eval/accuracy"] > 0.9' --sort -metrics.eval/accuracy
    """
    from ..insight import runs as list_runs

    wanted = [c.strip() for c in columns.split(",") if c.strip()] if columns else None
    for_people = wanted is None and not (as_csv or as_json)
    if for_people:
        wanted = ["id", "name", "experiment", "status", "started_at", "seconds", "metrics.*"]
    table = list_runs(
        location,
        where=where,
        sort=sort,
        columns=wanted,
        limit=limit,
        experiments=experiments,
        deleted=deleted,
    )
    if for_people:
        own = [name for name in table.column_names if not name.startswith("metrics.system/")]
        table = table.select(own[:10])
        if len(own) > 10:
            click.echo(f"{len(own) - 10} more metrics: choose with --columns, or use --csv", err=True)
    rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    if as_json:
        emit_json([dict(zip(table.column_names, row, strict=True)) for row in rows])
    elif as_csv:
        _csv(table.column_names, [["" if v is None else v for v in row] for row in rows])
    else:
        print_table(table.column_names, rows)
        click.echo(f"{len(rows)} runs", err=True)


@click.command(short_help="Show one run whole.")
@click.argument("reference", metavar="LOCATION#RUN")
@_json
def show(reference: str, as_json: bool) -> None:
    """Show one run: facts, parameters, curves, files. RUN is an id or a unique name."""
    from ..insight import show as show_run

    view = show_run(reference)
    if as_json:
        emit_json(view)
        return
    run = view.run
    heading(f"{run.name or run.id}  ({run.status.value})")
    facts = {
        "id": run.id,
        "experiment": view.experiment.name,
        "user": run.user,
        "started": run.started_at,
        "ended": run.ended_at,
        "commit": run.code.commit if run.code else None,
        "parent": run.parent,
        "labels": ", ".join(run.labels) or None,
        "description": run.description,
        "copied from": run.origin.identity if run.origin else None,
    }
    print_table(["", ""], [(k, v) for k, v in facts.items() if v is not None], titles=False)
    for title, mapping in (("tags", run.tags), ("params", run.params)):
        if mapping:
            heading(title)
            print_table(["key", "value"], sorted(mapping.items()), titles=False)
    if view.series:
        heading("metrics")
        rows = [(s.key, s.points, s.first, s.last, s.low, s.high, s.spark) for s in view.series]
        print_table(["key", "points", "first", "last", "lowest", "highest", "curve"], rows)
    if run.datasets:
        heading("data")
        print_table(["name", "used for", "digest"], [(d.name, d.context, d.digest) for d in run.datasets])
    if view.files or view.artifacts:
        heading("files")
        print_table(
            ["path", "size", "SHA-256"],
            [(f.path, size(f.size), short(f.sha256 or "", 12)) for f in view.files]
            + [
                (f"{a.type} {a.name} {a.version or ''}", "", short(a.digest or "", 12))
                for a in view.artifacts
            ],
        )


@click.command(short_help="What differs between runs, most likely explanation first.")
@click.argument("references", nargs=-1, required=True, metavar="LOCATION#RUN…")
@_json
def diff(references: tuple[str, ...], as_json: bool) -> None:
    """Compare two or more runs, also of different platforms."""
    from ..insight import diff as compare_runs

    if len(references) < 2:
        raise click.UsageError("name at least two runs, each as LOCATION#RUN")
    result = compare_runs(references)
    if as_json:
        emit_json(result)
        return
    names = [short(run.name or run.id, 24) for run in result.runs]
    for section in dict.fromkeys(d.section for d in result.differences):
        same = result.same.get(section, 0)
        heading(section + (f"  ({same} the same)" if same else ""))
        rows = [(d.key, *d.values, d.note or "") for d in result.differences if d.section == section]
        print_table(["", *names, "note"], rows)
    if not result.differences:
        click.echo("nothing differs")


@click.command(short_help="The winners, and which params mattered.")
@click.argument("location")
@click.option("--metric", required=True, metavar="KEY")
@click.option("--mode", type=click.Choice(["min", "max"]), default="max", show_default=True)
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True)
@_where
@_experiments
@_json
def best(
    location: str,
    metric: str,
    mode: Any,
    top: int,
    where: str | None,
    experiments: tuple[str, ...],
    as_json: bool,
) -> None:
    """The best runs by a metric, how much each param mattered, and the values that the best share."""
    from ..insight import best as find_best

    result = find_best(location, metric, mode=mode, where=where, experiments=experiments, top=top)
    if as_json:
        emit_json(result)
        return
    mattering = [i.param for i in result.importance[:5]]
    heading(
        f"best by {metric} ({mode}) of {result.runs} runs"
        + (f", {result.left_out} left out" if result.left_out else "")
    )
    print_table(
        ["run", "name", metric, *mattering],
        [(run.id, run.name, score, *(run.params.get(p) for p in mattering)) for run, score in result.winners],
    )
    if result.importance:
        heading("which params mattered")
        settled = {s.param: s for s in result.settled}
        print_table(
            ["param", "share", "5 % … 95 %", "best quarter", "tried"],
            [
                (
                    i.param,
                    f"{i.share:.0%}",
                    f"{i.low:.0%} … {i.high:.0%}",
                    settled[i.param].best,
                    settled[i.param].tried,
                )
                for i in result.importance
            ],
        )
    if result.note:
        click.echo(result.note)


@click.command(short_help="What something came from, and what came from it.")
@click.argument("location")
@click.argument("subject", metavar="MODEL[@ALIAS|/VERSION]|RUN|DATASET|COMMIT|FILE|SHA256")
@_json
def lineage(location: str, subject: str, as_json: bool) -> None:
    """Follow a model, run, data set, commit or file backwards and forwards."""
    from ..insight import lineage as trace

    result = trace(location, subject)
    if as_json:
        emit_json(result)
        return
    for node in result.subjects:
        heading(f"{node.kind} {node.label}" + "".join(f", {k} {v}" for k, v in node.facts.items()))
        _print_branch(node, result.upstream, "came from", 1, set())
        _print_branch(node, result.downstream, "went into", 1, set())


def _print_branch(
    node: Any, follow: Callable[[Any], list[tuple[Any, str]]], word: str, depth: int, seen: set[Any]
) -> None:
    for other, link in follow(node):
        facts = "".join(f", {k} {short(v, 20)}" for k, v in other.facts.items())
        click.echo(f"{'  ' * depth}{word} {other.kind} {other.label} [{link}]{facts}")
        if other.key not in seen:
            seen.add(other.key)
            _print_branch(other, follow, word, depth + 1, seen)


@click.command(short_help="Which runs could be reproduced or redeployed, and what the others lack.")
@click.argument("location")
@_where
@_experiments
@click.option("--deep", is_flag=True, help="Read every file whole and compare its SHA-256.")
@click.option(
    "--threshold",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Exit 1 above this many violating runs.",
)
@click.option("--limit", type=click.IntRange(min=1), default=30, show_default=True, help="Runs to show.")
@_json
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
            rows = [
                (
                    a.run.id,
                    a.run.name,
                    "yes" if a.reproducible else "no",
                    "yes" if a.redeployable else "no",
                    "; ".join(f.detail for f in a.findings),
                )
                for a in violating[:limit]
            ]
            print_table(["run", "name", "reproducible", "redeployable", "findings"], rows)
        if result.registry:
            heading("registry")
            for finding in result.registry:
                click.echo(f"  {finding.detail}")
        advice = dict.fromkeys(f"{f.rule}: {f.advice}" for a in violating for f in a.findings if f.advice)
        if advice:
            heading("what to add")
            for line in advice:
                click.echo(f"  {line}")
    sys.exit(1 if result.violating > threshold else 0)


@click.command(short_help="What may be deleted, by policy. Deletes nothing without --apply HASH.")
@click.argument("location")
@_where
@click.option("--apply", "confirm", metavar="HASH", help="Delete what the plan of this hash says.")
@click.option(
    "--archive",
    "archive_to",
    metavar="LOCATION",
    help="Before deleting, copy everything there and check it deeply.",
)
@_json
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
                f"outgrow cannot delete from {parsed.platform}",
                hint="use the list with the platform's own tools: --json",
            )
        if archive_to:
            _archive_first(location, archive_to)
        done = apply_retention(plan, confirm, location, policy, remover, where=where)
        click.echo(f"deleted {len(done)} items")
        return
    if as_json:
        emit_json(to_builtins(plan) | {"hash": plan.hash, "bytes": plan.bytes})
        return
    heading(f"{len(plan.expiring)} runs may lose files, {size(plan.bytes)} in all")
    print_table(
        ["run", "name", "experiment", "what", "files", "size", "why"],
        [(e.run_id, e.name, e.experiment, e.what, e.files, size(e.bytes), e.reason) for e in plan.expiring],
    )
    if plan.orphans:
        heading(f"{len(plan.orphans)} stored files belong to no run, {size(plan.orphan_bytes)}")
        for path in plan.orphans[:20]:
            click.echo(f"  {path}")
    heading(f"{len(plan.kept)} runs keep everything")
    print_table(["run", "name", "why"], [(k.run_id, k.name, k.reason) for k in plan.kept[:20]])
    if plan.expiring or plan.orphans:
        click.echo(
            f"\nNothing was deleted. To delete exactly this: outgrow retain {location} --apply {plan.hash}"
        )


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
    help="Something the team needs: audit-trail, air-gap, media, managed…",
)
@_json
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
@click.option("--deep", is_flag=True, help="For a ledger: check every point and file.")
@_where
def report(location: str, out: Path, metric: str | None, deep: bool, where: str | None) -> None:
    """Write a page that opens anywhere, without a network."""
    ledger = Path(location)
    if ledger.is_file():
        from ..migrate.page import report as ledger_report

        html = ledger_report(ledger, deep=deep)
    else:
        from ..insight.page import report as location_report

        html = location_report(location, metric=metric, where=where, policy=configuration.read().policy)
    part = out.with_name(out.name + ".part")
    part.write_text(html, "utf-8")
    part.replace(out)
    click.echo(str(out))
