"""Uploading run folders with the vendor's own `wandb sync`, several runs at once.

Run as a module it is the child process, which runs `wandb sync` for one batch of folders after the
other: starting the SDK costs seconds, a batch of small runs less than one. The child ends when its
parent is gone, so that a killed copy leaves no upload behind that would race the next one.
"""

from __future__ import annotations

import json
import os
import queue
import re
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
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
    r"|RUN_DIR|DISABLED|CONFIG_PATHS|SILENT|QUIET|PROGRAM)"
)
"""Variables of a training run, which would change the runs that are uploaded."""

_RETRIES = {"WANDB__GRAPHQL_RETRY_MAX": "8", "WANDB__FILE_STREAM_RETRY_MAX": "8"}
"""About four minutes; the vendor's defaults go on for much longer against a dead server."""


def environment(home: Path, server: str) -> dict[str, str]:
    """The child's variables: the vendor's files go below `home`, nothing is reported to the vendor."""
    kept = {k: v for k, v in os.environ.items() if not _FOREIGN.fullmatch(k)}
    return (
        _RETRIES
        | kept
        | {
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
    )


class Uploader:
    """Gathers finished folders into uploads. One upload runs at a time; the next gathers meanwhile."""

    def __init__(self, home: Path, server: str) -> None:
        self._home, self._server = home, server
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._waiting: list[tuple[Path, Future[str]]] = []
        self._child: _Child | None = None

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
        if self._child is None or not self._child.alive:
            self._home.mkdir(parents=True, exist_ok=True)
            self._child = _Child(self._home, self._server)
        said = self._child.run(["-n", str(len(folders)), *logs], _SILENCE + size / _BYTES_PER_SECOND)
        if said is None:
            self.close()
            raise Unavailable(
                f"uploading {len(folders)} run(s) to {self._server} did not end",
                hint="check the connection, and copy again",
            )
        return said

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


class _Child:
    """A process that runs one `wandb sync` after the other."""

    def __init__(self, home: Path, server: str) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,  # its end tells the child that we are gone
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment(home, server),
            cwd=home,
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def run(self, arguments: Sequence[str], seconds: float) -> str | None:
        """What the sync said; None where it did not end in time. A child that dies has ended, too."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        start = self._said.seek(0, os.SEEK_END)
        try:
            self._process.stdin.write(json.dumps(arguments).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._process.wait()
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not ready:
            return None
        self._process.stdout.readline()
        self._said.seek(start)
        return self._said.read().decode("utf-8", "replace")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


def main() -> None:
    """The child: a line of standard input is a list of arguments; a line of standard output answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    orders: queue.Queue[list[str]] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            orders.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    from wandb.cli.cli import cli

    while True:
        arguments = orders.get()
        try:
            cli.main(["sync", *arguments], standalone_mode=False)
        except Exception as error:  # noqa: BLE001 - told to the parent, which reads the target back
            print(f"ERROR {type(error).__name__}: {error}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        print("ended", file=answers, flush=True)


if __name__ == "__main__":
    main()
