"""NVIDIA GPUs through NVML, where its Python binding (`pynvml`) and driver are there."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def nvml() -> Any:
    """The initialised module, or None."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def gpus() -> tuple[list[str], str | None]:
    """Names of the GPUs, and the driver's CUDA version."""
    if (lib := nvml()) is None:
        return [], None
    handles = [lib.nvmlDeviceGetHandleByIndex(i) for i in range(lib.nvmlDeviceGetCount())]
    version = lib.nvmlSystemGetCudaDriverVersion_v2()
    names = [lib.nvmlDeviceGetName(handle) for handle in handles]
    return [
        n.decode() if isinstance(n, bytes) else n for n in names
    ], f"{version // 1000}.{version % 1000 // 10}"


def sample() -> dict[str, float]:
    """Use and memory of each GPU now."""
    result: dict[str, float] = {}
    if (lib := nvml()) is None:
        return result
    for i in range(lib.nvmlDeviceGetCount()):
        handle = lib.nvmlDeviceGetHandleByIndex(i)
        try:
            memory = lib.nvmlDeviceGetMemoryInfo(handle)
            result[f"system/gpu.{i}.memory_bytes"] = float(memory.used)
            result[f"system/gpu.{i}.percent"] = float(lib.nvmlDeviceGetUtilizationRates(handle).gpu)
            result[f"system/gpu.{i}.power_watts"] = lib.nvmlDeviceGetPowerUsage(handle) / 1000
        except lib.NVMLError:
            continue  # this GPU does not tell
    return result
