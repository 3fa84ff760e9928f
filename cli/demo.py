"""`outgrow demo`."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command(short_help="Train, track, copy and check on real local runs. No account, no network.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-outgrow"),
    show_default=True,
    help="Where everything goes. An earlier demo's folder is cleared first.",
)
def demo(folder: Path) -> None:
    """Train a sweep of scikit-learn models, track it, and move its whole history twice.

    Into an archive and from there to a second MLflow server; the copy is killed in the middle and
    resumed, and every point and file is checked. Takes about a minute or two.
    """
    try:
        import sklearn  # noqa: F401
    except ModuleNotFoundError as error:
        from ..errors import MissingSDK

        raise MissingSDK("the demo trains with scikit-learn", hint="pip install scikit-learn") from error
    from rich.console import Console

    from ..demo import run

    if run(folder, Console(highlight=False)):
        sys.exit(1)
