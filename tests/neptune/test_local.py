"""Local folders that the vendor's clients made, and the vendor's sync of the logs that we make."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from emulators.neptune_scale import Server
from outgrow import migrate
from outgrow.adapters.neptune.local import Staged, copies
from outgrow.errors import ConfigError, Corrupt, CredentialsError, LocationError, Unavailable
from outgrow.locations import open_sink, open_source
from outgrow.model import Origin, Run, Status
from outgrow.testing import hostile, records

LEGACY = """
import io, sys, datetime, neptune
from PIL import Image
run = neptune.init_run(mode="offline", capture_hardware_metrics=False, capture_stdout=False,
    capture_stderr=False, capture_traceback=False, git_ref=False, source_files=[])
run["sys/name"] = "first"
run["sys/tags"].add(["a", "b"]); run["sys/tags"].remove("b")
run["params/lr"] = 1e-5; run["params/n"] = 3; run["params/ok"] = True; run["params/opt"] = "adamw"
run["loss"].extend([1.0, 0.5], steps=[0.5, 1.25], timestamps=[1700000000.25, 1700000001.5])
run["auto"].extend([1.0, 2.0]); run["auto"].append(3.0)
run["notes"].append("hello", step=2)
run["text"].upload(neptune.types.File.from_content("hello", extension="txt"))
open("w.bin", "wb").write(b"123")
run["weights"].upload("w.bin"); run["set"].upload_files(["*.bin"])
image = io.BytesIO(); Image.new("RGB", (2, 2)).save(image, "PNG")
run["charts"].append(neptune.types.File.from_content(image.getvalue(), extension="png"))
run["gone"].append(1.0)
run.wait(disk_only=True)
del run["gone"]
run["gone"].append(2.0)
run.stop()
"""

SCALE = """
import datetime
from neptune_scale import Run
from neptune_scale.types import Histogram
if __name__ == "__main__":
    at = datetime.datetime(2025, 1, 2, 3, 4, 5, 678000, tzinfo=datetime.timezone.utc)
    run = Run(run_id="azure", project="ws/project", mode="offline", experiment_name="exp", creation_time=at,
        enable_console_log_capture=False, source_tracking_config=None, fork_run_id="root", fork_step=3.5)
    run.log_configs({"lr": 1e-5, "n": 2**60, "ok": True, "nan": float("nan"), "when": at})
    for step, loss in ((4, 1.0), (4.25, float("inf")), (5, float("nan"))):
        run.log_metrics({"loss": loss, "acc": 0.5}, step=step, timestamp=at)
    run.log_string_series({"notes": "hello"}, step=4)
    run.log_histograms({"h": Histogram(bin_edges=[0, 1, 2], counts=[1, 2])}, step=4)
    run.add_tags(["a", "b"]); run.add_tags(["g"], group_tags=True)
    run.assign_files({"model": b"bytes"}); run.log_files({"charts": b"png"}, step=4)
    run.close()
