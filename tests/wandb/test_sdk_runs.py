"""Runs that the unmodified SDK recorded: read from their folders, and from the server."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb_runs
from emulators.wandb import WandbServer
from outgrow import locations
from outgrow.adapters.base import Source
from outgrow.adapters.batches import Fingerprint
from outgrow.adapters.wandb.cloud_history import HistoryReader
from outgrow.adapters.wandb.cloud_source import ProjectSource
from outgrow.model import Run, Status


def only_run(source: Source, short: str) -> Run:
    every = [run for experiment in source.experiments() for run in source.runs(experiment)]
    (found,) = [run for run in every if run.id.endswith(short)]
    return found


def everything(source: Source, run: Run) -> dict[str, Any]:
    """The run's content, comparable between its folder and the server."""
    histograms = [row for batch in source.histograms(run) for row in batch.to_pylist()]
    texts = [row for batch in source.texts(run) for row in batch.to_pylist()]
    files = {}
    for file in source.files(run):
        if file.path in ("saved.txt",) or file.path.startswith("media/"):
            with source.open(run, file) as stream:
                files[file.path] = (file.key, file.step, hashlib.sha256(stream.read()).hexdigest())
    artifacts = {}
    for artifact in source.artifacts(run):
        for file in source.artifact_files(artifact):
            with source.open(run, file) as stream:
                artifacts[artifact.name, file.path] = stream.read()
    return {
        "points": Fingerprint.of(source.points(run)).by_key,
        "histograms": histograms,
        "texts": texts,
        "files": files,
        "artifacts": artifacts,
    }


@pytest.fixture(scope="module")
def local(sdk_runs: Path) -> Source:
    return locations.open_source(f"wandb:{sdk_runs}")


@pytest.fixture(scope="module")
def cloud(sdk_runs: Path, wandb_server: WandbServer) -> Source:
    return locations.open_source("wandb:ada/vision")


@pytest.mark.parametrize("where", ["local offline", "local online", "cloud"])
def test_facts(where: str, local: Source, cloud: Source) -> None:
    run = only_run(
        cloud if where == "cloud" else local, "sdk-offline" if "offline" in where else "sdk-online"
    )
    assert (run.name, run.description, run.group, run.job_type) == (
        "from the SDK",
        "Some notes",
        "sweep one",
        "train",
    )
    assert sorted(run.labels) == ["baseline", "v2"]
    assert run.status is Status.FINISHED
    assert run.params["lr"] == 1e-3
    assert run.params["model/kind"] == "mlp"
    assert run.params["model/layers"] == [64, 10]
    assert run.params["none"] is None
    assert run.summary["best"] == 0.9
    assert run.summary["nested.deep"] == wandb_runs.POINTS - 1
    assert math.isnan(run.summary["odd"])  # type: ignore[arg-type]
    assert run.origin is None
    assert run.environment is not None
    assert run.environment.python
    assert run.code is not None
    assert run.code.entry_point
    every, epoch, sparse = run.extra["wandb"]["metrics"]
    assert (every["glob_name"], every["step_metric"]) == ("eval/*", "epoch")
    assert (epoch["name"], epoch["options"]["hidden"]) == ("epoch", True)
    assert (sparse["name"], sparse["step_metric"], sparse["summary"]) == ("sparse", "epoch", {"max": True})


