"""SIGKILL at random moments: every `log` that returned is delivered, once."""

from __future__ import annotations

import os
import random
import select
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from outgrow.config import Config
from outgrow.model import Status
from outgrow.tracking.start import start_run

MOMENTS = 200


def train(config: Config, run_id: str, acknowledged: int) -> None:
    """A training that acknowledges each step after `log` has returned."""
    run = start_run("digits", id=run_id, config=config, capture=False)
    step = 0
    while True:
        run.log({"train/loss": 1 / (step + 1), "eval/accuracy": step * 0.001}, step=step)
        os.write(acknowledged, struct.pack("<i", step))
        step += 1


def test_nothing_that_log_returned_from_is_lost(
    settings: Callable[..., Config], target: Any, tmp_path: Path
) -> None:
    rng = random.Random(20_260_101)
    config = settings()
    totals = []
    for moment in range(MOMENTS):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.close(reading)
                train(config, f"run{moment}", writing)
            finally:
                os._exit(1)
        os.close(writing)
        if moment % 4:  # the others may die before their first record, on a busy machine mostly so
            select.select([reading], [], [], 10)
        time.sleep(rng.random() * 0.012)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.read()
        last = struct.unpack("<i", told[-4:])[0] if len(told) >= 4 else -1
        folder = config.journal / f"run{moment}"
        if last < 0 and not (folder / "records.jsonl").exists():
            continue
        kind = type(target)
        here = kind(type(target.sink)())
        delivery = here.deliver(folder)
        if last < 0 and delivery.state.run_id is None:
            continue  # killed before the run's first record was whole
        steps = [step for key, step, _ in here.points() if key == "train/loss"]
        assert steps == list(range(len(steps)))
        assert len(steps) in (last + 1, last + 2)
        assert here.run.status is Status.KILLED
        assert delivery.settled
        totals.append(len(steps))
    assert len(totals) > MOMENTS / 2
    assert max(totals) > 10
