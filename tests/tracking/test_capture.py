"""What a run records of its surroundings: true, and without secrets."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outgrow.config import Config
from outgrow.model import Environment
from outgrow.tracking.capture.code import code, without_secrets
from outgrow.tracking.capture.environment import command, packages, variables
from outgrow.tracking.start import start_run

Settings = Callable[..., Config]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()

    def git(*words: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)

    git("init", "-b", "trunk")
    git("remote", "add", "origin", "https://user:hunter22@example.org/repo.git")
    (folder / "train.py").write_text("lr = 1\n")
    git("add", ".")
    git("commit", "-m", "first")
    return folder


def test_a_clean_checkout(checkout: Path) -> None:
    version, diff = code(checkout, 1_000)
    assert version is not None
    assert len(version.commit or "") == 40
    assert (version.branch, version.dirty, diff) == ("trunk", False, None)
    assert version.repository == "https://example.org/repo.git"


def test_a_dirty_checkout(checkout: Path) -> None:
    (checkout / "train.py").write_text("lr = 2\napi_key = 'abcd1234efgh'\n")
    version, diff = code(checkout, 1_000)
    assert version is not None
    assert version.dirty
    assert diff is not None
    assert "+lr = 2" in diff
    assert "abcd1234efgh" not in diff
    _, cut = code(checkout, 40)
    assert cut is not None
    assert "cut after 40" in cut
    assert code(checkout, 0)[1] is None


def test_outside_a_checkout(tmp_path: Path) -> None:
    assert code(tmp_path, 1_000) == (None, None)


@pytest.mark.parametrize(
    "text",
    [
        "password = SECRETVALUE", 'TOKEN: "SECRETVALUE"', "aws_secret_access_key=SECRETVALUE",
        "https://user:SECRETVALUE@host/x", "export WANDB_API_KEY=SECRETVALUE", "{'api_key': 'SECRETVALUE'}",
        "-----BEGIN RSA PRIVATE KEY-----\nSECRETVALUE\n-----END RSA PRIVATE KEY-----", "ghp_SECRETVALUESECRETVALUE1",
        "hf_SECRETVALUESECRETVALUE1", "sk-SECRETVALUESECRETVALUE1", "--api-key=SECRETVALUE",
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_taken_out(text: str) -> None:
    assert "SECRETVALUE" not in without_secrets(text)


@given(st.text(max_size=200))
def test_taking_out_secrets_takes_any_text(text: str) -> None:
    assert isinstance(without_secrets(without_secrets(text)), str)


def test_ordinary_code_stays() -> None:
    text = "lr = 0.1\nmodel.fit(x)\nfor key in keys: print(key)\nn_tokens = 3\n"
    assert without_secrets(text) == text


def test_the_command_line_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "--token", "abcdefgh", "--lr", "1"])
    assert command() == ["python", "train.py", "--token", "***", "--lr", "1"]


def test_variables_by_allow_list_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SECRET_THING", "x")
    assert variables([]) == {}
    assert variables(["CUDA_*"]) == {"CUDA_VISIBLE_DEVICES": "0"}


def torch_too(seed: int) -> dict[str, int]:
    """Where an earlier test of this process has imported it."""
    return {"torch": seed} if "torch" in sys.modules else {}


def test_the_run_has_its_surroundings(settings: Settings, target: Any) -> None:
    with start_run("digits", config=settings(system_interval=0.05), seed=7) as run:
        first = (random.random(), np.random.random())
        sampler = run._sampler
        assert sampler is not None
        run._append(("m", 0, 0, sampler.sample()))
    target.deliver(run.folder)
    environment = target.run.environment
    assert environment.python == ".".join(map(str, sys.version_info[:3]))
    assert environment.packages["numpy"] == np.__version__
    assert environment.seeds == {"python": 7, "numpy": 7} | torch_too(7)
    assert environment.host
    assert environment.cpu_count
    assert target.run.user
    assert f"numpy=={np.__version__}\n".encode() in target.files()["environment/requirements.txt"]
    assert "system/process.memory_bytes" in {key for key, *_ in target.points()}
    with start_run("digits", config=settings(), seed=7):
        assert (random.random(), np.random.random()) == first


def test_nothing_is_captured_where_it_is_not_wanted(settings: Settings, target: Any) -> None:
    with start_run("digits", config=settings(), capture=False, seed=3) as run:
        run.log_seeds(split=5)
    target.deliver(run.folder)
    assert target.run.environment == Environment(seeds={"python": 3, "numpy": 3, "split": 5} | torch_too(3))
    assert target.files() == {}


def test_packages_are_told_once() -> None:
    assert packages() is packages()
    assert "outgrow" in packages()
