"""Every `outgrow` command of the documentation runs, in order, in one folder with a small history."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from outgrow import migrate
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


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page, folder):
    found = list(commands(page))
    assert found
    for line in found:
        done = subprocess.run(
            [sys.executable, "-m", "outgrow.cli", *shlex.split(line)[1:]],
            cwd=folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def test_the_card_in_the_documentation_is_the_one_that_is_written(folder):
    page = (ROOT / "docs/cards.md").read_text("utf-8")
    shown = re.search(r"<!-- example: card/README.md -->\n````markdown\n(.*?)````", page, re.DOTALL)
    subprocess.run(
        [sys.executable, "-m", "outgrow.cli", *shlex.split(next(commands("docs/cards.md")))[1:-1], "example"],
        cwd=folder,
        capture_output=True,
        check=True,
    )
    assert shown
    assert shown.group(1) == (folder / "example" / "README.md").read_text("utf-8")


def test_every_link_between_pages_leads_somewhere():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        text = re.sub(r"(?ms)^(`{3,}).*?^\1", "", page.read_text("utf-8"))  # not within examples
        for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", text):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
