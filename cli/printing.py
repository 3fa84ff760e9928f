"""Results for people and for programs. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise, takewhile
from typing import Any

import click

from ..model import to_builtins


def emit_json(data: Any) -> None:
    """JSON on stdout. Times are ISO 8601; NaN and the infinities are tagged as in `model.to_builtins`.

    Text is written as it is; where any of it is not valid Unicode, all that is not ASCII is escaped.
    """
    plain = to_builtins(data)
    text = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False, default=str)
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        text = json.dumps(plain, indent=1, allow_nan=False, default=str)
    click.echo(text)


def heading(text: str) -> None:
    click.echo()
    click.secho(_printable(text), bold=True)


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[Any]], *, titles: bool = True, keep: int | None = None
) -> int:
    """A table; on a terminal not wider than that.

    Columns after the first `keep` are left out where there is no room for them; the others are
    folded. Returns how many were left out.
    """
    numeric = [
        bool(rows) and all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(header))
    ]
    shown = [[cell(value) for value in row] for row in rows]
    widths = [
        max((_width(line) for row in (*shown, header if titles else ()) if row for line in row[i].split("\n")), default=0)
        for i in range(len(header))
    ]  # fmt: skip
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    count = len(header)
    while room and keep is not None and count > keep and _total(widths[:count]) > room:
        count -= 1
    if (room and _total(widths[:count]) > room) or any("\n" in text for row in shown for text in row):
        _print_folded(header[:count], [row[:count] for row in shown], numeric, titles, room)
        return len(header) - count
    lines = [[_aligned(t, w, n) for t, w, n in zip(row, widths, numeric, strict=True)] for row in shown]
    if titles:
        head = [_aligned(t, w, n) for t, w, n in zip(header, widths, numeric, strict=True)]
        click.secho((_GAP.join(head[:count])).rstrip(), bold=True)
        click.echo("─" * _total(widths[:count]))
    click.echo("".join(_GAP.join(line[:count]).rstrip() + "\n" for line in lines), nl=False)
    return len(header) - count


_GAP = "   "


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _aligned(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space


def _print_folded(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: Sequence[bool],
    titles: bool,
    room: int | None,
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD if titles else None, show_header=titles, pad_edge=False)
    for name, right in zip(header, numeric, strict=False):
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=room or 10_000).print(table)


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


def lasting(seconds: float | None) -> str:
    """A duration as people read it."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def short_ids(ids: Sequence[str]) -> list[str]:
    """Beginnings of ids: long enough to tell these apart, and most probably any others, too.

    A run can be named by eight or more characters (`reading.find_run`).
    """
    ordered = sorted(set(ids))
    common = (
        sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))
        for one, other in pairwise(ordered)
    )
    length = max(8, max(common, default=0) + 5)
    return [id if len(id) <= length + 3 else id[:length] for id in ids]


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
