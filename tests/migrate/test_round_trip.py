"""MLflow → archive → MLflow gives back the same records, and no source is touched on the way."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from outgrow import migrate
from outgrow.adapters.batches import Fingerprint
from outgrow.adapters.restored import restored
from outgrow.locations import open_source
from outgrow.model import to_builtins
from sql_stores import fresh_sqlite, populate

# Ids of the store, and what tells where its files are.
_OF_THE_STORE = {"id", "experiment", "artifacts", "origin", "url", "extra", "modified_at"}


def digests(folder: Path) -> dict[str, str]:
    """Of every file; of a database its content, for SQLite itself moves pages out of its log."""
    files = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("mlflow.db")
    }
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        dump = "\n".join(database.iterdump())
    return files | {"mlflow.db": hashlib.sha256(dump.encode()).hexdigest()}


def settle() -> None:
    """MLflow's client links a new prompt to its experiment in a thread of its own."""
    for thread in threading.enumerate():
        if "link_prompt" in thread.name:
            thread.join()


@pytest.fixture(scope="module")
def trip(tmp_path_factory):
    """The folders and locations of a first MLflow, an archive, a second MLflow."""
    folder = tmp_path_factory.mktemp("trip")
    (folder / "a").mkdir()
    uri = fresh_sqlite(folder / "a/mlflow.db")
    populate(uri, folder / "a/artifacts")
    first, archive = f"mlflow:{uri}", f"archive:{folder}/archive"
    second = f"mlflow:{fresh_sqlite(folder / 'b/mlflow.db')}"
    settle()
    before = digests(folder / "a")
    ledger = folder / "ledger.db"
    for source, target in ((first, archive), (archive, second)):
        migrate.plan(source, target, deep=True)
        report = migrate.copy(source, target, ledger=ledger)
        assert (report.exit_code, report.counts) == (0, {"copied": len(report.runs)})
        check = migrate.check(source, target, deep=True)
        assert [d for run in check.runs for d in run.differences if not d.expected] == []
        assert (check.exit_code, check.unexpected) == (0, 0)
    return folder, first, archive, second, before


def test_the_source_is_untouched(trip):
    folder, _, _, _, before = trip
    assert digests(folder / "a") == before


def runs_of(source):
    return {
        (run.origin.run_id if run.origin else run.id): (run, experiment)
        for experiment in source.experiments()
        for run in source.runs(experiment)
    }


def test_records_and_points_are_the_same(trip):
    _, first, _, second, _ = trip
    with open_source(first) as one, open_source(second) as raw:
        two = restored(raw)
        want, have = runs_of(one), runs_of(two)
        assert want.keys() == have.keys()
        for run_id, (run, experiment) in want.items():
            other, listed = have[run_id]
            for name in type(run).__dataclass_fields__:
                if name not in _OF_THE_STORE:
                    assert to_builtins(getattr(other, name)) == to_builtins(getattr(run, name)), name
            assert two.experiment_of(other, listed).name == experiment.name
            assert Fingerprint.of(two.points(other)).by_key == Fingerprint.of(one.points(run)).by_key
            assert {f.path: f.size for f in two.files(other)} == {f.path: f.size for f in one.files(run)}
            assert [a.name for a in two.artifacts(other)] == [a.name for a in one.artifacts(run)]


def test_the_registry_is_the_same(trip):
    _, first, _, second, _ = trip

    def registry(location):
        with open_source(location) as source:
            return {
                (model.kind, model.name): (
                    model.description,
                    model.tags,
                    model.created_at,
                    [
                        replace(
                            v,
                            artifact=None,
                            run=bool(v.run),
                            source=None,
                            path=None,
                            extra={},
                            modified_at=None,
                        )
                        for v in model.versions
                    ],
                )
                for model in source.registry()
            }

    assert registry(second) == registry(first)


def test_back_at_home_nothing_is_written(trip):
    folder, first, archive, second, before = trip
    for source in (archive, second):
        report = migrate.copy(source, first, ledger=folder / "back.db")
        assert report.counts == {"home": len(report.runs)}
        assert (report.models, report.versions) == (0, 0)
        assert migrate.check(source, first, deep=True).exit_code == 0
    assert digests(folder / "a") == before
