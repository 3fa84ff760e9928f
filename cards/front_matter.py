"""The YAML head of a card: read, owned key by key, checked with line numbers, written back.

Comments, order and keys of others are kept as they are. A key belongs to us while its value is
the one that we wrote last (`card.json` remembers it); once a person has changed it, it is theirs.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from ..errors import Corrupt
from . import vocabulary

_FENCE = re.compile(r"\A---[ \t]*\r?\n(.*?)(?:^|\r?\n)---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_REPO_ID = re.compile(r"^(?:[\w][\w.-]{0,95}/)?[\w][\w.-]{0,95}$")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in the front matter. `line` counts from 1 in the card's file."""

    line: int
    key: str
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        hint = f"; did you mean {self.suggestion!r}?" if self.suggestion else ""
        return f"line {self.line}: {self.key}: {self.message}{hint}"


def split(text: str) -> tuple[str | None, str]:
    """The YAML between the fences (None: there is none) and the body after it."""
    found = _FENCE.match(text)
    return (found.group(1), text[found.end() :]) if found else (None, text)


def load(text: str | None) -> CommentedMap:
    """The mapping behind a YAML text, with comments. Raises `Corrupt` where it is no mapping."""
    try:
        data = _yaml().load(text) if text and text.strip() else CommentedMap()
    except YAMLError as error:
        raise Corrupt(
            f"the card's front matter is not YAML: {str(error).splitlines()[0]}",
            hint="mend it by hand, or move the card away to have a new one written",
        ) from error
    if data is None:
        return CommentedMap()
    if not isinstance(data, CommentedMap):
        raise Corrupt("the card's front matter is not a mapping", hint="it must be lines of KEY: VALUE")
    return data


def dump(data: Mapping[str, Any]) -> str:
    """YAML text that reads back as the same values under YAML 1.1 and 1.2 alike."""
    stream = io.StringIO()
    _yaml().dump(data, stream)
    return stream.getvalue() if data else ""


def join(data: Mapping[str, Any], body: str) -> str:
    return f"---\n{dump(data)}---\n{body}" if data else body


class _Representer(RoundTripRepresenter):  # type: ignore[misc]
    """Writes `1e-05` as `1.0e-05`, which YAML 1.1 too reads as a number."""

    def represent_float_11(self, value: float) -> Any:
        text = repr(value)
        mantissa, e, exponent = text.partition("e")
        if e and "." not in mantissa:
            text = f"{mantissa}.0e{exponent}"
        return self.represent_scalar("tag:yaml.org,2002:float", text)


_Representer.add_representer(float, _Representer.represent_float_11)


def _yaml() -> YAML:
    yaml_ = YAML(typ="rt")
    yaml_.Representer = _Representer
    yaml_.width = 4096
    yaml_.preserve_quotes = True
    yaml_.indent(mapping=2, sequence=2, offset=0)
    return yaml_


def plain(value: Any) -> Any:
    """A value as YAML may hold it: NumPy scalars unwrapped, NaN and infinities as text, None left out.

    Text that YAML 1.1 would read as something else (`no`, `1e3`, `2026-01-01`) is quoted.
    """
    if hasattr(value, "item") and not isinstance(value, str | bytes) and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else DoubleQuotedScalarString(repr(value))
    if isinstance(value, int):
        return value
    if isinstance(value, datetime | date):
        return DoubleQuotedScalarString(value.isoformat())
    if isinstance(value, Mapping):
        return CommentedMap({plain(str(k)): plain(v) for k, v in value.items() if v is not None})
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return CommentedSeq([plain(v) for v in value if v is not None])
    text = str(value)
    return text if _reads_as_itself(text) else DoubleQuotedScalarString(text)


def _reads_as_itself(text: str) -> bool:
    try:
        return bool(yaml.safe_load(f"a: {text}\n") == {"a": text}) and "\n" not in text
    except yaml.YAMLError:
        return False


def comparable(value: Any) -> Any:
    """Plain Python data, to compare values whatever their quotes."""
    if isinstance(value, Mapping):
        return {str(k): comparable(v) for k, v in value.items()}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Sequence):
        return [comparable(v) for v in value]
    return value


