"""Runs recorded by the unmodified SDK, for the tests of the W&B adapter; a script of its own process.

python wandb_runs.py offline|online DIR
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

POINTS = 60


def record(mode: str, folder: Path) -> None:
    import numpy as np
    import wandb

    run = wandb.init(
        mode=mode,
        dir=str(folder),
        project="vision",
        entity="ada" if mode == "online" else None,
        id=f"sdk-{mode}",
        name="from the SDK",
        notes="Some notes",
        tags=["baseline", "v2"],
        group="sweep one",
        job_type="train",
        config={"lr": 1e-3, "model": {"kind": "mlp", "layers": [64, 10]}, "none": None, "whole": 2.0},
        settings=wandb.Settings(console="off", x_disable_stats=True, disable_git=True, x_disable_meta=False),
    )
    run.define_metric("epoch", hidden=True)
    run.define_metric("eval/*", step_metric="epoch", step_sync=False)
    run.define_metric("sparse", step_metric="epoch", summary="max", step_sync=False)
    for step in range(POINTS):
        row = {"train/loss": 1.0 / (step + 1), "nested": {"deep": step}}
        if step % 10 == 0:
            row |= {"eval/accuracy": 0.5 + step / 1000, "odd": math.nan if step else math.inf}
        run.log(row)
    run.log({"weights": wandb.Histogram([1.0, 2.0, 2.0, 3.0], num_bins=3), "note": "half way", "flag": True})
    run.log({"image": wandb.Image(np.zeros((4, 4, 3), np.uint8))})
    run.log({"sparse": 1.0}, step=1_000_000)
    run.summary["best"] = 0.9
    (folder / "saved.txt").write_text("kept")
    run.save(str(folder / "saved.txt"), base_path=str(folder), policy="now")
    artifact = wandb.Artifact("classifier", type="model", description="A model", metadata={"layers": 2})
    weights = folder / "weights.bin"
    weights.write_bytes(b"\x00\x01" * 500)
    artifact.add_file(str(weights), name="model/weights.bin")
    run.log_artifact(artifact, aliases=["best"])
    if mode == "online":
        artifact.wait()
    run.finish()


if __name__ == "__main__":
    record(sys.argv[1], Path(sys.argv[2]))
