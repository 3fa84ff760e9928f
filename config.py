"""Configuration: `outgrow.toml`, or `[tool.outgrow]` of `pyproject.toml`, as frozen records.

The nearest file upwards from the working directory counts; `outgrow.toml` before
`pyproject.toml`. Credentials are never read from here: they come from the platforms' own places.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from .errors import ConfigError

FILE_NAME = "outgrow.toml"
TO_VARIABLE = "OUTGROW_TO"
"""Environment variable: locations separated by blanks or commas, instead of `[tracking] to`. `none`: nowhere."""
FILE_VARIABLE = "OUTGROW_CONFIG"
"""Environment variable: the file to read instead of the nearest one."""

Level = Literal["error", "warn", "off"]
Rule = Literal["name", "required_tags", "allowed", "required_metrics", "required_artifacts"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracking:
    """`[tracking]`: where live logging goes, and how."""

    to: list[str] = field(default_factory=list)
    """Locations that every run is delivered to."""
    journal: str = ".outgrow/journal"
    """Folder of the journals, relative to the configuration file."""
    delivery: Literal["process", "off"] = "process"
    """`off`: only `outgrow sync` delivers."""
    interval: float = 1.0
    """Seconds between two deliveries of a running run."""
    finish_timeout: float = 30.0
    """Seconds that `finish` waits for delivery, unless told otherwise."""
    linger: float = 300.0
    """Seconds that the delivery process goes on trying after the last run has ended."""
    system_interval: float = 15.0
    """Seconds between two samples of system metrics; 0: none."""
    environment: list[str] = field(default_factory=list)
    """Names of environment variables to record (`*` matches); none by default."""
    diff_limit: int = 1_000_000
    """Bytes of uncommitted difference that are kept."""
    keep_days: float | None = None
    """Days after which the journal of an ended run is removed, once every location has all of it. None: never."""
    ranks: Literal["main", "all"] = "main"
    """Which processes of a distributed training log; `all`: those of a machine to one run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """`[[policy.override]]`: other rules for runs whose tags have the values of `where`."""

    where: dict[str, str]
    name: str | None = None
    required_tags: list[str] | None = None
    allowed: dict[str, list[str]] | None = None
    required_metrics: list[str] | None = None
    required_artifacts: list[str] | None = None
    level: Level | None = None
    levels: dict[Rule, Level] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`[policy]`: what a run must have. Without the table nothing is asked for."""

    name: str | None = None
    """Pattern of run names: `{tag}` is that tag's value, `{*}` any text."""
    required_tags: list[str] = field(default_factory=lambda: ["project", "owner", "intent"])
    allowed: dict[str, list[str]] = field(default_factory=dict)
    """Tag → the values that it may have."""
    required_metrics: list[str] = field(default_factory=list)
    required_artifacts: list[str] = field(default_factory=list)
    """Of `model`, `preprocessor`, `split`, `dataset`, `seed`, `code`, `environment`, or a file's path or pattern."""
    level: Level = "warn"
    """What a broken rule does, unless `levels` says otherwise."""
    levels: dict[Rule, Level] = field(default_factory=dict)
    override: list[Override] = field(default_factory=list)

    def level_of(self, rule: Rule) -> Level:
        return self.levels.get(rule, self.level)

    def for_tags(self, tags: Mapping[str, str]) -> Policy:
        """The policy with every matching override applied, in order."""
        result = self
        for override in self.override:
            if all(tags.get(key) == value for key, value in override.where.items()):
                changes = {
                    f.name: value
                    for f in dataclasses.fields(override)
                    if f.name != "where" and (value := getattr(override, f.name)) is not None
                }
                result = dataclasses.replace(result, **changes)
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """`[retention]`: what `outgrow retain` may propose for deletion."""

    promotion_window_days: int = 90
    """After its end a run may still be promoted this long, and keeps everything."""
    keep_last: int = 10
    """Newest runs of each experiment that keep everything."""
    keep_best: int = 3
    """Best runs of each sweep (or experiment, where there is none) by `metric` that keep everything."""
    metric: str | None = None
    mode: Literal["min", "max"] = "max"
    metadata_after_days: int | None = None
    """Older runs lose their record too; without it params and metrics are kept for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advise:
    """`[advise]`: above these, an embedded MLflow is usually outgrown.

    The defaults: at least 3 active engineers, more than 500 runs a quarter and 10 to 30
    concurrently active experiments are what the field names; one second is the limit of an
    unbroken train of thought (Nielsen, Usability Engineering, 1993, chapter 5).
    """

    engineers: int = 3
    runs_per_quarter: int = 500
    active_experiments: int = 30
    list_seconds: float = 1.0
    curve_seconds: float = 1.0
    growth: float = 2.0
    """This quarter's runs over those of the quarter before."""
    needs: list[str] = field(default_factory=list)
    """What the team needs, such as `audit-trail`, `air-gap`, `media`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cards:
    """`[cards]`: what model and dataset cards say beyond the tracked facts."""

    front: dict[str, Any] = field(default_factory=dict)
    """Keys of the front matter, such as `license`."""
    show: list[Literal["user", "host", "paths", "urls"]] = field(default_factory=list)
    """What may be published although it is private."""
    templates: str | None = None
    """Folder whose templates go before the built-in ones, relative to the configuration file."""
    sections: dict[str, str] = field(default_factory=dict)
    """Sections that every card gets: name → Markdown."""
    required: list[str] = field(default_factory=list)
    """What `--check` demands: facts that may not be unknown, keys, headings that people must fill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    tracking: Tracking = field(default_factory=Tracking)
    policy: Policy | None = None
    retention: Retention = field(default_factory=Retention)
    advise: Advise = field(default_factory=Advise)
    cards: Cards = field(default_factory=Cards)
    path: Path | None = None
    """The file it was read from."""
    base: Path = field(default_factory=Path.cwd)
    """Relative paths and locations start here: the file's folder, else the working directory."""

    @property
    def journal(self) -> Path:
        return self.base / self.tracking.journal


