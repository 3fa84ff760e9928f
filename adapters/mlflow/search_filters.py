"""What of a `--where` filter MLflow's own search language can decide (`mlflow.search_runs`).

As in `sql_filters`, what is sent lets through at least the runs that pass, and the caller filters
again. The language knows only AND, and quotes nothing: a text with a quote or a backtick is not sent.
A name is not sent either: MLflow looks for it in a tag, which need not be the name that it shows.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from ...filters import Filter, compare, reference
from ..base import RESERVED
from .records import LARGEST, NATIVE, status_of
from .sql_filters import BOUND, MIRROR, WORDS, constants, texts_of

_PLAIN = re.compile(r"[\w /.:,;@+()=#-]+", re.ASCII)


def search_filter(where: Filter) -> str:
    """The filter string; empty where nothing of the filter can be said in it."""
    return " AND ".join(dict.fromkeys(_terms(where.tree)))


def _terms(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            for value in values:
                yield from _terms(value)
        case ast.Compare(left=left, ops=ops, comparators=rest):
            for a, op, b in zip((left, *rest), ops, rest, strict=False):
                if (name := reference(a)) and (known := constants(b)) is not None:
                    yield from _compared(name, op, *known)
                elif (name := reference(b)) and (known := constants(a)) is not None and type(op) in MIRROR:
                    yield from _compared(name, MIRROR[type(op)](), *known)


def _compared(name: tuple[str, str | None], op: ast.cmpop, value: Any, listed: bool) -> Iterator[str]:
    if name == ("status", None):
        for word in WORDS:
            if not compare(op, status_of(word).value, value):
                yield f"attributes.status != '{word}'"
        return
    match name:
        case ("metrics", str(key)) if _PLAIN.fullmatch(key) and not listed and (number := _number(value)):
            if type(op) in BOUND:
                yield f"metrics.`{key}` {BOUND[type(op)]} {number}"
            return
        case ("params", str(key)) if _PLAIN.fullmatch(key):
            subject = f"params.`{key}`"
        case ("tags", str(key)) if _PLAIN.fullmatch(key) and not key.startswith((NATIVE, RESERVED)):
            subject = f"tags.`{key}`"
        case _:
            return
    if (texts := texts_of(op, value, listed)) is not None and len(texts) == 1 and _PLAIN.fullmatch(texts[0]):
        yield f"{subject} = '{texts[0]}'"


def _number(value: Any) -> str | None:
    """A number as the language reads it: no exponent, no infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > min(LARGEST, 1e15):
        return None
    text = repr(float(value))
    return None if "e" in text or "n" in text else text
