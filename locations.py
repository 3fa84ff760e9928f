"""Locations: `PLATFORM:REST` → an adapter's source or sink, imported only when used.

A platform is a row of `PLATFORMS`, or an entry point of the group `outgrow.platforms` whose
name is the scheme and whose value is a `PlatformSpec`. Importing this module imports no SDK.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

from .errors import LocationError, MissingSDK

if TYPE_CHECKING:
    from .adapters.base import Adapter, Sink, Source

ENTRY_POINT_GROUP = "outgrow.platforms"

# Options of ours in a location's query; everything else belongs to the platform.
_OPTION_PREFIX = "outgrow."

_SECRET_OPTION = re.compile(
    r"([?&][^=&#]*(?:pass|pwd|token|secret|key|credential|signature)[^=&#]*=)[^&#]*", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class PlatformSpec:
    """A platform, before any of its code is imported.

    `module` must define `adapter: Adapter` (see `adapters.base`).
    """

    name: str
    module: str
    title: str
    forms: tuple[str, ...]
    """What a location may look like, for `--help` and for errors."""
    sdk: tuple[str, ...] = ()
    """Importable top-level modules of the vendor that it needs."""
    extra: str | None = None
    """The extra of outgrow that installs them."""


PLATFORMS: dict[str, PlatformSpec] = {
    spec.name: spec
    for spec in (
        PlatformSpec(
            "mlflow",
            "outgrow.adapters.mlflow",
            "MLflow",
            (
                "mlflow:sqlite:///mlflow.db",
                "mlflow:postgresql://HOST/DB",
                "mlflow:http://HOST:5000",
                "mlflow:DIR/mlruns",
                "mlflow:databricks://PROFILE",
            ),
            ("mlflow",),
        ),
        PlatformSpec(
            "archive",
            "outgrow.adapters.archive",
            "outgrow archive",
            ("archive:DIR", "archive:s3://BUCKET/PREFIX"),
        ),
        PlatformSpec(
            "wandb",
            "outgrow.adapters.wandb",
            "Weights & Biases",
            ("wandb:ENTITY/PROJECT", "wandb:DIR"),
            ("wandb",),
            "wandb",
        ),
        PlatformSpec(
            "comet",
            "outgrow.adapters.comet",
            "Comet",
            ("comet:WORKSPACE/PROJECT", "comet:DIR"),
            ("comet_ml",),
            "comet",
        ),
        PlatformSpec(
            "neptune",
            "outgrow.adapters.neptune",
            "Neptune",
            ("neptune:WORKSPACE/PROJECT", "neptune:DIR"),
            ("neptune", "neptune_scale"),
            "neptune",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Location:
    """A parsed location. `str()` never shows a password."""

    platform: str
    rest: str
    """What follows the platform, without our own options; may hold credentials."""
    options: dict[str, str] = field(default_factory=dict)
    """Options given as `?outgrow.NAME=VALUE`."""

    @property
    def public(self) -> str:
        """The location without user name and password."""
        return f"{self.platform}:{_without_credentials(self.rest)}"

    def __str__(self) -> str:
        return self.public

    def __repr__(self) -> str:
        return f"Location({self.public!r})"


def platforms() -> Iterator[PlatformSpec]:
    """Every known platform: the built-in ones, then those of installed third parties."""
    yield from PLATFORMS.values()
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name not in PLATFORMS:
            spec = point.load()
            if not isinstance(spec, PlatformSpec):
                raise LocationError(
                    f"entry point {point.name!r} of {ENTRY_POINT_GROUP} is not a PlatformSpec",
                    hint=f"ask the maintainers of {point.value}",
                )
            yield spec


def find_platform(name: str) -> PlatformSpec:
    """The platform of that scheme. Raises `LocationError` for an unknown one."""
    if spec := PLATFORMS.get(name):
        return spec
    known = {spec.name: spec for spec in platforms()}
    if spec := known.get(name):
        return spec
    raise LocationError(
        f"unknown platform {name!r}",
        hint="a location is PLATFORM:REST, with one of: " + ", ".join(sorted(known)),
    )


def parse(text: str) -> Location:
    """`mlflow:sqlite:///x.db?outgrow.via=client` → `Location`. Raises `LocationError`."""
    platform, colon, rest = text.partition(":")
    if not colon or not rest or not re.fullmatch(r"[a-z][a-z0-9_-]*", platform):
        raise LocationError(
            f"{_without_credentials(text)!r} is not a location",
            hint="write PLATFORM:REST, for example mlflow:sqlite:///mlflow.db or archive:./history",
        )
    if "\x00" in rest:
        raise LocationError(f"a location may not hold a NUL character ({platform}:…)")
    find_platform(platform)
    rest, options = _split_options(rest)
    return Location(platform, rest, options)


def load(location: Location | str) -> tuple[Location, Adapter]:
    """The adapter of a location. Raises `LocationError`, or `MissingSDK` with what to install."""
    if isinstance(location, str):
        location = parse(location)
    spec = find_platform(location.platform)
    try:
        module = importlib.import_module(spec.module)
    except ModuleNotFoundError as error:
        top = (error.name or "").partition(".")[0]
        if top in spec.sdk or spec.extra:
            raise MissingSDK(
                f"{spec.title} needs the package {top or spec.name!r}, which is not installed",
                hint=f"pip install 'outgrow[{spec.extra}]'" if spec.extra else f"pip install {top}",
            ) from error
        raise
    adapter: Adapter = module.adapter
    return location, adapter


def open_source(location: Location | str) -> Source:
    """The reading side of a location. Nothing is ever written to it."""
    parsed, adapter = load(location)
    return adapter.source(parsed)


def open_sink(location: Location | str) -> Sink:
    """The writing side of a location."""
    parsed, adapter = load(location)
    return adapter.sink(parsed)


def _split_options(rest: str) -> tuple[str, dict[str, str]]:
    head, mark, query = rest.partition("?")
    if not mark:
        return rest, {}
    pairs = parse_qsl(query, keep_blank_values=True)
    ours = {k.removeprefix(_OPTION_PREFIX): v for k, v in pairs if k.startswith(_OPTION_PREFIX)}
    if not ours:
        return rest, {}
    theirs = urlencode([(k, v) for k, v in pairs if not k.startswith(_OPTION_PREFIX)])
    return (f"{head}?{theirs}" if theirs else head), ours


def _without_credentials(text: str) -> str:
    text = re.sub(r"//[^/?#]*@", "//", text)
    return _SECRET_OPTION.sub(r"\1***", text)


__all__ = [
    "ENTRY_POINT_GROUP",
    "PLATFORMS",
    "Location",
    "PlatformSpec",
    "find_platform",
    "load",
    "open_sink",
    "open_source",
    "parse",
    "platforms",
]