def update(
    current: CommentedMap, ours: Mapping[str, Any], last: Mapping[str, Any]
) -> tuple[CommentedMap, list[str]]:
    """Write our values into the keys that are ours; the keys that people have taken are returned.

    `last` is what we wrote the time before. A key of ours that has no value any more is removed.
    """
    theirs = []
    for key in {**last, **ours}:
        value = plain(ours.get(key))
        here = comparable(current.get(key))
        if key in current and here != comparable(last.get(key)) and here != comparable(value):
            theirs.append(key)
        elif value is None or value == [] or value == {}:
            current.pop(key, None)
        elif here != comparable(value):
            current[plain(key)] = value
    return current, theirs


# --- the rules ------------------------------------------------------------------------------------


def validate(text: str, kind: str) -> list[Problem]:
    """What the Hub would refuse or ignore in a card's head. `kind`: model or dataset."""
    raw, _ = split(text)
    if raw is None:
        return [Problem(1, "---", "the card has no front matter")]
    data = load(raw)
    problems = [
        *_closed(data, "license", "license"),
        *_closed(data, "language", "language"),
        *_closed(data, "pipeline_tag", "pipeline_tag", many=False),
        *_closed(data, "base_model_relation", "base_model_relation", many=False),
        *_closed(data, "library_name", "library_name", many=False),
        *_closed(data, "size_categories", "size_categories"),
        *_closed(data, "task_ids", "task_ids"),
    ]
    if "other" in _many(data.get("license")) and not data.get("license_name"):
        problems.append(_problem(data, "license", "license `other` needs license_name (and license_link)"))
    for key in ("datasets", "base_model"):
        problems += [
            _problem(data, key, f"{value!r} is not the id of a repository (NAME or OWNER/NAME)")
            for value in _many(data.get(key))
            if not isinstance(value, str) or not _REPO_ID.match(value)
        ]
    for key in ("tags", "metrics"):
        if key in data and not isinstance(data[key], list):
            problems.append(_problem(data, key, "must be a list"))
    if kind == "model" and "model-index" in data:
        problems += _model_index(data)
    return sorted(problems, key=lambda p: (p.line, p.key))


def _many(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def _problem(data: CommentedMap, key: str, message: str, suggestion: str | None = None) -> Problem:
    line = data.lc.data[key][0] if data.lc.data and key in data.lc.data else 0
    return Problem(line + 2, key, message, suggestion)  # the fence is line 1


def _closed(data: CommentedMap, key: str, field: vocabulary.Field, *, many: bool = True) -> Iterable[Problem]:
    if key not in data:
        return
    if not many and isinstance(data[key], list):
        yield _problem(data, key, "must be one value, not a list")
        return
    for value in _many(data[key]):
        if not isinstance(value, str):
            yield _problem(
                data,
                key,
                f"{value!r} is not text: put it in quotes",
                str(value).lower() if value is not False else "no",
            )
        elif value not in vocabulary.words(field):
            yield _problem(data, key, f"{value!r} is not known", vocabulary.nearest(field, value))


def _model_index(data: CommentedMap) -> Iterable[Problem]:
    index = data["model-index"]
    if not isinstance(index, list) or not all(isinstance(entry, Mapping) for entry in index):
        yield _problem(data, "model-index", "must be a list of mappings")
        return
    for entry in index:
        if not entry.get("name"):
            yield _problem(data, "model-index", "an entry has no name")
        for result in entry.get("results") or []:
            yield from _result(data, result)


def _result(data: CommentedMap, result: Any) -> Iterable[Problem]:
    if not isinstance(result, Mapping):
        yield _problem(data, "model-index", "a result is not a mapping")
        return
    for path in (("task", "type"), ("dataset", "type"), ("dataset", "name")):
        part = result.get(path[0])
        if not isinstance(part, Mapping) or not part.get(path[1]):
            yield _problem(data, "model-index", f"a result has no {'.'.join(path)}")
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        yield _problem(data, "model-index", "a result has no metrics")
    for metric in metrics if isinstance(metrics, list) else []:
        if not isinstance(metric, Mapping) or "type" not in metric or "value" not in metric:
            yield _problem(data, "model-index", "a metric has no type or no value")
        elif isinstance(metric["value"], float) and not math.isfinite(metric["value"]):
            yield _problem(data, "model-index", f"the value of {metric['type']} is not finite")
    source = result.get("source")
    if source is not None and (not isinstance(source, Mapping) or not source.get("url")):
        yield _problem(data, "model-index", "a source has no url")
