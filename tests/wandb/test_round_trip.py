"""MLflow → W&B → MLflow through the origin record, by way of folders and of a server; W&B → W&B."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import wandb_runs
from emulators.wandb import WandbServer
from emulators.wandb.state import Run
from outgrow import locations, migrate
from outgrow.adapters.wandb import metric_definitions
from outgrow.testing import records
from sql_stores import fresh_sqlite


def test_mlflow_to_wandb_and_back(server: WandbServer, tmp_path: Path) -> None:
    """MLflow → folders → server → MLflow: the last is the first, by a deep check."""
    ledger = tmp_path / "ledger.db"
    first, last = (f"mlflow:{fresh_sqlite(tmp_path / name)}" for name in ("first.db", "last.db"))
    migrate.copy(records.history(3, 25), first, ledger=ledger)
    places = [first, f"wandb:{tmp_path / 'folders'}", "wandb:ada/moved", last]
    for source, target in itertools.pairwise(places):
        report = migrate.copy(source, target, ledger=ledger)
        assert (report.state, report.counts, report.failures) == ("done", {"copied": 3}, []), report
    assert len(server.state.runs) == 3
    found = migrate.check(first, last, deep=True)
    differences = [
        (r.identity, d.what, d.detail) for r in found.runs for d in r.differences if not d.expected
    ]
    assert differences == []
    assert [d for d in found.registry if not d.expected] == []
    assert found.counts == {"=": 3}
    again = migrate.copy(places[1], "wandb:ada/moved", ledger=ledger)
    assert again.counts == {"unchanged": 3}, again
    # Straight from the first, the same runs are met: they are written again, and no row is doubled.
    migrate.copy(first, "wandb:ada/moved", ledger=ledger)
    assert {len(run.history) for run in server.state.runs.values()} == {25}
    assert {run.received_rows for run in server.state.runs.values()} == {25}


def definitions(run: Run) -> list[Any]:
    return metric_definitions.of_config(run.config["_wandb"]["value"])


def images(run: Run) -> list[tuple[int, Any]]:
    return [(row["_step"], row["image"]) for row in run.history if "image" in row]


def test_wandb_to_wandb(wandb_server: WandbServer, sdk_runs: Path, tmp_path: Path) -> None:
    """Definitions of metrics and images at their steps, as the vendor's sync writes them."""
    ledger = tmp_path / "ledger.db"
    for source, target in (("wandb:ada/vision", "wandb:ada/cloud"), (f"wandb:{sdk_runs}", "wandb:ada/local")):
        report = migrate.copy(source, target, ledger=ledger)
        assert not report.failures, report
        assert {outcome.state for outcome in report.runs} == {"copied"}
        first = wandb_server.run("ada/vision/sdk-online")
        for run in wandb_server.state.runs_of("ada", target.rpartition("/")[2]):
            assert definitions(run) == definitions(first)
            assert images(run) == images(first)
            assert [path for path, _ in run.files.items() if path.startswith("media/")]
        with locations.open_source(target) as opened:
            for experiment in opened.experiments():
                for copied in opened.runs(experiment):
                    (image,) = [file for file in opened.files(copied) if file.key == "image"]
                    assert image.step == wandb_runs.POINTS + 1
    run.config["outgrow"]["value"].pop("complete")  # as if the copy had been cut off before its end
    rows = run.received_rows
    again = migrate.copy(source, target, ledger=tmp_path / "another.db")
    assert again.counts == {"copied": 1, "unchanged": 1}
    assert run.received_rows == rows
