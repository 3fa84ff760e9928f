"""What the demo's steps share: its folder, the `outgrow` command, the MLflow server, the findings."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import ConfigError, Unavailable

OURS = ".outgrow-demo"
"""File that marks a folder as one that the demo made and may clear."""
SERVER_START = 180.0
"""Seconds; on a busy machine an MLflow server takes more than a minute."""


@dataclass(frozen=True, slots=True)
class Step:
    """`run` returns the lines to show; it adds to `Stage.findings` what is not as it should be."""

    title: str
    run: Callable[[Stage], Iterator[str]]


@dataclass(slots=True)
class Stage:
    folder: Path
    console: Console
    findings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """What a step leaves for later ones."""
    cleanup: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    epochs: int | None = None
    """Epochs of each training run; None: the demo's own number."""

    def prepare(self) -> None:
        """Start from an empty folder. Raises `ConfigError` for one that the demo did not make."""
        if self.folder.exists():
            if not (self.folder / OURS).exists():
                raise ConfigError(
                    f"{self.folder} exists and was not made by the demo", hint="name another folder: --folder"
                )
            self.console.print(f"cleared {self.folder} of an earlier demo", style="dim")
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        (self.folder / OURS).write_text("Made by `outgrow demo`; the next one clears this folder.\n")

    def expect(self, true: bool, otherwise: str) -> None:
        if not true:
            self.findings.append(otherwise)
            self.console.print(f"  ✗ {otherwise}", style="bold red", markup=False, soft_wrap=True)

    # --- processes -----------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """Ours, without settings that would lead the demo elsewhere."""
        private = ("OUTGROW_", "MLFLOW_", "WANDB_", "COMET_", "NEPTUNE_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(private)}
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        quiet |= {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
        # Without its job queue an MLflow server is 2 processes instead of 15.
        return kept | quiet | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}

    def python(self, *arguments: str) -> list[str]:
        return [sys.executable, *arguments]

    def start(self, *arguments: str, log: str) -> subprocess.Popen[bytes]:
        """A process in the demo's folder, ended with the demo; its output goes to a log file."""
        stream = self.cleanup.enter_context((self.folder / log).open("ab"))
        process = subprocess.Popen(
            self.python(*arguments),
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        self.cleanup.callback(stop, process)
        return process

    def outgrow(self, *arguments: str, expect: int = 0) -> str:
        """Run an `outgrow` command; what it prints on stdout. Another exit code is a finding."""
        self.console.print(f"  $ outgrow {' '.join(arguments)}", style="cyan", markup=False, soft_wrap=True)
        done = subprocess.run(
            self.python("-m", "outgrow.cli", *arguments),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        with (self.folder / "commands.log").open("a") as log:
            log.write(
                f"$ outgrow {' '.join(arguments)}\n{done.stdout}{done.stderr}exit {done.returncode}\n\n"
            )
        if done.returncode != expect:
            words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-12:]
            told = "\n    ".join(words)
            self.expect(False, f"outgrow {arguments[0]} ended with exit code {done.returncode}:\n    {told}")
        return done.stdout

    def outgrow_json(self, *arguments: str, expect: int = 0) -> dict[str, Any]:
        """The same, with `--json`."""
        text = self.outgrow(*arguments, "--json", expect=expect)
        try:
            result: dict[str, Any] = json.loads(text)
        except ValueError:
            return {}
        return result

    def mlflow_server(self, name: str) -> Callable[[], str]:
        """Start a real MLflow server over SQLite in `name/`; what waits until it answers, for its URL."""
        port = free_port()
        (self.folder / name).mkdir(exist_ok=True)
        log = f"{name}-server.log"
        process = self.start(
            *("-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{name}/mlflow.db"),
            *("--artifacts-destination", f"{name}/artifacts"),
            log=log,
        )

        def answering() -> str:
            deadline = time.monotonic() + SERVER_START
            url = f"http://127.0.0.1:{port}"
            while time.monotonic() < deadline and process.poll() is None:
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=2):
                    return url
                time.sleep(0.2)
            raise Unavailable(
                f"the MLflow server did not start on port {port}", hint=f"see {self.folder / log}"
            )

        return answering


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(timeout=10)
            return
        except subprocess.TimeoutExpired:
            continue


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