"""


def python(code: str, folder: Path, **environment: str) -> str:
    (folder / "script.py").write_text(code)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("NEPTUNE_")}
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def only(location: str) -> tuple[Run, dict[str, list[tuple]], dict[str, bytes], list[str]]:
    with open_source(location) as source:
        (run,) = (run for e in source.experiments() for run in source.runs(e))
        series: dict[str, list[tuple]] = {}
        for stream, value in (("points", "value"), ("texts", "text"), ("histograms", "counts")):
            for batch in getattr(source, stream)(run):
                for row in batch.to_pylist():
                    series.setdefault(row["key"], []).append((row["step"], row["time"], row[value]))
        files = {file.path: source.open(run, file).read() for file in source.files(run)}
        return run, series, files, list(source.problems())


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def legacy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("legacy")
    python(LEGACY, folder)
    return folder


@pytest.fixture(scope="module")
def scale_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scale")
    python(SCALE, folder)
    return folder


def test_a_queue_of_the_client(legacy_folder: Path) -> None:
    before = snapshot(legacy_folder)
    run, series, files, problems = only(f"neptune:{legacy_folder}?outgrow.project=ws/old")
    assert run.experiment == "ws/old"
    assert run.name == "first"
    assert run.labels == ["a"]
    wanted = {"params/lr": 1e-5, "params/n": 3, "params/ok": True, "params/opt": "adamw"}
    assert {k: v for k, v in run.params.items() if k.startswith("params/")} == wanted
    assert series["loss"] == [
        (0.5, datetime(2023, 11, 14, 22, 13, 20, 250_000, UTC), 1.0),
        (1.25, datetime(2023, 11, 14, 22, 13, 21, 500_000, UTC), 0.5),
    ]
    assert [(step, value) for step, _, value in series["auto"]] == [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
    assert [(step, value) for step, _, value in series["notes"]] == [(2.0, "hello")]
    assert [value for _, _, value in series["gone"]] == [2.0]
    assert files["text.txt"] == b"hello"
    assert files["weights.bin"] == files["set/w.bin"] == b"123"
    assert files["charts/0.png"].startswith(b"\x89PNG")
    assert not problems
    assert snapshot(legacy_folder) == before


def test_a_cut_and_a_damaged_queue(legacy_folder: Path, tmp_path: Path) -> None:
    (log,) = legacy_folder.rglob("data-1.log")
    lines = log.read_bytes().splitlines(keepends=True)
    folder = tmp_path / ".neptune" / "offline" / "run__0f__1__abcdefgh"
    folder.mkdir(parents=True)
    (folder / "data-1.log").write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    *_, problems = only(f"neptune:{tmp_path}")
    assert any("ends within an operation" in sentence for sentence in problems)
    (folder / "data-1.log").write_bytes(lines[0] + b'{"obj": {"type"\n' + lines[1])
    with open_source(f"neptune:{tmp_path}") as source:
        (run,) = (run for e in source.experiments() for run in source.runs(e))
        with pytest.raises(Corrupt, match="is damaged at byte"):
            list(source.points(run))
    (folder / "data-1.log").unlink()
    (folder / "data-5.log").write_bytes(lines[4])
    *_, problems = only(f"neptune:{tmp_path}")
    assert any("were uploaded and removed" in sentence for sentence in problems)


def test_a_log_of_neptune_scale(scale_folder: Path) -> None:
    before = snapshot(scale_folder)
    run, series, files, problems = only(f"neptune:{scale_folder}")
    assert (run.id, run.name, run.group) == ("ws/project/azure", "exp", "g")
    assert run.started_at == datetime(2025, 1, 2, 3, 4, 5, 678_000, UTC)
    assert (run.fork.run, run.fork.step) == ("ws/project/root", 3.5)
    assert run.params["n"] == 2**60
    assert run.params["nan"] != run.params["nan"]
    assert [step for step, _, _ in series["loss"]] == [4.0, 4.25, 5.0]
    assert series["loss"][1][2] == float("inf")
    assert series["notes"][0][2] == "hello"
    assert series["h"][0][2] == [1.0, 2.0]
    assert set(files.values()) == {b"bytes", b"png"}
    assert set(run.labels) == {"a", "b"}
    assert run.status is Status.FINISHED
    assert not problems
    assert snapshot(scale_folder) == before


def test_an_unknown_form_of_log(scale_folder: Path, tmp_path: Path) -> None:
    import shutil
    import sqlite3

    shutil.copytree(scale_folder / ".neptune", tmp_path / ".neptune")
    (path,) = tmp_path.rglob("run_operations.sqlite3")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE metadata SET version = 'v99'")
    with open_source(f"neptune:{tmp_path}") as source:
        assert not list(source.experiments())
        assert any("'v99', which is not known" in sentence for sentence in source.problems())


SYNC = """
import sys
from neptune_scale.cli.commands import main
if __name__ == "__main__":
    sys.argv = ["neptune", "sync", {path!r}]
    main()
"""


@pytest.fixture
def new_scale() -> Server:
    with Server("ws/project") as server:
        yield server


def test_scale_sync_uploads_what_the_client_logged(
    new_scale: Server, scale_folder: Path, tmp_path: Path
) -> None:
    """The emulator is honest about the vendor's own log: its fork parent is not there."""
    import shutil

    shutil.copytree(scale_folder / ".neptune", tmp_path / ".neptune")
    (path,) = tmp_path.rglob("run_operations.sqlite3")
    python(SYNC.format(path=str(path)), tmp_path, NEPTUNE_API_TOKEN=new_scale.token)
    assert new_scale.errors
    assert not new_scale.runs


