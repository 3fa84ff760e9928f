"""The facade: what callers may hand over, what is raised at once, what never raises."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import os
import pickle
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import outgrow
import pandas as pd
import pyarrow as pa
import pytest
from outgrow.config import Config
from outgrow.model import Status
from outgrow.tracking.start import start_run
from outgrow.tracking.warning import JournalWarning, warn

Settings = Callable[..., Config]


@pytest.fixture
def run(settings: Settings) -> Any:
    with start_run("digits", config=settings(), capture=False) as begun:
        yield begun


def test_numbers_of_every_kind_are_metrics(run: Any, target: Any) -> None:
    run.log({"a": 1, "b": True, "c": np.float32(0.5), "d": np.int64(3), "e": np.array(2.5), "f": {"g": 1.5}})
    run.log({"big": 2**60, "a": -0.0})
    run.finish()
    target.deliver(run.folder)
    assert [(key, value) for key, _, value in target.points()] == [
        ("a", 1), ("b", 1), ("c", 0.5), ("d", 3), ("e", 2.5), ("f/g", 1.5), ("big", 2.0**60), ("a", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda run: run.log({"a": "text"}), TypeError),
        (lambda run: run.log({"a": None}), TypeError),
        (lambda run: run.log({"a": [1, 2]}), TypeError),
        (lambda run: run.log({"a": np.array([1, 2])}), TypeError),
        (lambda run: run.log({"a": 1j}), TypeError),
        (lambda run: run.log({"a": 10**400}), ValueError),
        (lambda run: run.log([("a", 1)]), TypeError),
        (lambda run: run.log({1: 1.0}), TypeError),
        (lambda run: run.log({"": 1.0}), ValueError),
        (lambda run: run.log({"a\nb": 1.0}), ValueError),
        (lambda run: run.log({"a\ud800": 1.0}), ValueError),
        (lambda run: run.log({"a" * 1_001: 1.0}), ValueError),
        (lambda run: run.log({"a": 1.0}, step="1"), TypeError),
        (lambda run: run.log({"a": 1.0}, step=float("nan")), ValueError),
        (lambda run: run.log({"a": 1.0}, step=2**63), ValueError),
        (lambda run: run.log({"a": 1.0}, time=datetime(2026, 1, 1)), ValueError),  # noqa: DTZ001
        (lambda run: run.log({"a": 1.0}, time="now"), TypeError),
        (lambda run: run.log({"a": 1.0}, time=1e18), ValueError),
        (lambda run: run.log_text("a", 1), TypeError),
        (lambda run: run.log_histogram("a", [1, 2], [1, 2]), ValueError),
        (lambda run: run.log_params(3), TypeError),
        (lambda run: run.set_tags({"a": object()}), TypeError),
        (lambda run: run.set_tags({"outgrow.origin": "x"}), ValueError),
        (lambda run: run.log_artifact("missing"), FileNotFoundError),
        (lambda run: run.log_bytes(b"", "../x"), ValueError),
        (lambda run: run.log_bytes(b"", "/etc/x"), ValueError),
        (lambda run: run.log_split(train=[1, 2], test=[2]), ValueError),
        (lambda run: run.log_split(train=["a"]), TypeError),
        (lambda run: run.use_dataset(object(), "x"), TypeError),
        (lambda run: run.log_model(object()), TypeError),
    ],
)  # fmt: skip
def test_a_callers_mistake_is_raised_at_once_and_leaves_nothing(
    run: Any, target: Any, call: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        call(run)
    run.finish()
    target.deliver(run.folder)
    assert target.points() == []
    assert target.files() == {}


def test_params_of_every_kind(settings: Settings, target: Any) -> None:
    class Kind(enum.Enum):
        BIG = "big"

    @dataclasses.dataclass
    class Model:
        width: int = 3
        rate: float = float("inf")

    given = {
        "none": None, "flag": True, "n": 10**30, "list": [1, "a", None], "when": datetime(2026, 1, 2, tzinfo=UTC),
        "kind": Kind.BIG, "path": Path("a/b"), "np": np.float64(0.5), "array": np.arange(3), "class": dict,
        "object": object(), "model": dataclasses.asdict(Model()), "empty": {}, "tuple": (1, 2),
    }  # fmt: skip
    with start_run("digits", config=settings(), capture=False, params=given) as run:
        run.log_params(argparse.Namespace(lr=0.1))
        run.log_params(Model())
        run.log_params({"lr": 0.1})  # the same again
    target.deliver(run.folder)
    assert target.run.params == {
        "none": None, "flag": True, "n": 10**30, "list": [1, "a", None], "when": datetime(2026, 1, 2, tzinfo=UTC),
        "kind": "big", "path": "a/b", "np": 0.5, "array": [0, 1, 2], "class": "builtins.dict", "object": "object",
        "model/width": 3, "model/rate": float("inf"), "empty": {}, "tuple": [1, 2],
        "lr": 0.1, "width": 3, "rate": float("inf"),
    }  # fmt: skip


def test_steps_follow_the_highest_and_keep_what_is_given(run: Any, target: Any) -> None:
    for step in (None, None, 10, None, 3, None, -1, 0.5, 3, None):
        run.log({"a": 1.0}, step=step)
    run.finish()
    target.deliver(run.folder)
    assert [step for _, step, _ in target.points()] == [0, 1, 10, 11, 3, 12, -1, 0.5, 3, 13]


def test_awkward_content_arrives(run: Any, target: Any, tmp_path: Path) -> None:
    """Content is never a reason to raise: it is kept, or written out."""
    run.log_text("sample", "half a pair \ud83d, a \0, a \n")
    run.log_text("long", "x" * 3_000_000)
    run.log_histogram("weights", [float("-inf"), 0, np.nan], np.array([1, np.inf]))
    run.log_params({"broken": "\udcff", "deep": {"a": [["\ud800"]]}, "path": Path(os.fsdecode(b"\xff"))})
    run.set_tags({"note": "\udc80"})
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("latin")
    run.log_artifact(folder)
    run.log({f"metric_{n}": n for n in range(5_000)}, step=-(2**61), time=datetime(1, 1, 1, tzinfo=UTC))
    run.finish()
    target.deliver(run.folder)
    texts = [text for batch in target.source.texts(target.run) for text in batch.column("text").to_pylist()]
    assert texts == ["half a pair \\ud83d, a \0, a \n", "x" * 3_000_000]
    (histogram,) = target.source.histograms(target.run)
    assert repr(histogram.column("edges").to_pylist()) == "[[-inf, 0.0, nan]]"
    assert histogram.column("counts").to_pylist() == [[1.0, float("inf")]]
    assert target.run.params == {"broken": "\\udcff", "deep/a": [["\\ud800"]], "path": "\\udcff"}
    assert target.run.tags == {"note": "\\udc80"}
    assert target.files() == {"out/caf_e9.txt": b"latin"}
    assert len(target.points()) == 5_000


def test_a_mistake_can_be_corrected(run: Any) -> None:
    """What was refused does not count as logged."""
    cyclic: dict[str, Any] = {"lr": 1}
    cyclic["self"] = cyclic
    with pytest.raises(RecursionError):
        run.log_params(cyclic)
    with pytest.raises(ValueError, match="label"):
        run.set_tags({"owner": "me"}, "")
    run.log_params({"lr": 2})
    assert "owner" not in run._tags


def test_threads_get_a_step_each(run: Any, target: Any) -> None:
    threads = [threading.Thread(target=lambda: [run.log({"a": 1.0}) for _ in range(100)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.finish()
    target.deliver(run.folder)
    assert sorted(step for _, step, _ in target.points()) == list(range(800))


def test_forked_children_log_to_the_same_run(run: Any, target: Any) -> None:
    children = []
    for number in range(4):
        child = os.fork()
        if not child:
            for step in range(50):
                run.log({f"worker{number}": float(step)}, step=step)
            run.finish()  # of a child: does nothing
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    run.log({"parent": 1.0}, step=0)
    run.finish()
    target.deliver(run.folder)
    assert len(target.points()) == 201
    assert target.run.status is Status.FINISHED


def test_a_spawned_process_takes_the_run_along(run: Any, target: Any) -> None:
    code = (
        "import pickle, sys; r = pickle.load(sys.stdin.buffer); r.log({'spawned': 1.0}, step=7); r.finish()"
    )
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps(run), check=True)
    run.finish()
    target.deliver(run.folder)
    assert target.points() == [("spawned", 7, 1.0)]
    assert target.run.status is Status.FINISHED


def test_the_end_of_a_with_block_is_the_end_of_the_run(settings: Settings, target: Any) -> None:
    folders = {}

    def ends(error: BaseException | None) -> None:
        with start_run("digits", config=settings(), capture=False) as run:
            folders[type(error)] = run.folder
            if error:
                raise error

    ends(None)
    for error in (RuntimeError("boom"), KeyboardInterrupt(), SystemExit(0), SystemExit(3)):
        with pytest.raises(type(error)):
            ends(error)
        status = target.deliver(folders[type(error)]).run.status
        expected = {
            RuntimeError: Status.FAILED,
            KeyboardInterrupt: Status.KILLED,
            SystemExit: Status.FINISHED,
        }
        if getattr(error, "code", 0) != 3:
            assert status is expected[type(error)]
        else:
            assert status is Status.FAILED


def test_nothing_can_be_logged_after_the_end(run: Any) -> None:
    run.finish()
    with pytest.raises(RuntimeError, match="has ended"):
        run.log({"a": 1.0})
    run.finish()  # again: only waits


def test_the_module_logs_to_the_innermost_run(settings: Settings, target: Any) -> None:
    with pytest.raises(RuntimeError, match="start_run"):
        outgrow.log({"a": 1})
    with start_run("digits", config=settings(), capture=False) as run:
        outgrow.log({"a": 1.0})
        assert outgrow.active_run() is run
    assert outgrow.active_run() is None


def test_a_program_that_ends_without_finish(settings: Settings, target: Any, tmp_path: Path) -> None:
    code = """
