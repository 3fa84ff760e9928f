"""What a live run was, from the platform that it was delivered to: its origin record."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from outgrow import migrate
from outgrow.adapters.batches import Fingerprint
from outgrow.adapters.fit_stream import STREAMS, fingerprint
from outgrow.adapters.origin import RECORD_PATH, is_origin_file
from outgrow.adapters.restored import restored
from outgrow.config import Config
from outgrow.locations import open_sink, open_source
from outgrow.model import Run, Status
from outgrow.testing.memory import MemorySink, capabilities
from outgrow.tracking import fitting
from outgrow.tracking.start import start_run
from outgrow.tracking.sync import sync
from sql_stores import fresh_sqlite

Settings = Callable[..., Config]
PARAMS = {
    "lr": 1e-3, "n": 2**70, "flag": True, "none": None, "nan": math.nan, "text": "3",
    "model": {"layers": [64, 32], "acc@1": {"when": datetime(2026, 1, 2, tzinfo=UTC)}},
}  # fmt: skip
POOR = capabilities(
    "texts", "histograms", "artifacts", "labels", "datasets", "summary", "description", "group",
    param_types=frozenset({"str"}), float_steps=False, point_times="s", nonfinite=frozenset({"nan"}),
)  # fmt: skip


def train(config: Config, **options: Any) -> Path:
    """A run with much that MLflow cannot hold; its journal."""
    with start_run(
        "digits", "first", config=config, capture=False, params=PARAMS, tags={"owner": "ml"},
        labels=["baseline"], description="A first try.", group="sweep-7", **options,
    ) as run:  # fmt: skip
        for step in range(30):
            run.log({"loss": 1 / (step + 1), "acc@1": step / 30}, step=step)
        run.log({"acc_1": 0.5, "loss": math.nan, "gap": -math.inf, "top": math.inf}, step=30)
        run.log({"half": 0.5}, step=2.5)
        run.log({"twice": 1.0}, step=1, time=1_700_000_000.000001)
        run.log({"twice": 1.0}, step=1, time=1_700_000_000.000001)
        run.log_text("sample", "a cat\nand a dog", step=1.5)
        run.log_text("acc@1", "not a number")
        run.log_histogram("weights", [0, 0.5, 2], [3, 4], step=1)
        run.log_bytes(b"hello", "notes/hello.txt")
        run.use_dataset(config.base, "folder", version="2")
        (config.base / "w.bin").write_bytes(b"w")
        run.log_model(config.base / "w.bin", "net")
    assert run.folder is not None
    return run.folder


def only(source: Any) -> Run:
    (run,) = (run for experiment in source.experiments() for run in source.runs(experiment))
    return run


def plain(value: Any) -> str:
    """Text to compare by: keeps types and NaN, and no order of keys."""
    return repr(sorted(value.items()) if isinstance(value, dict) else value)


def told(source: Any) -> tuple[Run, dict[str, Any], dict[str, bytes]]:
    """The one run of a source, its rows and its files, artifact versions included."""
    run = only(source)
    rows = {}
    for stream in STREAMS:
        seen = Fingerprint()
        for batch in getattr(source, stream)(run):
            fingerprint(stream, batch, seen)
        rows[stream] = seen.by_key
    files = list(source.files(run))
    for artifact in source.artifacts(run):
        files += source.artifact_files(artifact)
    return run, rows, {file.path: source.open(run, file).read() for file in files}


def assert_same(one: Any, other: Any) -> None:
    (a, a_rows, a_files), (b, b_rows, b_files) = told(one), told(other)
    for name in ("name", "status", "started_at", "ended_at", "params", "tags", "labels", "summary", "datasets",
                 "description", "group", "code", "environment"):  # fmt: skip
        assert plain(getattr(a, name)) == plain(getattr(b, name)), name
    assert a_rows == b_rows
    assert a_files == b_files


@pytest.fixture
def archive(settings: Settings, tmp_path: Path) -> tuple[Path, str]:
    """A journal, and an archive that it was delivered to: what was logged, exactly."""
    folder = train(settings())
    location = f"archive:{tmp_path / 'exact'}"
    (report,) = sync([folder], settings(), to=[location])
    assert report.complete, report
    return folder, location


def test_an_archive_holds_what_was_logged(archive: tuple[Path, str]) -> None:
    with open_source(archive[1]) as source:
        run, rows, files = told(source)
        assert repr(run.params["nan"]) == "nan"
        assert run.params["n"] == 2**70
        assert run.params["model/layers"] == [64, 32]
        assert {key: count for key, (count, _) in rows["points"].items()} == {
            "loss": 31, "acc@1": 30, "acc_1": 1, "gap": 1, "top": 1, "half": 1, "twice": 2,
        }  # fmt: skip
        assert set(rows["texts"]) == {"sample", "acc@1"}
        assert set(rows["histograms"]) == {"weights"}
        assert files == {"notes/hello.txt": b"hello", "w.bin": b"w"}  # needs no origin record
        assert run.origin is not None
        assert not run.origin.recorded


def test_mlflow_gives_back_what_was_logged(
    archive: tuple[Path, str], settings: Settings, tmp_path: Path
) -> None:
    place = f"mlflow:{fresh_sqlite(tmp_path / 'mlflow.db')}"
    (report,) = sync([archive[0]], settings(), to=[place])
    assert report.complete, report
    with open_source(archive[1]) as exact:
        with open_source(place) as source:
            run, rows, _ = told(source)
            assert run.params["n"] == str(2**70)  # what MLflow shows…
            assert not rows["texts"]
            assert_same(restored(source), exact)  # …and what it gives back
        away = f"archive:{tmp_path / 'away'}"
        with open_source(place) as source, open_sink(away) as sink:
            (copied,) = migrate.copy(source, sink, ledger=tmp_path / "ledger.db").runs
            assert copied.state == "copied", copied
        with open_source(away) as source:
            assert_same(source, exact)


@pytest.mark.parametrize("platform", ["wandb", "comet", "neptune"])
def test_local_forms_of_other_platforms_do_too(
    archive: tuple[Path, str], settings: Settings, tmp_path: Path, platform: str
) -> None:
    (tmp_path / platform).mkdir()
    place = f"{platform}:{tmp_path / platform}"
    (report,) = sync([archive[0]], settings(), to=[place])
    assert report.delivered, report
    with open_source(archive[1]) as exact, open_source(place) as source:
        assert_same(restored(source), exact)


@pytest.mark.parametrize("stretch", [16 << 20, 300])
@pytest.mark.parametrize("live", [True, False])
def test_a_poor_platform_gives_back_what_was_logged(
    archive: tuple[Path, str], target: Any, stretch: int, live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in many stretches, and by a sink that takes only whole runs."""
    monkeypatch.setattr(fitting, "STRETCH", stretch)
    from dataclasses import replace

    target.sink = MemorySink(replace(POOR, live=live))
    assert target.deliver(archive[0]).settled
    assert target.sink.faults.calls["begin"] == 1 or (live and stretch == 300)
    with open_source(archive[1]) as exact:
        assert_same(restored(target.source), exact)


