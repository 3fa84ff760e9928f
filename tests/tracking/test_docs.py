"""Every example of docs/tracking.md runs."""

from __future__ import annotations

import contextlib
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from outgrow import config as configuration
from outgrow.cli import main
from outgrow.errors import MissingSDK

PAGE = (Path(__file__).parents[2] / "docs" / "tracking.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.filterwarnings("ignore")
def test_the_examples_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The archive holds what MLflow would, and needs no database made first.
    (tmp_path / "outgrow.toml").write_text('[tracking]\nto = ["archive:history"]\ndelivery = "off"\n')
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    names: dict[str, Any] = {}
    ran = 0
    for kind, text in BLOCKS:
        if kind == "python":
            with contextlib.suppress(MissingSDK):  # an example for a framework that is not installed
                exec(compile(text, "docs/tracking.md", "exec"), names)
                ran += 1
        elif kind == "toml":
            path = tmp_path / "example.toml"
            path.write_text(text)
            configuration.read(path)
            assert tomllib.loads(text)
        elif kind == "console":
            for line in text.splitlines():
                words = shlex.split(line.removeprefix("$ outgrow "))
                words = [word.replace("mlflow:sqlite:///mlflow.db", "archive:other") for word in words]
                assert CliRunner().invoke(main, words).exit_code == 0, line
    assert ran >= 4
