"""System metrics on an interval: series under `system/`, whose step counts the samples."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..values import now_us
from .gpu import sample as gpu_sample


class Sampler:
    """A daemon thread that samples this process and its machine, at once and then on the interval."""

    def __init__(
        self,
        append: Callable[[tuple[str, int, int, dict[str, float]]], None],
        interval: float,
        prefix: str = "",
    ) -> None:
        """`prefix`: of the keys of a process beside the one that samples the machine."""
        import psutil

        self._append = append
        self._interval = interval
        self._prefix = prefix
        self._process = psutil.Process()
        self._psutil = psutil
        self._stopped = threading.Event()
        self._process.cpu_percent()  # the first call only sets the mark
        psutil.cpu_percent()
        self._thread = threading.Thread(target=self._run, name="outgrow-system", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stopped.wait(min(self._interval, 1.0) if number == 0 else self._interval):
            self._append(("m", number, now_us(), self.sample()))
            number += 1

    def sample(self) -> dict[str, float]:
        """Percent of one CPU for the process, of all for the machine; the rest in bytes."""
        psutil = self._psutil
        values: dict[str, float] = {}
        try:
            values[f"{self._prefix}system/process.cpu.percent"] = float(self._process.cpu_percent())
            values[f"{self._prefix}system/process.memory_bytes"] = float(self._process.memory_info().rss)
            if self._prefix:
                return values
            values["system/cpu.percent"] = float(psutil.cpu_percent())
            values["system/memory.percent"] = float(psutil.virtual_memory().percent)
            if (disk := psutil.disk_io_counters()) is not None:
                values["system/disk.read_bytes"] = float(disk.read_bytes)
                values["system/disk.written_bytes"] = float(disk.write_bytes)
            if (net := psutil.net_io_counters()) is not None:
                values["system/network.received_bytes"] = float(net.bytes_recv)
                values["system/network.sent_bytes"] = float(net.bytes_sent)
        except (psutil.Error, OSError):
            return values  # what this system does not tell
        return values | gpu_sample()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=2.0)