def test_names_given_on_the_way_stay(settings: Settings, target: Any) -> None:
    """`a@b` and `a_b` are one name on a platform without `@`: who came first has it, across restarts."""
    from outgrow.adapters.base import TextLimit

    plain = TextLimit(allowed=r"[\w/-]")
    target.sink = MemorySink(capabilities("texts", metric_key=plain, param_key=plain, tag_key=plain))
    run = start_run("digits", config=settings(), capture=False)
    run.log_params({"a@b": 1})
    run.log({"a@b": 1.0})
    run.log_text("a?b", "text")
    run.set_tags({"a@b": "1"})
    target.deliver(run.folder)
    run.log_params({"a_b": 2})
    run.log({"a_b": 2.0})
    run.set_tags({"a_b": "2", "a@b": "3"})
    run.finish()
    target.deliver(run.folder)
    assert target.run.params["a_b"] == 1
    assert len(target.run.params) == 2
    assert target.run.tags["a_b"] == "3"
    assert [value for key, _, value in target.points() if key == "a_b"] == [1.0]
    before = restored(target.source)
    again = only(before)
    assert again.params == {"a@b": 1, "a_b": 2}
    assert again.tags == {"a@b": "3", "a_b": "2"}
    assert again.summary == {"a@b": 1.0, "a_b": 2.0}


def test_a_run_of_two_machines_has_one_record(settings: Settings, target: Any) -> None:
    """Taken up again where the first journal is not: what the first one knew is kept."""
    target.sink = MemorySink(POOR)
    here, there = settings(journal="here"), settings(journal="there")
    with start_run("digits", "long", id="long", config=here, capture=False, params={"lr": 1}) as run:
        run.log({"loss": 1.0}, step=0.5)
        run.log_text("note", "from here")
        run.log_bytes(b"1", "first")
    target.deliver(run.folder)
    with start_run("digits", id="long", config=there, capture=False, params={"more": None}) as run:
        run.log({"loss": 0.5}, step=1.5)
        run.log_text("note", "from there")
    for _ in range(2):
        delivery = target.deliver(run.folder)
        assert delivery.settled
        for lost in (run.folder / "sinks").iterdir():
            lost.unlink()
    source = restored(target.source)
    again = only(source)
    assert again.params == {"lr": 1, "more": None}
    assert again.name == "long"
    points = [row for batch in source.points(again) for row in batch.to_pylist()]
    assert [(row["step"], row["value"]) for row in points] == [(0.5, 1.0), (1.5, 0.5)]
    texts = [text for batch in source.texts(again) for text in batch.column("text").to_pylist()]
    assert texts == ["from here", "from there"]
    assert {file.path for file in source.files(again)} == {"first"}


def test_a_later_end_replaces_the_record(settings: Settings, target: Any) -> None:
    target.sink = MemorySink(POOR)
    config = settings()
    for number in range(2):
        with start_run("digits", id="again", config=config, capture=False) as run:
            run.log_text("note", f"try {number}")
        target.deliver(run.folder)
        source = restored(target.source)
        again = only(source)
        texts = [text for batch in source.texts(again) for text in batch.column("text").to_pylist()]
        assert texts == [f"try {n}" for n in range(number + 1)]
        assert again.status is Status.FINISHED


def test_a_file_cannot_pose_as_the_origin_record(settings: Settings, target: Any) -> None:
    target.sink = MemorySink(POOR)
    with start_run("digits", config=settings(), capture=False, params={"n": 1}) as run:
        run.log_bytes(b"{}", RECORD_PATH)
    target.deliver(run.folder)
    assert target.files() == {"outgrow_/origin.json": b"{}"}
    source = restored(target.source)
    again = only(source)
    assert again.params == {"n": 1}
    assert [file.path for file in source.files(again)] == [RECORD_PATH]
    assert is_origin_file(RECORD_PATH)
