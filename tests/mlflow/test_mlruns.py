"""Reading `mlruns` directories: what MLflow's file store wrote, and what went wrong with it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow_content import FILES, ODD, START, Content
from outgrow.errors import Corrupt, LocationError, Unsupported, Vanished
from outgrow.locations import open_sink, open_source
from outgrow.model import File, Run, Status

EXPERIMENT = """\
artifact_location: {root}/1
creation_time: 1600000000000
experiment_id: '1'
last_update_time: 1600000000000
lifecycle_stage: active
name: by hand
"""
RUN = """\
artifact_uri: {uri}
end_time: null
experiment_id: '1'
lifecycle_stage: active
run_id: {id}
run_name: one
start_time: 1600000000000
status: 3
user_id: ada
"""
RUN_ID = "a" * 32

_FILL = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from mlflow_content import populate
print(json.dumps(asdict(populate(sys.argv[1], Path(sys.argv[2]), "-files", datasets=False))))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Content]:
    """A store written by MLflow's own client, in a process of its own: it needs a variable to do so."""
    import json

    root = tmp_path_factory.mktemp("files") / "mlruns"
    # MLflow sets variables of its own in a process that has used it.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment = {
        **inherited,
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    done = subprocess.run(
        [sys.executable, "-c", _FILL, root.as_uri(), str(tmp_path_factory.mktemp("scratch"))],
        env=environment, capture_output=True, check=False, text=True, cwd=root.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return root, Content(**json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def by_hand(tmp_path: Path) -> Path:
    """A store with one run, in the form of its files."""
    root = tmp_path / "mlruns"
    run = root / "1" / RUN_ID
    (run / "metrics").mkdir(parents=True)
    (run / "artifacts").mkdir()
    (root / "1" / "meta.yaml").write_text(EXPERIMENT.format(root=root))
    (run / "meta.yaml").write_text(RUN.format(uri=f"{root}/1/{RUN_ID}/artifacts", id=RUN_ID))
    return root


def only_run(root: Path) -> tuple[object, Run]:
    source = open_source(f"mlflow:{root}")
    (experiment,) = source.experiments()
    (run,) = source.runs(experiment)
    return source, run


def test_everything_is_read(store: tuple[Path, Content]) -> None:
    root, content = store
    with open_source(f"mlflow:{root}") as source:
        experiments = {e.name: e for e in source.experiments()}
        assert experiments["gone-files"].deleted
        mine = experiments[content.experiment_name]
        assert (mine.description, mine.tags) == ("Digits.", {"team": "vision"})
        runs = {run.id: run for run in source.runs(mine)}
        run = runs[content.child]
        assert (run.name, run.status, run.user, run.parent) == (
            "child",
            Status.FINISHED,
            "ada",
            content.parent,
        )
        assert run.params == {"lr": "0.001", "empty": "", "größe": "µ" * 6_000}
        assert (run.datasets[0].name, run.datasets[0].context, run.datasets[0].tags) == (
            "digits", "training", {"who": "me"},
        )  # fmt: skip
        rows = [row for batch in source.points(run) for row in batch.to_pylist()]
        assert [r["value"] for r in rows if r["key"] == "train/loss"] == [1 / (i + 1) for i in range(1_200)]
        odd = [(r["value"], r["time"].timestamp() * 1000, r["step"]) for r in rows if r["key"] == "odd"]
        assert list(map(repr, odd)) == [repr((v, float(t), s)) for v, t, s in ODD]
        assert run.summary["train/loss"] == 1 / 1_200
        assert {f.path: source.open(run, f).read() for f in source.files(run)} == FILES
        (model,) = source.artifacts(run)
        assert (model.id, model.params, model.created_by) == (content.model, {"depth": "3"}, content.child)
        assert {m.key for m in model.metrics} == {"eval/acc", "eval/nan", "eval/zero"}
        assert {f.path for f in source.artifact_files(model)} == set(FILES)
        assert runs[content.deleted].deleted
        assert [a.role for a in runs[content.deleted].artifacts] == ["input"]
        registry = {m.name: m for m in source.registry()}
        registered = registry[content.registered]
        assert [(v.version, v.stage, v.aliases) for v in registered.versions] == [
            ("1", "Production", []), ("3", None, ["champion"]), ("4", None, []),
        ]  # fmt: skip
        assert registry[content.prompt].kind == "prompt"
        (trace,) = source.traces(mine)
        assert {span["name"] for span in trace.spans} == {"ask", "inner"}
        assert {a["assessment_name"] for a in trace.assessments} == {"ok", "wanted"}
        assert list(source.problems()) == []


def test_reading_writes_nothing(store: tuple[Path, Content]) -> None:
    root, _ = store

    def state() -> list[tuple[str, str, int]]:
        return [
            (str(f), hashlib.sha256(f.read_bytes()).hexdigest() if f.is_file() else "", f.stat().st_mtime_ns)
            for f in sorted(root.rglob("*"))
        ]

    before = state()
    with open_source(f"mlflow:{root}") as source:
        for experiment in source.experiments():
            for run in source.runs(experiment):
                list(source.points(run))
                list(source.files(run))
    assert state() == before


def test_a_store_that_was_moved(store: tuple[Path, Content], tmp_path: Path) -> None:
    """Records name the old place; the files are beside the records."""
    root, content = store
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    subprocess.run(["cp", "-r", str(root), str(moved)], check=True)
    with open_source(f"mlflow:{moved / 'mlruns'}") as source:
        (mine,) = [e for e in source.experiments() if e.id == content.experiment]
        (run,) = [r for r in source.runs(mine) if r.id == content.child]
        assert {f.path for f in source.files(run)} == set(FILES)
        assert run.started_at is not None
        assert run.started_at.timestamp() * 1000 == START + 1


def test_old_and_damaged_lines(by_hand: Path) -> None:
    metrics = by_hand / "1" / RUN_ID / "metrics"
    (metrics / "old").write_text("10 0.5\n20 0.25\n")  # before steps
    (metrics / "dataset").write_text("10 0.5 3 digits d1\n")
    (metrics / "cut").write_text("10 0.5 1\n20 0.25 2\n30 0.1")
    (metrics / "bad").write_text(
        "10 0.5 1\nnot a line at all, nor numbers\n99999999999999999999 1 1\n20 0.25 2\n"
    )
    (metrics / "empty").write_text("")
    source, run = only_run(by_hand)
    rows = [row for batch in source.points(run) for row in batch.to_pylist()]  # type: ignore[attr-defined]
    found: dict[str, list[tuple[float, int]]] = {}
    for row in rows:
        found.setdefault(row["key"], []).append((row["value"], row["step"]))
    assert found == {
        "old": [(0.5, 0), (0.25, 0)],
        "dataset": [(0.5, 3)],
        "cut": [(0.5, 1), (0.25, 2), (0.1, 0)],
        "bad": [(0.5, 1), (0.25, 2)],
    }
    assert len(source.problems()) == 2  # type: ignore[attr-defined]


def test_a_damaged_record_stops_no_other(by_hand: Path) -> None:
    other = by_hand / "1" / ("b" * 32)
    other.mkdir()
    (other / "meta.yaml").write_text("run_id: [broken")
    source, run = only_run(by_hand)
    assert run.id == RUN_ID
    (problem,) = source.problems()  # type: ignore[attr-defined]
    assert "damaged" in problem


@pytest.mark.parametrize("path", ["../../../etc/passwd", "/etc/passwd", "a/../../x", "nul\x00"])
def test_paths_that_climb_out_are_refused(by_hand: Path, path: str) -> None:
    source, run = only_run(by_hand)
    with pytest.raises(Corrupt):
        source.open(run, File(path=path))  # type: ignore[attr-defined]


def test_a_link_out_of_the_store_is_refused(by_hand: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (by_hand / "1" / RUN_ID / "artifacts" / "link").symlink_to(tmp_path / "secret")
    (by_hand / "1" / RUN_ID / "params").mkdir()
    (by_hand / "1" / RUN_ID / "params" / "linked").symlink_to(tmp_path / "secret")
    source, run = only_run(by_hand)
    assert run.params == {}
    (file,) = source.files(run)  # type: ignore[attr-defined]
    with pytest.raises(Corrupt, match="symbolic link"):
        source.open(run, file)  # type: ignore[attr-defined]


def test_a_record_that_points_elsewhere_is_not_believed(by_hand: Path, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("secret")
    folder = by_hand / "1" / RUN_ID
    (folder / "artifacts").rmdir()
    (folder / "meta.yaml").write_text(RUN.format(uri=tmp_path / "private", id=RUN_ID))
    source, run = only_run(by_hand)
    with pytest.raises(Corrupt, match="refused"):
        list(source.files(run))  # type: ignore[attr-defined]


def test_a_run_that_disappears(by_hand: Path) -> None:
    import shutil

    source, run = only_run(by_hand)
    shutil.rmtree(by_hand / "1" / RUN_ID)
    with pytest.raises(Vanished):
        list(source.points(run))  # type: ignore[attr-defined]


def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(LocationError, match="not a directory"):
        open_source(f"mlflow:{tmp_path / 'nowhere'}")
    with pytest.raises(LocationError, match=r"meta\.yaml"):
        open_source(f"mlflow:{tmp_path}")


def test_it_is_no_target(by_hand: Path) -> None:
    with pytest.raises(Unsupported) as error:
        open_sink(f"mlflow:{by_hand}")
    assert error.value.hint is not None
    assert "sqlite" in error.value.hint
