"""Lightning: a logger for `Trainer(logger=…)`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..run import Run
from .attachment import Attachment, missing

# The two packages of one framework do not mix: whichever the program has imported already.
try:
    if "pytorch_lightning" in sys.modules and "lightning" not in sys.modules:
        from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
        from pytorch_lightning.utilities import rank_zero_only
    else:
        from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
        from lightning.pytorch.utilities import rank_zero_only
except ModuleNotFoundError as error:
    raise missing("Lightning", "lightning") from error


class LightningLogger(Logger):  # type: ignore[misc]
    """Metrics, hyperparameters, the best checkpoint and the status of a training.

    Metrics keep the names of `self.log(…)` and Lightning's step. Only the process of rank zero
    logs. The run ends with `fit` (as failed or killed after an exception); a `test` after it goes
    to the same run. Its checkpoints go to `SAVE_DIR/EXPERIMENT/RUN_ID/checkpoints`.
    """

    def __init__(
        self,
        experiment: str | None = None,
        *,
        run: Run | None = None,
        log_model: bool | Literal["all"] = True,
        save_dir: str | os.PathLike[str] = ".",
        **options: Any,
    ) -> None:
        """`run`: an open run to log to; else one is begun with `experiment` and `options`, those of
        `start_run`. With none of these the active run is taken, where one is open.

        `log_model`: keep the best checkpoint (the last, where none is monitored) as the model
        `model` at the end; `"all"`: every checkpoint as it is saved; False: none.
        `save_dir`: the folder for Lightning's own files, which it takes from its logger rather than
        from the Trainer's `default_root_dir`. Raises `TypeError` for an unknown option.
        """
        super().__init__()
        self._attached = Attachment(experiment, run, options)
        self._save_dir = os.fspath(save_dir)
        self._log_model = log_model
        self._checkpoints: Any = None
        self._kept: set[tuple[str, float]] = set()
        self._steps: dict[str, int | None] = {}

    @property
    @rank_zero_experiment  # type: ignore[untyped-decorator]
    def experiment(self) -> Run:
        """The run. In other processes than that of rank zero something that takes any call and does nothing."""
        return self._attached.run

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._attached.experiment

    @property
    def version(self) -> str | None:
        """The run's id; None in other processes than that of rank zero."""
        return self._attached.run_id if rank_zero_only.rank == 0 else None

    @property
    def save_dir(self) -> str:
        return self._save_dir

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self._attached.params(params)

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._attached.log(metrics, step)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self._checkpoints = checkpoint_callback
        for path in (checkpoint_callback.last_model_path, checkpoint_callback.best_model_path):
            self._steps.setdefault(path, getattr(checkpoint_callback, "_last_global_step_saved", None))
        if self._log_model == "all":
            self._keep(checkpoint_callback.last_model_path or checkpoint_callback.best_model_path)
            self._keep(checkpoint_callback.best_model_path)

    @rank_zero_only  # type: ignore[untyped-decorator]
    def finalize(self, status: str) -> None:
        if not self._attached.begun:
            return
        if self._log_model and self._checkpoints is not None:
            self._keep(self._checkpoints.best_model_path or self._checkpoints.last_model_path)
        error = sys.exc_info()[1]
        if status == "failed" and error is None:
            error = RuntimeError("Lightning reports a failure")
        self._attached.finish(error if status == "failed" else None)

    @rank_zero_only  # type: ignore[untyped-decorator]
    def _keep(self, path: str) -> None:
        """A checkpoint as a version of the model, once as long as its file does not change."""
        if not path or not os.path.exists(path) or (state := (path, os.path.getmtime(path))) in self._kept:
            return
        self._kept.add(state)
        callback = self._checkpoints
        with self._attached.harmless("log a checkpoint"):
            tags = {"format": "lightning", "checkpoint": Path(path).name}
            if (step := self._steps.get(path)) is not None:
                tags["checkpoint_step"] = str(step)
            if callback.monitor is not None:
                tags |= {"monitor": callback.monitor, "mode": callback.mode}
                score = callback.best_k_models.get(path)
                tags |= {} if score is None else {"score": str(float(score))}
            self._attached.run.log_model(path, "model", tags=tags)
