"""runs, show, diff, best, lineage: questions about history."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

import click

from .printing import emit_json, heading, print_table, short, size

where_option = click.option("--where", metavar="FILTER", help="Only runs for which this expression is true.")
experiments_option = click.option(
    "--experiment",
    "experiments",
    multiple=True,
    metavar="NAME",
    help="Only this experiment; may be repeated.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Complete JSON on stdout.")


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    click.echo(stream.getvalue(), nl=False)


@click.command(short_help="List runs.")
@click.argument("location")
@where_option
@experiments_option
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
@json_option
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
@json_option
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
@json_option
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
@where_option
@experiments_option
@json_option
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
@json_option
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
