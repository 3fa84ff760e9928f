"""The commands and the code of `docs/migrating.md` do what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from outgrow import migrate
from outgrow.cli import main
from outgrow.testing import records
from sql_stores import fresh_sqlite

PAGE = Path(__file__).parents[2] / "docs" / "migrating.md"


@pytest.fixture
def _mlflow(tmp_path):
    uri = fresh_sqlite(tmp_path / "mlflow.db")
    migrate.copy(records.history(runs=2), f"mlflow:{uri}", ledger=tmp_path / "made.db")


@pytest.mark.usefixtures("_mlflow")
def test_commands_and_code():
    text = PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"^\$ outgrow (.+)$", text, flags=re.MULTILINE)
    assert len(commands) >= 7
    for command in commands:
        result = CliRunner().invoke(main, shlex.split(command))
        assert result.exit_code == 0, (command, result.output)
    (code,) = re.findall(r"```python\n(.+?)```", text, flags=re.DOTALL)
    found: dict[str, object] = {}
    exec(code, found)
    assert found["report"].counts == {"unchanged": 2}
    assert found["check"].exit_code == 0
