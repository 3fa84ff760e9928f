"""The vendor's own uploader, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ...errors import CredentialsError, Unavailable

_QUIET = {
    # Metrics are reduced before they get here, if at all: the uploader must not sample again.
    "COMET_OFFLINE_SAMPLING_SIZE": "100000000",
    "COMET_INTERNAL_REPORTING": "0",
    "COMET_ERROR_TRACKING_ENABLE": "0",
    "COMET_INTERNAL_SENTRY_DSN": "",
    "COMET_DISABLE_ANNOUNCEMENT": "1",
    "COMET_RICH_OUTPUT": "0",
    "COMET_LOGGING_CONSOLE": "INFO",
}
_UNSET = ("COMET_LOGGING_FILE", "COMET_PROJECT_NAME", "COMET_WORKSPACE", "COMET_EXPERIMENT_KEY")
_SECONDS_PER_ARCHIVE = 3600
_TROUBLE = re.compile(r"COMET (?:ERROR|WARNING): (.*)")


def upload(archives: Sequence[Path], workspace: str, project: str, server: str) -> list[str]:
    """Send archives with `comet upload`; what it complained of. Its exit code proves nothing.

    Raises `CredentialsError` where the key is refused, `Unavailable` where it does not come to an end.
    """
    environment = {k: v for k, v in os.environ.items() if k not in _UNSET}
    environment |= _QUIET | {"COMET_URL_OVERRIDE": f"{server}/clientlib/"}
    with tempfile.TemporaryDirectory(prefix="outgrow-comet-") as folder:
        # Its own working directory and temporary files: what it leaves behind goes with them.
        environment["TMPDIR"] = folder
        command = [
            sys.executable,
            "-m",
            "comet_ml.scripts.comet_upload",
            "--workspace",
            workspace,
            "--project-name",
            project,
            *(str(path.resolve()) for path in archives),
        ]
        try:
            done = subprocess.run(
                command,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=_SECONDS_PER_ARCHIVE * len(archives),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(
                f"`comet upload` did not end within {error.timeout:.0f} s",
                hint="copy again to complete the runs",
            ) from error
    complaints = list(dict.fromkeys(_TROUBLE.findall(done.stdout)))
    if any("API key" in line and "invalid" in line.lower() for line in complaints):
        raise CredentialsError("Comet refused the API key", hint="set COMET_API_KEY to a valid key")
    return complaints
