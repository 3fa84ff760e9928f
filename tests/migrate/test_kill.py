"""SIGKILL at many points of a copy between real stores; the next copy leaves each run exactly once."""

from __future__ import annotations

import multiprocessing
import signal
from collections import Counter
from pathlib import Path

import killing
import pytest
from outgrow import migrate
from outgrow.locations import open_source
from outgrow.testing import records
from sql_stores import fresh_sqlite

RUNS = 6
POINTS = 600


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "killing",
            "outgrow.migrate.copier",
            "outgrow.adapters.mlflow.sql_source",
            "outgrow.adapters.mlflow.sql_sink",
            "outgrow.adapters.archive.sink",
        ]
    )
    return context


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """An MLflow database with a few runs, models and a registry. Its location."""
    folder = tmp_path_factory.mktemp("source")
    uri = fresh_sqlite(folder / "mlflow.db")
    location = f"mlflow:{uri}"
    report = migrate.copy(
        records.history(runs=RUNS, steps=POINTS // 2), location, ledger=folder / "ledger.db"
    )
    assert report.exit_code == 0
    return location


def targets(kind: str, folder: Path) -> str:
    if kind == "archive":
        return f"archive:{folder}/history"
    return f"mlflow:{fresh_sqlite(folder / 'target' / 'mlflow.db')}"


def killed(process) -> bool:
    process.start()
    process.join(60)
    assert process.exitcode is not None, "the copy hangs"
    return process.exitcode == -signal.SIGKILL


def assert_whole(source: str, target: str, ledger: Path) -> None:
    report = migrate.copy(source, target, ledger=ledger)
    assert (report.state, report.exit_code, len(report.runs)) == ("done", 0, RUNS)
    with open_source(target) as there:
        found = Counter(
            run.origin.identity for e in there.experiments() for run in there.runs(e) if run.origin
        )
        versions = [len(model.versions) for model in there.registry()]
    assert len(found) == RUNS
    assert set(found.values()) == {1}
    assert versions == [RUNS]
    check = migrate.check(source, target, deep=True)
    assert [d for run in check.runs for d in run.differences if not d.expected] == []
    assert check.exit_code == 0
    assert sum(run.points for run in check.runs) == RUNS * POINTS


@pytest.mark.parametrize(
    ("kind", "at_event"),
    [*(("archive", n) for n in (1, 22, 40)), *(("sql", n) for n in (1, 9, 17, 26, 35, 43))],
)
def test_killed_at_an_event(kind, at_event, store, processes, tmp_path):
    target, ledger = targets(kind, tmp_path), tmp_path / "ledger.db"
    for _ in range(2):  # a resumed copy may be killed too
        killed(processes.Process(target=killing.copy_and_die, args=(store, target, str(ledger), at_event)))
    assert_whole(store, target, ledger)


@pytest.mark.parametrize("kind", ["archive", "sql"])
def test_killed_at_any_time(kind, store, processes, tmp_path):
    target, ledger = targets(kind, tmp_path), tmp_path / "ledger.db"
    kills = 0
    for seconds in (0.02, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4):
        arguments = (store, target, str(ledger), seconds)
        kills += killed(processes.Process(target=killing.copy_and_be_killed_after, args=arguments))
    assert kills
    assert_whole(store, target, ledger)


def test_killed_without_a_ledger(store, processes, tmp_path):
    target = targets("sql", tmp_path)
    for n, at_event in enumerate((20, 30)):
        ledger = tmp_path / f"lost{n}.db"
        killed(processes.Process(target=killing.copy_and_die, args=(store, target, str(ledger), at_event)))
    assert_whole(store, target, tmp_path / "new.db")


def test_two_copies_at_once_make_one_copy(store, processes, tmp_path):
    target = targets("sql", tmp_path)
    both = [
        processes.Process(
            target=killing.copy_and_be_killed_after, args=(store, target, str(tmp_path / f"{n}.db"), 30.0)
        )
        for n in range(2)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert_whole(store, target, tmp_path / "new.db")
