"""What only PostgreSQL does: stricter columns, its errors, a database that is made and shared."""

from __future__ import annotations

from pathlib import Path

import pytest
from outgrow.adapters.batches import Fingerprint
from outgrow.adapters.mlflow.sql_sink import SqlSink
from outgrow.adapters.mlflow.sql_source import SqlSource
from outgrow.errors import LocationError, Rejected, Unavailable
from outgrow.locations import parse
from outgrow.model import Experiment, Origin, Run, to_builtins
from postgres_server import database, location, server
from sql_copy import copy
from sql_stores import populated


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store that the sink made itself, in an empty database, filled from SQLite."""
    try:
        server()
    except RuntimeError as error:
        pytest.skip(str(error))
    place = location(database(), tmp_path_factory.mktemp("artifacts"))
    with SqlSource(parse(f"mlflow:sqlite:///{populated()[0]}")) as source, SqlSink(parse(place)) as sink:
        assert list(sink.copies()) == []
        ids = copy(source, sink)
        assert copy(source, sink) == ids
        assert all(old == new for old, new in ids.items())
    return place


def test_the_same_as_in_sqlite(place: str) -> None:
    with (
        SqlSource(parse(f"mlflow:sqlite:///{populated()[0]}")) as original,
        SqlSource(parse(place)) as source,
    ):
        runs, copies = (
            {run.id: run for e in s.experiments() for run in s.runs(e)} for s in (original, source)
        )
        assert set(runs) == set(copies)
        for id, run in runs.items():
            one, other = to_builtins(run), to_builtins(copies[id])
            for name in ("experiment", "origin", "extra", "artifacts"):
                one.pop(name), other.pop(name)
            assert one == other
            assert source.stats(copies[id]) == original.stats(run)
            points = (Fingerprint.of(s.points(r)).by_key for s, r in ((source, copies[id]), (original, run)))
            assert next(points) == next(points)
        versions = (
            [
                (v.model, v.version, v.run, v.aliases, v.stage, v.created_at)
                for m in s.registry()
                for v in m.versions
            ]
            for s in (original, source)
        )
        assert next(versions) == next(versions)


def test_what_postgresql_refuses_stops_no_other_run(place: str) -> None:
    with SqlSink(parse(place)) as sink:
        experiment = sink.experiment(Experiment(id="1", name="refusals"))
        writers = {}
        for name, param in (("fine", "1"), ("nul", "a\x00b"), ("long", "x" * 9_000), ("also fine", "2")):
            run = Run(id=name, experiment=experiment, name=name)
            writers[name] = sink.begin(run, Origin(platform="test", run_id=name))
            writers[name].params({"p": param})
            writers[name].finish(run, "done")
        with pytest.raises(Rejected, match="2 runs"):
            sink.flush()
        complete = {copy_.identity for copy_ in sink.copies() if copy_.identity.startswith("test:")}
    assert complete == {"test:fine", "test:also fine"}


def test_a_source_is_read_only(place: str) -> None:
    with (
        SqlSource(parse(place)) as source,
        pytest.raises(Exception, match="read-only"),
        source.database.cursor() as c,
    ):
        c.execute("DELETE FROM runs")


def test_errors_of_a_server(place: str) -> None:
    head, _, rest = place.partition("?")
    with pytest.raises(LocationError, match="does not exist"):
        SqlSource(parse(f"{head.rpartition('/')[0]}/no_such_database?{rest}"))
    with pytest.raises(Unavailable):
        SqlSource(parse("mlflow:postgresql://postgres@127.0.0.1:1/nothing"))
    with pytest.raises(LocationError, match="not an MLflow"):
        SqlSource(parse(location(database(), Path("/nowhere"))))
