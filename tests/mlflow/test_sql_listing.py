"""Lists out of an MLflow database: parts of runs, and filters that the database decides.

Every run of the store is recorded there by MLflow itself (but for two copies), because a copy is
always listed whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outgrow.adapters.base import Source
from outgrow.adapters.mlflow import sql_source
from outgrow.adapters.mlflow.search_filters import search_filter
from outgrow.adapters.mlflow.source import ClientSource
from outgrow.adapters.mlflow.sql_filters import Condition
from outgrow.adapters.mlflow.sql_source import SqlSource
from outgrow.filters import EVERY_PART, Filter, Parts
from outgrow.filters import parse as parse_filter
from outgrow.locations import parse
from outgrow.model import Experiment, Run, to_json
from postgres_server import fresh_postgres
from sql_stores import fresh_sqlite

START = 1_770_000_000_000
LARGEST = 1.7976931348623157e308
TEXTS = ["adam", "0.1", "1e-4", " 7 ", "nan", "inf", "1_0", "True", "", "it's", 'a"b', "größe 🎉", "%", "_"]
NUMBERS = [0.0, -0.0, 0.5, 0.9, 1.0, -1.0, 1e-320, LARGEST, -LARGEST, 2.0**53, 3.14]
KEYS = ["lr", "eval/accuracy", "it's", "größe", "outgrow.own", "mlflow.own"]
NAMES = ["one", "two", "", None, "it's", 'q"', "größe", "0.1", "100"]
STATUSES = ["FINISHED", "FAILED", "KILLED", "RUNNING", "SCHEDULED", None]
TIMES = [START, START + 1, START - 86_400_000, 0, None]
OWN_TAGS = {
    "outgrow.unnamed": "true",
    "outgrow.unstarted": "true",
    "outgrow.labels": '["best", "größe"]',
    "outgrow.group": "g",
    "mlflow.parentRunId": "p",
    "mlflow.note.content": "a note",
    "mlflow.runName": "by tag",
    "mlflow.user": "by tag",
    "mlflow.source.git.commit": "c0ffee",
    "mlflow.source.git.dirty": "true",
}
LONG_ENVIRONMENT = '{"packages": {' + ", ".join(f'"package{i}": "1.{i}"' for i in range(600)) + "}}"


def rows_of_run(number: int) -> dict[str, list[tuple[Any, ...]]]:
    """One run's rows. Lists of different lengths are gone round, so that values meet in many ways."""

    def pick(values: list[Any], offset: int = 0) -> Any:
        return values[(number + offset) % len(values)]

    id = f"{number:032x}"
    tags = {key: pick(TEXTS, i) for i, key in enumerate(["owner", "it's", "größe"]) if (number + i) % 3}
    tags |= {f"outgrow.tag.{key}": pick(TEXTS) for key in ("outgrow.own", "mlflow.own") if number % 4 == 0}
    tags |= {key: value for i, (key, value) in enumerate(OWN_TAGS.items()) if (number + i) % 7 == 0}
    if number % 11 == 0:
        tags |= {
            "outgrow.environment": LONG_ENVIRONMENT[:8000],
            "outgrow.environment.1": LONG_ENVIRONMENT[8000:],
        }
    if number in (5, 6):
        tags["outgrow.origin"] = f"wandb:team/project/{number}"
    return {
        "runs": [(id, pick(NAMES), pick([None, "ada", ""]), pick(STATUSES), pick(TIMES), pick(TIMES, 2), pick(["active", "active", "deleted"]))],
        "params": [(id, key, pick(TEXTS, 3 * i)) for i, key in enumerate(KEYS[:4]) if (number + i) % 5],
        "tags": [(id, key, value) for key, value in tags.items()],
        "latest_metrics": [
            (id, key, 0.0 if (nan := (number + i) % 9 == 0) else pick(NUMBERS, 2 * i), START, i, nan)
            for i, key in enumerate(KEYS[:4])
            if (number + i) % 4
        ],
    }  # fmt: skip


COLUMNS = {
    "runs": "run_uuid, name, user_id, status, start_time, end_time, lifecycle_stage, experiment_id, artifact_uri",
    "params": "run_uuid, key, value",
    "tags": "run_uuid, key, value",
    "latest_metrics": "run_uuid, key, value, timestamp, step, is_nan",
}


