"""Run folders of one root: replaced whole, by whichever process is last; what dead processes left goes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from outgrow.adapters.wandb.run_folders import RunFolders

RUN = "0123456789abcdef"
FIRST, LATER = (f"offline-run-2026010{day}_000000-{RUN}" for day in (1, 2))


def publish(folders: RunFolders, name: str, content: str) -> None:
    partial = folders.begin(RUN)
    partial.mkdir()
    (partial / "log").write_text(content)
    folders.publish(partial, folders.root / name, RUN)


def test_two_processes_write_one_run(tmp_path: Path) -> None:
    one, other = RunFolders(tmp_path), RunFolders(tmp_path)
    assert one.of(RUN) == other.of(RUN) == []
    publish(one, FIRST, "one")
    publish(other, FIRST, "other")
    assert [path.name for path in tmp_path.iterdir()] == [FIRST]
    assert (tmp_path / FIRST / "log").read_text() == "other"
    assert one.of(RUN) == [tmp_path / FIRST]


def test_a_run_whose_start_has_changed(tmp_path: Path) -> None:
    publish(RunFolders(tmp_path), FIRST, "before")
    again = RunFolders(tmp_path)
    publish(again, LATER, "after")
    assert [path.name for path in tmp_path.iterdir()] == [LATER]
    assert again.of(RUN) == [tmp_path / LATER]


def test_what_a_dead_process_left(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE)
    left, alive, foreign = (
        tmp_path / f".outgrow-{run}-{process}-00000000"
        for run, process in ((RUN, int(dead.stdout)), (RUN, os.getppid()), ("another", int(dead.stdout)))
    )
    for path in (left, alive, foreign):
        path.mkdir()
    publish(RunFolders(tmp_path), FIRST, "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([alive.name, foreign.name, FIRST])
