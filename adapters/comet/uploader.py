"""The process that runs the vendor's uploader: `python -m outgrow.adapters.comet.uploader`.

It keeps `comet_ml` imported (seconds), reads one job a line on standard input and answers one
line each on standard output. It ends when its input does.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

THREADS = 4
"""Archives uploaded at a time."""
_POLL = 0.05
"""Seconds."""


class _Complaints(logging.Handler):
    """What the SDK complains of while a job runs; jobs at the same time share it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines = [*self.lines[-99:], record.getMessage()[:300]]


def main() -> None:
    # The protocol has the real standard output to itself: the SDK prints.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    complaints = _Complaints()

    import comet_ml.offline
    from comet_ml.exceptions import InvalidAPIKey

    _poll_faster(comet_ml.offline)

    for name in ("comet_ml", "COMET"):
        logging.getLogger(name).addHandler(complaints)
    lock = threading.Lock()

    def work(job: dict[str, Any]) -> None:
        seen = len(complaints.lines)
        answer: dict[str, Any] = {"id": job["id"], "ok": False, "credentials": False}
        try:
            answer["ok"] = comet_ml.offline.upload_single_offline_experiment(
                offline_archive_path=job["archive"],
                api_key=os.environ["COMET_API_KEY"],
                force_upload=False,
                override_workspace=job["workspace"],
                override_project_name=job["project"],
            )
        except InvalidAPIKey as error:
            answer |= {"credentials": True, "error": str(error)}
        except Exception as error:  # noqa: BLE001 - told to the parent, which looks what arrived
            answer["error"] = f"{type(error).__name__}: {error}"[:500]
        answer["complaints"] = complaints.lines[seen:]
        _tell(answers, lock, answer)

    _tell(answers, lock, {"ready": True})
    with ThreadPoolExecutor(THREADS) as pool:
        for line in sys.stdin:
            pool.submit(work, json.loads(line))


def _poll_faster(offline: Any) -> None:
    """The SDK looks once a second whether an archive's files are sent, so each costs a second."""
    option = "wait_for_finish_sleep_interval"
    if option in inspect.signature(offline.OfflineSender).parameters:
        offline.OfflineSender = functools.partial(offline.OfflineSender, **{option: _POLL})


def _tell(answers: IO[str], lock: threading.Lock, answer: dict[str, Any]) -> None:
    with lock:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
