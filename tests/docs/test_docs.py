"""Every `outgrow` command of the documentation runs, in order, in one folder with a small history."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from outgrow import migrate
from outgrow.cli import main
from outgrow.locations import open_source
from outgrow.testing import records

ROOT = Path(__file__).parents[2]
PAGES = ["docs/answers.md", "docs/cards.md", "README.md"]


def commands(page):
    """The command lines of a page's console blocks."""
    for block in re.findall(r"```console\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL):
        yield from (line[2:] for line in block.splitlines() if line.startswith("$ outgrow "))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        source = records.history(runs=3)
        assert migrate.copy(source, "mlflow:sqlite:///mlflow.db").exit_code == 0
        assert migrate.copy(source, "archive:./history").exit_code == 0
    (folder / "weights.bin").write_bytes(bytes([2]) * 1000)
    return folder


@pytest.fixture
def outgrow(folder, monkeypatch):
    """Runs one command line in the folder; the start of a process is tested elsewhere."""
    monkeypatch.chdir(folder)

    def run(line, *more):
        done = CliRunner().invoke(main, [*shlex.split(line)[1:], *more])
        assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"

    return run


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page, outgrow):
    found = list(commands(page))
    assert found
    for line in found:
        outgrow(line)


def test_the_training_of_the_readme_is_tracked(tmp_path):
    text = (ROOT / "README.md").read_text("utf-8")
    (script,) = re.findall(r"```python\n(import outgrow\n.*?)```", text, re.DOTALL)
    (configuration,) = re.findall(r"```toml\n(# outgrow.toml\n.*?)```", text, re.DOTALL)
    (tmp_path / "train.py").write_text(script)
    (tmp_path / "outgrow.toml").write_text(configuration)
    (tmp_path / "split.json").write_text('{"train": [1, 2], "test": [3]}')
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, check=True)
    # The delivery that the training started may still be at it: sync takes its turn after it.
    sync = [sys.executable, "-c", "from outgrow.cli import main; main()", "sync"]
    subprocess.run(sync, cwd=tmp_path, check=True)
    with open_source(f"mlflow:sqlite:///{tmp_path}/mlflow.db") as source:
        (run,) = (r for e in source.experiments() for r in source.runs(e))
        series = {key: rows for batch in source.points(run) for key, rows in _rows(batch).items()}
        assert (run.name, run.params, run.status) == ("digits-sweep-003", {"lr": "0.001"}, "finished")
        assert {"project": "digits", "owner": "ml", "intent": "sweep"}.items() <= run.tags.items()
        assert series == {"train/loss": [(10, 0.3)], "eval/accuracy": [(10, 0.91)]}
        assert "split.json" in {file.path for file in source.files(run)}


def _rows(batch):
    rows = {}
    for row in batch.to_pylist():
        rows.setdefault(row["key"], []).append((row["step"], row["value"]))
    return rows


DOCUMENTED = {
    "runs": [],
    "show": ["mlflow:sqlite:///mlflow.db#digits-sweep-002"],
    "diff": ["mlflow:sqlite:///mlflow.db#digits-sweep-001", "archive:./history#digits-sweep-003"],
    "best": ["--metric", "eval/accuracy"],
    "lineage": ["digits-classifier@champion"],
    "audit": ["--threshold", "9"],
    "retain": [],
    "advise": [],
}


@pytest.mark.parametrize("command", DOCUMENTED)
def test_the_json_of_a_command_has_the_documented_fields(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    more = DOCUMENTED[command]
    place = [] if any("#" in word for word in more) else ["mlflow:sqlite:///mlflow.db"]
    done = CliRunner().invoke(main, [command, *place, *more, "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    page = (ROOT / "docs/answers.md").read_text("utf-8")
    row = re.search(rf"(?m)^\| `{command}` \| (.*) \|$", page)[1]
    nested = dict(re.findall(r"`(\w+)` \(((?:`\w+`(?:, )?)+)\)", row))
    fields = re.findall(r"`([\w.]+)`", re.sub(r"\([^)]*\)", "", row).partition(";")[0])
    if command == "runs":
        columns = {re.sub(r"\..*", ".KEY", column) for column in answer[0]}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", answer[0]["started_at"])
        assert columns == set(fields) | {"params.KEY", "metrics.KEY", "tags.KEY"}
        return
    assert set(answer) == set(fields)
    for field, names in nested.items():
        assert all(set(item) == set(re.findall(r"\w+", names)) for item in answer[field]), field


def test_the_card_in_the_documentation_is_the_one_that_is_written(folder, outgrow):
    page = (ROOT / "docs/cards.md").read_text("utf-8")
    shown = re.search(r"<!-- example: card/README.md -->\n````markdown\n(.*?)````", page, re.DOTALL)
    line, _, _ = next(commands("docs/cards.md")).rpartition(" ")
    outgrow(line, "example")
    assert shown
    assert shown.group(1) == (folder / "example" / "README.md").read_text("utf-8")


def test_every_link_between_pages_leads_somewhere():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        text = re.sub(r"(?ms)^(`{3,}).*?^\1", "", page.read_text("utf-8"))  # not within examples
        for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", text):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
