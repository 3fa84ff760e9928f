"""Copies from and to Neptune by the engine, checked deeply, and the vendor's own sync of what we write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from emulators import neptune_legacy, neptune_scale
from outgrow import migrate
from outgrow.adapters.restored import restored
from outgrow.demo import neptune_export as made
from outgrow.locations import open_source
from outgrow.model import Run, to_builtins
from outgrow.testing import drive, hostile, records
from outgrow.testing.memory import MemorySource, RunData
from sql_stores import fresh_sqlite

# With neptune-scale installed the command `neptune` is that package's; this is the 2.x client's.
SYNC = "from neptune.cli.__main__ import main; main()"


@pytest.fixture
def export(tmp_path: Path) -> str:
    for number in range(3):
        run = made.complete_run(tmp_path / "export", run=f"fox-{number}", id=f"VIS-{number}")
        if number:
            run.row("sys/forking/parent", "string", "fox-0")
            run.row("sys/forking/step", "float", 2.0)
        run.write(rows_per_part=20)
    return f"neptune:{tmp_path}/export"


def copied(source: str, target: str, tmp_path: Path) -> None:
    """Copied whole, checked deeply, and a second copy writes nothing."""
    ledger = tmp_path / "ledger.db"
    report = migrate.copy(source, target, ledger=ledger)
    assert report.exit_code == 0, report.failures
    checked = migrate.check(source, target, deep=True)
    assert checked.exit_code == 0, [run for run in checked.runs if run.differences]
    again = migrate.copy(source, target, ledger=ledger)
    assert again.counts.get("copied", 0) == 0


def original(location: str) -> dict[str, dict[str, object]]:
    """The restored records by identity, without what every platform names for itself."""
    own = {"id", "experiment", "url", "origin", "modified_at", "fork", "parent", "artifacts"}
    with open_source(location) as opened:
        source = restored(opened)
        found: dict[str, dict[str, object]] = {}
        for experiment in source.experiments():
            for run in source.runs(experiment):
                identity = run.origin.identity if run.origin else f"neptune:{run.id}"
                data = {k: v for k, v in to_builtins(run).items() if k not in own}
                data["labels"] = sorted(run.labels)
                data["points"] = sorted(
                    (row["key"], row["step"], str(row["time"]), str(row["value"]))
                    for batch in source.points(run)
                    for row in batch.to_pylist()
                )
                data["histograms"] = [row for b in source.histograms(run) for row in b.to_pylist()]
                data["files"] = {f.path: drive.sha256_of(source.open(run, f)) for f in source.files(run)}
                found[identity] = data
        return found


@pytest.mark.parametrize(
    "target", ["archive:{}/archive", "wandb:{}/wandb", "comet:{}/comet", "neptune:{}/queues"]
)
def test_export_to_every_folder(export: str, target: str, tmp_path: Path) -> None:
    folder = tmp_path / target.partition("/")[2]
    folder.mkdir()
    copied(export, target.format(tmp_path), tmp_path)


def test_export_to_mlflow_to_archive(export: str, tmp_path: Path) -> None:
    mlflow, archive = f"mlflow:{fresh_sqlite(tmp_path / 'mlflow.db')}", f"archive:{tmp_path}/archive"
    copied(export, mlflow, tmp_path)
    copied(mlflow, archive, tmp_path)
    assert original(archive) == original(export)


@pytest.mark.parametrize("api", ["2", "3"])
def test_from_elsewhere_through_neptune_and_back(api: str, tmp_path: Path) -> None:
    neptune = f"neptune:{tmp_path}/neptune?outgrow.api={api}&outgrow.project=ws/p"
    source = MemorySource(
        [records.experiment()], [RunData(records.run(n), [records.points()]) for n in (1, 2)]
    )
    first, last = f"archive:{tmp_path}/first", f"archive:{tmp_path}/last"
    migrate.copy(source, first, ledger=tmp_path / "ledger.db")
    copied(first, neptune, tmp_path)
    copied(neptune, last, tmp_path)
    assert original(last) == original(first)


def written(tmp_path: Path, api: str) -> Run:
    source = hostile.load("facts")
    location = f"neptune:{tmp_path}?outgrow.api={api}&outgrow.project=ws/project"
    migrate.copy(source, location, ledger=tmp_path / "ledger.db")
    with open_source(location) as back:
        return next(run for e in back.experiments() for run in back.runs(e))


def test_neptune_sync_uploads_our_queues(legacy: neptune_legacy.Server, tmp_path: Path) -> None:
    """The vendor's unmodified `neptune sync`, and what the server then has, read through its API."""
    legacy.runs.clear()
    ours = written(tmp_path, "2")
    done = subprocess.run(
        [sys.executable, "-c", SYNC, "sync", "--path", str(tmp_path), "--project", "ws/project"],
        env=os.environ | {"NEPTUNE_API_TOKEN": legacy.token, "OAUTHLIB_INSECURE_TRANSPORT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with open_source("neptune:ws/project") as server:
        (there,) = (run for e in server.experiments() for run in server.runs(e))
        assert there.origin == ours.origin
        for name in ("params", "tags", "labels", "status", "started_at", "ended_at", "user", "description"):
            assert getattr(there, name) == getattr(ours, name), name
        assert {f.path for f in server.files(there)} >= {"outgrow/origin.json"}
    checked = migrate.check(hostile.load("facts"), "neptune:ws/project", deep=True)
    assert checked.exit_code == 0, [run for run in checked.runs if run.differences]


def test_mlflow_through_neptune_and_back(scale: neptune_scale.Server, tmp_path: Path) -> None:
    scale.runs.clear()
    neptune = "neptune:ws/project?outgrow.api=3"
    first, last = (f"mlflow:{fresh_sqlite(tmp_path / name)}" for name in ("first.db", "last.db"))
    ledger = tmp_path / "ledger.db"
    made = MemorySource([records.experiment()], [RunData(records.run(), [records.points()])])
    legs = [(first, neptune), (neptune, last)]
    assert migrate.copy(made, first, ledger=ledger).exit_code == 0
    for source, target in legs:
        report = migrate.copy(source, target, ledger=ledger)
        assert report.exit_code == 0, report.failures
        checked = migrate.check(source, target, deep=True)
        assert checked.exit_code == 0, [run for run in checked.runs if run.differences]
        assert migrate.copy(source, target, ledger=ledger).counts.get("copied", 0) == 0
    held = []
    for location in (first, last):
        with open_source(location) as source:
            runs = [run for e in source.experiments() for run in source.runs(e)]
            rows = [
                sorted((r["key"], r["step"], r["time"], repr(r["value"])) for b in source.points(run) for r in b.to_pylist())
                for run in runs
            ]  # fmt: skip
            held.append(([(r.origin.identity, r.name, r.status, r.params, r.tags) for r in runs], rows))
    assert any(held[0][1])
    assert held[0] == held[1]


def test_models_of_a_server(legacy: neptune_legacy.Server) -> None:
    legacy.runs.clear()
    project = legacy.projects["ws/project"]
    told = [("model", "PRO-MOD", {"name": "forest"})]
    told += [
        ("modelVersion", f"PRO-MOD-{n}", {"model_id": "PRO-MOD", "stage": stage})
        for n, stage in ((10, "none"), (2, "production"))
    ]
    for kind, name, fields in told:
        held = legacy.create(project, kind)
        held["shortId"] = name
        values = {"sys/id": name, "accuracy": "half"} | {f"sys/{key}": value for key, value in fields.items()}
        held["attributes"] |= {path: {"type": "string", "value": value} for path, value in values.items()}
    with open_source("neptune:ws/project?outgrow.api=2") as source:
        (model,) = source.registry()
    assert (model.name, model.extra["neptune"]["name"]) == ("PRO-MOD", "forest")
    assert [(v.version, v.stage, v.run) for v in model.versions] == [
        ("2", "production", "ws/project/PRO-MOD-2"),
        ("10", None, "ws/project/PRO-MOD-10"),
    ]
    assert model.versions[0].tags == {"accuracy": "half"}