def fill(uri: str, count: int, then: str = "SELECT 1") -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) "
            "VALUES (7, 'digits', 'file:///nowhere', 'active')"
        )
        for number in range(count):
            for table, rows in rows_of_run(number).items():
                for row in rows:
                    full = (*row, 7, f"file:///nowhere/{row[0]}/artifacts") if table == "runs" else row
                    names = [f"v{i}" for i in range(len(full))]
                    values = ", ".join(f":{name}" for name in names)
                    statement = sqlalchemy.text(f"INSERT INTO {table} ({COLUMNS[table]}) VALUES ({values})")
                    connection.execute(statement, dict(zip(names, full, strict=True)))
        connection.exec_driver_sql(then)
    engine.dispose()


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = fresh_sqlite(tmp_path_factory.mktemp("listing") / "mlflow.db")
    fill(uri, 120)
    return uri


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientSource]:
    uri = fresh_sqlite(tmp_path_factory.mktemp("client") / "mlflow.db")
    # What MLflow itself cannot read.
    told = ("status", "'KILLED'"), ("user_id", "''"), ("start_time", "7")
    fill(uri, 40, f"UPDATE runs SET {', '.join(f'{c} = coalesce({c}, {v})' for c, v in told)}")
    with ClientSource(parse(f"mlflow:{uri}?outgrow.via=client")) as opened:
        yield opened


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def source(request: pytest.FixtureRequest) -> Iterator[SqlSource]:
    if request.param == "sqlite":
        uri = request.getfixturevalue("sqlite")
    else:
        try:
            uri = fresh_postgres()
        except RuntimeError as error:
            pytest.skip(str(error))
        fill(uri.replace("postgresql:", "postgresql+psycopg:", 1), 120)
    with SqlSource(parse(f"mlflow:{uri}")) as opened:
        yield opened


def experiment_of(source: Source) -> Experiment:
    return next(e for e in source.experiments() if e.name == "digits")


@cache
def runs_of(source: Source) -> list[Run]:
    return list(source.runs(experiment_of(source)))


def same(run: Run, other: Run, parts: Parts) -> bool:
    return {k: to_json(v) for k, v in parts.of(run).items()} == {
        k: to_json(v) for k, v in parts.of(other).items()
    }


def check(source: Source, where: Filter | None, parts: Parts) -> int:
    """The list, filtered by its caller, is what the runs read whole are; how many runs came along in vain."""
    experiment = experiment_of(source)
    wanted = parts | where.parts if where else parts
    listed = list(source.listed(experiment, where, wanted))
    passing = [run for run in listed if where is None or where(run, experiment.name)]
    whole = [run for run in runs_of(source) if where is None or where(run, experiment.name)]
    text = where.text if where else ""
    assert [run.id for run in passing] == [run.id for run in whole], text
    for run, other in zip(passing, whole, strict=True):
        assert same(run, other, wanted), (text, wanted)
    return sum(run.origin is None for run in listed) - sum(run.origin is None for run in passing)


fields = st.sampled_from(sorted(EVERY_PART.fields))
keys = st.none() | st.frozensets(st.sampled_from([*KEYS, "owner", "absent"]))
parts_of_runs = st.builds(Parts, fields=st.frozensets(fields), params=keys, summary=keys, tags=keys)
subjects = st.sampled_from(
    ["id", "name", "user", "status", "experiment", "group", "started_at", "ended_at", "deleted", "labels"]
) | st.builds(
    lambda mapping, key: f"{mapping}[{key!r}]",
    st.sampled_from(["params", "metrics", "tags"]),
    st.sampled_from([*KEYS, "owner", "absent", "a\0b", "\ud800"]),
)
constants = st.sampled_from(
    [
        *map(repr, [*TEXTS, *NAMES, *NUMBERS, "finished", "running", "digits", "other", f"{3:032x}", True, False, 7, 10**400]),
        "-0.5", "1e999", "-1e999", '"2026-02-02T02:40:00.000500+00:00"', '"2026-02-02"', '"1970-01-01"', '"9999-12-31"', '"0001-01-01"',
        '["adam", "one", "finished"]', '["failed", 3]', "[]", '("it\'s", "größe")', "'a\\0b'", "'\\ud800'",
    ]
)  # fmt: skip
comparisons = st.builds(
    lambda a, op, b, turned: f"{b} {op} {a}" if turned else f"{a} {op} {b}",
    subjects,
    st.sampled_from(["==", "==", "!=", "<", "<=", ">", ">=", "in", "not in"]),
    constants,
    st.booleans(),
) | st.sampled_from(
    [
        "deleted",
        "not deleted",
        'matches(name, "o*")',
        "1 < metrics.lr <= 3",
        '"best" in labels',
        "params.lr == tags.owner",
    ]
)
expressions = st.recursive(
    comparisons,
    lambda inner: st.builds(
        lambda a, word, b: f"not ({a})" if word == "not" else f"({a}) {word} ({b})",
        inner,
        st.sampled_from(["and", "and", "or", "not"]),
        inner,
    ),
    max_leaves=4,
)


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(max_examples=100, deadline=None)
@given(expression=expressions, parts=parts_of_runs)
def test_what_the_database_decides_is_what_the_filter_says(
    source: SqlSource, expression: str, parts: Parts
) -> None:
    check(source, parse_filter(expression), parts)


