"""Making sure that a delivery process serves this machine's journals.

One process serves all runs of a folder that have the same credentials and locations, so that a
sweep pays for the start and the SDK imports once. It is detached: the death of the training does
not stop delivery, and no thread of it competes for the interpreter of the training.
"""

from __future__ import annotations

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


def public_locations(config: Config) -> dict[str, str]:
    """Location without credentials → as configured. Raises `LocationError` for what is no location."""
    return {parse(text).public: text for text in config.tracking.to}


def _key(config: Config) -> str:
    """Names the process: one per set of locations and credentials. A digest tells neither."""
    relevant = sorted((k, v) for k, v in os.environ.items() if k.startswith(_PREFIXES))
    text = json.dumps([relevant, sorted(config.tracking.to), str(config.base), sys.executable])
    return hashlib.scrypt(text.encode(), salt=b"outgrow", n=2, r=1, p=1, dklen=6).hex()


def ensure_delivery(config: Config) -> None:
    """Start the delivery process unless one runs. Warns, and never raises, where it cannot start."""
    if config.tracking.delivery == "off" or not config.tracking.to:
        return
    root, key = config.journal, _key(config)
    gate, running = gate_of(root, key), lock_of(root, key)
    try:
        while not gate.acquire():  # held for moments only: a worker about to leave, or a sibling here
            time.sleep(0.002)
        if running.acquire():
            running.release()
            _start(config, root, key)
    except OSError as error:
        warn(f"outgrow cannot start its delivery ({error}); deliver with: outgrow sync", DeliveryWarning)
    finally:
        gate.release()


def lock_of(root: Path, key: str) -> FileLock:
    return FileLock(root / f"delivery-{key}.lock")


def gate_of(root: Path, key: str) -> FileLock:
    return FileLock(root / f"gate-{key}.lock")


def _start(config: Config, root: Path, key: str) -> None:
    settings = {
        "root": str(root),
        "key": key,
        "to": public_locations(config),
        "interval": config.tracking.interval,
        "linger": config.tracking.linger,
    }
    with (root / LOG).open("ab") as log:
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