import sys, outgrow
from outgrow.config import Config, Tracking
from pathlib import Path
config = Config(tracking=Tracking(to=["archive:x"], delivery="off", system_interval=0), base=Path.cwd())
run = outgrow.start_run("digits", id=sys.argv[1], config=config, capture=False)
run.log({"a": 1.0})
if sys.argv[1] == "failing":
    raise RuntimeError("boom")
if sys.argv[1] == "interrupted":
    raise KeyboardInterrupt
"""
    expected = {"fine": Status.FINISHED, "failing": Status.FAILED, "interrupted": Status.KILLED}
    for name, status in expected.items():
        subprocess.run([sys.executable, "-c", code, name], cwd=tmp_path, capture_output=True, check=False)
        delivery = target.deliver(settings().journal / name)
        assert delivery.run.status is status
        assert delivery.run.summary == {"a": 1.0}


def test_every_open_run_is_ended_by_the_program(settings: Settings, target: Any, tmp_path: Path) -> None:
    code = """
import outgrow
from outgrow.config import Config, Policy, Tracking
from pathlib import Path
tracking = Tracking(to=["archive:x"], delivery="off", system_interval=0)
policy = Policy(required_tags=[], required_metrics=["missing"], level="error")
config = Config(tracking=tracking, policy=policy, base=Path.cwd())
for name in ("one", "two", "three"):
    outgrow.start_run("digits", id=name, config=config, capture=False)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr.count("required_metrics") == 3
    for name in ("one", "two", "three"):
        delivery = target.deliver(settings().journal / name)
        assert delivery.run.status is Status.FINISHED
        assert delivery.run.tags["policy.status"] == "violated"