def test_scale_sync_uploads_our_logs(new_scale: Server, tmp_path: Path) -> None:
    location = f"neptune:{tmp_path}?outgrow.api=3&outgrow.project=ws/project"
    for case in ("facts", "fractional_steps", "histograms", "nonfinite"):
        migrate.copy(hostile.load(case), location, ledger=tmp_path / "ledger.db")
    logs = list(tmp_path.rglob("run_operations.sqlite3"))
    with open_source(location) as source:
        ours = {}
        for experiment in source.experiments():
            for run in source.runs(experiment):
                points = [row for batch in source.points(run) for row in batch.to_pylist()]
                ours[tuple(run.id.rsplit("/", 1))] = (run, points)
    for path in logs:
        python(SYNC.format(path=str(path)), tmp_path, NEPTUNE_API_TOKEN=new_scale.token)
    assert not new_scale.errors
    assert set(new_scale.runs) == set(ours)
    for key, (run, points) in ours.items():
        there = new_scale.runs[key]
        assert there["attributes"]["outgrow/complete"][1]
        assert there["attributes"]["outgrow/origin"][1] == run.origin.identity
        sent = sum(len(there["series"][row]) for row in {p["key"] for p in points} if row in there["series"])
        assert sent == len(points)
    assert any(name.endswith(".json") for name in new_scale.files)


@pytest.mark.parametrize("api", ["2", "3"])
def test_a_run_that_was_never_finished_is_none(api: str, tmp_path: Path) -> None:
    """What a killed copy leaves is neither a run nor a copy; the next copy takes its place."""
    location = f"neptune:{tmp_path}?outgrow.api={api}&outgrow.project=ws/project"
    runs = [replace(records.run(number), experiment="ws/project") for number in (1, 2)]
    with open_sink(location) as sink:
        writers = [sink.begin(run, Origin(platform="other", run_id=run.id)) for run in runs]
        for writer in writers:
            writer.points(records.points(["loss"], 5))
        writers[0].finish(runs[0], "mark")
        assert [copy.identity for copy in sink.copies()] == [f"other:{runs[0].id}"]
        assert sink.find(f"other:{runs[0].id}") is not None
        assert sink.find(f"other:{runs[1].id}") is None
        with open_source(location) as source:
            (experiment,) = source.experiments()
            assert [run.name for run in source.runs(experiment)] == [runs[0].name]
        writers[1].abort()


def test_runs_begin_while_others_end(tmp_path: Path) -> None:
    """The folder that they share while they are written comes and goes."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def write(writer: int) -> None:
        for number in range(150):
            name = f"run__{writer}-{number}__0__outgrow0"
            Staged.begin(tmp_path, tmp_path / "offline" / name, f"other:{name}", name).publish("mark")

    try:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(write, range(3)))
    finally:
        sys.setswitchinterval(before)
    assert len(list(copies(tmp_path))) == 450


def test_a_folder_that_the_sink_refuses(tmp_path: Path) -> None:
    from outgrow.demo import neptune_export as made

    made.complete_run(tmp_path / "export").write()
    with pytest.raises(LocationError, match="only reads"):
        open_sink(f"neptune:{tmp_path}/export")
    with pytest.raises(ConfigError, match="project"):
        open_sink(f"neptune:{tmp_path}/logs?outgrow.api=3")
    with pytest.raises(ConfigError, match="neither 2 nor 3"):
        open_sink(f"neptune:{tmp_path}/logs?outgrow.api=4")


def test_the_closed_service(monkeypatch: pytest.MonkeyPatch) -> None:
    import base64

    monkeypatch.delenv("NEPTUNE_API_TOKEN", raising=False)
    with pytest.raises(CredentialsError, match="not set"):
        open_source("neptune:ws/project")
    closed = {"api_address": "https://app.neptune.ai", "api_url": "https://app.neptune.ai", "api_key": "k"}
    monkeypatch.setenv("NEPTUNE_API_TOKEN", base64.b64encode(json.dumps(closed).encode()).decode())
    for opened in (open_source, open_sink):
        with pytest.raises(LocationError, match=r"closed on 5 March 2026") as error:
            opened("neptune:ws/project")
        assert "neptune:./DIR" in str(error.value.hint)
    monkeypatch.setenv("NEPTUNE_API_TOKEN", "nonsense")
    with pytest.raises(CredentialsError, match="not a Neptune API token"):
        open_source("neptune:ws/project")


def test_a_server_of_the_third_generation_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said at once: the client itself would try for half an hour."""
    from emulators.neptune_serving import token

    monkeypatch.setenv("NEPTUNE_API_TOKEN", token("http://127.0.0.1:9"))
    with pytest.raises(Unavailable, match="did not answer"):
        open_source("neptune:ws/project?outgrow.api=3")
    with pytest.raises(Unavailable, match="did not answer"):
        open_sink("neptune:ws/project?outgrow.api=3")
