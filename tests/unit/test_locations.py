"""Locations, and that naming one imports nothing."""

import subprocess
import sys

import pytest
from outgrow import locations
from outgrow.errors import LocationError, MissingSDK
from outgrow.locations import PlatformSpec


def test_a_location_is_a_platform_and_the_rest():
    location = locations.parse("mlflow:sqlite:////data/mlflow.db")
    assert (location.platform, location.rest, location.options) == ("mlflow", "sqlite:////data/mlflow.db", {})


def test_our_options_are_taken_out_of_the_query():
    location = locations.parse("mlflow:postgresql://h/db?sslmode=require&outgrow.via=client")
    assert location.rest == "postgresql://h/db?sslmode=require"
    assert location.options == {"via": "client"}


@pytest.mark.parametrize(
    "text",
    [
        "mlflow:postgresql://me:hunter2@h/db",
        "mlflow:https://me:hunter2@h:5000/x?y=1",
        "mlflow:postgresql://h/db?user=me&password=hunter2",
        "archive:s3://b/p?secret=hunter2&key=hunter2",
        "mlflow:postgresql://h/db?sslmode=x&PassWord=hunter2#f",
    ],
)
def test_credentials_are_never_shown(text):
    location = locations.parse(text)
    assert "hunter2" in location.rest
    for shown in (str(location), repr(location), location.public):
        assert "hunter2" not in shown


@pytest.mark.parametrize(
    "text", ["", "mlflow", "mlflow:", ":x", "nope:x", "ml flow:x", "http://me:hunter2@h", "archive:a\x00b"]
)
def test_what_is_no_location_is_refused_without_showing_credentials(text):
    with pytest.raises(LocationError) as caught:
        locations.parse(text)
    assert "hunter2" not in str(caught.value)


def test_a_missing_sdk_says_what_to_install(monkeypatch):
    spec = PlatformSpec(
        "ghost", "a_vendor_that_is_not_there", "Ghost", ("ghost:X",), ("a_vendor_that_is_not_there",), "ghost"
    )
    monkeypatch.setitem(locations.PLATFORMS, "ghost", spec)
    with pytest.raises(MissingSDK, match=r"outgrow\[ghost\]"):
        locations.open_source("ghost:X")


def test_a_third_party_platform_is_found(monkeypatch):
    spec = PlatformSpec("acme", "acme_tracking", "Acme", ("acme:X",))

    class Point:
        name, value = "acme", "acme_tracking:spec"

        def load(self):
            return spec

    monkeypatch.setattr(locations, "entry_points", lambda group: [Point()])
    assert locations.find_platform("acme") is spec
    assert [s.name for s in locations.platforms()][-1] == "acme"


@pytest.mark.parametrize(
    "code", ["import outgrow", "import outgrow.cli", "import outgrow.locations", "import outgrow.model"]
)
def test_importing_imports_no_sdk(code):
    heavy = "mlflow wandb comet_ml neptune neptune_scale huggingface_hub pyarrow numpy pandas torch sklearn"
    script = f"{code}\nimport sys\nprint([m for m in {heavy.split()!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
