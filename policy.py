"""Checking what a run has against `[policy]` of the configuration. Pure: no I/O, no platform."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .config import Level, Policy, Rule

STATUS_TAG = "policy.status"
"""Tag of a checked run: `met` or `violated`."""
VIOLATIONS_TAG = "policy.violations"


@dataclass(frozen=True, slots=True)
class Violation:
    rule: Rule
    level: Level
    missing: str
    """What is missing or wrong, in words."""
    fix: str
    """The line to add."""

    def __str__(self) -> str:
        return f"[policy] {self.rule}: {self.missing}; {self.fix}"


def check_start(policy: Policy, name: str | None, tags: Mapping[str, str]) -> list[Violation]:
    """The rules on what is known when a run begins: its name and tags."""
    policy = policy.for_tags(tags)
    found: list[Violation] = []

    def broken(rule: Rule, missing: str, fix: str) -> None:
        if (level := policy.level_of(rule)) != "off":
            found.append(Violation(rule, level, missing, fix))

    for tag in policy.required_tags:
        if not tags.get(tag):
            example = (policy.allowed.get(tag) or ["…"])[0]
            broken(
                "required_tags",
                f"the tag {tag!r} is missing",
                f'add tags={{"{tag}": "{example}"}} to start_run',
            )
    for tag, allowed in policy.allowed.items():
        if tag in tags and tags[tag] not in allowed:
            words = ", ".join(map(repr, allowed))
            broken("allowed", f"the tag {tag!r} is {tags[tag]!r}", f"use one of {words}")
    if policy.name is not None and not re.fullmatch(name_pattern(policy.name, tags), name or ""):
        example = example_name(policy.name, tags, "001")
        broken("name", f"the name {name!r} is not like {policy.name!r}", f'use name="{example}"')
    return found


def check_finish(
    policy: Policy, tags: Mapping[str, str], metrics: Iterable[str], has: Iterable[str]
) -> list[Violation]:
    """The rules on what a run must have when it ends. `has`: kinds and paths of what was logged."""
    policy = policy.for_tags(tags)
    found: list[Violation] = []
    keys, has = set(metrics), set(has)
    if (level := policy.level_of("required_metrics")) != "off":
        found += [
            Violation(
                "required_metrics", level, f"the metric {key!r} is missing", f'add run.log({{"{key}": …}})'
            )
            for key in policy.required_metrics
            if not any(fnmatch.fnmatchcase(known, key) for known in keys)
        ]
    if (level := policy.level_of("required_artifacts")) != "off":
        found += [
            Violation(
                "required_artifacts",
                level,
                f"{kind!r} is missing",
                _HOW.get(kind, f'add run.log_artifact("{kind}")'),
            )
            for kind in policy.required_artifacts
            if not any(fnmatch.fnmatchcase(known, kind) for known in has)
        ]
    return found


_HOW = {
    "model": "add run.log_model(model)",
    "preprocessor": "add run.log_model(model, preprocessor=…)",
    "tokenizer": "add run.log_model(model, preprocessor=tokenizer)",
    "split": "add run.log_split(train=indices, test=indices)",
    "dataset": 'add run.use_dataset(data, name="…")',
    "seed": "add seed=… to start_run, or run.log_seeds(…)",
    "code": "run it from a git checkout",
    "environment": "capture=True in start_run records it",
}


def name_pattern(pattern: str, tags: Mapping[str, str]) -> str:
    """The regular expression of a name pattern: `{tag}` is the tag's value, `{*}` any text."""

    def field(found: re.Match[str]) -> str:
        word = found[1]
        return ".+" if word == "*" else re.escape(tags[word]) if word in tags else "[^-]+"

    parts = re.split(r"(\{[^{}]+\})", pattern)
    return "".join(
        re.sub(r"\{([^{}]+)\}", field, part) if part.startswith("{") else re.escape(part) for part in parts
    )


def example_name(pattern: str, tags: Mapping[str, str], rest: str) -> str:
    """A name after the pattern, with `rest` for `{*}`."""
    return re.sub(
        r"\{([^{}]+)\}", lambda found: rest if found[1] == "*" else tags.get(found[1], found[1]), pattern
    )
