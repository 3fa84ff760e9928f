"""Reading from and writing to a real tracking server."""

from __future__ import annotations

import hashlib
import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow_content import FILES, ODD, START, Content, populate
from mlflow_server import MlflowServer
from outgrow import migrate
from outgrow.adapters.base import NATIVE_MARK
from outgrow.errors import CredentialsError, LocationError, Rejected, Unavailable, Vanished
from outgrow.locations import open_sink, open_source
from outgrow.model import Experiment, File, Origin, Run, Status
from sql_stores import fresh_sqlite


@pytest.fixture(scope="module")
def content(server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Content:
    return populate(server.url, tmp_path_factory.mktemp("content"), "-http")


@pytest.fixture(scope="module")
def source(server: MlflowServer, content: Content) -> Iterator[Any]:
    with open_source(server.location) as opened:
        yield opened


@pytest.fixture(scope="module")
def runs(source: Any, content: Content) -> dict[str, Run]:
    (experiment,) = [e for e in source.experiments() if e.id == content.experiment]
    return {run.id: run for run in source.runs(experiment)}


# --- reading --------------------------------------------------------------------------------------


def test_experiments(source: Any, content: Content) -> None:
    found = {e.name: e for e in source.experiments()}
    mine = found[content.experiment_name]
    assert (mine.description, mine.tags, mine.deleted) == ("Digits.", {"team": "vision"}, False)
    assert mine.created_at is not None
    assert found["gone-http"].deleted


def test_a_run(runs: dict[str, Run], content: Content) -> None:
    run = runs[content.child]
    assert run.name == "child"
    assert run.status is Status.FINISHED
    assert run.user == "ada"
    assert run.parent == content.parent
    assert run.description == "A note."
    assert run.tags == {"a b": "c"}
    assert run.params == {"lr": "0.001", "empty": "", "größe": "µ" * 6_000}
    assert run.started_at is not None
    assert run.ended_at is not None
    assert run.started_at.timestamp() * 1000 == START + 1
    assert run.code is not None
    assert (run.code.commit, run.code.entry_point) == ("abc", "train.py")
    assert run.extra["mlflow"]["tags"] == {"mlflow.autologging": "sklearn"}
    (use,) = run.datasets
    assert (use.name, use.digest, use.context, use.schema, use.profile, use.tags) == (
        "digits", "d1", "training", '{"a": 1}', '{"rows": 9}', {"who": "me"},
    )  # fmt: skip
    assert [(a.artifact, a.role, a.step) for a in run.artifacts] == [(content.model, "output", 4)]


def test_a_deleted_run_and_its_input(runs: dict[str, Run], content: Content) -> None:
    run = runs[content.deleted]
    assert run.deleted
    assert run.status is Status.KILLED
    assert [(a.artifact, a.role) for a in run.artifacts] == [(content.model, "input")]


def test_every_point(source: Any, runs: dict[str, Run], content: Content) -> None:
    rows = [row for batch in source.points(runs[content.child]) for row in batch.to_pylist()]
    loss = [(r["value"], r["step"]) for r in rows if r["key"] == "train/loss"]
    assert loss == [(1 / (i + 1), i) for i in range(1_200)]
    odd = [(r["value"], r["time"].timestamp() * 1000, r["step"]) for r in rows if r["key"] == "odd"]
    assert sorted(map(repr, odd)) == sorted(repr((v, float(t), s)) for v, t, s in ODD)


def test_series_longer_than_a_page(
    monkeypatch: pytest.MonkeyPatch, source: Any, runs: dict[str, Run], content: Content
) -> None:
    """A series that may be cut by the call without pages is read by the one with pages."""
    whole = [row for batch in source.points(runs[content.child]) for row in batch.to_pylist()]
    monkeypatch.setattr("outgrow.adapters.mlflow.points.BULK_LIMIT", 1_000)
    monkeypatch.setattr("outgrow.adapters.mlflow.points.PAGE_POINTS", 500)
    paged = [row for batch in source.points(runs[content.child]) for row in batch.to_pylist()]
    assert sorted(map(repr, paged)) == sorted(map(repr, whole))


def test_files(source: Any, runs: dict[str, Run], content: Content) -> None:
    run = runs[content.child]
    found = {file.path: file for file in source.files(run)}
    assert {path: file.size for path, file in found.items()} == {p: len(d) for p, d in FILES.items()}
    for path, data in FILES.items():
        with source.open(run, found[path]) as stream:
            assert stream.read() == data


def test_a_logged_model(source: Any, runs: dict[str, Run], content: Content) -> None:
    run = runs[content.child]
    (model,) = source.artifacts(run)
    assert (model.name, model.type, model.status, model.created_by) == (
        "classifier",
        "model",
        "READY",
        run.id,
    )
    assert (model.params, model.tags) == ({"depth": "3"}, {"mt": "1"})
    metrics = {m.key: m for m in model.metrics}
    assert (metrics["eval/acc"].value, metrics["eval/acc"].dataset, metrics["eval/acc"].digest) == (
        0.9,
        "digits",
        "d1",
    )
    assert math.isnan(metrics["eval/nan"].value)  # MLflow stores 0 beside the model
    assert metrics["eval/zero"].value == 0
    files = {file.path: file for file in source.artifact_files(model)}
    assert set(files) == set(FILES)
    with source.open(run, files["deep/er/still/weights.bin"]) as stream:
        assert stream.read() == FILES["deep/er/still/weights.bin"]


def test_the_registry(source: Any, content: Content) -> None:
    found = {model.name: model for model in source.registry()}
    model = found[content.registered]
    assert [v.version for v in model.versions] == ["1", "3", "4"]
    first, third, fourth = model.versions
    assert (first.run, first.path, first.stage, first.artifact) == (
        content.child,
        "notes",
        "Production",
        None,
    )
    assert third.aliases == ["champion"]
    assert fourth.artifact == content.model
    assert found[content.prompt].kind == "prompt"


def test_traces_and_evaluation_datasets(source: Any, content: Content) -> None:
    (trace,) = source.traces(Experiment(id=content.experiment, name=""))
    assert trace.id == content.trace
    assert {span["name"] for span in trace.spans} == {"ask", "inner"}
    assert {a["assessment_name"] for a in trace.assessments} == {"ok", "wanted"}
    (dataset,) = [d for d in source.evaluation_datasets() if d.id == content.dataset]
    assert dataset.experiments == [content.experiment]
    assert {r["inputs"]["q"] for r in dataset.records} == {"1", "3"}


def test_a_source_is_read_only(server: MlflowServer, content: Content) -> None:
    def state() -> object:
        with sqlite3.connect(f"file:{server.database}?mode=ro", uri=True) as database:
            rows = list(database.iterdump())
        files = (server.folder / "mlartifacts").rglob("*")
        return rows, sorted((str(f), f.stat().st_mtime_ns) for f in files if f.is_file())

    before = state()
    with open_source(server.location) as source:
        for experiment in source.experiments():
            for run in source.runs(experiment):
                list(source.points(run))
                for file in source.files(run):
                    source.open(run, file).close()
                for artifact in source.artifacts(run):
                    list(source.artifact_files(artifact))
            list(source.traces(experiment))
        list(source.registry())
        list(source.evaluation_datasets())
    assert state() == before


# --- there and back -------------------------------------------------------------------------------


def test_a_copy_is_found_identical(server: MlflowServer, content: Content, tmp_path: Path) -> None:
    """Server → database by SQL, and back into the server; `check` reads everything back."""
    database = f"mlflow:{fresh_sqlite(tmp_path / 'mlflow.db')}"
    ledger = tmp_path / "ledger.db"
    only = [content.experiment_name, "gone-http"]
    report = migrate.copy(server.location, database, experiments=only, ledger=ledger)
    assert not report.failures
    assert report.counts == {"copied": 4}
    checked = migrate.check(server.location, database, experiments=only, deep=True)
    assert checked.exit_code == 0, checked
    again = migrate.copy(server.location, database, experiments=only, ledger=ledger)
    assert again.counts == {"unchanged": 4}


# --- writing --------------------------------------------------------------------------------------


def _run(experiment: str, name: str) -> tuple[Run, Origin]:
    return Run(id=name, experiment=experiment, name=name), Origin(platform="test", run_id=name)


def test_start_zero_is_kept(server: MlflowServer) -> None:
    from datetime import UTC, datetime

    with open_sink(server.location) as sink:
        experiment = sink.experiment(Experiment(id="x", name="zero"))
        run, origin = _run(experiment, "zero")
        from dataclasses import replace

        run = replace(run, started_at=datetime.fromtimestamp(0, UTC))
        writer = sink.begin(run, origin)
        writer.finish(run, "1")
    with open_source(server.location) as source:
        (back,) = source.runs(Experiment(id=experiment, name="zero"))
        assert back.started_at == datetime.fromtimestamp(0, UTC)


def test_find_tells_a_copy_from_a_native_run(server: MlflowServer, content: Content) -> None:
    with open_sink(server.location) as sink:
        native = sink.find(f"mlflow:{content.child}")
        assert native is not None
        assert native.mark == NATIVE_MARK
        assert sink.native(content.child) == native
        assert sink.native("../experiments") is None
        assert sink.find("mlflow:" + "0" * 32) is None
        assert sink.find("wandb:a'b\"/c/d") is None


def test_names_that_a_server_damages_are_refused(server: MlflowServer, source: Any, content: Content) -> None:
    import io

    with open_sink(server.location) as sink:
        experiment = sink.experiment(Experiment(id="x", name="names"))
        run, origin = _run(experiment, "names")
        writer = sink.begin(run, origin)
        for path in ("h#ash.txt", "pct%20x"):
            with pytest.raises(Rejected, match="damage"):
                writer.file(File(path=path), io.BytesIO(b"x"))
        writer.abort()


def test_hostile_names_are_kept_or_renamed(server: MlflowServer) -> None:
    """Every name that the capabilities let through comes back as it went in."""
    import io

    from outgrow.adapters.fit import fit_key

    names = [
        "q?x",
        "a+b&c=d",
        "semi;x",
        "back\\slash",
        "100%",
        "h#ash",
        "pct%41",
        " lead",
        "quote'\"x",
        "..x",
        "ctl\x01",
    ]
    with open_sink(server.location) as sink:
        fitted = [fit_key(name, sink.capabilities.file_path) for name in names]
        experiment = sink.experiment(Experiment(id="x", name="hostile names"))
        run, origin = _run(experiment, "hostile names")
        writer = sink.begin(run, origin)
        for name in fitted:
            writer.file(File(path=f"d/{name}"), io.BytesIO(name.encode()))
        writer.finish(run, "1")
    with open_source(server.location) as source:
        (back,) = source.runs(Experiment(id=experiment, name=""))
        found = {}
        for file in source.files(back):
            with source.open(back, file) as stream:
                found[file.path.removeprefix("d/")] = stream.read().decode()
    assert found == {name: name for name in fitted}


def test_thousands_of_files(server: MlflowServer) -> None:
    import io

    data = {f"many/{i % 7}/{i}.txt": hashlib.sha256(str(i).encode()).digest() for i in range(200)}
    with open_sink(server.location) as sink:
        experiment = sink.experiment(Experiment(id="x", name="many files"))
        run, origin = _run(experiment, "many files")
        writer = sink.begin(run, origin)
        for path, content in data.items():
            writer.file(File(path=path, size=len(content)), io.BytesIO(content))
        writer.finish(run, "1")
    with open_source(server.location) as source:
        (back,) = source.runs(Experiment(id=experiment, name=""))
        assert {f.path: source.open(back, f).read() for f in source.files(back)} == data


def test_a_param_never_changes(server: MlflowServer) -> None:
    with open_sink(server.location) as sink:
        experiment = sink.experiment(Experiment(id="x", name="params"))
        run, origin = _run(experiment, "params")
        writer = sink.begin(run, origin)
        writer.params({"a": "1"})
        writer.params({"a": "1", "b": "2"})
        with pytest.raises(Rejected, match="cannot become"):
            writer.params({"a": "2"})
        with pytest.raises(Rejected, match="6001 characters"):
            writer.params({"long": "x" * 6_001})
        writer.abort()


def test_a_deleted_experiment_holds_its_name(server: MlflowServer, content: Content) -> None:
    with open_sink(server.location) as sink, pytest.raises(Rejected, match="restore"):
        sink.experiment(Experiment(id="x", name="gone-http"))


def test_register_twice_adds_nothing(server: MlflowServer, content: Content) -> None:
    from dataclasses import replace

    with open_source(server.location) as source, open_sink(server.location) as sink:
        (model,) = [m for m in source.registry() if m.name == content.registered]
        versions = [
            replace(v, model="again", extra={"outgrow": {"origin_version": v.version}})
            for v in model.versions
        ]
        copy = replace(model, name="again", versions=versions)
        assert sink.register(copy) == {"1": "1", "3": "3", "4": "4"}
        assert sink.register(copy) == {"1": "1", "3": "3", "4": "4"}
        (back,) = [m for m in source.registry() if m.name == "again"]
        assert [(v.version, v.stage, v.aliases, v.artifact, v.path) for v in back.versions] == [
            (v.version, v.stage, v.aliases, v.artifact, v.path) for v in model.versions
        ]


# --- errors ---------------------------------------------------------------------------------------


def test_a_server_that_is_down() -> None:
    from mlflow_server import free_port

    with pytest.raises(Unavailable) as error:
        open_source(f"mlflow:http://user:pa55word@127.0.0.1:{free_port()}")
    assert "pa55word" not in str(error.value)
    assert error.value.hint


def test_no_mlflow_at_that_address(server: MlflowServer) -> None:
    with pytest.raises((Vanished, LocationError, Rejected)):
        open_source(f"{server.location}/elsewhere")


def test_a_wrong_host_header(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server refuses names that it does not know, with a hint of what to do."""
    from outgrow.adapters.mlflow import connection

    original = connection.Http.request

    def elsewhere(self: Any, *arguments: Any, **kwargs: Any) -> Any:
        headers = {**(kwargs.pop("extra_headers", None) or {}), "Host": "evil.example"}
        return original(self, *arguments, extra_headers=headers, **kwargs)

    monkeypatch.setattr(connection.Http, "request", elsewhere)
    with pytest.raises(CredentialsError) as error:
        open_source(server.location)
    assert error.value.hint is not None
    assert "allowed-hosts" in error.value.hint


def test_a_run_that_disappears(source: Any, runs: dict[str, Run], content: Content) -> None:
    from dataclasses import replace

    with pytest.raises(Vanished):
        list(source.points(replace(runs[content.child], id="0" * 32)))
