"""The Neptune leg: an export, as the vendor's exporter leaves it, to where its history can live on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from . import neptune_export as made
from .stage import Stage

RUNS = 5
EXPORT, ARCHIVE, MLFLOW = (
    "neptune:./neptune-export",
    "archive:neptune-archive",
    "mlflow:sqlite:///neptune-mlflow.db",
)


def neptune_rescue(stage: Stage) -> Iterator[str]:
    """Forks, decimal steps, histograms, files and parts → MLflow and an archive, checked deeply."""
    for number in range(RUNS):
        run = made.complete_run(
            stage.folder / "neptune-export",
            run=f"azure-fox-{number}",
            id=f"VIS-{number}",
            name=f"resnet-{number}",
        )
        if number:
            run.row("sys/forking/parent", "string", "azure-fox-0")
            run.row("sys/forking/step", "float", 2.0)
        run.flush()
        steps = [step * 0.25 for step in range(40)]
        scores = [1.0 - 0.9 / (1 + step * (number + 1)) for step in steps]
        run.series("eval/accuracy", steps, scores, made.START + timedelta(hours=number))
        run.write(rows_per_part=50)
    stage.outgrow("plan", EXPORT, MLFLOW)
    for target in (MLFLOW, ARCHIVE):
        copied = stage.outgrow_json("copy", EXPORT, target).get("counts", {}).get("copied", 0)
        stage.expect(copied == RUNS, f"{copied} of {RUNS} runs of the export were copied to {target}")
        stage.outgrow("check", EXPORT, target, "--deep")
    yield f"{RUNS} runs of a generated Neptune export in MLflow and in an archive, equal point by point"
