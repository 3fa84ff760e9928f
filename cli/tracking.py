"""`outgrow sync` and `outgrow init`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from pathlib import Path

import click

from .. import config as configuration
from ..errors import ConfigError
from ..locations import parse

STARTING_FILE = """\
# outgrow. Every setting is here; those commented out show their default or an example.
# Credentials never stand here: they come from each platform's own place (environment
# variables, netrc, login files).

[tracking]
# Where every run goes. Add a second location during a move, remove the first one later.
to = ["mlflow:sqlite:///mlflow.db"]
# to = ["mlflow:https://mlflow.example.org", "wandb:team/project"]
# journal = ".outgrow/journal"   # local folder that is written first, relative to this file
# delivery = "process"           # "off": only `outgrow sync` delivers (air-gapped, HPC)
# interval = 1.0                 # seconds between two deliveries of a running run
# finish_timeout = 30.0          # seconds that finish() waits for delivery
# linger = 300.0                 # seconds that delivery goes on trying after the last run
# system_interval = 15.0         # seconds between two samples of system metrics; 0: none
# environment = ["CUDA_*"]       # environment variables to record; none by default
# diff_limit = 1000000           # bytes of uncommitted difference to keep; 0: none
# keep_days = 7                  # delivered journals are removed after so many days; without it never
# ranks = "main"                 # "all": the ranks of a machine log to one run

[policy]
# What makes a run worth keeping. A broken rule is an error, a warning, or nothing ("off").
level = "warn"
required_tags = ["project", "owner", "intent"]
# name = "{project}-{intent}-{*}"          # {tag}: that tag's value, {*}: any text
# allowed = { intent = ["baseline", "sweep", "candidate"] }
# required_metrics = ["eval/accuracy"]
# required_artifacts = ["model", "preprocessor", "split", "seed", "code", "environment"]
# levels = { required_tags = "error" }     # by rule: name, required_tags, allowed, required_metrics, required_artifacts

# [[policy.override]]                      # other rules for some runs
# where = { intent = "sweep" }
# required_artifacts = ["seed"]

[retention]
# What `outgrow retain` may propose for deletion; it never deletes.
# promotion_window_days = 90     # a run that ended later keeps everything
# keep_last = 10                 # newest runs of each experiment that keep everything
# keep_best = 3                  # best runs of each sweep by `metric` that keep everything
# metric = "eval/accuracy"
# mode = "max"                   # or "min"
# metadata_after_days = 1000     # older runs lose their record too; without it never

[advise]
# Above these an embedded MLflow is usually outgrown (`outgrow advise`).
# engineers = 3
# runs_per_quarter = 500
# active_experiments = 30
# list_seconds = 1.0
# curve_seconds = 1.0
# growth = 2.0
# needs = ["audit-trail"]        # what the team needs beyond it

[cards]
# What model and dataset cards say beyond the tracked facts (`outgrow card`).
# front = { license = "apache-2.0" }
# show = ["urls"]                # private facts that may be published: user, host, paths, urls
# templates = "cards"            # folder of templates that go before the built-in ones
# sections = { "Contact" = "ml@example.org" }
# required = ["license"]         # what `outgrow card --check` demands
"""


@click.command(short_help="Write a commented configuration to start from.")
@click.option("--show", is_flag=True, help="Print it instead of writing it.")
def init(show: bool) -> None:
    """Write outgrow.toml, with every setting explained, into the current folder."""
    if show:
        click.echo(STARTING_FILE, nl=False)
        return
    path = Path(configuration.FILE_NAME)
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(STARTING_FILE)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists already", hint="outgrow init --show prints a fresh one") from error
    click.echo(f"wrote {path.resolve()}", err=True)


@click.command(short_help="Deliver what is still in the local journals.")
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
@click.option("--to", multiple=True, help="Deliver to this location instead; may be repeated.")
@click.option("--ended", is_flag=True, help="Take runs of other machines that said no goodbye as ended.")
@click.option("--clean", is_flag=True, help="Then remove the journals that no location needs any more.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def sync(folders: tuple[Path, ...], to: tuple[str, ...], ended: bool, clean: bool, as_json: bool) -> None:
    """Deliver the journals in FOLDERS (the configured ones by default) to the locations that they name.

    Repeating it adds nothing twice. Works on journals copied from another machine. --clean removes
    a journal only where its run has ended and every location (its own, the configured, those of
    --to) has all of it and refused nothing, for as long as `[tracking] keep_days` says.
    """
    from ..tracking.cleaning import clean as cleaned
    from ..tracking.spawn import public_locations
    from ..tracking.sync import find
    from ..tracking.sync import sync as deliver

    settings = configuration.read()
    wanted = [folder.resolve() for folder in folders] or [settings.journal]
    journals = [] if not folders and not settings.journal.exists() else find(wanted)
    with contextlib.chdir(settings.base):
        reports = deliver(journals, settings, to=to, ended=ended)
    states = [sink for report in reports for sink in report.sinks]
    delivered = sum(sink.delivered for sink in states)
    removed = []
    if clean:
        needed = {*public_locations(settings), *(parse(text).public for text in to)}
        removed = cleaned(journals, needed, settings.tracking.keep_days or 0.0)
    if as_json:
        runs = [
            {
                "run": report.folder.name if report.folder else None,
                "sinks": [dataclasses.asdict(s) for s in report.sinks],
            }
            for report in reports
        ]
        told = {"complete": delivered == len(states), "runs": runs}
        if clean:
            told["removed"] = [folder.name for folder in removed]
        click.echo(json.dumps(told, indent=2))
    else:
        for report in reports:
            for sink in report.sinks:
                if not sink.delivered or sink.rejected:
                    click.echo(f"{report.folder.name if report.folder else ''}  {sink}")
        click.echo(f"{delivered} of {len(states)} deliveries complete, {len(reports)} runs")
        if clean:
            click.echo(f"{len(removed)} of {len(journals)} journals removed")
    if delivered < len(states):
        sys.exit(3 if delivered else 4)
    if any(sink.rejected for sink in states):
        sys.exit(1)
