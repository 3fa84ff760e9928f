"""Every query of docs/archive.md runs, on an archive of two writers, and finds something."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest
from outgrow.adapters.archive.tables import BULK_TABLES, RECORD_TABLES
from outgrow.locations import open_sink
from outgrow.testing import records
from outgrow.testing.drive import write

PAGE = (Path(__file__).parents[2] / "docs" / "archive.md").read_text()
BLOCKS = re.findall(r"^```(sql|python)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "history"
    source = records.history(3)
    for data in source.by_run.values():
        data.files.append(records.file("big.bin", data.run.id.encode() * 9000))
    for mark in ("first", "second"):
        with open_sink(f"archive:{folder}") as sink:
            write(source, sink, mark=mark)
    return folder


def test_there_are_queries() -> None:
    assert [kind for kind, _ in BLOCKS].count("sql") >= 6
    assert [kind for kind, _ in BLOCKS].count("python") == 1


@pytest.mark.parametrize("number", [n for n, (kind, _) in enumerate(BLOCKS) if kind == "sql"])
def test_query(number: int, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(archive)
    connection = duckdb.connect()
    found = None
    for statement in BLOCKS[number][1].split(";"):
        found = connection.execute(statement)
    rows = found.fetchall() if found is not None else []
    assert rows
    assert len(rows) == len(set(map(str, rows))), "a run is found twice"
    assert not [row for row in rows if None in row and "content" not in BLOCKS[number][1]]


def test_pandas(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(archive)
    exec(compile(dict(BLOCKS)["python"], "docs/archive.md", "exec"), {})


def test_every_table_is_documented() -> None:
    listed = re.findall(r"^\| (`.*?) \|.*\| (.*) \|$", PAGE, re.MULTILINE)
    documented = {name: columns for names, columns in listed for name in re.findall(r"`(\w+)`", names)}
    for name, schema in (RECORD_TABLES | BULK_TABLES).items():
        assert name in documented
        for column in schema.names:
            assert column in ("segment", "record", "run", "description") or column in documented[name], (
                name,
                column,
            )