def test_content_of_an_offline_folder(local: Source) -> None:
    run = only_run(local, "sdk-offline")
    found = everything(local, run)
    counts = {key: count for key, (count, _) in found["points"].items() if not key.startswith("system/")}
    assert counts == {
        "train/loss": wandb_runs.POINTS,
        "nested.deep": wandb_runs.POINTS,
        "eval/accuracy": 6,
        "odd": 6,
        "flag": 1,
        "sparse": 1,
    }
    (histogram,) = found["histograms"]
    assert histogram["key"] == "weights"
    assert histogram["counts"] == [1.0, 2.0, 1.0]
    assert len(histogram["edges"]) == 4
    assert [(t["key"], t["text"]) for t in found["texts"]] == [("note", "half way")]
    ((path, (key, step, _)),) = [item for item in found["files"].items() if item[0].startswith("media/")]
    assert path.endswith(".png")
    assert (key, step) == ("image", wandb_runs.POINTS + 1)
    assert "saved.txt" in found["files"]
    assert found["artifacts"] == {("classifier", "model/weights.bin"): b"\x00\x01" * 500}
    steps = [
        s
        for b in local.points(run)
        for s, k in zip(b["step"].to_pylist(), b["key"].to_pylist(), strict=True)
        if k == "sparse"
    ]
    assert steps == [1_000_000]


def test_the_server_tells_what_the_folder_tells(local: Source, cloud: Source) -> None:
    here, there = (everything(s, only_run(s, "sdk-online")) for s in (local, cloud))
    here.pop("artifacts")  # the log of an online run holds none
    artifacts = there.pop("artifacts")
    assert artifacts == {("classifier", "model/weights.bin"): b"\x00\x01" * 500}
    assert here == there


@pytest.mark.parametrize("rows", [None, 40])
def test_parquet_and_scan_are_equal(
    rows: int | None, cloud: Source, wandb_server: WandbServer, sdk_runs: Path
) -> None:
    """`rows`: how many the server has exported; the others are still live."""
    assert isinstance(cloud, ProjectSource)
    wandb_server.export_history(0)
    run = only_run(cloud, "sdk-online")
    scanned = everything(cloud, run)
    wandb_server.export_history(rows)
    exported = everything(cloud, run)
    wandb_server.export_history(0)
    assert exported == scanned
    assert not list(cloud.problems())


def test_sparse_steps_need_few_requests(cloud: Source, wandb_server: WandbServer) -> None:
    assert isinstance(cloud, ProjectSource)
    before = wandb_server.requests["HistoryPage"]
    frames = HistoryReader(cloud.server).frames(
        {"entity": "ada", "project": "vision", "run": "sdk-online"}, frozenset()
    )
    assert sum(len(frame.step) for frame in frames) == wandb_runs.POINTS + 3
    assert wandb_server.requests["HistoryPage"] - before < 10


def test_the_vendors_api_reads_what_it_wrote(
    wandb_server: WandbServer, sdk_runs: Path, tmp_path: Path
) -> None:
    """The emulator completes `wandb.Api`: runs, scan_history with and without Parquet, files, artifacts."""
    import wandb

    api = wandb.Api(overrides={"base_url": wandb_server.url})
    (run,) = api.runs("ada/vision", filters={"state": "finished", "name": "sdk-online"})
    rows = list(run.scan_history(use_cache=False))
    wandb_server.export_history()
    exported = list(run.scan_history(use_cache=False))
    wandb_server.export_history(0)
    told = [{k: v for k, v in row.items() if v is not None} for row in exported]
    assert [row["_step"] for row in told] == [row["_step"] for row in rows]
    assert [row.get("train/loss") for row in told] == [row.get("train/loss") for row in rows]
    assert "saved.txt" in [file.name for file in run.files()]
    (artifact,) = run.logged_artifacts()
    assert "best" in artifact.aliases
    folder = Path(artifact.download(str(tmp_path / "model")))
    assert (folder / "model" / "weights.bin").read_bytes() == b"\x00\x01" * 500
    assert artifact.logged_by().id == "sdk-online"
    assert api.artifact("ada/vision/classifier:best").digest == artifact.digest


def test_the_vendors_sync_uploads_an_offline_run(
    wandb_server: WandbServer, sdk_runs: Path, tmp_path: Path
) -> None:
    (folder,) = sdk_runs.glob("wandb/offline-run-*")
    said = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "-e", "ada", str(folder)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    run = wandb_server.run("ada/vision/sdk-offline")
    assert run.state == "finished", said.stderr
    assert len(run.history) == wandb_runs.POINTS + 3
