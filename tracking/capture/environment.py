"""The machine and the packages."""

from __future__ import annotations

import fnmatch
import functools
import getpass
import os
import platform
import socket
import sys
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any

from ...model import Environment
from .code import without_secrets
from .gpu import gpus

_IMAGE_VARIABLES = (
    "OUTGROW_IMAGE",
    "CONTAINER_IMAGE",
    "DOCKER_IMAGE",
    "SINGULARITY_CONTAINER",
    "APPTAINER_CONTAINER",
)


@functools.cache
def packages() -> dict[str, str]:
    """Installed distributions and their versions: a lock of the environment."""
    found: dict[str, str] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(name, distribution.version)  # the first on the path is the one imported
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return None  # no name for this user id, as in some containers


def _cpu() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def command() -> list[str]:
    """The command line, without what looks like a secret."""
    words = list(getattr(sys, "orig_argv", sys.argv))
    secret = ("--password", "--token", "--secret", "--api-key", "--api_key", "--apikey")
    return [
        "***" if at and words[at - 1].lower() in secret else without_secrets(word)
        for at, word in enumerate(words)
    ]


def variables(patterns: Iterable[str]) -> dict[str, str]:
    """The environment variables that the configuration names, and no other."""
    patterns = list(patterns)
    return {k: v for k, v in sorted(os.environ.items()) if any(fnmatch.fnmatchcase(k, p) for p in patterns)}


def set_seed(seed: int) -> dict[str, int]:
    """Seed `random`, and NumPy and torch where they are imported; what was seeded."""
    import random

    random.seed(seed)
    seeds = {"python": seed}
    if numpy := _imported("numpy"):
        numpy.random.seed(seed % 2**32)
        seeds["numpy"] = seed % 2**32
    if torch := _imported("torch"):
        torch.manual_seed(seed)
        seeds["torch"] = seed
    return seeds


def known_seeds() -> dict[str, int]:
    """Seeds that were set before and can still be told: torch's, and PYTHONHASHSEED."""
    seeds = {}
    if (given := os.environ.get("PYTHONHASHSEED", "")).isdigit():
        seeds["hash"] = int(given)
    if torch := _imported("torch"):
        value = int(torch.initial_seed())
        if value != 67280421310721:  # torch's own default: nobody has set it
            seeds["torch"] = value
    return seeds


def _imported(name: str) -> Any:
    module = sys.modules.get(name)
    return module if isinstance(module, ModuleType) else None


def environment(patterns: Iterable[str], seeds: dict[str, int]) -> Environment:
    names, cuda = gpus()
    return Environment(
        python=platform.python_version(),
        packages=packages(),
        os=platform.platform(),
        host=socket.gethostname(),
        command=command(),
        cpu=_cpu(),
        cpu_count=os.cpu_count(),
        memory_bytes=_memory(),
        gpu=names[0] if names else None,
        gpu_count=len(names) or None,
        cuda=cuda,
        image=next((value for name in _IMAGE_VARIABLES if (value := os.environ.get(name))), None),
        seeds=seeds,
        variables=variables(patterns),
    )
