"""The vendor's unmodified SDK against the emulator, and this adapter against what the SDK wrote."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from emulators.comet import CometServer
from outgrow import migrate
from outgrow.locations import open_sink, open_source
from outgrow.model import Experiment, Origin, Run, Status
from outgrow.testing import records

SCRIPT = Path(__file__).with_name("sdk_session.py")


@dataclass(frozen=True)
class Session:
    server: CometServer
    zips: Path
    ours: Path
    key: str
    """Of the archive that we wrote and the vendor's `comet upload` sent."""
    seen: dict[str, Any]


@pytest.fixture(scope="module")
def session(comet_emulator: CometServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    comet_emulator.reset()
    folder = tmp_path_factory.mktemp("sdk")
    ours = folder / "ours"
    with open_sink(f"comet:{ours}?outgrow.workspace=team") as sink:
        run = records.run(1, sink.experiment(Experiment(id="1", name="digits")))
        writer = sink.begin(run, Origin(platform="test", run_id="r1"))
        writer.params({"lr": 0.1})
        writer.points(records.points(steps=20_000, keys=("loss",)))
        writer.texts(records.texts([("console/stdout", None, run.started_at, "epoch 1\n")]))
        writer.file(*_file("plots/a.svg", b"<svg/>"))
        writer.finish(run, "mark")
    [archive] = ours.glob("*.zip")
    environment = os.environ | {"COMET_OFFLINE_SAMPLING_SIZE": "1000000"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder / "zips"), str(folder), str(archive)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    seen = json.loads((folder / "result.json").read_text())
    yield Session(comet_emulator, folder / "zips", ours, archive.stem, seen)
    comet_emulator.reset()


def _file(path: str, data: bytes) -> Any:
    import io

    file, content = records.file(path, data)
    return file, io.BytesIO(content)


def run_named(location: str, name: str) -> tuple[Any, Run]:
    source = open_source(location)
    [experiment] = source.experiments()
    [run] = [run for run in source.runs(experiment) if run.name == name]
    return source, run


def rows(batches: Any) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.to_pylist()]


def test_the_sdk_reads_back_what_it_logged(session: Session) -> None:
    seen = session.seen
    assert [(m["step"], m["epoch"]) for m in seen["metrics"]] == [
        (0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2),
    ]  # fmt: skip
    assert seen["metrics"][5]["metricValue"] == "NaN"
    assert seen["params"]["model|layers"] == "2"
    assert seen["others"]["owner"] == "ada"
    assert seen["tags"] == ["baseline"]
    assert seen["assets"] == ["a.txt", "data/a.txt", "far.bin"]
    assert (seen["state"], seen["models"], seen["registry"]) == ("finished", ["classifier"], ["1.0.0"])
    assert sorted(seen["artifact"]) == ["far.bin", "train/a.txt"]
    assert seen["downloaded"] == "hello"


def test_the_vendors_uploader_takes_our_archives(session: Session) -> None:
    experiment = session.server.state.experiments[session.key]
    assert (experiment.workspace, experiment.project) == ("team", "digits")
    run = records.run(1)
    assert run.started_at is not None
    assert run.ended_at is not None
    assert experiment.start == int(run.started_at.timestamp() * 1000)
    assert experiment.end == int(run.ended_at.timestamp() * 1000)
    assert len(experiment.metrics["loss"]) == 15_000  # the server's limit, not a sample of the client
    assert [m["step"] for m in experiment.metrics["loss"]] == list(range(15_000))
    assert experiment.params == {"lr": "0.1"} | {
        k: json.dumps(v) if not isinstance(v, str) else v for k, v in run.params.items()
    } | {"lr": "0.1"}
    assert experiment.tags == run.labels
    assert "".join(experiment.output) == "epoch 1\n"
    assert {a["fileName"] for a in experiment.assets} == {"plots/a.svg", "outgrow/comet/texts.parquet"}
    assert not experiment.running
    assert experiment.error is None


