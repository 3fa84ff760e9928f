"""Cells run again and interrupted, in a real IPython shell."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import framework_runs
import outgrow
import pytest
from outgrow.tracking import notebook

pytest.importorskip("IPython", reason="IPython is not installed")

from IPython.core.interactiveshell import InteractiveShell

BEGIN = """
import outgrow
run = outgrow.start_run("digits", f"run-{count}", capture=False)
count += 1
run.log({"loss": 1.0}, step=0)
"""


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    framework_runs.settings(tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setattr(notebook, "_shell", None)
    monkeypatch.setattr(InteractiveShell, "showtraceback", lambda *_, **__: None)
    InteractiveShell.clear_instance()
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    made = InteractiveShell.instance(config=config)
    made.user_ns["count"] = 0
    yield made
    made.restore_sys_module_state()
    InteractiveShell.clear_instance()


def cell(shell: Any, text: str, identity: str | None = None) -> Any:
    object.__setattr__(shell, "get_parent", lambda: {"metadata": {"cellId": identity}})  # as Jupyter's has
    return shell.run_cell(text, store_history=True, cell_id=identity)


def statuses(folder: Path) -> dict[str, str]:
    return {name: got.run.status.value for name, got in framework_runs.arrived(folder).items()}


@pytest.mark.parametrize("identities", [(None, None, None), ("a", "a", "a")])
def test_a_cell_that_runs_again_ends_what_it_left_open(
    shell: Any, tmp_path: Path, identities: tuple[Any, ...]
) -> None:
    for identity in identities:
        assert cell(shell, BEGIN, identity).success
        assert cell(shell, "run.log({'loss': 0.5}, step=1)", "other").success
    run = shell.user_ns["run"]
    assert outgrow.active_run() is run
    cell(shell, "run.finish()")
    found = framework_runs.arrived(tmp_path)
    assert {name: got.run.status.value for name, got in found.items()} == {
        "run-0": "finished", "run-1": "finished", "run-2": "finished",
    }  # fmt: skip
    assert all(got.points == {"loss": [(0, 1.0), (1, 0.5)]} for got in found.values())


def test_an_edited_cell_is_the_same_cell(shell: Any) -> None:
    assert cell(shell, "pass", "0").success
    assert cell(shell, BEGIN, "a").success
    first = shell.user_ns["run"]
    assert cell(shell, BEGIN.replace("1.0", "2.0"), "a").success
    assert first._finished
    second = shell.user_ns["run"]
    assert cell(shell, BEGIN, "b").success  # another cell: both stay open
    assert not second._finished


def test_runs_of_one_execution_do_not_end_each_other(shell: Any) -> None:
    assert cell(shell, "import outgrow\nruns = [outgrow.start_run('d', capture=False) for _ in range(2)]")
    assert [run._finished for run in shell.user_ns["runs"]] == [False, False]


@pytest.mark.parametrize(("error", "status"), [("ValueError", "failed"), ("KeyboardInterrupt", "killed")])
def test_an_interrupted_cell(shell: Any, tmp_path: Path, error: str, status: str) -> None:
    """The run goes on, as the notebook does; left open, it ends as its cell did."""
    cell(shell, f"{BEGIN}\nraise {error}")
    assert outgrow.active_run() is shell.user_ns["run"]
    cell(shell, "run.log({'loss': 0.5}, step=1)")
    cell(shell, f"{BEGIN}\nraise {error}")  # again: the first one is over
    cell(shell, "run.finish()")
    assert statuses(tmp_path) == {"run-0": status, "run-1": "finished"}


TRAINING = """
from outgrow.tracking.integrations.attachment import Attachment
class Callback: pass
callback, attached = Callback(), Attachment("digits", None, {"name": "training", "capture": False})
attached.training(callback)
attached.log({"loss": 1.0}, 0)
"""


def test_a_training_that_is_interrupted_has_ended(shell: Any, tmp_path: Path) -> None:
    cell(shell, f"{TRAINING}\nraise KeyboardInterrupt")
    assert outgrow.active_run() is None
    assert statuses(tmp_path) == {"training": "killed"}


KERNEL = """
import os
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
config = Config()
config.HistoryManager.enabled = False
shell = InteractiveShell.instance(config=config)
shell.run_cell("import outgrow\\nrun = outgrow.start_run('d', 'fine', capture=False)", cell_id="a")
shell.run_cell("other = outgrow.start_run('d', 'broken', capture=False)\\n1 / 0", cell_id="b")
shell.run_cell("1 / 0", cell_id="c")
"""


def test_the_end_of_the_kernel(tmp_path: Path) -> None:
    framework_runs.settings(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", KERNEL], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert statuses(tmp_path) == {"fine": "finished", "broken": "failed"}
