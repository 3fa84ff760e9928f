"""Execution of GraphQL documents over plain Python data.

A node is a dict of field → value, or → callable taking the field's arguments; `__typename` decides
which fragments apply. A field that a node does not have is an error, so that a gap is noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from graphql import parse
from graphql.language import ast

INTERFACES = {"ArtifactSequence": {"ArtifactCollection"}, "ArtifactPortfolio": {"ArtifactCollection"}}


class FieldError(Exception):
    """An error that the server answers with (`errors` of the response)."""

    def __init__(self, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.status = status


parsed = lru_cache(maxsize=256)(parse)


def execute(query: str, variables: dict[str, Any], roots: dict[str, dict[str, Any]]) -> dict[str, Any]:
    document = parsed(query)
    operation = next(d for d in document.definitions if isinstance(d, ast.OperationDefinitionNode))
    fragments = {d.name.value: d for d in document.definitions if isinstance(d, ast.FragmentDefinitionNode)}
    given = dict(variables or {})
    for definition in operation.variable_definitions or ():
        name = definition.variable.name.value
        if name not in given:
            default = definition.default_value
            given[name] = None if default is None else _value(default, {})
    root = roots[operation.operation.value]
    return _Execution(given, fragments).select(operation.selection_set, root)


def operation_name(query: str) -> str:
    document = parsed(query)
    operation = next(d for d in document.definitions if isinstance(d, ast.OperationDefinitionNode))
    return operation.name.value if operation.name else ""


class _Execution:
    def __init__(self, variables: dict[str, Any], fragments: dict[str, Any]) -> None:
        self.variables, self.fragments = variables, fragments

    def select(self, selection: Any, node: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for part in selection.selections:
            if not self._included(part):
                continue
            if isinstance(part, ast.FieldNode):
                name = part.name.value
                alias = part.alias.value if part.alias else name
                value = self._field(part, name, node)
                if isinstance(value, dict) and isinstance(result.get(alias), dict):
                    result[alias] |= value
                else:
                    result[alias] = value
                continue
            if isinstance(part, ast.FragmentSpreadNode):
                part = self.fragments[part.name.value]
            kind = part.type_condition.name.value if part.type_condition else None
            own = node.get("__typename")
            if kind is None or own is None or kind == own or kind in INTERFACES.get(own, ()):
                for key, value in self.select(part.selection_set, node).items():
                    if isinstance(value, dict) and isinstance(result.get(key), dict):
                        result[key] |= value
                    else:
                        result[key] = value
        return result

    def _field(self, part: ast.FieldNode, name: str, node: dict[str, Any]) -> Any:
        if name not in node:
            raise FieldError(f'Cannot query field "{name}" on type "{node.get("__typename")}"')
        value = node[name]
        if callable(value):
            value = value(**{a.name.value: _value(a.value, self.variables) for a in part.arguments})
        return self._shape(part, value)

    def _shape(self, part: ast.FieldNode, value: Any) -> Any:
        if part.selection_set is None or value is None:
            return value
        if isinstance(value, list):
            return [self._shape(part, item) for item in value]
        return self.select(part.selection_set, value)

    def _included(self, part: Any) -> bool:
        for directive in part.directives or ():
            told = bool(_value(directive.arguments[0].value, self.variables))
            if (directive.name.value == "include") != told:
                return False
        return True


def _value(node: Any, variables: dict[str, Any]) -> Any:
    match node:
        case ast.VariableNode():
            return variables.get(node.name.value)
        case ast.IntValueNode():
            return int(node.value)
        case ast.FloatValueNode():
            return float(node.value)
        case ast.ListValueNode():
            return [_value(v, variables) for v in node.values]
        case ast.ObjectValueNode():
            return {f.name.value: _value(f.value, variables) for f in node.fields}
        case ast.NullValueNode():
            return None
    return node.value


def connection(
    items: list[Any], node: Callable[[Any], dict[str, Any]], first: int | None, after: str | None, **more: Any
) -> dict[str, Any]:
    """A Relay connection over a list; the cursor is a position."""
    start = int(after) if after else 0
    end = len(items) if first is None else min(len(items), start + first)
    return {
        "totalCount": len(items),
        "pageInfo": {"__typename": "PageInfo", "endCursor": str(end), "hasNextPage": end < len(items)},
        "edges": [
            {"cursor": str(start + i + 1), "node": node(item), **({} if not more else more["edge"](item))}
            for i, item in enumerate(items[start:end])
        ],
    }
