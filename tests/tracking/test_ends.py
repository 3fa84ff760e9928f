"""However a program ends: what it logged is there, and the run says how it ended."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outgrow.config import Config
from outgrow.model import Status

BEGIN = """
import os, signal, sys, threading, time, warnings
from pathlib import Path
import outgrow
from outgrow.config import Config, Tracking
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
config = Config(tracking=Tracking(to=["archive:nowhere"], delivery="off", system_interval=0), base=Path.cwd())
def begin():
    return outgrow.start_run("digits", id="it", config=config, capture=False)
"""
LOG = "for step in range(20): run.log({'loss': float(step)}, step=step)\n"
WITHIN = f"with begin() as run:\n    {LOG}    "
OPEN = f"run = begin()\n{LOG}"


def run_script(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(BEGIN + code)
    return subprocess.run(
        [sys.executable, "train.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("code", "exit_code", "status"),
    [
        (WITHIN + "pass", 0, Status.FINISHED),
        (WITHIN + "sys.exit()", 0, Status.FINISHED),
        (WITHIN + "sys.exit(3)", 3, Status.FAILED),
        (WITHIN + "sys.exit('no')", 1, Status.FAILED),
        (WITHIN + "1 / 0", 1, Status.FAILED),
        (WITHIN + "os._exit(4)", 4, Status.KILLED),
        (WITHIN + "os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", -signal.SIGTERM, Status.KILLED),
        (WITHIN + "os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", -signal.SIGINT, Status.KILLED),
        (WITHIN + "os.abort()", -signal.SIGABRT, Status.KILLED),
        (
            "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
            + WITHIN
            + "os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)",
            143,
            Status.FAILED,
        ),
        (OPEN, 0, Status.FINISHED),
        (OPEN + "1 / 0", 1, Status.FAILED),
        (OPEN + "os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", -signal.SIGINT, Status.KILLED),
        (OPEN + "threading.Thread(target=lambda: 1 / 0).start()", 0, Status.FINISHED),
        (WITHIN + "child = os.fork()\n    if not child: 1 / 0\n    os.waitpid(child, 0)", 0, Status.FINISHED),
        (OPEN + "child = os.fork()\nif not child: sys.exit(1)\nos.waitpid(child, 0)", 0, Status.FINISHED),
        (
            WITHIN + "child = os.fork()\n    if child: os.kill(os.getpid(), signal.SIGKILL)\n    os._exit(0)",
            -signal.SIGKILL,
            Status.KILLED,
        ),
    ],
)  # fmt: skip
def test_an_end(
    code: str, exit_code: int, status: Status, settings: Callable[..., Config], target: Any, tmp_path: Path
) -> None:
    done = run_script(code, tmp_path)
    assert done.returncode == exit_code, done.stderr
    folder = settings().journal / "it"
    delivery = target.deliver(folder)
    while not delivery.settled:  # a child that outlives its parent by moments may still write
        delivery = target.deliver(folder)
    assert target.run.status is status
    assert [step for _, step, _ in target.points()] == list(range(20))


def test_a_disk_that_is_really_full(settings: Callable[..., Config], target: Any, tmp_path: Path) -> None:
    """The kernel refuses to let files grow, in the middle of a line; later it does again."""
    code = f"""
import resource
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
run = begin()
for step in range(100): run.log({{"loss": float(step)}}, step=step)
size = os.path.getsize(run.folder / "records.jsonl")
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1_000, hard))
    for step in range(100, 500): run.log({{"loss": float(step)}}, step=step)
    run.log_bytes(b"x" * 100_000, "too-large")
    resource.setrlimit(resource.RLIMIT_FSIZE, ({resource.RLIM_INFINITY}, hard))
    for step in range(500, 600): run.log({{"loss": float(step)}}, step=step)
    run.finish()
print([str(w.message)[:40] for w in seen])
"""
    done = run_script(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("outgrow cannot write to its journal") == 1
    assert done.stdout.count("outgrow could not keep 'too-large'") == 1
    assert "lost" not in done.stdout
    target.deliver(settings().journal / "it")
    assert [step for _, step, _ in target.points()] == list(range(600))
    assert target.files() == {}


def test_a_disk_that_stays_full_is_told_at_the_end(
    settings: Callable[..., Config], target: Any, tmp_path: Path
) -> None:
    code = """
import resource
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
run = begin()
run.log({"loss": 0.0}, step=0)
resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(run.folder / "records.jsonl"), hard))
run.log({"loss": 1.0}, step=1)
run.finish()
"""
    done = run_script(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 records are lost" in done.stderr  # the point and the end
    target.deliver(settings().journal / "it")
    assert target.points() == [("loss", 0, 0.0)]
    assert target.run.status is Status.KILLED


def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    code = """
import ctypes, tempfile
# Without its capabilities even root is bound by a folder's mode: version 3, this process, none of them.
ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
os.makedirs(".outgrow/journal"); os.chmod(".outgrow/journal", 0o555)
os.mkdir("elsewhere"); tempfile.tempdir = "elsewhere"
with begin() as run: run.log({"loss": 0.0})
print(run.folder)
"""
    done = run_script(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot write its journal") == 1
    folder = tmp_path / done.stdout.strip()
    assert folder.is_relative_to(tmp_path / "elsewhere")
    assert (folder / "records.jsonl").stat().st_size > 0
    assert not list((tmp_path / ".outgrow" / "journal").iterdir())
