"""Reading MLflow databases directly: the same as through MLflow itself, and never a write."""

from __future__ import annotations

import hashlib
import math
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from outgrow.adapters.batches import Fingerprint
from outgrow.adapters.mlflow import sql_source
from outgrow.adapters.mlflow.source import ClientSource
from outgrow.adapters.mlflow.sql_schema import SCHEMAS
from outgrow.adapters.mlflow.sql_source import SqlSource
from outgrow.errors import Corrupt, LocationError, SchemaVersionError, Unavailable, Vanished
from outgrow.locations import parse
from outgrow.model import Run, to_builtins
from sql_stores import populated


@pytest.fixture
def store() -> tuple[Path, dict[str, str]]:
    return populated()


def other_process(*statements: str, path: Path) -> subprocess.Popen[str]:
    """Another process that runs the statements, says so, and then keeps its connection until killed."""
    code = (
        "import sqlite3, sys, time\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)\n"
        "for sql in sys.argv[2:]: db.execute(sql)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path), *statements], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture
def source(store: tuple[Path, dict[str, str]]) -> Iterator[SqlSource]:
    with SqlSource(parse(f"mlflow:sqlite:///{store[0]}")) as source:
        yield source


def runs_of(source: SqlSource | ClientSource) -> dict[str, Run]:
    return {run.id: run for experiment in source.experiments() for run in source.runs(experiment)}


def only_in_sql(run: Run) -> Run:
    """The run without what no API of MLflow tells."""
    mlflow = {k: v for k, v in run.extra.get("mlflow", {}).items() if k != "deleted_time"}
    return replace(run, extra={"mlflow": mlflow})


def test_reads_what_the_client_reads(store: tuple[Path, dict[str, str]], source: SqlSource) -> None:
    with ClientSource(parse(f"mlflow:sqlite:///{store[0]}?outgrow.via=client")) as client:
        assert list(source.experiments()) == list(client.experiments())
        ours, theirs = runs_of(source), runs_of(client)
        assert set(ours) == set(theirs)
        assert set(ours) == {store[1][name] for name in ("parent", "child", "user")}
        for id, run in ours.items():
            assert to_builtins(only_in_sql(run)) == to_builtins(theirs[id])
            assert Fingerprint.of(source.points(run)).by_key == Fingerprint.of(client.points(run)).by_key
            assert to_builtins(list(source.artifacts(run))) == to_builtins(list(client.artifacts(run)))
            files = list(source.files(run))
            assert files == list(client.files(run))
            for file in files:
                with closing(source.open(run, file)) as a, closing(client.open(run, file)) as b:
                    assert a.read() == b.read()
            for artifact in source.artifacts(run):
                assert list(source.artifact_files(artifact)) == list(client.artifact_files(artifact))
        assert list(source.registry()) == list(client.registry())


def test_points_keep_what_mlflow_bends(store: tuple[Path, dict[str, str]], source: SqlSource) -> None:
    run = runs_of(source)[store[1]["child"]]
    points = [p for batch in source.points(run) for p in batch.to_pylist() if p["key"] == "odd"]
    values = {(p["step"], str(p["value"])) for p in points}
    assert values == {(0, "nan"), (1, "inf"), (2, "-inf"), (-5, "0.0"), (2, "7.0"), (2, "8.0")}
    assert next(p for p in points if p["step"] == -5)["time"].timestamp() == 0
    assert (
        run.summary["nan_last"] == 1.0
    )  # the later of two at one step and time is the larger; NaN counts as 0


def test_stats_without_reading(store: tuple[Path, dict[str, str]], source: SqlSource) -> None:
    run = runs_of(source)[store[1]["child"]]
    stats = source.stats(run)
    assert (stats.series, stats.points, stats.longest_series, stats.nonfinite) == (6, 61, 50, 5)
    assert source.stats(replace(run, id="f" * 32)).points == 0


def test_pages_of_points_are_whole(
    store: tuple[Path, dict[str, str]], source: SqlSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs_of(source)[store[1]["child"]]
    whole = Fingerprint.of(source.points(run)).by_key
    for rows in (1, 7, 61):
        monkeypatch.setattr(sql_source, "PAGE_POINTS", rows)
        pages = list(source.points(run))
        assert max(page.num_rows for page in pages) <= rows
        assert Fingerprint.of(pages).by_key == whole


def test_pages_of_runs_are_whole(
    store: tuple[Path, dict[str, str]], source: SqlSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = runs_of(source)
    monkeypatch.setattr(sql_source, "PAGE_RUNS", 1)
    assert to_builtins(runs_of(source)) == to_builtins(whole)


def test_threads_share_a_source(store: tuple[Path, dict[str, str]], source: SqlSource) -> None:
    run = runs_of(source)[store[1]["child"]]
    whole = Fingerprint.of(source.points(run)).by_key
    found: list[object] = []

    def read() -> None:
        found.extend(Fingerprint.of(source.points(run)).by_key == whole for _ in range(10))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40


def everything(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_file_that_this_process_has_open(store: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """Two copies of SQLite in one process do not see each other's locks: Python's own reads then."""
    path = tmp_path / "mlflow.db"
    path.write_bytes(store[0].read_bytes())
    location = parse(f"mlflow:sqlite:///{path}")
    with SqlSource(location) as source, closing(sqlite3.connect(path)) as other:
        other.execute("SELECT 1 FROM runs").fetchall()
        with SqlSource(location) as plain:
            assert (source.database.plain, plain.database.plain) == (False, True)
            assert to_builtins(runs_of(plain)) == to_builtins(runs_of(source))
            for run in runs_of(plain).values():
                assert Fingerprint.of(plain.points(run)).by_key == Fingerprint.of(source.points(run)).by_key
                assert plain.stats(run) == source.stats(run)


def read_all(location: str) -> int:
    with SqlSource(parse(location)) as source:
        list(source.registry())
        return sum(b.num_rows for run in runs_of(source).values() for b in source.points(run))


@pytest.mark.parametrize("journal", ["delete", "wal", "wal in use"])
def test_nothing_is_written_to_a_source(
    store: tuple[Path, dict[str, str]], tmp_path: Path, journal: str
) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(store[0].read_bytes())
    child = store[1]["child"]
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA journal_mode = {journal.split()[0]}")
    other = None
    if journal == "wal in use":
        other = other_process(f"UPDATE runs SET name = 'changed' WHERE run_uuid = '{child}'", path=path)
    try:
        before = everything(tmp_path)
        assert read_all(f"mlflow:sqlite:///{path}") == 61
        with SqlSource(parse(f"mlflow:sqlite:///{path}")) as source:
            assert runs_of(source)[child].name == ("changed" if other else "child")
        assert everything(tmp_path) == before
    finally:
        if other:
            other.kill()
            other.communicate()


def test_the_connection_refuses_to_write(source: SqlSource) -> None:
    with pytest.raises(Corrupt, match="readonly"), source.database.cursor() as cursor:
        cursor.execute("DELETE FROM runs")


def test_reads_while_another_writes(store: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """A slow reader keeps no writer out: between two pages the database is free."""
    path = tmp_path / "mlflow.db"
    path.write_bytes(store[0].read_bytes())
    child = store[1]["child"]
    with SqlSource(parse(f"mlflow:sqlite:///{path}")) as source:
        batches = source.points(runs_of(source)[child])
        next(batches)
        # Fails at once, were the reader's cursor still open.
        other = other_process(f"INSERT INTO metrics VALUES ('new', 1.0, 5, '{child}', 0, 0)", path=path)
        other.kill()
        other.communicate()
        assert "new" in Fingerprint.of(source.points(runs_of(source)[child])).by_key


def test_a_writers_lock_is_an_error_that_may_pass(
    store: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outgrow.adapters.mlflow.sql_drivers.BUSY_TIMEOUT_MS", 50)
    path = tmp_path / "mlflow.db"
    path.write_bytes(store[0].read_bytes())
    other = other_process("BEGIN EXCLUSIVE", path=path)
    with pytest.raises(Unavailable, match="locked"):
        read_all(f"mlflow:sqlite:///{path}")
    other.kill()
    other.communicate()
    assert read_all(f"mlflow:sqlite:///{path}") == 61


def test_a_run_that_is_gone(store: tuple[Path, dict[str, str]], source: SqlSource) -> None:
    run = runs_of(source)[store[1]["child"]]
    with pytest.raises(Vanished):
        list(source.points(replace(run, id="0" * 32)))


def test_what_is_no_database(tmp_path: Path) -> None:
    missing = tmp_path / "missing.db"
    with pytest.raises(LocationError, match="does not exist"):
        SqlSource(parse(f"mlflow:sqlite:///{missing}"))
    assert not missing.exists()
    with pytest.raises(LocationError, match="directory"):
        SqlSource(parse(f"mlflow:sqlite:///{tmp_path}"))
    with pytest.raises(LocationError, match="names no file"):
        SqlSource(parse("mlflow:sqlite:///:memory:"))
    text = tmp_path / "text.db"
    text.write_text("this is no database " * 100)
    with pytest.raises(Corrupt, match="not an SQLite database"):
        SqlSource(parse(f"mlflow:sqlite:///{text}"))
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE songs (title TEXT)")
    with pytest.raises(LocationError, match="not an MLflow tracking database"):
        SqlSource(parse(f"mlflow:sqlite:///{other}"))


def test_a_cut_database_is_corrupt(store: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    path = tmp_path / "cut.db"
    data = store[0].read_bytes()
    path.write_bytes(data[: len(data) // 3])
    with pytest.raises(Corrupt):
        read_all(f"mlflow:sqlite:///{path}")


def test_a_crashed_writers_log_is_told(store: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(store[0].read_bytes())
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = wal")
        db.execute("UPDATE runs SET name = 'changed'")
        db.commit()
        crashed = tmp_path / "crashed.db"
        crashed.write_bytes(path.read_bytes())
        Path(f"{crashed}-wal").write_bytes(Path(f"{path}-wal").read_bytes())
    with pytest.raises(Corrupt, match="write-ahead log"):
        SqlSource(parse(f"mlflow:sqlite:///{crashed}"))
    assert not os.path.exists(f"{crashed}-shm")


def test_an_unknown_schema_version(store: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(store[0].read_bytes())
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        db.commit()
    with pytest.raises(SchemaVersionError, match="ffffffffffff") as caught:
        SqlSource(parse(f"mlflow:sqlite:///{path}"))
    assert "outgrow.via=client" in (caught.value.hint or "")


def test_a_schema_that_lies_about_its_version(store: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(store[0].read_bytes())
    with closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE runs RENAME COLUMN end_time TO stopped")
        db.commit()
    with pytest.raises(SchemaVersionError, match=r"lacks runs\.end_time"):
        SqlSource(parse(f"mlflow:sqlite:///{path}"))


def test_the_installed_mlflow_is_known() -> None:
    from mlflow.store.db.utils import _get_latest_schema_revision

    assert _get_latest_schema_revision() in SCHEMAS


def test_older_schemas_are_read(tmp_path: Path) -> None:
    """A store of MLflow 3.5, which knows no workspaces."""
    import sqlalchemy
    from alembic import command
    from mlflow.store.db.utils import InitialBase, _get_alembic_config

    path = tmp_path / "old.db"
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    InitialBase.metadata.create_all(engine)
    config = _get_alembic_config(str(engine.url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, next(iter(SCHEMAS)))
    with engine.begin() as connection:
        for sql in (
            "INSERT INTO experiments (name, lifecycle_stage, artifact_location) VALUES ('old', 'active', 'x')",
            "INSERT INTO runs (run_uuid, name, experiment_id, status, lifecycle_stage) "
            "VALUES ('abc', 'r', 1, 'FINISHED', 'active')",
            "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('m', 0, 1, 'abc', 2, 1)",
            "INSERT INTO registered_models (name, creation_time) VALUES ('model', 5)",
            "INSERT INTO model_versions (name, version, run_id) VALUES ('model', 1, 'abc')",
        ):
            connection.execute(sqlalchemy.text(sql))
    engine.dispose()
    with SqlSource(parse(f"mlflow:sqlite:///{path}")) as source:
        run = runs_of(source)["abc"]
        (point,) = [p for batch in source.points(run) for p in batch.to_pylist()]
        assert math.isnan(point["value"])
        assert [v.run for model in source.registry() for v in model.versions] == ["abc"]