def test_only_the_main_rank_logs(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    with start_run("digits", config=settings(), capture=False) as run:
        run.log({"a": 1.0})
        run.log_bytes(b"", "x")
        with pytest.raises(TypeError):
            run.log({"a": "mistakes are raised on every rank"})
    assert run.folder is None
    assert not settings().journal.exists()


def test_a_place_that_cannot_be_written(
    settings: Settings, target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root no folder is read-only: a file where the folder should be refuses everybody."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / ".outgrow").write_text("in the way")
    with pytest.warns(JournalWarning, match="goes to"):
        run = start_run("digits", config=settings(), capture=False)
    run.log({"a": 1.0})
    run.finish()
    assert run.folder is not None
    assert run.folder.is_relative_to(tmp_path / "elsewhere")
    assert stat.S_IMODE(run.folder.parent.stat().st_mode) == 0o700
    target.deliver(run.folder)
    assert target.points() == [("a", 0, 1.0)]


def test_a_disk_that_refuses_a_file_does_not_stop_the_training(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "weights").write_bytes(b"w")

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run._journal, "store", full)
    with pytest.warns(JournalWarning, match="No space left"):
        run.log_artifact(tmp_path / "weights")


def test_files_are_kept_as_they_were(run: Any, target: Any, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    (folder / "deep" / "empty").write_bytes(b"")
    run.log_artifact(folder, "results")
    run.log_artifact(folder / "a.txt")
    (folder / "a.txt").write_text("two")
    run.finish()
    target.deliver(run.folder)
    assert target.files() == {"results/a.txt": b"one", "results/deep/empty": b"", "a.txt": b"one"}


def test_data_sets_are_described(run: Any, tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [1, 2, 3], "y": ["a", "b", "c"]})
    table = pa.table({"x": [1, 2, 3]})
    (tmp_path / "data.csv").write_text("x\n1\n")
    uses = {
        "frame": run.use_dataset(frame, "frame", context="test", version="2"),
        "array": run.use_dataset(np.arange(6).reshape(3, 2), "array"),
        "pair": run.use_dataset((np.zeros((3, 2)), np.ones(3)), "pair"),
        "table": run.use_dataset(table, "table"),
        "file": run.use_dataset(tmp_path / "data.csv", "file"),
        "folder": run.use_dataset(tmp_path, "folder"),
    }
    assert uses["frame"].rows == uses["array"].rows == uses["pair"].rows == uses["table"].rows == 3
    assert uses["frame"].version == "2"
    assert uses["file"].source == str(tmp_path / "data.csv")
    assert len({use.digest for use in uses.values()}) == 6
    assert run.use_dataset(frame.copy(), "again").digest == uses["frame"].digest
    assert run.use_dataset(table.slice(0), "again").digest == uses["table"].digest
    assert run.use_dataset(frame.assign(x=[1, 2, 4]), "other").digest != uses["frame"].digest
    assert run.use_dataset(np.arange(6.0).reshape(3, 2), "other").digest != uses["array"].digest


def test_a_split_is_kept(run: Any, target: Any) -> None:
    run.log_split(train=np.array([True, False, True]), test=range(1, 2))
    run.finish()
    target.deliver(run.folder)
    assert target.files()["split/indices.json"] == b'{"train":[0,2],"test":[1]}'
    assert [(use.context, use.rows) for use in target.run.datasets] == [("train", 2), ("test", 1)]


def test_warnings_point_at_the_caller() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        warn("here", UserWarning)
    assert Path(seen[0].filename) == Path(__file__)
