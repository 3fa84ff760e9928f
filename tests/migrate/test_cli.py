"""plan, copy, check, status and where as commands: output, JSON, exit codes."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from outgrow import migrate
from outgrow.cli import main
from outgrow.model import File
from outgrow.testing import records
from outgrow.testing.memory import RunData


@pytest.fixture
def history(tmp_path):
    """An archive with three runs. Its location."""
    location = f"archive:{tmp_path}/history"
    migrate.copy(records.history(runs=3), location, ledger=tmp_path / "made.db")
    return location


def run(*arguments: str):
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_the_whole_way(history, tmp_path):
    target = f"archive:{tmp_path}/other"
    plan = run("plan", history, target)
    assert plan.exit_code == 0
    assert "points" in plan.stdout
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / ".outgrow").exists()
    copied = run("copy", history, target, "--workers", "2")
    assert copied.exit_code == 0
    assert "copied" in copied.stdout
    again = json.loads(run("copy", history, target, "--json").stdout)
    assert again["counts"] == {"unchanged": 3}
    check = run("check", history, target, "--deep")
    assert check.exit_code == 0
    assert "3 runs" in check.stdout
    status = run("status")
    assert history in status.stdout
    assert "Not complete" not in status.stdout


def test_json_is_all_there_is_on_stdout(history, tmp_path):
    target = f"archive:{tmp_path}/other"
    for command, *options in (["plan"], ["copy"], ["check", "--deep"], ["check"]):
        data = json.loads(run(command, history, target, *options, "--json").stdout)
        assert (data["command"], data["exit_code"], data["format"]) == (command, 0, 1)
    assert len(data["runs"]) == 3


def test_where_and_experiment(history, tmp_path):
    target = f"archive:{tmp_path}/other"
    data = json.loads(
        run(
            "copy", history, target, "--where", "tags.owner == 'ml' and params['epochs'] < 13", "--json"
        ).stdout
    )
    assert data["counts"] == {"copied": 2}
    assert run("copy", history, target, "--experiment", "digits").exit_code == 0
    refused = run("copy", history, target, "--experiment", "nothing")
    assert refused.exit_code == 2
    assert "experiments there: digits" in refused.stderr


def test_where_a_run_went(history, tmp_path):
    target = f"archive:{tmp_path}/other"
    data = json.loads(run("copy", history, target, "--json").stdout)
    one = data["runs"][0]
    for word in (one["identity"], one["source_run"], one["run_id"], one["name"]):
        links = json.loads(run("where", word, "--json").stdout)
        assert one["run_id"] in {link["run_id"] for link in links}
    rows = list(csv.DictReader(io.StringIO(run("where", "--csv").stdout)))
    assert len(rows) == 3
    assert {row["source_run"] for row in rows} == {one["source_run"] for one in data["runs"]}
    assert run("where", "unheard of").exit_code == 1
    assert run("where").exit_code == 2


def test_status_without_a_ledger():
    result = run("status")
    assert result.exit_code == 2
    assert "no ledger" in result.stderr


@pytest.mark.parametrize(
    ("source", "code", "told"),
    [
        ("nowhere", 2, "not a location"),
        ("floppy:a", 2, "unknown platform"),
        ("archive:{}/nothing", 2, "nothing"),
        ("mlflow:sqlite:///{}/nothing.db", 2, "nothing.db"),
        ("mlflow:http://127.0.0.1:1", 4, "127.0.0.1"),
    ],
)
def test_a_bad_source(source, code, told, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for command in ("plan", "copy", "check"):
        result = run(command, source.format(tmp_path), f"archive:{tmp_path}/other")
        assert result.exit_code == code, result.output
        assert told in result.stderr


def test_partial_and_differing_copies_have_their_codes(tmp_path):
    source = records.history(runs=2)
    source.by_run["run00001"].files.append((File(path="../escape", size=1), b"x"))
    target = f"archive:{tmp_path}/other"
    assert migrate.copy(source, target).exit_code == 3
    assert not (tmp_path / "escape").exists()
    assert migrate.check(source, target).exit_code == 1
    status = run("status", "--failed")
    assert "../escape" in status.stdout


def test_a_bad_filter_is_a_usage_error(history, tmp_path):
    result = run("copy", history, f"archive:{tmp_path}/other", "--where", "open('x')")
    assert result.exit_code == 2
    assert "--where does not know" in result.stderr


def test_names_from_a_platform_cannot_drive_the_terminal(tmp_path):
    source = records.history(runs=1)
    data = source.by_run["run00001"]
    hostile = records.run(2, name="\x1b]0;owned\x07[red]x[/red]")
    source.by_run["run00002"] = RunData(hostile, [], files=[(File(path="../\x1b[2J", size=1), b"x")])
    migrate.copy(source, f"archive:{tmp_path}/other")
    out = run("status").stdout
    assert "\x1b" not in out
    assert "[red]x[/red]" in out
    assert data.run.name not in out


def test_the_real_command(history, tmp_path):
    """The installed program, as a user starts it."""
    outgrow = [sys.executable, "-m", "outgrow.cli"]
    target = f"archive:{tmp_path}/other"
    done = subprocess.run(
        [*outgrow, "copy", history, target, "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"] == {"copied": 3}
    bad = subprocess.run([*outgrow, "copy", history, "floppy:a"], capture_output=True, text=True, timeout=120)
    assert bad.returncode == 2
    assert bad.stderr.startswith("outgrow: unknown platform")
    assert bad.stdout == ""
