"""The emulated server and runs recorded by the SDK, once for all tests of W&B."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb_runs
from emulators.wandb import WandbServer


@pytest.fixture(scope="session")
def wandb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    home = tmp_path_factory.mktemp("wandb-home")
    with WandbServer() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment(home).items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server of one test, for what it must not share."""
    with WandbServer() as server:
        for name, value in server.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def sdk_runs(wandb_server: WandbServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an offline run and an online one; the online one is on the server, too."""
    folder = tmp_path_factory.mktemp("sdk-runs")
    children = [
        subprocess.Popen(
            [sys.executable, wandb_runs.__file__, mode, str(folder)],
            cwd=folder,
            env={k: v for k, v in os.environ.items() if k != "WANDB_DIR"},
        )
        for mode in ("offline", "online")
    ]
    assert [child.wait(120) for child in children] == [0, 0]
    return folder