@pytest.mark.parametrize("form", ["zips", "server"])
def test_what_the_sdk_logged_is_read(form: str, session: Session) -> None:
    location = f"comet:{session.zips}" if form == "zips" else "comet:team/digits"
    source, run = run_named(location, "by the SDK")
    with source:
        assert run.status is Status.FINISHED
        assert run.origin is None
        assert run.started_at is not None
        assert run.ended_at is not None
        assert run.labels == ["baseline"]
        assert run.tags["owner"] == "ada"
        assert {k: run.params[k] for k in ("lr", "model/layers", "nesterov")} == {
            "lr": 0.001,
            "model/layers": 2,
            "nesterov": True,
        }
        points = rows(source.points(run))
        loss = [p for p in points if p["key"] == "loss"]
        assert [(p["step"], p["epoch"]) for p in loss] == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)]
        assert [p["value"] for p in loss[:5]] == [0.0, 1 / 3, 2 / 3, 1.0, 4 / 3]
        assert math.isnan(loss[5]["value"])
        [accuracy] = [p for p in points if p["key"] == "accuracy"]
        assert (accuracy["value"], accuracy["context"]) == (0.5, "train")
        assert [p["value"] for p in points if p["key"] == "system/gpu.0.used"] == [7.0]
        files = {file.path: file for file in source.files(run)}
        assert set(files) == {"data/a.txt", "far.bin", "models/classifier/a.txt"}
        assert (files["data/a.txt"].step, files["data/a.txt"].metadata) == (3.0, {"rows": 10})
        assert files["far.bin"].reference == "s3://bucket/key"
        with source.open(run, files["models/classifier/a.txt"]) as stream:
            assert stream.read() == b"hello"
        assert "hello from training\n" in [row["text"] for row in rows(source.texts(run))]


def test_artifacts_and_registry_of_the_sdk_are_read(session: Session) -> None:
    source, run = run_named("comet:team/digits", "by the SDK")
    with source:
        [use] = run.artifacts
        [artifact] = source.artifacts(run)
        assert (use.role, artifact.name, artifact.type, artifact.version) == (
            "output", "split", "dataset", "1.2.0",
        )  # fmt: skip
        assert (artifact.aliases, artifact.tags, artifact.metadata) == (["best"], {"small": ""}, {"rows": 10})
        files = {file.path: file for file in source.artifact_files(artifact)}
        assert files["far.bin"].reference == "s3://bucket/far.bin"
        with source.open(run, files["train/a.txt"]) as stream:
            assert stream.read() == b"hello"
        [reader] = [r for e in source.experiments() for r in source.runs(e) if r.id.startswith("reader")]
        assert [(u.artifact, u.role) for u in reader.artifacts] == [(artifact.id, "input")]
        [model] = source.registry()
        [version] = model.versions
        assert (model.name, version.version, version.run, version.path) == (
            "classifier", "1.0.0", run.id, "models/classifier",
        )  # fmt: skip
        assert (version.stage, version.tags, version.description) == ("Production", {"small": ""}, "first")


def test_native_experiments_are_found_and_left_alone(session: Session) -> None:
    _, run = run_named("comet:team/digits", "by the SDK")
    with open_sink("comet:team/digits") as sink:
        found = sink.find(f"comet:{run.id}")
        assert found is not None
        assert (found.run_id, found.mark) == (run.id, "native")
        assert sink.native(run.id) == found
        assert sink.find(f"comet:{'z' * 32}") is None
        assert [copy.run_id for copy in sink.copies()] == [session.key]


def test_from_the_server_to_zips_and_back_to_the_server(session: Session, tmp_path: Path) -> None:
    report = migrate.copy("comet:team/digits", f"comet:{tmp_path}/zips", ledger=tmp_path / "a.db")
    assert report.exit_code == 0
    assert migrate.check("comet:team/digits", f"comet:{tmp_path}/zips", deep=True).exit_code == 0
    report = migrate.copy(f"comet:{tmp_path}/zips", "comet:elsewhere/digits", ledger=tmp_path / "b.db")
    assert report.exit_code == 0
    assert migrate.check(f"comet:{tmp_path}/zips", "comet:elsewhere/digits", deep=True).exit_code == 0


def test_resumed_archives_are_one_run(session: Session, tmp_path: Path) -> None:
    """The SDK writes one zip for each time that an experiment is resumed."""
    import shutil
    import zipfile

    [first] = session.zips.glob("*.zip")
    key = first.stem
    shutil.copy(first, tmp_path / first.name)
    with zipfile.ZipFile(first) as held:
        meta = json.loads(held.read("experiment.json"))
    meta |= {"start_time": meta["stop_time"] + 1, "stop_time": meta["stop_time"] + 9, "tags": ["resumed"]}
    line = {
        "payload": {
            "local_timestamp": meta["start_time"],
            "metric": {"metricName": "loss", "metricValue": 9.0, "step": 6, "epoch": None},
        },
        "type": "metric_msg",
    }
    with zipfile.ZipFile(tmp_path / f"{key}-QVzYaI.zip", "w") as target:
        target.writestr("experiment.json", json.dumps(meta))
        target.writestr("messages.json", json.dumps(line) + "\n")
    source, run = run_named(f"comet:{tmp_path}", "by the SDK")
    assert run.labels == ["baseline", "resumed"]
    assert run.ended_at == replace(run).ended_at
    assert [p["value"] for p in rows(source.points(run)) if p["key"] == "loss"][-1] == 9.0
    assert source.stats(run).longest_series == 7
