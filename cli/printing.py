"""Results for people and for programs. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from ..model import to_builtins


def emit_json(data: Any) -> None:
    """JSON on stdout. Times are ISO 8601; NaN and the infinities are tagged as in `model.to_builtins`."""
    click.echo(json.dumps(to_builtins(data), indent=1, ensure_ascii=False, allow_nan=False, default=str))


def heading(text: str) -> None:
    click.echo()
    click.secho(_printable(text), bold=True)


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, titles: bool = True) -> None:
    """A table as wide as the terminal, or as it needs where the output is no terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD if titles else None, show_header=titles, pad_edge=False)
    for i, name in enumerate(header):
        numeric = bool(rows) and all(isinstance(row[i], int | float | None) for row in rows)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row))
    console = Console()
    if not console.is_terminal:
        console.width = 10_000
    console.print(table)


def cell(value: Any) -> str:
    """A value as a table shows it: six digits of a float, whole seconds of a time."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else repr(value)
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return _printable(str(value))


def _printable(text: str) -> str:
    """Without control characters: names come from a platform, and a terminal obeys escapes."""
    return "".join(c if c.isprintable() or c in "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def size(count: int | None) -> str:
    """Bytes as people read them."""
    if count is None:
        return ""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
