"""The `outgrow` command. Each subcommand's module is imported only when it is run.

Results go to stdout, progress and messages to stderr. Exit codes: 0 clean; 1 findings;
2 usage or configuration; 3 partial, a retry may help; 4 nothing could be done.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from .. import __version__
from ..errors import OutgrowError
from .quick import spare_pandas

# name → (module of this package, one line of help). Kept here so that --help imports none of them.
COMMANDS: dict[str, tuple[str, str]] = {
    "platforms": ("places", "The platforms: what can be read and written, SDK and credentials found or not."),
    "demo": ("demo", "Train, track, copy and check on real local runs. No account, no network."),
    "plan": ("migrate", "Say what a copy would do: counts, losses, collisions, time. Writes nothing."),
    "copy": ("migrate", "Copy history from one location to another. Resumable; repeating it adds nothing."),
    "check": ("migrate", "Read the target back and compare it with the source."),
    "status": ("migrate", "What copies have been made from here, run by run."),
    "where": ("migrate", "Where a run was copied to, or came from."),
    "init": ("tracking", "Write a commented configuration to start from."),
    "sync": ("tracking", "Deliver what is still in the local journals."),
    "runs": ("answers", "List runs."),
    "show": ("answers", "Show one run whole."),
    "diff": ("answers", "What differs between runs, most likely explanation first."),
    "best": ("answers", "The winners, and which params mattered."),
    "lineage": ("answers", "What something came from, and what came from it."),
    "audit": ("upkeep", "Which runs could be reproduced or redeployed, and what the others lack."),
    "retain": ("upkeep", "What may be deleted, by policy. Deletes nothing without --apply HASH."),
    "advise": ("upkeep", "Is it time to move to another platform?"),
    "report": ("upkeep", "One self-contained HTML page about a location or a copy."),
    "card": ("cards", "Write model cards and dataset cards from tracked facts."),
}


_SHORT = frozenset({"answers", "upkeep"})
"""Modules whose commands answer in a second or two, and work with Arrow."""


def _asks_help(ctx: click.Context, arguments: list[str]) -> bool:
    return any(name in arguments for name in ctx.help_option_names)


class LazyGroup(click.Group):
    """A group whose commands are listed from `COMMANDS` and imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[cmd_name][0]}", __name__)
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and COMMANDS.get(str(name), ("",))[0] in _SHORT and not _asks_help(ctx, rest):
            spare_pandas()
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OutgrowError as error:
            click.echo(f"outgrow: {error}", err=True)
            sys.exit(error.exit_code)


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="outgrow")
def main() -> None:
    """Track ML experiments on one platform, move their whole history to another, and prove what was copied.

    A location is PLATFORM:REST, for example mlflow:sqlite:///mlflow.db or archive:./history.
    """
