"""Further legs of the demo, each a `Step` after the copy to the second MLflow.

A leg finds in `Stage.facts`: `runs` (how many), `second` (location of the second MLflow, whose
server still runs) and `url`. It adds to `Stage.findings`, by `Stage.expect`, what is wrong.
"""

from __future__ import annotations

from .comet import comet_zips
from .neptune import neptune_rescue
from .stage import Step
from .wandb import wandb_folders

LEGS: list[Step] = [
    Step("Copy to W&B run folders and back, without an account", wandb_folders),
    Step("Copy to Comet's offline zips and back, without an account", comet_zips),
    Step("Rescue a Neptune export (generated here) into MLflow and an archive", neptune_rescue),
]
