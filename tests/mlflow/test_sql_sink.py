"""Writing MLflow databases directly: what MLflow itself then finds there, and what a crash leaves."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outgrow.adapters import batches
from outgrow.adapters.base import NATIVE_MARK
from outgrow.adapters.batches import Fingerprint
from outgrow.adapters.mlflow import sql_sink as sink_module
from outgrow.adapters.mlflow.sink import ClientSink
from outgrow.adapters.mlflow.sql_sink import SqlSink
from outgrow.adapters.mlflow.sql_source import SqlSource
from outgrow.errors import Corrupt, LocationError, Rejected, TargetFull, Unavailable
from outgrow.locations import parse
from outgrow.model import DatasetUse, Experiment, Origin, Run, Status, to_builtins
from sql_copy import copy
from sql_stores import fresh_sqlite, populated

START = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)


def sink_at(path: Path) -> SqlSink:
    return SqlSink(parse(f"mlflow:sqlite:///{path}"))


def source_at(path: Path) -> SqlSource:
    return SqlSource(parse(f"mlflow:sqlite:///{path}"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    fresh_sqlite(tmp_path / "target" / "mlflow.db")
    return tmp_path / "target" / "mlflow.db"


@pytest.fixture
def original() -> tuple[Path, dict[str, str]]:
    return populated()


def run_of(number: int, experiment: str, **facts: Any) -> tuple[Run, Origin]:
    id = hashlib.md5(str(number).encode()).hexdigest()
    run = Run(
        id=id, experiment=experiment, name=f"run {number}", status=Status.FINISHED, started_at=START,
        ended_at=START, **facts,
    )  # fmt: skip
    return run, Origin(platform="mlflow", run_id=id)


def points_of(number: int, rows: int) -> Any:
    steps = list(range(rows))
    times = [int(START.timestamp() * 1e6) + step * 1_000_000 for step in steps]
    return batches.points([f"key{s % 3}" for s in steps], steps, times, [number + s / 7 for s in steps])


def write_run(sink: SqlSink, number: int, experiment: str, rows: int = 30, mark: str | None = "done") -> str:
    run, origin = run_of(number, experiment)
    writer = sink.begin(run, origin, sink.find(origin.identity))
    writer.params({"number": str(number)})
    writer.points(points_of(number, rows))
    writer.finish(run, mark)
    return writer.run_id


def select(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute(sql).fetchall()


# --- what is written --------------------------------------------------------------------------------


def test_a_copy_is_the_same_row_by_row(original: tuple[Path, dict[str, str]], store: Path) -> None:
    with source_at(original[0]) as source, sink_at(store) as sink:
        ids = copy(source, sink)
        assert all(old == new for old, new in ids.items())  # run ids stay
        before = dump(store)
        assert copy(source, sink) == ids
        assert dump(store) == before  # a second copy adds nothing
    for sql in (
        "SELECT * FROM metrics ORDER BY 1, 2, 3, 4, 5, 6",
        "SELECT * FROM latest_metrics ORDER BY 1, 6",
        "SELECT * FROM params ORDER BY 1, 3",
        "SELECT run_uuid, name, user_id, status, start_time, end_time, deleted_time, lifecycle_stage FROM runs ORDER BY 1",
        "SELECT * FROM tags WHERE key NOT LIKE 'outgrow.%' AND key <> 'mlflow.user' ORDER BY 1, 3",
        "SELECT experiment_id, name, digest, dataset_source_type, dataset_source, dataset_schema, dataset_profile "
        "FROM datasets ORDER BY 2",
        "SELECT t.name, t.value FROM input_tags t ORDER BY 1",
        "SELECT source_type, destination_type, destination_id, step FROM inputs ORDER BY 1, 2, 3",
        "SELECT model_id, name, creation_timestamp_ms, last_updated_timestamp_ms, status, model_type, source_run_id "
        "FROM logged_models",
        "SELECT * FROM logged_model_params",
        "SELECT * FROM logged_model_tags WHERE tag_key NOT LIKE 'outgrow.%'",
        "SELECT name, creation_time, last_update_time, lifecycle_stage FROM experiments WHERE name <> 'Default' ORDER BY 1",
        "SELECT * FROM experiment_tags ORDER BY 1",
        "SELECT name, creation_time, last_updated_time, description FROM registered_models ORDER BY 1",
        "SELECT name, version, creation_time, last_updated_time, description, user_id, current_stage, run_id, status "
        "FROM model_versions WHERE current_stage <> 'Deleted_Internal' ORDER BY 1, 2",
        "SELECT * FROM registered_model_aliases",
    ):  # fmt: skip
        assert select(store, sql) == select(original[0], sql), sql


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return sorted(db.iterdump())


def test_both_ways_write_the_same(original: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """What the client path wrote and what the SQL path wrote read the same, ids and times apart."""
    written = {}
    for via, make in (("sql", SqlSink), ("client", ClientSink)):
        fresh_sqlite(tmp_path / via / "mlflow.db")
        location = parse(f"mlflow:sqlite:///{tmp_path / via / 'mlflow.db'}?outgrow.via={via}")
        with source_at(original[0]) as source, make(location) as sink:
            ids = copy(source, sink)
        with source_at(tmp_path / via / "mlflow.db") as back:
            written[via] = {run.name: without_ids(run, back, ids) for run in all_runs(back)}
    assert written["sql"] == written["client"]
    latest = "SELECT l.key, l.value, l.timestamp, l.step, l.is_nan FROM latest_metrics l ORDER BY 1"
    assert select(tmp_path / "sql" / "mlflow.db", latest) == select(tmp_path / "client" / "mlflow.db", latest)


def all_runs(source: SqlSource) -> Iterator[Run]:
    for experiment in source.experiments():
        yield from source.runs(experiment)


def without_ids(run: Run, source: SqlSource, ids: dict[str, str]) -> object:
    names = {id: f"run {i}" for i, id in enumerate(ids.values())}
    plain = replace(
        run,
        id=names[run.id],
        parent=names.get(run.parent or ""),
        artifacts=[replace(use, artifact="model") for use in run.artifacts],
        origin=run.origin and replace(run.origin, run_id="origin"),
        extra={},
    )
    models = [
        replace(
            a, id="", created_by=names.get(a.created_by or ""), created_at=None, modified_at=None, extra={},
            metrics=[replace(m, run=names.get(m.run or "")) for m in a.metrics],
        )
        for a in source.artifacts(run)
    ]  # fmt: skip
    files = {file.path: file.size for file in source.files(run)}
    return to_builtins(plain), to_builtins(models), files, Fingerprint.of(source.points(run)).by_key


def test_mlflow_uses_the_store_as_its_own(original: tuple[Path, dict[str, str]], store: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    with source_at(original[0]) as source, sink_at(store) as sink:
        copy(source, sink)
    uri = f"sqlite:///{store}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    child, model = original[1]["child"], original[1]["model"]
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "metrics.`eval/acc` > 0.8", ViewType.ALL)
    assert [run.info.run_id for run in found] == [child]
    history = client.get_metric_history(child, "train/loss")
    assert [(m.step, m.value) for m in history] == [(i, 1 / (i + 1)) for i in range(50)]
    assert math.isnan(client.get_run(child).data.metrics["eval/nan"])
    client.log_metric(child, "train/loss", 0.001, step=50)
    assert client.get_run(child).data.metrics["train/loss"] == 0.001
    assert client.get_run(child).inputs.dataset_inputs[0].dataset.name == "digits"
    assert [m.model_id for m in client.get_run(child).outputs.model_outputs] == [model]
    assert client.download_artifacts(child, "notes/readme.txt", str(store.parent)).endswith("readme.txt")
    assert (
        Path(client.get_logged_model(model).artifact_location.removeprefix("file://")) / "MLmodel"
    ).is_file()
    assert client.get_model_version_by_alias("digits", "champion").version in (3, "3")
    client.set_registered_model_alias("digits", "champion", "1")
    client.restore_run(original[1]["user"])
    new = client.create_model_version("digits", f"runs:/{child}/x", run_id=child)
    assert int(new.version) == 4
    client.create_experiment("another")
    assert {run.info.run_id for run in client.search_runs([experiment.experiment_id])} == set(original[1].values()) & {
        child, original[1]["parent"], original[1]["user"],
    }  # fmt: skip


def test_latest_is_what_mlflow_computes(tmp_path: Path) -> None:
    """Random points with ties and NaN, written in pieces: the same as through `log_batch`."""
    from mlflow.entities import Metric
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    rng = np.random.default_rng(7)
    rows = [
        (f"k{rng.integers(4)}", int(rng.integers(-2, 3)), int(rng.integers(3)) * 1000, float(rng.choice(values)))
        for values in [(math.nan, -1.0, 0.0, 2.5, math.inf, -math.inf)]
        for _ in range(300)
    ]  # fmt: skip
    uri = fresh_sqlite(tmp_path / "mlflow" / "mlflow.db")
    mlflow_store = SqlAlchemyStore(uri, str(tmp_path / "mlflow"))
    run_id = mlflow_store.create_run("0", "me", 0, [], "r").info.run_id
    for start in range(0, 300, 50):
        some = [Metric(k, v, t, s) for k, s, t, v in rows[start : start + 50]]
        mlflow_store.log_batch(run_id, some, [], [])
    mlflow_store.engine.dispose()
    fresh_sqlite(tmp_path / "ours" / "mlflow.db")
    with sink_at(tmp_path / "ours" / "mlflow.db") as sink:
        run, origin = run_of(1, sink.experiment(Experiment(id="1", name="e")))
        writer = sink.begin(run, origin)
        for start in range(0, 300, 37):
            some_rows = rows[start : start + 37]
            writer.points(
                batches.points(
                    *(list(c) for c in zip(*((k, s, t * 1000, v) for k, s, t, v in some_rows), strict=True))
                )
            )  # type: ignore[arg-type]
            if start % 2:
                sink.flush()
        writer.finish(run, "done")
        sink.flush()
    for table in ("latest_metrics", "metrics"):
        sql = f"SELECT key, value, timestamp, step, is_nan FROM {table} ORDER BY 1, 2, 3, 4, 5"
        ours, theirs = (select(tmp_path / place / "mlflow.db", sql) for place in ("ours", "mlflow"))
        if (
            table == "latest_metrics"
        ):  # of 0 and NaN at one step and time, MLflow keeps the one that came first
            ours, theirs = ([row[:4] for row in found] for found in (ours, theirs))
        assert ours == theirs


@pytest.mark.parametrize("rows", [30, 60_000])
def test_indexes_are_as_before(store: Path, rows: int) -> None:
    """Also where they were dropped and written anew."""
    sql = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2"
    before = select(store, sql)
    with sink_at(store) as sink:
        write_run(sink, 1, sink.experiment(Experiment(id="1", name="e")), rows=rows)
        sink.flush()
    assert select(store, sql) == before
    assert select(store, "PRAGMA integrity_check") == [("ok",)]
    assert select(store, "SELECT COUNT(*) FROM metrics") == [(rows,)]


def test_a_data_set_that_the_experiment_has(store: Path) -> None:
    """Its id stays, and the copied run's input names it."""
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, DatasetInput

    with sink_at(store) as sink:
        experiment = sink.experiment(Experiment(id="1", name="e"))
        client = MlflowClient(tracking_uri=f"sqlite:///{store}")
        native = client.create_run(experiment).info.run_id
        client.log_inputs(native, [DatasetInput(Dataset("d", "1", "local", "{}"), [])])
        run, origin = run_of(1, experiment)
        writer = sink.begin(run, origin)
        use = DatasetUse(name="d", digest="1", source_type="local", source="{}", context="test")
        writer.datasets([use])
        writer.finish(run, "m")
        sink.flush()
    assert select(store, "SELECT COUNT(*) FROM datasets") == [(1,)]
    with source_at(store) as source:
        assert [r.datasets for r in all_runs(source) if r.id == writer.run_id] == [[use]]


