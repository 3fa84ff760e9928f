"""Journals are removed once nobody needs them, and never before."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from outgrow.cli import main
from outgrow.config import Config
from outgrow.errors import Rejected
from outgrow.testing.memory import Faults, MemorySink
from outgrow.tracking import journal, state
from outgrow.tracking.cleaning import clean
from outgrow.tracking.journal import Journal
from outgrow.tracking.start import start_run
from outgrow.tracking.worker import Lane, Server

PLACE = "archive:nowhere"
Settings = Callable[..., Config]


@pytest.fixture
def run(settings: Settings) -> Any:
    with start_run("digits", config=settings(), capture=False) as begun:
        begun.log({"loss": 1.0})
        begun.log_bytes("hello", "notes/hello.txt")
    return begun


def aged(folder: Path, days: float) -> None:
    for path in (folder / journal.RECORDS, *(folder / "sinks").iterdir()):
        past = path.stat().st_mtime - days * 86_400
        os.utime(path, (past, past))


def test_a_delivered_journal_is_removed_in_its_time(run: Any, target: Any) -> None:
    target.deliver(run.folder)
    assert clean([run.folder], [PLACE], 7) == []
    aged(run.folder, 6.9)
    assert clean([run.folder], [PLACE], 7) == []
    aged(run.folder, 0.2)
    assert clean([run.folder], [PLACE], 7) == [run.folder]
    assert not list(run.folder.parent.glob("*2*"))
    assert target.points() == [("loss", 0, 1.0)]
    assert clean([run.folder], [PLACE]) == []


def test_an_undelivered_journal_stays(run: Any, target: Any) -> None:
    assert clean([run.folder], []) == []
    target.deliver(run.folder)
    assert clean([run.folder], [PLACE, "archive:added-later"]) == []
    with (run.folder / journal.RECORDS).open("ab") as stream:  # even half a record
        stream.write(b"0")
    assert clean([run.folder], [PLACE]) == []


def test_a_journal_for_nowhere_stays(settings: Settings) -> None:
    with start_run("digits", config=settings(to=[]), capture=False) as run:
        run.log({"loss": 1.0})
    assert clean([run.folder], []) == []


def test_what_was_refused_stays(settings: Settings, target: Any) -> None:
    target.sink = MemorySink(faults=Faults().at("writer.points", 1, Rejected("no"), times=9))
    with start_run("digits", config=settings(), capture=False) as run:
        run.log({"loss": 1.0})
    delivery = target.deliver(run.folder)
    assert delivery.state.rejected == 1
    assert clean([run.folder], [PLACE]) == []
    known = state.load(run.folder, PLACE)
    known.rejected = 0  # its cursor is lost, but not what was refused
    state.save(run.folder, known)
    assert clean([run.folder], [PLACE]) == []
    (run.folder / "rejected.jsonl").unlink()
    assert clean([run.folder], [PLACE]) == [run.folder]


def test_a_run_that_goes_on_stays(settings: Settings, target: Any) -> None:
    run = start_run("digits", id="long", config=settings(), capture=False)
    run.finish()
    target.deliver(run.folder)
    again = Journal(run.folder)
    assert clean([run.folder], [PLACE]) == []
    again.close()
    (run.folder / "my-notes.txt").write_text("not ours to remove")
    assert clean([run.folder], [PLACE]) == []
    (run.folder / "my-notes.txt").unlink()
    assert clean([run.folder], [PLACE]) == [run.folder]


def test_nothing_is_lost_between_cleaning_and_taking_up(settings: Settings, target: Any) -> None:
    """Cleaners and runs that are taken up again race for one journal: every record is delivered."""
    config = settings()
    stop = threading.Event()
    folder = config.journal / "again"
    removed = 0

    def cleaning() -> None:
        nonlocal removed
        while not stop.is_set():
            removed += len(clean([folder], [PLACE]))

    cleaner = threading.Thread(target=cleaning)
    cleaner.start()
    try:
        for number in range(30):
            with start_run("digits", id="again", config=config, capture=False) as run:
                run.log({"loss": number}, step=number)
            target.deliver(folder)
    finally:
        stop.set()
        cleaner.join()
    assert removed > 5
    assert [step for _, step, _ in target.points()] == list(range(30))


def test_a_cut_removal_is_finished(run: Any, target: Any) -> None:
    half = run.folder.with_name(".other.removed")
    half.mkdir()
    (half / journal.RECORDS).write_bytes(b"")
    assert journal.journals(run.folder.parent) == [run.folder]
    clean([run.folder], [PLACE])
    assert not half.exists()


def test_the_delivery_process_cleans(run: Any, target: Any) -> None:
    target.deliver(run.folder)
    for days, left in ((None, 1), (1, 1), (0, 0)):
        lane = Lane(PLACE, lambda: target.sink, target.sink.source, threading.Event())
        server = Server(run.folder.parent, "key", lane, 0.0, days, [PLACE])
        server._clean()
        assert len(journal.journals(run.folder.parent)) == left


def test_sync_cleans(tmp_path: Path) -> None:
    (tmp_path / "outgrow.toml").write_text(
        '[tracking]\nto = ["archive:history"]\ndelivery = "off"\nkeep_days = 1\n'
    )
    with start_run("digits", capture=False) as run:
        run.log({"loss": 1.0})
    assert run.folder is not None
    told = CliRunner().invoke(main, ["sync", "--clean", "--json"])
    assert json.loads(told.stdout)["removed"] == []
    aged(run.folder, 1)
    elsewhere = CliRunner().invoke(main, ["sync", "--clean", "--to", "archive:other"])
    assert elsewhere.stdout.endswith("0 of 1 journals removed\n")  # delivered there just now
    done = CliRunner().invoke(main, ["sync", "--clean"])
    assert done.stdout.endswith("1 of 1 journals removed\n")
    assert not run.folder.exists()
