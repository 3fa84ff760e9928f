"""Distributed training: which process logs, and how the ranks of one machine share a run.

By default only the main rank logs. With `ranks = "all"` every rank of a machine logs to one run,
in one journal: the machine's first rank begins and ends the run, the others join it. What they
log is told apart by a prefix: `rank1/loss`, `rank1/system/…`, the file `rank1/…`. Each machine
of a training over several has a run of its own, since a journal is a local file.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ..config import Config
from . import run as running
from .journal import Journal
from .run import Run
from .warning import JournalWarning, warn

WAIT = 60.0
"""Seconds that a rank waits for the first rank's run."""
_RANK = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
_LOCAL = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")
_NODE = ("GROUP_RANK", "NODE_RANK", "SLURM_NODEID")
_joined = 0


def _number(names: Sequence[str]) -> int | None:
    for name in names:
        if (given := os.environ.get(name, "").strip()).isdigit():
            return int(given)
    return None


def rank() -> int:
    """This process's number in the whole training; 0 where it trains alone.

    As PyTorch knows it where its process group is there, else as the launcher says. Launchers
    that tell only the number on the machine (Lightning's) tell the machine's number beside it.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    if (given := _number(_RANK)) is not None:
        return given
    return (_number(_LOCAL) or 0) + (_number(_NODE) or 0)


def local_rank() -> int:
    """This process's number among those of its machine."""
    given = _number(_LOCAL)
    return rank() if given is None else given


class RankRun(Run):
    """The first rank's run, as the other ranks of the machine log to it.

    Series and files get the prefix `rankN/`. Params, tags, seeds, data sets, models and the end
    of the run are the first rank's to tell: here these calls only look for a caller's mistakes.
    """

    def __init__(self, run_id: str, name: str | None, journal: Journal, config: Config, number: int) -> None:
        super().__init__(run_id, name, journal, config)
        self._pid = -1  # it never ends the run
        self.prefix = f"rank{number}/"
        self._aside = Run(run_id, name, None, config)
        running._open.remove(self._aside)

    def log(
        self, data: Mapping[str, Any], *, step: float | None = None, time: datetime | float | None = None
    ) -> None:
        if isinstance(data, Mapping):
            data = {f"{self.prefix}{key}" if isinstance(key, str) else key: v for key, v in data.items()}
        super().log(data, step=step, time=time)

    def log_text(
        self, key: str, text: str, *, step: float | None = None, time: datetime | float | None = None
    ) -> None:
        super().log_text(f"{self.prefix}{key}", text, step=step, time=time)

    def log_histogram(self, key: str, *args: Any, **options: Any) -> None:
        super().log_histogram(f"{self.prefix}{key}", *args, **options)

    def log_artifact(self, path: Any, name: str | None = None, **options: Any) -> None:
        super().log_artifact(path, f"{self.prefix}{name or Path(path).name}", **options)

    def log_bytes(self, data: bytes | str, name: str, **options: Any) -> None:
        super().log_bytes(data, f"{self.prefix}{name}", **options)

    def log_params(self, params: Any) -> None:
        self._aside.log_params(params)

    def set_tags(self, tags: Mapping[str, Any] | None = None, /, *labels: str) -> None:
        self._aside.set_tags(tags, *labels)

    def log_seeds(self, **seeds: int) -> None:
        self._aside.log_seeds(**seeds)

    def use_dataset(self, data: Any, name: str, **options: Any) -> Any:
        return self._aside.use_dataset(data, name, **options)

    def log_split(self, **parts: Any) -> None:
        self._aside.log_split(**parts)

    def log_model(self, *args: Any, **options: Any) -> None:
        """Does nothing: the first rank keeps the model."""

    def _leave(self) -> None:
        if not self._finished and self._sampler:
            self._sampler.stop()
        super()._leave()

    def __reduce__(self) -> tuple[Any, ...]:
        number = int(self.prefix[len("rank") : -1])
        return _rejoined, (self.id, self.name, self.folder, self._config, number, self._next_step)


def _rejoined(
    run_id: str, name: str | None, folder: Path, config: Config, number: int, next_step: int
) -> RankRun:
    run = RankRun(run_id, name, Journal(folder), config, number)
    run._next_step = next_step
    running._open.remove(run)
    return run


# --- meeting ---------------------------------------------------------------------------------


def _meeting(root: Path) -> Path:
    """Where the ranks of one launch on this machine meet: their launcher is their parent."""
    return root / f".ranks-{socket.gethostname()}-{os.getppid()}.json"


def announce(settings: Config, run_id: str) -> None:
    """The first rank tells the others which run is theirs, in the order of `start_run` calls."""
    if not _launched():
        return
    path = _meeting(settings.journal)
    told = _read(path)
    runs = told["runs"] if told.get("pid") == os.getpid() else []
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        part.write_text(json.dumps({"pid": os.getpid(), "runs": [*runs, run_id]}), "utf-8")
        os.replace(part, path)
    except OSError as error:
        warn(f"the other ranks cannot join run {run_id}: {error}", JournalWarning)
    if not runs:
        atexit.register(_over, path, os.getpid())


def _launched() -> bool:
    """Whether other processes may train with this one."""
    distributed = sys.modules.get("torch.distributed")
    started = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return bool(started) or any(name in os.environ for name in (*_RANK, *_LOCAL))


def _over(path: Path, pid: int) -> None:
    if os.getpid() == pid:
        with contextlib.suppress(OSError):
            path.unlink()


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}  # nobody has been here yet
    return told if isinstance(told, dict) else {}


def join(settings: Config, run_id: str, name: str | None) -> Run:
    """The run that this machine's first rank has begun with its call of the same number.

    Where it begins none within `WAIT` seconds, this rank warns and does not log (its run is `run_id`).
    """
    global _joined
    number = _joined
    _joined += 1
    deadline = time.monotonic() + WAIT
    while (shared := _told(_meeting(settings.journal), number)) is None:
        if time.monotonic() > deadline:
            warn(
                f"rank {rank()} does not log: the machine's first rank has begun no run within "
                f"{WAIT:.0f} seconds",
                JournalWarning,
            )
            return Run(run_id, name, None, settings)
        time.sleep(0.02)
    return RankRun(shared, name, Journal(settings.journal / shared), settings, rank())


def _told(path: Path, number: int) -> str | None:
    told = _read(path)
    try:
        os.kill(told["pid"], 0)  # an earlier launch by the same parent is over
        return str(told["runs"][number])
    except (OSError, KeyError, IndexError):
        return None
