"""Several processes of one training: ranks, and the workers of a data loader."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import framework_runs
import pytest
from outgrow.config import Config
from outgrow.model import Status
from outgrow.tracking import ranks
from outgrow.tracking.start import start_run
from outgrow.tracking.warning import JournalWarning

Settings = Callable[..., Config]

RANKS = """
import outgrow, torch.distributed
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
with outgrow.start_run("digits", "first", params={"rank": rank}, capture=False) as run:
    for step in range(3):
        run.log({"loss": rank + step / 4}, step=step)
    run.log_text("note", f"from {rank}", step=0)
    run.log_bytes(f"{rank}", "rank.txt")
    torch.distributed.barrier()  # the end of the first rank is the end of the run
with outgrow.start_run("digits", "second", capture=False) as run:
    run.log({"loss": float(rank)}, step=0)
    torch.distributed.barrier()
with outgrow.start_run("digits", "main", config="main.toml", capture=False) as run:
    assert (run.folder is None) == (rank == 1)
    run.log({"loss": float(rank)}, step=0)
torch.distributed.destroy_process_group()
"""


def test_two_ranks_of_torchrun_are_one_run(tmp_path: Path) -> None:
    """All of them log to it, or the main rank alone, as the configuration of the run says."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    framework_runs.settings(tmp_path)
    (tmp_path / "outgrow.toml").rename(tmp_path / "main.toml")
    framework_runs.settings(tmp_path, 'ranks = "all"\n')
    (tmp_path / "train.py").write_text(RANKS)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *launcher, "train.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = framework_runs.arrived(tmp_path)
    assert {name: got.run.status for name, got in found.items()} == {
        "first": Status.FINISHED, "second": Status.FINISHED, "main": Status.FINISHED,
    }  # fmt: skip
    first = found["first"]
    assert first.run.params == {"rank": 0}
    assert first.points == {
        "loss": [(0, 0), (1, 0.25), (2, 0.5)],
        "rank1/loss": [(0, 1), (1, 1.25), (2, 1.5)],
    }
    assert first.texts == {"note": ["from 0"], "rank1/note": ["from 1"]}
    assert first.files == {"rank.txt": b"0", "rank1/rank.txt": b"1"}
    assert found["second"].points == {"loss": [(0, 0)], "rank1/loss": [(0, 1)]}
    assert found["main"].points == {"loss": [(0, 0)]}


@pytest.mark.parametrize(
    ("variables", "rank", "local"),
    [
        ({}, 0, 0),
        ({"RANK": "3", "LOCAL_RANK": "1"}, 3, 1),
        ({"SLURM_PROCID": "5", "SLURM_LOCALID": "0", "SLURM_NODEID": "1"}, 5, 0),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "2"}, 2, 2),
        ({"LOCAL_RANK": "1"}, 1, 1),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, 1, 0),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, 0, 0),
        ({"RANK": " "}, 0, 0),
    ],
)
def test_what_launchers_tell(
    variables: dict[str, str], rank: int, local: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*ranks._RANK, *ranks._LOCAL, *ranks._NODE]:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (ranks.rank(), ranks.local_rank()) == (rank, local)


def test_a_rank_whose_run_never_begins_does_not_log(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(ranks, "WAIT", 0.05)
    with (
        pytest.warns(JournalWarning, match="rank 1 does not log"),
        start_run("digits", config=settings(ranks="all"), capture=False) as run,
    ):
        run.log({"a": 1.0})
    assert run.folder is None


def test_a_rank_joins_with_its_own_samples(
    settings: Settings, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ranks in one process: the first has begun, the second joins."""
    config = settings(ranks="all", system_interval=0.02)
    monkeypatch.setenv("RANK", "0")
    first = start_run("digits", config=config, capture=False, params={"lr": 1})
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(ranks, "_joined", 0)
    second = start_run("digits", config=config, params={"lr": 2}, tags={"a": "b"})
    assert (second.id, second.folder) == (first.id, first.folder)
    second.log_params({"lr": 3})
    second.set_tags({"c": "d"})
    second.log_seeds(numpy=2)
    second.log_histogram("h", [0, 1], [1], step=0)
    second.log_split(train=[1], test=[2])
    second.log_model(object())  # the first rank's to keep
    with pytest.raises(TypeError):
        second.log({"a": "mistakes are raised on every rank"})
    for _ in range(400):
        if "rank1/system" in (first.folder / "records.jsonl").read_text():
            break
        time.sleep(0.05)
    second.finish()
    assert not second._sampler._thread.is_alive()
    first.log({"a": 1.0})
    first.finish()
    target.deliver(first.folder)
    assert target.run.params == {"lr": 1}
    assert target.run.tags == {}
    assert target.run.status is Status.FINISHED
    keys = {key for key, _, _ in target.points()}
    assert keys == {"a", "rank1/system/process.cpu.percent", "rank1/system/process.memory_bytes"}


LOADERS = """
import outgrow, torch

class Data(torch.utils.data.Dataset):
    def __init__(self, run):
        self.run = run
    def __len__(self):
        return 8
    def __getitem__(self, row):
        worker = torch.utils.data.get_worker_info().id
        self.run.log({f"worker{worker}": row}, step=row)
        return row

if __name__ == "__main__":
    with outgrow.start_run("digits", "loaders", capture=False) as run:
        for epoch, method in enumerate(["fork", "spawn"]):
            loader = torch.utils.data.DataLoader(
                Data(run), batch_size=2, num_workers=2 - epoch, multiprocessing_context=method
            )
            run.log({"sum": sum(int(batch.sum()) for batch in loader)}, step=epoch)
"""


def test_workers_of_a_data_loader_log(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    framework_runs.settings(tmp_path)
    (tmp_path / "train.py").write_text(LOADERS)
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200,
        env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    got = framework_runs.arrived(tmp_path)["loaders"]
    assert got.run.status is Status.FINISHED
    assert got.points == {
        "worker0": sorted((row, row) for row in (0, 1, 4, 5, *range(8))),  # of two forks, and a spawn
        "worker1": [(row, row) for row in (2, 3, 6, 7)],
        "sum": [(0, 28), (1, 28)],
    }
