"""A real `mlflow server` for tests: one process, SQLite, proxied artifacts, an ephemeral port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

START_SECONDS = 240


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class MlflowServer:
    """`start` and `kill` may be called any number of times; the folder keeps its data."""

    folder: Path
    port: int = field(default_factory=free_port)
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    artifacts: str | None = None
    """Where the server keeps artifacts; by default a folder beside the database."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def location(self) -> str:
        return f"mlflow:{self.url}"

    @property
    def database(self) -> Path:
        return self.folder / "mlflow.db"

    def start(self) -> MlflowServer:
        from sql_stores import fresh_sqlite

        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.database.exists():
            fresh_sqlite(self.database)  # saves the server the migrations
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--backend-store-uri", f"sqlite:///{self.database}"),
            *("--artifacts-destination", self.artifacts or str(self.folder / "mlartifacts")),
            *self.options,
        ]
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")},
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **self.environment,
        }
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        self._wait()
        return self

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError((self.folder / "server.log").read_text()[-2000:])
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("the MLflow server did not start")

    def kill(self) -> None:
        """SIGKILL, with its children."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def mlflow_server(folder: Path, **settings: object) -> Iterator[MlflowServer]:
    server = MlflowServer(folder, **settings)  # type: ignore[arg-type]
    try:
        yield server.start()
    finally:
        server.kill()
