"""The demo without its server: real training, tracking, plan, copy and check. `make demo` runs all of it."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from outgrow import demo
from outgrow.cli import main
from outgrow.demo import steps
from outgrow.demo.stage import OURS, Stage, Step
from outgrow.errors import ConfigError, Unavailable
from rich.console import Console

ROOT = Path(__file__).parents[2]


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def told(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_train_plan_copy_and_check(tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stage, "mlflow_server", lambda *_: None)
    stage = Stage(tmp_path / "demo", console, epochs=2)
    stage.prepare()
    lines = [line for step in (steps.train, steps.plan, steps.archive) for line in step(stage)]
    assert stage.findings == [], told(console)
    assert stage.facts["runs"] == 24
    text = "\n".join(lines)
    assert "24 runs, 2 of them failed" in text
    assert "24 copied" in text
    assert re.search(r"24 runs equal, [\d,]+ points and [\d,]+ files compared", text)
    versions = re.search(r"1 registered model, (\d+) versions", text)
    assert versions is not None
    assert int(versions[1]) > 1


def test_a_folder_of_others_is_not_cleared(tmp_path: Path, console: Console) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not made by the demo"):
        demo.run(tmp_path, console)
    assert (tmp_path / "mine.txt").exists()
    assert CliRunner().invoke(main, ["demo", "--folder", str(tmp_path)]).exit_code == 2


def test_an_earlier_demo_is_cleared(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / OURS).write_text("")
    (folder / "old").write_text("")
    monkeypatch.setattr(steps, "STEPS", [])
    assert demo.run(folder, console) == []
    assert not (folder / "old").exists()
    assert "All checks passed" in told(console)


def test_a_finding_ends_the_demo_and_its_processes(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def wrong(stage: Stage) -> Iterator[str]:
        started.append(stage.start("-c", "import time; time.sleep(600)", log="sleep.log"))
        stage.expect(False, "two and two are five")
        yield "told"

    def broken(stage: Stage) -> Iterator[str]:
        raise Unavailable("never reached")
        yield ""

    monkeypatch.setattr(steps, "STEPS", [Step("Wrong", wrong), Step("Broken", broken)])
    assert demo.run(tmp_path / "demo", console) == ["two and two are five"]
    assert started[0].poll() is not None
    assert "1 checks failed" in told(console)
    monkeypatch.setattr(steps, "STEPS", [Step("Broken", broken)])
    assert len(demo.run(tmp_path / "demo", console)) == 1


def test_a_command_that_fails_is_a_finding(tmp_path: Path, console: Console) -> None:
    stage = Stage(tmp_path, console)
    assert stage.outgrow_json("plan", "nowhere:x", "archive:y") == {}
    assert "unknown platform" in stage.findings[0]
    assert stage.python("x")[0] == sys.executable


def test_every_step_is_there() -> None:
    assert [step.run for step in steps.STEPS][:7] == [
        steps.train, steps.plan, steps.archive, steps.serve, steps.kill, steps.resume, steps.check,
    ]  # fmt: skip
    assert "outgrow demo" in (ROOT / "Makefile").read_text()