_TABLES: dict[str, type[Any]] = {
    "tracking": Tracking,
    "policy": Policy,
    "retention": Retention,
    "advise": Advise,
    "cards": Cards,
}


def find(start: Path) -> Path | None:
    """The nearest configuration file at or above a folder."""
    for folder in (start, *start.parents):
        own = folder / FILE_NAME
        if own.is_file():
            return own
        project = folder / "pyproject.toml"
        if project.is_file() and "outgrow" in _read(project).get("tool", {}):
            return project
    return None


def read(path: Path | str | None = None, *, start: Path | None = None) -> Config:
    """The configuration in force. Raises `ConfigError` with the file and the key that is wrong."""
    start = (start or Path.cwd()).resolve()
    named = path or os.environ.get(FILE_VARIABLE)
    found = Path(named).resolve() if named else find(start)
    if named and found is not None and not found.is_file():
        raise ConfigError(f"there is no configuration file {found}", hint="write one with: outgrow init")
    config = Config(base=start)
    if found is not None:
        data = _read(found)
        if found.name == "pyproject.toml":
            data = data.get("tool", {}).get("outgrow", {})
        config = _config(data, found)
    if (to := os.environ.get(TO_VARIABLE)) is not None:
        locations = [] if to.strip() == "none" else [part for part in re.split(r"[\s,]+", to) if part]
        config = dataclasses.replace(config, tracking=dataclasses.replace(config.tracking, to=locations))
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}", hint="correct the file, or remove it") from error


def _config(data: dict[str, Any], path: Path) -> Config:
    _known(data, _TABLES, path, "")
    tables = {name: _table(data[name], kind, path, name) for name, kind in _TABLES.items() if name in data}
    return Config(path=path, base=path.parent, **tables)


def _table(data: Any, kind: type[T], path: Path, name: str) -> T:
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: {name} must be a table", hint=f"write [{name}]")
    _known(data, [f.name for f in dataclasses.fields(kind)], path, name)  # type: ignore[arg-type]
    for number, override in enumerate(data.get("override", []) if kind is Policy else []):
        names = [f.name for f in dataclasses.fields(Override)]
        _known(override, names, path, f"{name}.override[{number}]")
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        where = str(error).replace("`$.", f"`{name}.").replace("`$`", f"`{name}`")
        raise ConfigError(f"{path}: {where}", hint="outgrow init --show prints every setting") from error


def _known(data: Mapping[str, Any], names: Any, path: Path, table: str) -> None:
    for key in data:
        if key not in names:
            near = difflib.get_close_matches(key, list(names), 1)
            raise ConfigError(
                f"{path}: unknown {'setting' if table else 'table'} {key!r}"
                + (f" in [{table}]" if table else ""),
                hint=f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(names),
            )
