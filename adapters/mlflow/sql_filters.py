"""What of a `--where` filter an MLflow database can decide.

A condition here lets through at least the runs that pass the filter, and leaves out as many of the
others as it can; the caller filters again. So what SQL would judge otherwise than the filter
language (numbers kept as text, patterns, negations) is simply left out of the condition.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from ...filters import Filter, compare, reference
from ...model import Status
from .records import ESCAPED, LARGEST, ms_of, status_of

WORDS = ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")
MIRROR: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.Eq, ast.NotEq: ast.NotEq, ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE,
}  # fmt: skip
BOUND: dict[type[ast.cmpop], str] = {
    ast.Eq: "=", ast.Lt: "<=", ast.LtE: "<=", ast.Gt: ">=", ast.GtE: ">=",
}  # fmt: skip
NOTHING = "1 = 0"


class Condition:
    """The condition over the row `runs`, as SQL whose parameters begin with number `first`."""

    def __init__(self, where: Filter, experiment: str, first: int) -> None:
        self.parameters: list[Any] = []
        self._experiment = experiment
        self._first = first
        self.sql = self._of(where.tree)
        """None where nothing can be said."""

    def _bind(self, value: Any) -> str:
        self.parameters.append(value)
        return f"${self._first + len(self.parameters) - 1}"

    def _of(self, node: ast.AST) -> str | None:
        match node:
            case ast.BoolOp(op=ast.And(), values=values):
                known = [sql for value in values if (sql := self._of(value)) is not None]
                return " AND ".join(f"({sql})" for sql in known) or None
            case ast.BoolOp(values=values):
                before = len(self.parameters)
                parts = [self._of(value) for value in values]
                if any(part is None for part in parts):
                    del self.parameters[before:]
                    return None
                return " OR ".join(f"({part})" for part in parts)
            case ast.Compare(left=left, ops=ops, comparators=rest):
                pairs = zip((left, *rest), ops, rest, strict=False)
                known = [sql for a, op, b in pairs if (sql := self._pair(a, op, b)) is not None]
                return " AND ".join(f"({sql})" for sql in known) or None
            case ast.Name(id="deleted"):
                return self._deleted(bool)
            case ast.UnaryOp(op=ast.Not(), operand=ast.Name(id="deleted")):
                return self._deleted(lambda deleted: not deleted)
        return None

    def _pair(self, a: ast.expr, op: ast.cmpop, b: ast.expr) -> str | None:
        if (name := reference(a)) and (values := constants(b)) is not None:
            return self._compared(name, op, *values)
        if (name := reference(b)) and (values := constants(a)) is not None and type(op) in MIRROR:
            return self._compared(name, MIRROR[type(op)](), *values)
        return None

    def _compared(self, name: tuple[str, str | None], op: ast.cmpop, value: Any, listed: bool) -> str | None:
        def passes(own: Any) -> bool:
            return compare(op, own, value)

        match name:
            case ("experiment", None):
                return None if passes(self._experiment) else NOTHING
            case ("deleted", None):
                return self._deleted(passes)
            case ("status", None):
                return self._status(passes)
            case ("started_at" | "ended_at" as field, None) if not listed:
                return self._time("start_time" if field == "started_at" else "end_time", op, value)
            case ("metrics", str(key)) if not listed:
                return self._metric(key, op, value)
        texts = texts_of(op, value, listed)
        if texts is None:
            return None
        match name:
            case ("id", None):
                return self._among("runs.run_uuid", texts)
            case ("name", None):  # without one, MLflow's tag of the name counts
                return f"{self._among('runs.name', texts)} OR runs.name IS NULL OR runs.name = ''"
            case ("params", str(key)) if sendable(key):
                return self._exists("params", [key], texts)
            case ("tags", str(key)) if sendable(key):
                return self._exists("tags", [key, ESCAPED + key], texts)
        return None

    def _deleted(self, passes: Callable[[Any], bool]) -> str | None:
        allowed = (passes(True), passes(False))
        if all(allowed):
            return None
        if not any(allowed):
            return NOTHING
        if allowed[0]:
            return "runs.lifecycle_stage = 'deleted'"
        return "runs.lifecycle_stage IS NULL OR runs.lifecycle_stage <> 'deleted'"

    def _status(self, passes: Callable[[Any], bool]) -> str | None:
        allowed = [word for word in WORDS if passes(status_of(word).value)]
        told = f"runs.status IN ({', '.join(repr(word) for word in allowed)})" if allowed else NOTHING
        if not passes(Status.RUNNING.value):
            return told
        others = ", ".join(repr(word) for word in WORDS if word not in allowed)  # any other word is running
        return f"runs.status IS NULL OR runs.status NOT IN ({others})" if others else None

    def _time(self, column: str, op: ast.cmpop, value: Any) -> str | None:
        if type(op) not in BOUND or not isinstance(value, str):
            return None
        try:
            time = datetime.fromisoformat(value)
            ms = ms_of(time if time.tzinfo else time.replace(tzinfo=UTC))
        except (ValueError, OverflowError):
            return None
        assert ms is not None
        if isinstance(op, ast.Eq):
            return f"runs.{column} = {self._bind(ms)}"
        up = isinstance(op, ast.Lt | ast.LtE)  # a millisecond more than the floor
        return f"runs.{column} {BOUND[type(op)]} {self._bind(ms + up)}"

    def _metric(self, key: str, op: ast.cmpop, value: Any) -> str | None:
        if type(op) not in BOUND or isinstance(value, bool) or not isinstance(value, int | float):
            return None
        try:
            bound = float(value)
        except OverflowError:
            return None
        if bound != bound or not sendable(key):
            return None
        bound = min(max(bound, -LARGEST), LARGEST)  # infinities are stored so
        # NaN is stored as 0, and has no order.
        return (
            "EXISTS (SELECT 1 FROM latest_metrics m WHERE m.run_uuid = runs.run_uuid "
            f"AND m.key = {self._bind(key)} AND NOT m.is_nan AND m.value {BOUND[type(op)]} {self._bind(bound)})"
        )

    def _exists(self, table: str, keys: list[str], texts: list[str]) -> str:
        return (
            f"EXISTS (SELECT 1 FROM {table} t WHERE t.run_uuid = runs.run_uuid "
            f"AND {self._among('t.key', keys)} AND {self._among('t.value', texts)})"
        )

    def _among(self, column: str, texts: list[str]) -> str:
        return f"{column} IN ({', '.join(self._bind(text) for text in texts)})" if texts else NOTHING


def constants(node: ast.expr) -> tuple[Any, bool] | None:
    """A constant, or a list of constants; and whether it is a list."""
    match node:
        case ast.Constant(value=value):
            return value, False
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number, False
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            values = [part.value for part in parts if isinstance(part, ast.Constant)]
            return (values, True) if len(values) == len(parts) else None
    return None


def texts_of(op: ast.cmpop, value: Any, listed: bool) -> list[str] | None:
    """The texts that a text must be one of, where the comparison says so."""
    if isinstance(op, ast.Eq) and not listed:
        values = [value]
    elif isinstance(op, ast.In) and listed and len(value) <= 100:
        values = value
    else:
        return None
    plain = all(isinstance(text, str) and text and sendable(text) for text in values)
    return list(values) if plain else None


def sendable(text: str) -> bool:
    """Whether every database takes the text as a parameter."""
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)