@pytest.mark.parametrize(
    "expression",
    [
        f'id == "{3:032x}"',
        'status == "finished"',
        'status in ["failed", "killed"]',
        'status == "running"',
        'status != "running"',
        "not deleted",
        'ended_at == "2026-02-02T02:40:00.001"',
        'metrics["eval/accuracy"] >= 0.9',
        "metrics.größe == 1",
        'tags.owner == "it\'s"',
        'tags["outgrow.own"] == "größe 🎉"',
        "params.lr in ('adam', '%')",
        'experiment == "other"',
        'experiment == "digits" and (status == "failed" or params.lr == "_")',
    ],
)
def test_the_database_leaves_out_exactly_what_does_not_pass(source: SqlSource, expression: str) -> None:
    assert check(source, parse_filter(expression), Parts()) == 0


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(max_examples=25, deadline=None)
@given(expression=expressions, parts=parts_of_runs)
def test_what_a_server_decides_is_what_the_filter_says(
    client: ClientSource, expression: str, parts: Parts
) -> None:
    check(client, parse_filter(expression), parts)


@pytest.mark.parametrize(
    ("expression", "sent"),
    [
        (f'id == "{3:032x}"', ""),
        ('status == "finished" and params.lr == "adam"', "params.`lr` = 'adam'"),
        ('status != "running"', "attributes.status != 'RUNNING' AND attributes.status != 'SCHEDULED'"),
        ('metrics["eval/accuracy"] >= 0.9', "metrics.`eval/accuracy` >= 0.9"),
        ("-1 <= metrics.lr < 1", "metrics.`lr` >= -1.0 AND metrics.`lr` <= 1.0"),
        ('tags.owner == "adam"', "tags.`owner` = 'adam'"),
        ('name == "two"', ""),
        ('tags.owner == "it\'s"', ""),
        ('params.lr == "adam" or name == "two"', ""),
        ("metrics.lr > 1e300", ""),
    ],
)
def test_a_server_is_sent_what_it_understands(client: ClientSource, expression: str, sent: str) -> None:
    where = parse_filter(expression)
    assert sent in search_filter(where)
    assert bool(sent) == bool(search_filter(where))
    check(client, where, Parts(fields=frozenset({"name", "artifacts"})))


def test_pages_of_lists_are_whole(source: SqlSource, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAGE_WHOLE", "PAGE_PARTS", "PAGE_RUNS"):
        monkeypatch.setattr(sql_source, name, 7)
    check(source, None, Parts(fields=frozenset({"name", "environment"})))
    check(source, None, EVERY_PART)


def test_the_values_meet_what_bends_them(source: SqlSource) -> None:
    """The store holds what this file is about, else the tests above say little."""
    runs = runs_of(source)
    values = [value for run in runs for value in run.summary.values()]
    assert any(math.isnan(v) for v in values)
    assert {math.inf, -math.inf} <= set(values)
    assert {None, "one"} <= {run.name for run in runs}
    assert {run.started_at for run in runs} >= {None, datetime.fromtimestamp(START / 1000, UTC)}
    assert any(run.environment and len(run.environment.packages) == 600 for run in runs)
    assert sum(run.origin is not None for run in runs) == 2
    assert any("outgrow.own" in run.tags for run in runs)
    assert {run.deleted for run in runs} == {True, False}


def test_a_condition_says_nothing_where_it_does_not_know() -> None:
    for text in (
        "params.lr > 0.1",
        "metrics.x != 1",
        "not (metrics.x > 1)",
        'matches(name, "a*") or deleted',
    ):
        assert Condition(parse_filter(text), "digits", 2).sql is None, text
    partly = Condition(parse_filter('params.lr > 0.1 and metrics.x > 1 and name == "a"'), "digits", 2)
    assert partly.sql is not None
    assert partly.parameters == ["x", 1.0, "a"]
    assert [f"${n}" in partly.sql for n in (2, 3, 4, 5)] == [True, True, True, False]