# --- ids and finding --------------------------------------------------------------------------------


def test_run_ids(store: Path) -> None:
    with sink_at(store) as sink:
        experiment = sink.experiment(Experiment(id="1", name="e"))
        run, _ = run_of(1, experiment)
        foreign = Origin(platform="wandb", run_id="entity/project/abc")
        first = sink.begin(run, foreign)
        assert first.run_id == sink.begin(run, foreign).run_id  # concurrent copies meet
        assert first.run_id != "entity/project/abc"
        first.finish(run, None)
        own = sink.begin(run, Origin(platform="mlflow", run_id="0" * 32))
        assert own.run_id == "0" * 32
        own.finish(run, "m")
        sink.flush()
        assert sink.find("wandb:entity/project/abc") is not None
        assert {(c.identity, c.mark) for c in sink.copies()} == {
            ("wandb:entity/project/abc", None),
            ("mlflow:" + "0" * 32, "m"),
        }
        assert sink.find("mlflow:" + "1" * 32) is None


def test_a_native_run_is_not_overwritten(store: Path) -> None:
    from mlflow import MlflowClient

    native = MlflowClient(tracking_uri=f"sqlite:///{store}").create_run("0", run_name="native").info.run_id
    with sink_at(store) as sink:
        copy_ = sink.find(f"mlflow:{native}")
        assert copy_ is not None
        assert (copy_.run_id, copy_.mark) == (native, NATIVE_MARK)
        run, _ = run_of(1, "0")
        writer = sink.begin(run, Origin(platform="mlflow", run_id=native))
        assert writer.run_id != native
        writer.finish(run, "m")
        sink.flush()
    assert select(store, f"SELECT name FROM runs WHERE run_uuid = '{native}'") == [("native",)]


