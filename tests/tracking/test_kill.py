"""SIGKILL at random moments: every `log` that returned is delivered, once."""

from __future__ import annotations

import os
import random
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from outgrow.config import Config
from outgrow.model import Status
from outgrow.tracking.start import start_run

MOMENTS = 250
LATEST = 100
"""Records after which a process is killed at the latest, as the parent sees it."""


def train(config: Config, run_id: str, acknowledged: int) -> None:
    """A training that acknowledges each step after `log` has returned."""
    run = start_run("digits", id=run_id, config=config, capture=False)
    step = 0
    while True:
        run.log({"train/loss": 1 / (step + 1), "eval/accuracy": step * 0.001}, step=step)
        os.write(acknowledged, struct.pack("<i", step))
        step += 1


def killed_after(config: Config, run_id: str, records: int) -> int:
    """Kill such a training once it has acknowledged so many records. How many it had in the end."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            train(config, run_id, writing)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        told = b""
        while len(told) < 4 * records and (data := pipe.read(4 * records - len(told))):
            told += data
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        while data := pipe.read(1 << 16):
            told += data
    assert len(told) >= 4 * records, "the training ended by itself"
    return len(told) // 4


def test_nothing_that_log_returned_from_is_lost(
    settings: Callable[..., Config], target: Any, tmp_path: Path
) -> None:
    rng = random.Random(20_260_101)
    config = settings()
    between = 0
    for moment in range(MOMENTS):
        acknowledged = killed_after(config, f"run{moment}", rng.randint(1, LATEST))
        here = type(target)(type(target.sink)())
        delivery = here.deliver(config.journal / f"run{moment}")
        points = here.points()
        for key in ("train/loss", "eval/accuracy"):
            steps = [step for name, step, _ in points if name == key]
            assert steps == list(range(len(steps)))
            assert len(steps) in (acknowledged, acknowledged + 1)  # killed between the two
        between += len(points) // 2 > acknowledged
        assert here.run.status is Status.KILLED
        assert delivery.settled
    assert between > 0
