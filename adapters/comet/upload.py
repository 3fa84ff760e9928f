"""Handing archives to the vendor's own uploader, in a process of its own."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ...errors import CredentialsError, Unavailable
from . import credentials

_QUIET = {
    # Metrics are reduced before they get here, if at all: the uploader must not sample again.
    "COMET_OFFLINE_SAMPLING_SIZE": "100000000",
    "COMET_INTERNAL_REPORTING": "0",
    "COMET_ERROR_TRACKING_ENABLE": "0",
    "COMET_DISABLE_ANNOUNCEMENT": "1",
    "COMET_DISABLE_AUTO_LOGGING": "1",
    "COMET_RICH_OUTPUT": "0",
}
_UNSET = ("COMET_LOGGING_FILE", "COMET_PROJECT_NAME", "COMET_WORKSPACE", "COMET_EXPERIMENT_KEY")
_SECONDS = 3600
"""For one archive to be taken."""

Answer = dict[str, Any]


class Uploader:
    """One uploader process for one server. Its methods may be called from several threads."""

    def __init__(self, server: str) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in _UNSET}
        self._folder = tempfile.TemporaryDirectory(prefix="outgrow-comet-")
        # Its own working directory and temporary files: what it leaves behind goes with them.
        environment |= _QUIET | {
            "COMET_URL_OVERRIDE": f"{server}/clientlib/",
            "COMET_API_KEY": credentials.api_key(),
            "TMPDIR": self._folder.name,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "outgrow.adapters.comet.uploader"],
            env=environment,
            cwd=self._folder.name,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._lock = threading.Lock()
        self._jobs: dict[int, Future[Answer]] = {}
        self._count = 0
        threading.Thread(target=self._listen, daemon=True, name="comet-uploader").start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            with self._lock:
                job = self._jobs.pop(answer.get("id", -1), None)
            if job is not None:
                job.set_result(answer)
        with self._lock:
            lost, self._jobs = list(self._jobs.values()), {}
        for job in lost:
            job.set_exception(Unavailable("the Comet uploader ended early", hint="copy again"))

    def _submit(self, archive: Path, workspace: str, project: str) -> Future[Answer]:
        future: Future[Answer] = Future()
        assert self._process.stdin is not None
        with self._lock:
            self._count += 1
            job = {
                "id": self._count,
                "archive": str(archive.resolve()),
                "workspace": workspace,
                "project": project,
            }
            self._jobs[self._count] = future
            try:
                self._process.stdin.write(json.dumps(job) + "\n")
                self._process.stdin.flush()
            except OSError as error:
                self._jobs.pop(self._count, None)
                raise Unavailable("the Comet uploader ended early", hint="copy again") from error
        return future

    def upload(self, archives: Sequence[Path], workspace: str, project: str) -> list[str]:
        """Send archives; what the SDK complained of. That it did not complain proves nothing.

        Raises `CredentialsError` where the key is refused, `Unavailable` where the process dies or hangs.
        """
        jobs = [self._submit(archive, workspace, project) for archive in archives]
        complaints: dict[str, None] = {}
        for job in jobs:
            try:
                answer = job.result(_SECONDS)
            except TimeoutError as error:
                self.close()
                raise Unavailable(
                    f"the Comet uploader did not end within {_SECONDS} s",
                    hint="copy again to complete the runs",
                ) from error
            if answer.get("credentials"):
                raise CredentialsError("Comet refused the API key", hint="set COMET_API_KEY to a valid key")
            complaints |= dict.fromkeys([*answer.get("complaints", ()), *filter(None, [answer.get("error")])])
        return list(complaints)

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.terminate()
        self._process.wait()
        self._folder.cleanup()


_shared: dict[tuple[str, str], Uploader] = {}
_shared_lock = threading.Lock()


def uploader(server: str) -> Uploader:
    """The process-wide uploader of a server, started when first needed, ended with this process."""
    with _shared_lock:
        slot = server, credentials.api_key()
        known = _shared.get(slot)
        if known is None or not known.alive:
            if known is not None:
                known.close()
            _shared[slot] = known = Uploader(server)
        return known


@atexit.register
def _close_all() -> None:
    for one in _shared.values():
        one.close()
    _shared.clear()
