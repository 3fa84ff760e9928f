"""The typed errors. Each says what happened, to what, and what to do next.

`exit_code` is what the command line answers with. The two markers `Transient` and `Terminal`
drive retries: an error that is neither is treated as terminal.
"""

from __future__ import annotations

from collections.abc import Mapping


class OutgrowError(Exception):
    """Base of every error that outgrow raises on purpose.

    `hint` is the next step for the user; it is printed on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class Transient(Exception):
    """Marker: the same call may succeed later (429, 5xx, reset, time-out)."""

    retry_after: float | None = None
    """Seconds that the server asked to wait, where it did."""


class Terminal(Exception):
    """Marker: repeating the call cannot help."""


class ConfigError(OutgrowError, Terminal):
    """A setting, an option or a file of configuration is wrong."""

    exit_code = 2


class LocationError(OutgrowError, Terminal):
    """A location cannot be understood, does not exist, or is not what its platform expects."""

    exit_code = 2


class MissingSDK(ConfigError):
    """The package of a platform is not installed."""


class CredentialsError(OutgrowError, Terminal):
    """The platform refused the credentials, or there are none."""

    exit_code = 4


class Unavailable(OutgrowError, Transient):
    """The platform did not answer, or asked to come back later."""

    exit_code = 4

    def __init__(self, message: str, *, hint: str | None = None, retry_after: float | None = None):
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class Unsupported(OutgrowError, Terminal):
    """The platform, or its form, has no place for what was asked of it."""

    exit_code = 2


class SchemaVersionError(Unsupported):
    """A database or file is of a format version that this release does not know."""


class Corrupt(OutgrowError, Terminal):
    """Data of a source is damaged, truncated or hostile."""

    exit_code = 3


class Vanished(OutgrowError, Terminal):
    """Something disappeared from the source while it was read."""

    exit_code = 3


class TargetFull(OutgrowError, Terminal):
    """The target has no room left (disk full, quota)."""

    exit_code = 3


class Rejected(OutgrowError, Terminal):
    """The target refused a record; its siblings may still be accepted."""

    exit_code = 3


class PolicyViolation(OutgrowError, Terminal):
    """A run breaks a rule of the configured policy."""

    exit_code = 1


class PartlyFailed(OutgrowError, Terminal):
    """A flush made some runs durable and others not: `runs` maps the target ids of those to their errors."""

    exit_code = 3

    def __init__(self, runs: Mapping[str, OutgrowError]) -> None:
        first = next(iter(runs.values()))
        super().__init__(f"{len(runs)} runs were not delivered; the first: {first.message}", hint=first.hint)
        self.runs = dict(runs)
