"""The `--where` language: a Python expression over one run.

    status == "finished" and params["lr"] > 1e-4 and metrics["eval/accuracy"] >= 0.9
    tags.owner == "ml" and started_at >= "2026-01-01" and not deleted and "best" in labels
    matches(name, "digits-*")

Names: `id name status user experiment group job_type started_at ended_at deleted labels`, and the
mappings `params`, `metrics` (the summary) and `tags`, by attribute or by `["key"]`. Operators:
`== != < <= > >= in, not in, and, or, not`. A missing key is `None`; comparing `None` with `<`
is false. Times compare with ISO 8601 text. Nothing is evaluated as Python: the expression's
tree is read, and only these forms are known.
"""

from __future__ import annotations

import ast
import fnmatch
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from .errors import ConfigError
from .model import Run

_FIELDS = (
    "id", "name", "user", "group", "job_type", "started_at", "ended_at", "deleted", "labels",
)  # fmt: skip
_MAPPINGS = {"params": "params", "metrics": "summary", "tags": "tags"}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: b is not None and a in b,
    ast.NotIn: lambda a, b: b is None or a not in b,
}
_ORDERING = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


Keys = frozenset[str] | None
"""Keys of a mapping; None is all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What of each run is looked at; a list of runs need not read the rest (`Source.listed`).

    `fields` are names of `Run`; of its mappings `params`, `summary` and `tags` it names the keys.
    """

    fields: frozenset[str] = frozenset()
    params: Keys = frozenset()
    summary: Keys = frozenset()
    tags: Keys = frozenset()

    def __or__(self, other: Parts) -> Parts:
        return Parts(
            fields=self.fields | other.fields,
            params=_both(self.params, other.params),
            summary=_both(self.summary, other.summary),
            tags=_both(self.tags, other.tags),
        )

    def of(self, run: Run) -> dict[str, Any]:
        """These parts of a run. Equal for a run that was listed and for the run that was read whole."""
        found = {name: getattr(run, name) for name in sorted(self.fields | {"id", "experiment", "status"})}
        for name in ("params", "summary", "tags"):
            mapping, keys = getattr(run, name), getattr(self, name)
            found[name] = mapping if keys is None else {k: v for k, v in mapping.items() if k in keys}
        return found


EVERY_PART = Parts(
    fields=frozenset(field.name for field in fields(Run)) - {"params", "summary", "tags"},
    params=None,
    summary=None,
    tags=None,
)


def _both(a: Keys, b: Keys) -> Keys:
    return None if a is None or b is None else a | b


@dataclass(frozen=True, slots=True)
class Filter:
    """A parsed expression. Adapters may read `tree` to push parts of it down to the platform."""

    text: str
    tree: ast.expr

    @property
    def parts(self) -> Parts:
        """What it looks at."""
        names: set[str] = set()
        keys: dict[str, set[str]] = {name: set() for name in _MAPPINGS}
        for node in ast.walk(self.tree):
            match reference(node):
                case (name, None):
                    names.add(name)
                case (name, key):
                    keys[name].add(key)
        return Parts(
            fields=frozenset(names - {"experiment"}),
            **{_MAPPINGS[name]: frozenset(found) for name, found in keys.items()},
        )

    @property
    def ids(self) -> frozenset[str] | None:
        """The ids that a run must have one of to pass; None where it may have any."""
        tree = self.tree
        for node in tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]:
            match node:
                case ast.Compare(
                    left=ast.Name(id="id"), ops=[ast.Eq()], comparators=[ast.Constant(value=str(id))]
                ):
                    return frozenset({id})
                case ast.Compare(
                    left=ast.Name(id="id"),
                    ops=[ast.In()],
                    comparators=[ast.List(elts=parts) | ast.Tuple(elts=parts)],
                ):
                    if all(isinstance(part, ast.Constant) for part in parts):
                        values = [part.value for part in parts if isinstance(part, ast.Constant)]
                        return frozenset(value for value in values if isinstance(value, str))
        return None

    def __call__(self, run: Run, experiment: str = "") -> bool:
        """Whether the run passes. `experiment` is the name behind the word `experiment`."""
        return bool(_value(self.tree, run, experiment))


