"""Uploading run folders with the vendor's own `wandb sync`, several runs at once.

Run as a module it is the child process: `wandb sync`, ended when its parent is gone, so that a
killed copy leaves no upload behind that would race the next one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from ...errors import Unavailable

_GATHER = 0.2
"""Seconds to wait for more finished runs before an upload starts."""
_AT_ONCE = 16
_SILENCE = 900.0
"""Seconds an upload may take beyond what its size explains."""
_BYTES_PER_SECOND = 200_000.0
_FOREIGN = re.compile(
    r"WANDB_(MODE|RUN_ID|PROJECT|ENTITY|NAME|NOTES|TAGS|RUN_GROUP|JOB_TYPE|CONSOLE|SERVICE|SWEEP_ID|RESUME"
    r"|RUN_DIR|DISABLED|CONFIG_PATHS|SILENT|QUIET|PROGRAM|X_.*|_.*)"
)
"""Variables of a training run, which would change the runs that are uploaded."""


def environment(home: Path, server: str) -> dict[str, str]:
    """The child's variables: the vendor's files go below `home`, nothing is reported to the vendor."""
    kept = {k: v for k, v in os.environ.items() if not _FOREIGN.fullmatch(k)}
    return kept | {
        "WANDB_BASE_URL": server,
        "WANDB_DIR": str(home),
        "WANDB_CACHE_DIR": str(home / "cache"),
        "WANDB_DATA_DIR": str(home / "data"),
        "WANDB_CONFIG_DIR": str(home / "config"),
        "WANDB_ARTIFACT_DIR": str(home / "artifacts"),
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_RESUME": "allow",  # a run that is there already is continued, not begun again
        "NO_COLOR": "1",
    }


class Uploader:
    """Gathers finished folders into uploads. One upload runs at a time; the next gathers meanwhile."""

    def __init__(self, home: Path, server: str) -> None:
        self._home, self._server = home, server
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._waiting: list[tuple[Path, Future[str]]] = []

    def upload(self, folder: Path) -> str:
        """Upload one run folder; what the vendor's sync said. Returns when its upload has ended.

        Whether it succeeded is for the caller to read back: the sync does not tell.
        """
        done: Future[str] = Future()
        with self._lock:
            self._waiting.append((folder, done))
        time.sleep(_GATHER)
        while not done.done():
            with self._turn:
                if not done.done():
                    self._upload_waiting()
        return done.result()

    def _upload_waiting(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
        try:
            said = self._sync([folder for folder, _ in batch])
        except BaseException as error:  # noqa: BLE001 - each waiting thread raises it
            for _, done in batch:
                done.set_exception(error)
            return
        for _, done in batch:
            done.set_result(said)

    def _sync(self, folders: Sequence[Path]) -> str:
        size = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
        logs = [str(path) for folder in folders for path in folder.glob("*.wandb")]
        self._home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, "-n", str(len(folders)), *logs],
                stdin=subprocess.PIPE,  # held open: its end tells the child that we are gone
                stdout=said,
                stderr=subprocess.STDOUT,
                env=environment(self._home, self._server),
                cwd=self._home,
            )
            try:
                process.wait(timeout=_SILENCE + size / _BYTES_PER_SECOND)
            except subprocess.TimeoutExpired as error:
                raise Unavailable(
                    f"uploading {len(folders)} run(s) to {self._server} did not end",
                    hint="check the connection, and copy again",
                ) from error
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                if process.stdin is not None:
                    process.stdin.close()
            said.seek(0)
            return said.read().decode("utf-8", "replace")


def main() -> None:
    """The child: `wandb sync` with our arguments, ended when standard input is closed."""

    def watch() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        os._exit(1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    from wandb.cli.cli import cli

    cli(["sync", *sys.argv[1:]])


if __name__ == "__main__":
    main()
