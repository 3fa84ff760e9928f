"""Copying between two platforms that live logging already wrote to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from outgrow import migrate
from outgrow.config import read
from outgrow.locations import open_sink, open_source
from outgrow.model import ModelVersion, RegisteredModel
from outgrow.tracking.start import start_run
from outgrow.tracking.sync import sync
from sql_stores import fresh_sqlite


@pytest.fixture
def places(tmp_path: Path) -> tuple[str, str]:
    return f"mlflow:{fresh_sqlite(tmp_path / 'mlflow.db')}", f"archive:{tmp_path / 'archive'}"


def logged(folder: Path, places: tuple[str, str], **model: Any) -> None:
    """A run with a model, delivered to both places."""
    (folder / "outgrow.toml").write_text('[tracking]\ndelivery = "off"\n')
    config = read(start=folder)
    (folder / "w.bin").write_bytes(b"weights")
    with start_run("digits", "first", config=config, capture=False) as run:
        run.log({"loss": 0.5}, step=0)
        run.log_model(folder / "w.bin", "net", **model)
    assert run.folder is not None
    reports = sync([run.folder], config, to=list(places))
    assert all(report.complete for report in reports)


def registry(location: str) -> list[ModelVersion]:
    with open_source(location) as source:
        return [version for model in source.registry() for version in model.versions]


def test_what_is_on_both_sides_is_not_made_twice(tmp_path: Path, places: tuple[str, str]) -> None:
    logged(tmp_path, places, register="digits", aliases=["champion"])
    for source, target in (places, places[::-1]):
        assert migrate.plan(source, target).present["home"] == 1
        done = migrate.copy(source, target)
        assert (done.counts, done.exit_code, done.versions) == ({"home": 1}, 0, 0)
        assert migrate.check(source, target, deep=True).exit_code == 0
    for place in places:
        assert len(registry(place)) == 1
        with open_source(place) as source:
            (run,) = [run for experiment in source.experiments() for run in source.runs(experiment)]
            assert [artifact.name for artifact in source.artifacts(run)] == ["net"]


def test_a_version_registered_on_one_side_finds_the_model_on_the_other(
    tmp_path: Path, places: tuple[str, str]
) -> None:
    logged(tmp_path, places)
    here, there = places
    with open_source(here) as source:
        (run,) = [run for experiment in source.experiments() for run in source.runs(experiment)]
        (artifact,) = source.artifacts(run)
    version = ModelVersion(model="digits", version="1", run=run.id, artifact=artifact.id)
    with open_sink(here) as sink:
        sink.register(RegisteredModel(name="digits", versions=[version]))
        sink.flush()
    done = migrate.copy(here, there)
    assert (done.counts, done.exit_code, done.versions) == ({"home": 1}, 0, 1)
    (copied,) = registry(there)
    with open_source(there) as source:
        (twin,) = [run for experiment in source.experiments() for run in source.runs(experiment)]
        (model,) = source.artifacts(twin)
    assert (copied.run, copied.artifact) == (twin.id, model.id)
    assert migrate.copy(here, there).versions == 0
    assert len(registry(there)) == 1
