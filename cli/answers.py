"""runs, show, diff, best, lineage: questions about history."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import click

from .printing import cell, emit_json, heading, lasting, print_table, short, short_ids, size

SHOWN = 50
"""Runs that a terminal shows unless it is told otherwise."""
SHOWN_METRICS = 8

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
    from ..insight.runs import runs as list_runs

    wanted = [c.strip() for c in columns.split(",") if c.strip()] if columns else None
    for_people = not (as_csv or as_json)
    most = limit
    if for_people and wanted is None:
        wanted = ["id", "name", "experiment", "status", "started_at", "seconds", "metrics.*"]
        sort = sort or ("-started_at",)
        if limit is None and sys.stdout.isatty():
            most = SHOWN
    table = list_runs(
        location, where=where, sort=sort, columns=wanted, limit=most, experiments=experiments, deleted=deleted
    )
    rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    if as_json:
        plain = [[v.isoformat() if isinstance(v, datetime) else v for v in row] for row in rows]
        emit_json([dict(zip(table.column_names, row, strict=True)) for row in plain])
    elif as_csv:
        _csv(table.column_names, [["" if v is None else v for v in row] for row in rows])
    elif not rows:
        _nothing(location, where, deleted)
    elif columns:
        print_table(table.column_names, rows)
        click.echo(f"{len(rows):,} runs", err=True)
    else:
        _print_runs(table, [*sort, *_keys_of(where)])
        click.echo(f"{len(rows):,} runs" + _more_runs(len(rows), most, limit), err=True)
    asked = [name.removeprefix("-") for name in (*sort, *_keys_of(where))] if not rows else ()
    empty = [name for name in wanted or () if not name.endswith(".*") and _is_empty(table[name])]
    _tell_unknown(location, [name for name in dict.fromkeys((*asked, *empty)) if "." in name])


def _is_empty(column: Any) -> bool:
    return bool(column.null_count == len(column))


def _keys_of(where: str | None) -> list[str]:
    """The keys of a filter, as columns."""
    from .. import filters

    parts = filters.parse(where).parts if where else filters.Parts()
    groups = {"params": parts.params, "metrics": parts.summary, "tags": parts.tags}
    return [f"{group}.{key}" for group, keys in groups.items() for key in sorted(keys or ())]


def _tell_unknown(location: str, columns: Sequence[str]) -> None:
    """Say which of these columns no run has, and what it may have been meant as."""
    from ..insight.runs import unknown

    for column, hint in unknown(location, columns).items():
        click.echo(f"no run has {column}: {hint}", err=True)


def _print_runs(table: Any, asked: Sequence[str]) -> None:
    """As many metrics as there is room for: those that were asked for, then those of evaluation."""
    names = [n.removeprefix("metrics.") for n in table.column_names if n.startswith("metrics.")]
    first = [name.removeprefix("-").removeprefix("metrics.") for name in asked]
    metrics = sorted(
        (n for n in names if not n.startswith("system/") or n in first),
        key=lambda n: (n not in first, not n.lower().startswith(("eval", "val", "test"))),
    )
    ids = table["id"].to_pylist()
    columns: dict[str, Sequence[Any]] = {
        "run": short_ids(ids) if sys.stdout.isatty() else ids,
        "name": table["name"].to_pylist(),
        "experiment": table["experiment"].to_pylist(),
        "status": table["status"].to_pylist(),
        "started (UTC)": [t and t.strftime("%Y-%m-%d %H:%M") for t in table["started_at"].to_pylist()],
    }
    if len(set(columns["experiment"])) == 1 and sys.stdout.isatty():
        click.echo(f"experiment {columns.pop('experiment')[0]}", err=True)
    kept = len(columns) + bool(metrics and metrics[0] in first)
    for name in metrics[:1]:
        columns[name] = table[f"metrics.{name}"].to_pylist()
    columns["took"] = [lasting(s) for s in table["seconds"].to_pylist()]
    for name in metrics[1:SHOWN_METRICS]:
        columns[name] = table[f"metrics.{name}"].to_pylist()
    rows = list(zip(*columns.values(), strict=True))
    shown = len(columns) - print_table(list(columns), rows, keep=kept)
    hidden = len(names) - sum(name in metrics for name in list(columns)[:shown])
    if hidden:
        click.echo(f"{hidden} more metrics: choose with --columns metrics.KEY,…, or use --csv", err=True)


def _more_runs(shown: int, most: int | None, limit: int | None) -> str:
    if limit is None and most is not None and shown == most:
        return ", the newest: more with --limit N, all with --csv or in a pipe"
    return ""


def _nothing(location: str, where: str | None, deleted: bool) -> None:
    """Say why there may be nothing to show, and what to try."""
    click.echo("no run" + (" for which the filter is true" if where else ""), err=True)
    if not deleted:
        click.echo(f"  deleted ones are shown by: outgrow runs {location} --deleted", err=True)


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
        "started (UTC)": run.started_at,
        "ended (UTC)": run.ended_at,
        "took": lasting(run.duration or _between(run)) or None,
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
    for title, system in (("metrics", False), ("system metrics", True)):
        chosen = [x for x in view.series if x.key.startswith("system/") is system]
        if chosen:
            heading(title)
            rows = [
                (
                    x.key,
                    *(_measured(x.key, v) for v in (x.last,)),
                    x.spark,
                    *(_measured(x.key, v) for v in (x.first, x.low, x.high)),
                    x.points,
                )
                for x in chosen
            ]
            print_table(["key", "last", "curve", "first", "lowest", "highest", "points"], rows, keep=3)
    if run.datasets:
        heading("data")
        print_table(["name", "used for", "digest"], [(d.name, d.context, d.digest) for d in run.datasets])
    if view.files or view.artifacts:
        heading("files")
        print_table(
            ["path", "size", "SHA-256"],
            [(f.path, size(f.size), short(f.sha256 or "", 12)) for f in view.files]
            + [
                (f"{a.type} {a.name} {a.version or ''}".strip() + f" ({a.id})", "", short(a.digest or "", 12))
                for a in view.artifacts
            ],
        )


def _between(run: Any) -> float | None:
    return (run.ended_at - run.started_at).total_seconds() if run.started_at and run.ended_at else None


def _measured(key: str, value: float) -> Any:
    """Bytes with their unit; any other number as it is."""
    return size(int(value)) if key.endswith("bytes") and math.isfinite(value) else value


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
    if len(set(names)) < len(names):  # the same run in two places
        names = [
            f"{place.partition(':')[0]} {name}" for place, name in zip(result.locations, names, strict=True)
        ]
    for section in dict.fromkeys(d.section for d in result.differences):
        same = result.same.get(section, 0)
        heading(section + (f"  ({same} the same)" if same else ""))
        rows = [
            (d.key, *_told_apart(d.values), d.note or "") for d in result.differences if d.section == section
        ]
        print_table(["", *names, "note"], rows)
    if not result.differences:
        click.echo("nothing differs")


def _told_apart(values: Sequence[Any]) -> Sequence[Any]:
    """Numbers that six digits do not tell apart, with all their digits."""
    return (
        [repr(v) if isinstance(v, float) else v for v in values]
        if len({cell(v) for v in values}) == 1
        else values
    )


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
    winners = [run for run, _ in result.winners]
    mattering = [i.param for i in result.importance if any(i.param in run.params for run in winners)][:8]
    ids = [run.id for run in winners]
    heading(
        f"{'highest' if mode == 'max' else 'lowest'} {metric} of {result.runs:,} runs"
        + (
            f" ({result.left_out:,} left out: not ended, or without a finite value)"
            if result.left_out
            else ""
        )
    )
    print_table(
        ["run", "name", metric, *mattering],
        [
            (id, run.name, score, *(_rounded(run.params.get(p)) for p in mattering))
            for id, (run, score) in zip(
                short_ids(ids) if sys.stdout.isatty() else ids, result.winners, strict=True
            )
        ],
        keep=3,
    )
    if result.importance:
        heading(f"which params mattered for {metric}")
        settled = {s.param: s for s in result.settled}
        print_table(
            ["param", "explains", "90 % interval", "best quarter", "tried"],
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
            keep=3,
        )
        click.echo(
            "explains: how much of the runs' ranking the param explains alone; an interval from 0 % shows nothing"
        )
    if result.note:
        click.echo(result.note)


def _rounded(value: Any) -> Any:
    """A number that the platform keeps as text, as a number."""
    from ..reading import number

    as_number = number(value) if isinstance(value, str) else None
    return value if as_number is None or cell(as_number) == value else as_number


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
        heading(f"{node.kind} {_named(node)}" + _facts(node, whole=True))
        _print_branch(node, result.upstream, "came from", 1, set())
        _print_branch(node, result.downstream, "went into", 1, set())


def _print_branch(
    node: Any, follow: Callable[[Any], list[tuple[Any, str]]], word: str, depth: int, seen: set[Any]
) -> None:
    for other, link in follow(node):
        click.echo(f"{'  ' * depth}{word} {other.kind} {_named(other)} [{link}]{_facts(other)}")
        if other.key not in seen:
            seen.add(other.key)
            _print_branch(other, follow, word, depth + 1, seen)


def _named(node: Any) -> str:
    """The label, and for a run the id, which alone names it for sure."""
    return f"{node.label} ({node.id})" if node.kind == "run" and node.label != node.id else str(node.label)


def _facts(node: Any, whole: bool = False) -> str:
    facts = {k: v[:16].replace("T", " ") + " UTC" if k == "started" else v for k, v in node.facts.items()}
    return "".join(f", {k} {v if whole else short(v, 24)}" for k, v in facts.items())