# --- the store itself -------------------------------------------------------------------------------


def test_a_store_is_made_with_the_first_write(tmp_path: Path) -> None:
    path = tmp_path / "new" / "mlflow.db"
    with sink_at(path) as sink:
        assert list(sink.copies()) == []
        assert sink.find("mlflow:" + "0" * 32) is None
        assert not path.parent.exists()
        write_run(sink, 1, sink.experiment(Experiment(id="1", name="e")))
        sink.flush()
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{path}")
    assert {e.name for e in client.search_experiments()} == {"Default", "e"}
    assert all(
        "://" in e.artifact_location or e.artifact_location.startswith("/")
        for e in client.search_experiments()
    )


def test_a_target_that_is_something_else(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE songs (title TEXT)")
    with pytest.raises(LocationError, match="none of MLflow's"):
        sink_at(other)
    text = tmp_path / "text.db"
    text.write_text("no database " * 100)
    with pytest.raises(Corrupt):
        sink_at(text)
    with pytest.raises(LocationError, match="artifacts go"):
        SqlSink(parse("mlflow:postgresql://localhost:1/nothing"))


def test_a_deleted_experiment_of_that_name(store: Path) -> None:
    with sink_at(store) as sink:
        gone = sink.experiment(Experiment(id="1", name="e", deleted=True))
        assert sink.experiment(Experiment(id="2", name="e", deleted=True)) == gone
        with pytest.raises(Rejected, match="deleted"):
            sink.experiment(Experiment(id="2", name="e"))


# --- crashes, locks, full disks ---------------------------------------------------------------------

WRITER = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import importlib.util
spec = importlib.util.spec_from_file_location("t", sys.argv[3])
t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t)
sink = t.sink_at(Path(sys.argv[1]))
experiment = sink.experiment(t.Experiment(id="1", name="e"))
for number in range(10_000):
    t.write_run(sink, number, experiment, rows=60)
    if number % 5 == 4:
        sink.flush()
        print(number, flush=True)
