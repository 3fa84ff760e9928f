"""`outgrow card` as a person runs it."""

import os
import subprocess
import sys

import pytest
from emulators import hub as hub_emulator
from outgrow import migrate
from outgrow.testing import records


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert migrate.copy(records.history(runs=2), "archive:history").exit_code == 0
    return folder


def card(folder, *arguments, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(folder / "hf"),
    } | variables
    return subprocess.run(
        [sys.executable, "-m", "outgrow.cli", "card", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_card_is_written_checked_and_goes_stale(place, tmp_path):
    write = (
        "model",
        "archive:history",
        "digits-classifier",
        "--license",
        "mit",
        "--bom",
        "--out",
        str(tmp_path),
    )
    assert card(place, *write).returncode == 0
    assert {p.name for p in tmp_path.iterdir()} >= {"README.md", "card.json", "figures", "ml-bom.cdx.json"}
    assert card(place, *write, "--check").returncode == 0
    readme = tmp_path / "README.md"
    readme.write_text(readme.read_text().replace("license: mit", "license: mti"))
    found = card(place, *write, "--check")
    assert found.returncode == 1
    assert "README.md:2: invalid: license: 'mti' is not known" in found.stdout
    assert card(place, *write[:-1], str(tmp_path / "none"), "--check").returncode == 1


def test_a_dry_run_writes_nothing(place, tmp_path):
    done = card(place, "dataset", "archive:history", "digits", "--out", str(tmp_path / "card"), "--dry-run")
    assert done.returncode == 0
    assert "+pretty_name: digits" in done.stdout
    assert not (tmp_path / "card").exists()


def test_pushing_creates_one_private_repository_with_the_model_s_files(place):
    with hub_emulator.serve() as hub:
        known = {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub_emulator.TOKEN}
        command = ("model", "archive:history", "digits-classifier", "--push", "ada/digits")
        refused = card(place, *command, **known)
        assert refused.returncode == 2
        assert "--create" in refused.stderr
        done = card(place, *command, "--create", "--with-files", **known)
        assert done.returncode == 0, done.stderr
        repo = hub.repos["model", "ada/digits"]
        assert repo.private
        assert repo.head("main").files["model/model/weights.bin"] == bytes([2]) * 1000
        assert b"version 2 (champion)" in repo.head("main").files["README.md"]
        assert hub_emulator.TOKEN not in done.stdout + done.stderr
        stranger = card(place, *command, **(known | {"HF_TOKEN": "hf_" + "x" * 34}))
        assert stranger.returncode == 2
        assert "hf auth login" in stranger.stderr


def test_a_name_that_is_not_known_says_what_is(place):
    done = card(place, "model", "archive:history", "digits-classifier@production")
    assert done.returncode == 2
    assert "it has: champion" in done.stderr
