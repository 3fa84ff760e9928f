"""The ledger, read ahead and the order of runs."""

from __future__ import annotations

import sqlite3
import threading
from multiprocessing import get_context

import pytest
from outgrow.errors import ConfigError, SchemaVersionError
from outgrow.migrate.ledger import Ledger, Row
from outgrow.migrate.marks import Mark
from outgrow.migrate.parallel import ordered_map
from outgrow.migrate.streams import ReadAhead


def row(number: int, **changes: object) -> Row:
    facts = {
        "source": "a:1",
        "target": "b:2",
        "identity": f"a:run{number}",
        "source_run": f"run{number}",
        "state": "copied",
        "run_id": f"new{number}",
        "attempts": 1,
    } | changes
    return Row(**facts)


def test_rows_are_replaced_and_attempts_add_up(tmp_path):
    with Ledger(tmp_path / "deep/er/ledger.db") as ledger:
        ledger.record([row(1, state="failed", error="no"), row(2)])
        ledger.record([row(1)])
    with Ledger(tmp_path / "deep/er/ledger.db") as ledger:
        one, two = sorted(ledger.rows(), key=lambda r: r.identity)
        assert (one.state, one.error, one.attempts) == ("copied", None, 2)
        assert two.attempts == 1
        assert [r.identity for r in ledger.find("new2")] == ["a:run2"]
        assert not list(ledger.rows(source="other"))


def test_maps(tmp_path):
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.remember("a:1", "b:2", "artifact", {"m1": "x1"})
        ledger.remember("a:1", "b:2", "artifact", {"m1": "x2", "m2": "x3"})
        assert ledger.remembered("a:1", "b:2", "artifact") == {"m1": "x2", "m2": "x3"}
        assert ledger.remembered("a:1", "other", "artifact") == {}


def test_not_a_ledger(tmp_path):
    (tmp_path / "l.db").write_bytes(b"not a database at all, whatever it is called" * 50)
    with pytest.raises(ConfigError, match="cannot be used as a ledger"):
        Ledger(tmp_path / "l.db")


def test_a_later_ledger(tmp_path):
    with sqlite3.connect(tmp_path / "l.db") as database:
        database.execute("PRAGMA user_version=99")
    with pytest.raises(SchemaVersionError, match="version 99"):
        Ledger(tmp_path / "l.db")


def _fill(path: str, start: int) -> None:
    with Ledger(path) as ledger:
        for number in range(start, start + 20):
            ledger.record([row(number)])


def test_several_processes(tmp_path):
    path = str(tmp_path / "l.db")
    processes = [get_context("spawn").Process(target=_fill, args=(path, n * 100)) for n in range(2)]
    for process in processes:
        process.start()
    _fill(path, 1000)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    with Ledger(path) as ledger:
        assert len(list(ledger.rows())) == 60


@pytest.mark.parametrize("mark", [Mark("ab"), Mark("ab", "cd"), Mark("ab", "", 3)])
def test_marks(mark):
    assert Mark.parse(str(mark)) == mark


@pytest.mark.parametrize("text", [None, "", "native", "2.a.-.0", "1.a.-", "1.a.-.x"])
def test_marks_of_others(text):
    assert Mark.parse(text) is None


def test_read_ahead_gives_everything_and_its_errors():
    with ReadAhead(iter(range(100)), depth=2) as ahead:
        assert list(ahead) == list(range(100))

    def breaking():
        yield 1
        raise ValueError("broken")

    with ReadAhead(breaking()) as ahead, pytest.raises(ValueError, match="broken"):
        list(ahead)


def test_read_ahead_closes_what_it_reads_where_it_is_left():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    with ReadAhead(endless()) as ahead:
        for _ in ahead:
            break
    assert closed.is_set()


def test_ordered_map():
    assert list(ordered_map(lambda n: n * n, range(50), 4)) == [n * n for n in range(50)]
