"""`outgrow demo`: train, track, plan, copy, kill, resume and check, on real local runs."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from ..errors import OutgrowError


def run(folder: Path, console: Console) -> list[str]:
    """Run every step in `folder`; what was found wrong, nothing where all is well.

    Raises `ConfigError` for a folder that the demo did not make.
    """
    from .stage import Stage
    from .steps import STEPS

    stage = Stage(folder.resolve(), console)
    stage.prepare()
    began = time.monotonic()
    with stage.cleanup:
        for number, step in enumerate(STEPS, 1):
            start = time.monotonic()
            console.print(f"[bold]{number}/{len(STEPS)} {step.title}[/bold]")
            try:
                for line in step.run(stage):
                    console.print(f"  {line.strip()}", markup=False, highlight=False, soft_wrap=True)
            except (OutgrowError, OSError, KeyError) as error:
                stage.expect(False, f"{type(error).__name__}: {error}")
            console.print(f"  {time.monotonic() - start:.1f} s", style="dim")
            if stage.findings:
                break  # what follows builds on it
    _where_to_look(stage.folder, console)
    outcome = "All checks passed" if not stage.findings else f"{len(stage.findings)} checks failed"
    style = "bold red" if stage.findings else "bold green"
    console.print(f"{outcome} in {time.monotonic() - began:.0f} s", style=style)
    return stage.findings


def _where_to_look(folder: Path, console: Console) -> None:
    places = [
        (
            "first/mlflow.db",
            "the tracked runs; look with: mlflow ui --backend-store-uri sqlite:///first/mlflow.db",
        ),
        ("archive/", "their archive: Parquet and files, readable with pandas or DuckDB"),
        (
            "second/mlflow.db",
            "their copy; look with: mlflow ui --backend-store-uri sqlite:///second/mlflow.db",
        ),
        ("report.html", "the first MLflow on one page"),
        ("cards/", "a model card and a dataset card, with their sources in card.json"),
        (".outgrow/", "the journals that live logging wrote first, and the ledger of the copies"),
        ("commands.log", "every command of the demo with its output"),
    ]
    console.print(f"\n[bold]Where to look[/bold], in {folder}", soft_wrap=True)
    for path, words in places:
        if (folder / path).exists():
            console.print(f"  {path:18} {words}", markup=False, highlight=False, soft_wrap=True)