def parse(text: str) -> Filter:
    """Raises `ConfigError` that names the part which is not understood."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise ConfigError(
            f"--where {text!r} is not an expression: {error.args[0]}",
            hint='for example: --where \'status == "finished" and metrics["eval/accuracy"] > 0.9\'',
        ) from error
    _check(tree, text)
    return Filter(text, tree)


def reference(node: ast.AST) -> tuple[str, str | None] | None:
    """The name that a node of a `Filter.tree` reads, with the key of a mapping: `("params", "lr")`."""
    match node:
        case ast.Attribute(value=ast.Name(id=name), attr=key) if name in _MAPPINGS:
            return name, key
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str() as key)) if (
            name in _MAPPINGS
        ):
            return name, key
        case ast.Name(id=name) if name in _FIELDS or name in ("status", "experiment"):
            return name, None
    return None


def compare(op: ast.cmpop, a: Any, b: Any) -> bool:
    """Whether `a op b` holds between two values, by the rules of the language."""
    a, b = _alike(a, b)
    if isinstance(op, _ORDERING) and (a is None or b is None):
        return False
    try:
        return _COMPARE[type(op)](a, b)
    except TypeError:
        return False  # values of different types have no order; == and != never raise


def _refuse(node: ast.AST, text: str) -> ConfigError:
    part = ast.get_source_segment(text.strip(), node) or ast.dump(node)
    return ConfigError(
        f"--where does not know {part!r}",
        hint=f"known names: {', '.join((*_FIELDS, 'status', 'experiment', *_MAPPINGS))}, matches(name, 'glob*')",
    )


def _check(node: ast.AST, text: str) -> None:
    match node:
        case ast.BoolOp(values=values):
            for value in values:
                _check(value, text)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            _check(operand, text)
        case ast.Compare(left=left, ops=ops, comparators=rest):
            if any(type(op) not in _COMPARE for op in ops):
                raise _refuse(node, text)
            for part in (left, *rest):
                _check(part, text)
        case ast.Name(id=name) if name in _FIELDS or name in ("status", "experiment"):
            pass
        case ast.Attribute(value=ast.Name(id=name)) if name in _MAPPINGS:
            pass
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str())) if name in _MAPPINGS:
            pass
        case ast.Call(func=ast.Name(id="matches"), args=[subject, ast.Constant(value=str())], keywords=[]):
            _check(subject, text)
        case ast.Constant(value=None | bool() | int() | float() | str()):
            pass
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            for part in parts:
                _check(part, text)
        case _:
            raise _refuse(node, text)


def _value(node: ast.AST, run: Run, experiment: str) -> Any:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            return all(_value(v, run, experiment) for v in values)
        case ast.BoolOp(values=values):
            return any(_value(v, run, experiment) for v in values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand, run, experiment)
        case ast.UnaryOp(operand=operand):
            return -_value(operand, run, experiment)
        case ast.Compare(left=left, ops=ops, comparators=rest):
            values = [_value(part, run, experiment) for part in (left, *rest)]
            return all(compare(op, a, b) for op, a, b in zip(ops, values, values[1:], strict=False))
        case ast.Name(id="status"):
            return run.status.value
        case ast.Name(id="experiment"):
            return experiment
        case ast.Name(id=name):
            return getattr(run, name)
        case ast.Attribute(value=ast.Name(id=name), attr=key):
            return _mapping(run, name).get(key)
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=key)):
            return _mapping(run, name).get(str(key))
        case ast.Call(args=[subject, ast.Constant(value=pattern)]):
            return fnmatch.fnmatchcase(str(_value(subject, run, experiment) or ""), str(pattern))
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part, run, experiment) for part in parts]
        case ast.Constant(value=value):
            return value
    raise AssertionError(ast.dump(node))  # _check has seen every form


def _mapping(run: Run, name: str) -> Mapping[str, Any]:
    mapping: Mapping[str, Any] = getattr(run, _MAPPINGS[name])
    return mapping


def _alike(a: Any, b: Any) -> tuple[Any, Any]:
    """Make text comparable with a time, and a number kept as text (MLflow params) with a number."""
    for one, other, swap in ((a, b, False), (b, a, True)):
        if isinstance(other, str) and isinstance(one, datetime | int | float) and not isinstance(one, bool):
            try:
                other = _time(other) if isinstance(one, datetime) else float(other)
            except ValueError:
                continue
            return (other, one) if swap else (one, other)
    return a, b


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
