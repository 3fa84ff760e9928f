"""The Weights & Biases leg: to local run folders, which need no account, and back."""

from __future__ import annotations

from collections.abc import Iterator

from .stage import Stage

ARCHIVE, FOLDERS, BACK = "archive:archive", "wandb:./wandb-runs", "archive:wandb-back"


def wandb_folders(stage: Stage) -> Iterator[str]:
    """The runs as W&B run folders, read back, and as an archive again."""
    runs = stage.facts["runs"]
    stage.outgrow("copy", ARCHIVE, FOLDERS)
    stage.outgrow("check", ARCHIVE, FOLDERS, "--deep")
    logs = sorted((stage.folder / "wandb-runs").glob("offline-run-*/*.wandb"))
    stage.expect(len(logs) == runs, f"{len(logs)} run folders for {runs} runs")
    again = stage.outgrow_json("copy", ARCHIVE, FOLDERS)
    stage.expect(again.get("counts", {}).get("copied", 0) == 0, "a second copy wrote run folders again")
    stage.outgrow("copy", FOLDERS, BACK)
    stage.outgrow("check", FOLDERS, BACK, "--deep")
    size = sum(path.stat().st_size for path in logs)
    yield f"{len(logs)} run folders, {size / 1e6:.1f} MB of logs, checked point by point; `wandb sync wandb-runs` uploads them"
    yield f"from the folders back to {BACK}: nothing lost on the way"
