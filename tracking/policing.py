"""Policy applied to live runs: at the start, before anything is written; at the end, as a tag."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .. import policy
from ..config import Policy
from ..errors import PolicyViolation
from ..model import Status
from .warning import PolicyWarning, warn

if TYPE_CHECKING:
    from .run import Run


def check_start(rules: Policy | None, name: str | None, tags: Mapping[str, str]) -> None:
    """Raises `PolicyViolation` for rules of level `error`, warns for the others."""
    if rules is not None and (error := _told(policy.check_start(rules, name, tags))):
        raise error


def check_end(run: Run, status: Status) -> PolicyViolation | None:
    """Tag the run by its policy. The violation to raise, where the run ended well."""
    rules = run._config.policy
    if rules is None:
        return None
    found = policy.check_start(rules, run.name, run._tags)
    at_end = policy.check_finish(rules, run._tags, run._keys, _has(run)) if status is Status.FINISHED else []
    tags = {policy.STATUS_TAG: "violated" if found or at_end else "met"}
    if found or at_end:
        tags[policy.VIOLATIONS_TAG] = "; ".join(f"{v.rule}: {v.missing}" for v in [*found, *at_end])
    run.set_tags(tags)
    return _told(at_end)


def _told(found: Iterable[policy.Violation]) -> PolicyViolation | None:
    errors = [violation for violation in found if violation.level == "error"]
    if warned := [str(violation) for violation in found if violation.level == "warn"]:
        warn("\n".join(warned), PolicyWarning)
    if not errors:
        return None
    hint = "change the run, or the rule's level in the configuration"
    return PolicyViolation("\n".join(map(str, errors)), hint=hint)


def _has(run: Run) -> set[str]:
    has = set(run._has)
    names = {key.rpartition("/")[2].lower() for key in run._params}
    if run._seeds or names & {"seed", "random_state", "random_seed"}:
        has.add("seed")
    if run._environment is not None:
        has.add("environment")
    if run._code is not None:
        has.add("code")
    if "preprocessor" in has:
        has.add("tokenizer")
    return has
