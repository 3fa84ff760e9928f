"""What all loggers and callbacks share, without any framework."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import framework_runs
import outgrow
import pytest
from outgrow.config import Config, Policy, Tracking
from outgrow.errors import MissingSDK
from outgrow.model import Status
from outgrow.tracking.integrations.attachment import Attachment
from outgrow.tracking.start import start_run
from outgrow.tracking.warning import IntegrationWarning, PolicyWarning

Settings = Callable[..., Config]


def attach(config: Config, **options: Any) -> Attachment:
    return Attachment("digits", None, {"config": config, "capture": False} | options)


def test_its_own_run_is_taken_up_again(settings: Settings, target: Any) -> None:
    attached = attach(settings(), name="own", params={"lr": 1}, tags={"owner": "ml"})
    assert not attached.begun
    attached.log({"loss": 1.0}, 0)
    folder, run_id = attached.run.folder, attached.run_id
    attached.finish()
    attached.finish()  # again: nothing
    target.deliver(folder)
    assert attached.run_id == run_id
    assert outgrow.active_run() is None
    attached.log({"test": 2.0}, None)
    attached.finish()
    target.deliver(folder)
    assert target.points() == [("loss", 0, 1.0), ("test", 1, 2.0)]
    assert (target.run.name, target.run.params, target.run.tags) == ("own", {"lr": 1}, {"owner": "ml"})
    assert target.run.status is Status.FINISHED


def test_taken_up_again_it_is_one_run_of_an_mlflow_store(tmp_path: Path) -> None:
    import contextlib
    import sqlite3

    from outgrow.tracking.sync import sync
    from sql_stores import fresh_sqlite

    fresh_sqlite(tmp_path / "mlflow.db")
    tracking = Tracking(to=["mlflow:sqlite:///mlflow.db"], delivery="off", system_interval=0.01)
    config = Config(tracking=tracking, base=tmp_path)
    attached = attach(config, name="own", params={"lr": 1}, capture=True)
    for step in range(3):
        attached.log({"loss": float(step)}, None)
    folder = attached.run.folder
    for _ in range(400):  # two samples, whose steps are not the training's
        if (folder / "records.jsonl").read_bytes().count(b"system/cpu") > 1:
            break
        time.sleep(0.05)
    attached.finish()
    assert sync([folder], config)[0].complete
    attached.log({"test": 5.0}, None)
    attached.run.log_model(__file__, "model")
    attached.finish(ValueError("boom"))
    assert sync([folder], config)[0].complete
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        assert database.execute("SELECT name, status FROM runs").fetchall() == [("own", "FAILED")]
        found = database.execute("SELECT key, step, value FROM metrics WHERE key NOT LIKE 'system/%'")
        assert sorted(found) == [("loss", 0, 0.0), ("loss", 1, 1.0), ("loss", 2, 2.0), ("test", 3, 5.0)]
        assert database.execute("SELECT name FROM logged_models").fetchall() == [("model",)]


def test_the_active_run_is_joined_unless_it_is_anothers_own(settings: Settings) -> None:
    with start_run("digits", config=settings(), capture=False) as run:
        assert Attachment(None, None, {}).run is run
        other = attach(settings())
        assert other.run is not run
        assert outgrow.active_run() is other.run
        assert Attachment(None, None, {}).run is not other.run
        Attachment(None, run, {}).finish()  # not its own to end
        assert not run._finished
        other.finish()


def test_options_are_checked_at_once(settings: Settings) -> None:
    with pytest.raises(TypeError, match="no option 'experiment_name'"):
        Attachment(None, None, {"experiment_name": "x"})
    with start_run("digits", config=settings(), capture=False) as run:
        for experiment, options in (("digits", {}), (None, {"name": "x"})):
            with pytest.raises(TypeError, match="not both"):
                Attachment(experiment, run, options)


def test_what_a_run_cannot_hold_is_left_out_with_one_warning(settings: Settings, target: Any) -> None:
    attached = attach(settings(), params={"lr": 1})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(3):
            attached.log({"a": 1, "words": "w", "list": [1], "deep": {"b": 2.0, "none": None}}, step)
        attached.params({"lr": 2, "new": 1})
        attached.params({"lr": 2})
    assert sorted(str(warning.message)[:26] for warning in caught) == [
        "outgrow leaves out 'deep/n",
        "outgrow leaves out 'list':",
        "these params keep the valu",
    ]  # fmt: skip
    folder = attached.run.folder
    attached.finish()
    target.deliver(folder)
    assert [key for key, _, _ in target.points()] == ["a", "deep/b"] * 3
    assert target.run.params == {"lr": 1, "new": 1}


def test_nothing_is_raised_into_the_training(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    attached = attach(settings())
    monkeypatch.setattr(attached.run, "log", lambda *_, **__: 1 / 0)
    with pytest.warns(IntegrationWarning, match="could not log metrics: ZeroDivisionError"):
        attached.log({"a": 1.0}, 0)
    attached.log({"a": 1.0}, 1)  # told once
    attached.finish(ValueError("boom"))


def test_a_broken_policy_is_a_warning(settings: Settings, target: Any) -> None:
    rules = Policy(required_tags=[], required_metrics=["accuracy"], level="error")
    attached = attach(settings(policy=rules))
    attached.log({"loss": 1.0}, 0)
    folder = attached.run.folder
    with pytest.warns(PolicyWarning, match="accuracy"):
        attached.finish()
    target.deliver(folder)
    assert target.run.tags["policy.status"] == "violated"


CAUGHT = """
from outgrow.tracking.integrations.attachment import Attachment
class Callback: pass
callback, attached = Callback(), Attachment("digits", None, {"name": "caught", "capture": False})
attached.training(callback)
attached.log({"a": 1.0}, 0)
"""


def test_a_training_that_never_ends_has_failed(tmp_path: Path) -> None:
    """Its exception was caught, and the program went on to its end."""
    framework_runs.settings(tmp_path)
    done = subprocess.run([sys.executable, "-c", CAUGHT], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert framework_runs.arrived(tmp_path)["caught"].run.status is Status.FAILED


@pytest.mark.parametrize(
    ("name", "framework"),
    [
        ("LightningLogger", "lightning"),
        ("TransformersCallback", "transformers"),
        ("AccelerateTracker", "accelerate"),
        ("KerasCallback", "keras"),
    ],
)
def test_a_framework_that_is_not_installed(
    name: str, framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from outgrow.tracking import integrations

    monkeypatch.delitem(sys.modules, f"{integrations.__name__}.{framework}", raising=False)
    for module in [m for m in sys.modules if m.partition(".")[0] in (framework, "pytorch_lightning")]:
        monkeypatch.delitem(sys.modules, module)
    for module in (framework, "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingSDK, match=rf"not installed\n  pip install .*{framework}"):
        getattr(integrations, name)


def test_frameworks_are_imported_when_they_are_used() -> None:
    code = (
        "import sys, outgrow, outgrow.tracking.integrations, outgrow.tracking.integrations.attachment;"
        "print(*{m.partition('.')[0] for m in sys.modules} & {'torch', 'lightning', 'transformers', "
        "'accelerate', 'keras', 'optuna', 'IPython', 'mlflow', 'numpy'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
