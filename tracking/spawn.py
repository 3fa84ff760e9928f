"""Making sure that delivery processes serve this machine's journals.

One process serves one location for all runs of a folder that have the same credentials, so that a
sweep pays for the start and the SDK's import once, and no sink can hold back or break another. It
is detached: the death of the training does not stop delivery, and no thread of it competes for
the interpreter of the training.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from ..config import Config
from ..locations import parse
from .journal import FileLock
from .warning import DeliveryWarning, warn

# What an SDK may read its server or credentials from: another value needs another process.
_PREFIXES = (
    "MLFLOW_", "WANDB_", "COMET_", "NEPTUNE_", "DATABRICKS_", "AWS_", "AZURE_", "GOOGLE_", "PG", "HTTP_PROXY",
    "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_", "REQUESTS_CA_BUNDLE",
)  # fmt: skip
LOG = "delivery.log"
LOG_BYTES = 5_000_000
"""Above this a new log is begun."""


def public_locations(config: Config) -> dict[str, str]:
    """Location without credentials → as configured. Raises `LocationError` for what is no location."""
    return {parse(text).public: text for text in config.tracking.to}


def _key(config: Config, location: str) -> str:
    """Names the process: one per location and credentials. A digest tells neither."""
    relevant = sorted((k, v) for k, v in os.environ.items() if k.startswith(_PREFIXES))
    text = json.dumps([relevant, location, str(config.base), sys.executable])
    return hashlib.scrypt(text.encode(), salt=b"outgrow", n=2, r=1, p=1, dklen=6).hex()


def ensure_delivery(config: Config) -> None:
    """Start the delivery processes that do not run. Warns, and never raises, where one cannot start."""
    if config.tracking.delivery == "off":
        return
    try:
        for public, location in public_locations(config).items():
            _ensure(config, public, location)
    except OSError as error:
        warn(f"outgrow cannot start its delivery ({error}); deliver with: outgrow sync", DeliveryWarning)


def _ensure(config: Config, public: str, location: str) -> None:
    root, key = config.journal, _key(config, location)
    gate, running = gate_of(root, key), lock_of(root, key)
    while not gate.acquire():  # held for moments only: a process about to leave, or a sibling here
        time.sleep(0.002)
    try:
        if running.acquire():
            running.release()
            _start(config, key, public, location)
    finally:
        gate.release()


def lock_of(root: Path, key: str) -> FileLock:
    """Held by the delivery process as long as it runs; the file holds its process id."""
    return FileLock(root / f"delivery-{key}.lock")


def gate_of(root: Path, key: str) -> FileLock:
    """Passed by those who start the process, and by the process before it leaves."""
    return FileLock(root / f"gate-{key}.lock")


def _start(config: Config, key: str, public: str, location: str) -> None:
    settings = {
        "root": str(config.journal),
        "key": key,
        "public": public,
        "location": location,
        "interval": config.tracking.interval,
        "linger": config.tracking.linger,
        "keep_days": config.tracking.keep_days,
        "every": list(public_locations(config)),
    }
    log_path = config.journal / LOG
    with contextlib.suppress(FileNotFoundError):
        if log_path.stat().st_size > LOG_BYTES:
            log_path.replace(log_path.with_suffix(".log.old"))
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "outgrow.tracking.worker"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=config.base,
            start_new_session=True,
        )
    assert process.stdin is not None
    # Through a pipe: arguments can be read by every user of the machine.
    process.stdin.write(json.dumps(settings).encode())
    process.stdin.close()
    process.returncode = 0  # it outlives us on purpose: no ResourceWarning