"""


def test_killed_at_many_points(tmp_path: Path) -> None:
    """Whatever moment the kill hits: what is there is whole, and a second attempt completes it."""
    store = tmp_path / "mlflow.db"
    fresh_sqlite(store)
    marked = 0
    for flushes, delay in ((1, 0.0), (2, 0.004), (7, 0.013)):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store), str(Path(__file__).parents[1]), __file__],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        for _ in range(flushes):
            assert process.stdout.readline().strip().isdigit()
        threading.Event().wait(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        with sink_at(store) as sink:
            complete = [c.run_id for c in sink.copies() if c.mark]
        assert len(complete) >= max(marked, 5 * flushes)
        marked = len(complete)
        counts = dict(select(store, "SELECT run_uuid, COUNT(*) FROM metrics GROUP BY run_uuid"))
        latest = dict(select(store, "SELECT run_uuid, COUNT(*) FROM latest_metrics GROUP BY run_uuid"))
        assert all(counts[id] == 60 and latest[id] == 3 for id in complete)
        assert select(store, "PRAGMA integrity_check") == [("ok",)]
    with sink_at(store) as sink:
        experiment = sink.experiment(Experiment(id="1", name="e"))
        for number in range(20):
            write_run(sink, number, experiment, rows=60)
        sink.flush()
        copies = list(sink.copies())
    assert len({c.identity for c in copies}) == len(copies) >= 20
    assert select(store, "SELECT COUNT(*) FROM metrics") == [(60 * len(copies),)]


def test_a_lock_may_pass(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outgrow.adapters.mlflow.sql_drivers.BUSY_TIMEOUT_MS", 50)
    with sink_at(store) as sink, closing(sqlite3.connect(store, isolation_level=None)) as other:
        experiment = sink.experiment(Experiment(id="1", name="e"))
        run_id = write_run(sink, 1, experiment)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            sink.flush()
        write_run(sink, 2, experiment)
        other.execute("ROLLBACK")
        sink.flush()  # nothing of the first attempt was lost
        assert {c.run_id for c in sink.copies()} >= {run_id}
    assert select(store, "SELECT COUNT(*) FROM metrics") == [(60,)]


def test_a_full_disk(store: Path) -> None:
    with sink_at(store) as sink:
        experiment = sink.experiment(Experiment(id="1", name="e"))
        write_run(sink, 1, experiment)
        sink.flush()
        writer = sink._writer
        with writer._cursor() as cursor:  # as many pages as there are: SQLite then says that the disk is full
            cursor.execute("PRAGMA page_count")
            cursor.execute(f"PRAGMA max_page_count = {cursor.tuples()[0][0]}")
        write_run(sink, 2, experiment, rows=20_000)
        with pytest.raises(TargetFull):
            sink.flush()
    assert select(store, "SELECT COUNT(*) FROM metrics") == [(30,)]
    assert select(store, "PRAGMA integrity_check") == [("ok",)]


def test_one_refused_run_stops_no_other(store: Path) -> None:
    with closing(sqlite3.connect(store)) as db:
        db.execute(
            "CREATE TRIGGER no BEFORE INSERT ON params WHEN NEW.value = '2' "
            "BEGIN SELECT RAISE(ABORT, 'constraint failed: no two'); END"
        )
    with sink_at(store) as sink:
        experiment = sink.experiment(Experiment(id="1", name="e"))
        ids = [write_run(sink, number, experiment) for number in range(4)]
        with pytest.raises(Rejected, match=ids[2]):
            sink.flush()
        assert {c.run_id for c in sink.copies() if c.mark} == {ids[0], ids[1], ids[3]}
        sink.flush()  # it is told once


def test_what_waits_is_bounded(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "FLUSH_POINTS", 1_000)
    with sink_at(store) as sink:
        experiment = sink.experiment(Experiment(id="1", name="e"))
        run, origin = run_of(1, experiment)
        writer = sink.begin(run, origin)
        for number in range(10):
            writer.points(points_of(number, 500))
            assert sink._stage.size < 1_000
        copy_ = sink.find(origin.identity)
        assert copy_ is not None
        assert copy_.mark is None  # its points are there, but it is not complete
        writer.finish(run, "m")
        sink.flush()
    assert select(store, "SELECT COUNT(*) FROM metrics") == [(5_000,)]


def test_a_live_run(store: Path) -> None:
    """Written while it runs, by a writer a delivery; MLflow sees every delivery."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{store}")
    with sink_at(store) as sink:
        experiment = sink.experiment(Experiment(id="1", name="e"))
        run, origin = run_of(1, experiment)
        running = replace(run, status=Status.RUNNING, ended_at=None)
        for delivery in range(3):
            writer = sink.begin(running, origin, sink.find(origin.identity))
            writer.tags({"delivery": str(delivery)}, [f"label{delivery}"])
            writer.points(batches.points(["loss"], [delivery], [START], [1 / (delivery + 1)]))
            writer.finish(running, None)
            sink.flush()
            assert client.get_run(writer.run_id).info.status == "RUNNING"
            assert client.get_run(writer.run_id).data.metrics["loss"] == 1 / (delivery + 1)
        writer.finish(run, "m")
        sink.flush()
    assert client.get_run(writer.run_id).info.status == "FINISHED"
    assert len(client.get_metric_history(writer.run_id, "loss")) == 3
    with source_at(store) as source:
        assert next(r for r in all_runs(source) if r.id == writer.run_id).labels == [
            "label0",
            "label1",
            "label2",
        ]


def test_beside_a_client_that_writes(store: Path) -> None:
    """Neither loses anything: MLflow's client logs from another process while groups are written."""
    code = (
        "import sys; from mlflow import MlflowClient\n"
        "client = MlflowClient(tracking_uri=sys.argv[1])\n"
        "run = client.create_run('0').info.run_id\n"
        "print(run, flush=True)\n"
        "for step in range(20): client.log_metric(run, 'live', step / 2, step=step)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, f"sqlite:///{store}"], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    live = other.stdout.readline().strip()
    with sink_at(store) as sink:
        experiment = sink.experiment(Experiment(id="1", name="e"))
        number = 0
        while other.poll() is None or number < 5:
            write_run(sink, number, experiment, rows=300)
            sink.flush()
            number += 1
            threading.Event().wait(0.02)
    assert other.wait() == 0
    assert select(store, f"SELECT COUNT(*) FROM metrics WHERE run_uuid = '{live}'") == [(20,)]
    assert select(store, "SELECT COUNT(*) FROM metrics") == [(20 + 300 * number,)]
    assert select(store, "PRAGMA integrity_check") == [("ok",)]
