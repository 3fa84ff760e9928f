"""`outgrow platforms`: which platforms there are, and what is found here to use them."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from ..errors import OutgrowError
from ..locations import PlatformSpec
from ..locations import platforms as known_platforms
from .printing import emit_json, print_table

if TYPE_CHECKING:
    from ..adapters.base import Adapter


@dataclass(frozen=True, kw_only=True)
class PlatformRow:
    """One platform, as it is found on this machine."""

    name: str
    title: str
    forms: list[str]
    """What a location may look like."""
    available: bool
    """Whether this release can read and write it."""
    sdk: dict[str, bool] = field(default_factory=dict)
    """Module of the vendor → whether it is installed."""
    install: str | None = None
    """How to install what is missing; None where nothing is."""
    credentials: str | None = None
    """Where credentials were found (never the credentials)."""
    problem: str | None = None


def row(spec: PlatformSpec) -> PlatformRow:
    """What is found of a platform. Imports its adapter, but no SDK to speak of; asks no server."""
    sdk = {module: _installed(module) for module in spec.sdk}
    missing = [module for module, found in sdk.items() if not found]
    install = None
    if missing:
        install = f"pip install 'outgrow[{spec.extra}]'" if spec.extra else f"pip install {' '.join(missing)}"
    problem, credentials = None, None
    available = _installed(spec.module)
    if available:
        try:
            adapter: Adapter = importlib.import_module(spec.module).adapter
            credentials = adapter.credentials()
        except (OutgrowError, ImportError) as error:
            problem = str(error).splitlines()[0]
    return PlatformRow(
        name=spec.name,
        title=spec.title,
        forms=list(spec.forms),
        available=available,
        sdk=sdk,
        install=install,
        credentials=credentials,
        problem=problem,
    )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


@click.command(name="platforms")
@click.option("--json", "as_json", is_flag=True, help="Complete JSON on stdout.")
def platforms(as_json: bool) -> None:
    """The platforms: what can be read and written, SDK and credentials found or not."""
    rows = [row(spec) for spec in known_platforms()]
    if as_json:
        emit_json(rows)
        return
    print_table(
        ("platform", "location", "SDK", "credentials"),
        [(found.title, "\n".join(found.forms), _sdk(found), _credentials(found)) for found in rows],
    )


def _sdk(found: PlatformRow) -> str:
    if found.install:
        return found.install
    return ", ".join(found.sdk) if found.sdk else "none needed"


def _credentials(found: PlatformRow) -> str:
    if found.problem:
        return found.problem
    if not found.available:
        return "not in this release"
    if found.credentials:
        return found.credentials
    return "not found" if found.sdk else "none needed"
