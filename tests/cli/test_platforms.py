"""`outgrow platforms`."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from outgrow.cli.places import platforms, row
from outgrow.locations import PLATFORMS, PlatformSpec


def test_every_platform_is_listed() -> None:
    result = CliRunner().invoke(platforms, ["--json"])
    assert result.exit_code == 0
    rows = {found["name"]: found for found in json.loads(result.stdout)}
    assert set(PLATFORMS) <= set(rows)
    assert rows["mlflow"]["sdk"] == {"mlflow": True}
    assert rows["mlflow"]["install"] is None


def test_the_table_shows_locations_and_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "s3cret-token")
    result = CliRunner().invoke(platforms, [])
    assert "mlflow:http://HOST:5000" in result.stdout
    assert "MLFLOW_TRACKING_TOKEN" in result.stdout
    assert "s3cret-token" not in result.stdout


def test_a_missing_sdk_says_how_to_install_it() -> None:
    spec = PlatformSpec("acme", "outgrow.adapters.acme", "Acme", ("acme:X",), ("no_such_sdk",), "acme")
    found = row(spec)
    assert found.sdk == {"no_such_sdk": False}
    assert found.install == "pip install 'outgrow[acme]'"
    assert not found.available


def test_an_adapter_that_fails_to_load_is_no_crash() -> None:
    spec = PlatformSpec("broken", "outgrow.locations", "Broken", ("broken:X",))
    found = row(PlatformSpec("gone", "no.such.module", "Gone", ("gone:X",)))
    assert not found.available
    with pytest.raises(AttributeError):  # a module without an adapter is a bug, and is not hidden
        row(spec)
