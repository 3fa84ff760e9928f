"""Hugging Face transformers: a callback for `Trainer(callbacks=[…])`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..run import Run
from ..warning import IntegrationWarning, warn
from .attachment import Attachment, missing

try:
    from transformers.trainer_callback import TrainerCallback
except ModuleNotFoundError as error:
    raise missing("transformers", "'transformers[torch]'") from error


def metric_names(logs: Mapping[str, Any]) -> dict[str, Any]:
    """The rule of the Trainer's own integrations: `eval_loss` → `eval/loss`, `test_loss` → `test/loss`,
    all others below `train/`."""
    names = {}
    for key, value in logs.items():
        split, _, rest = key.partition("_")
        names[f"{split}/{rest}" if split in ("eval", "test") and rest else f"train/{key}"] = value
    return names


class TransformersCallback(TrainerCallback):  # type: ignore[misc]
    """Arguments, model configuration, all that the Trainer logs, and the final model with its tokenizer.

    Metrics are named as `metric_names` says, at the Trainer's global step; only the world's process
    zero logs. The run ends with `train`; an `evaluate` after it goes to the same run. Each trial of
    a hyperparameter search is a run.
    """

    def __init__(
        self,
        experiment: str | None = None,
        *,
        run: Run | None = None,
        log_model: bool | Literal["all"] = True,
        **options: Any,
    ) -> None:
        """`run`: an open run to log to; else one is begun with `experiment` and `options`, those of
        `start_run`. With none of these the active run is taken, where one is open. Its name is
        that of the arguments' `run_name`, where no other is given.

        `log_model`: keep the model (the best one with `load_best_model_at_end`) with its tokenizer
        or processor at the end, as `model`; `"all"`: every checkpoint too; False: none.
        Raises `TypeError` for an unknown option.
        """
        self._attached = Attachment(experiment, run, options)
        self._log_model = log_model
        self._training = False

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        attached = self._attached
        if state.is_hyper_param_search:
            attached.renew(name=state.trial_name)
        elif getattr(args, "run_name", None):
            attached.options.setdefault("name", args.run_name)
        self._training = True
        attached.training(self)
        with attached.harmless("read the arguments"):
            config = getattr(model, "config", None)
            settings = args.to_dict() | {"model": config.to_dict() if config is not None else {}}
            attached.params(settings | (state.trial_params or {}))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            self._attached.log(metric_names(logs), state.global_step)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._after_training(state)

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any, **_: Any) -> None:
        # The Trainer does not log what it has measured on the test set.
        if state.is_world_process_zero and metrics:
            self._attached.log(metric_names(metrics), state.global_step)
        self._after_training(state)

    def _after_training(self, state: Any) -> None:
        if state.is_world_process_zero and not self._training:
            self._attached.finish()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero and self._log_model == "all":
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            with self._attached.harmless("log a checkpoint"):
                self._attached.run.log_model(
                    folder, "checkpoint", tags={"checkpoint_step": state.global_step}
                )

    def on_train_end(
        self, args: Any, state: Any, control: Any, model: Any = None, processing_class: Any = None, **_: Any
    ) -> None:
        self._training = False
        if not state.is_world_process_zero:
            return
        if self._log_model and model is not None:
            with self._attached.harmless("log the model"):
                self._keep(args, state, model, processing_class)
        self._attached.finish()

    def _keep(self, args: Any, state: Any, model: Any, processing_class: Any) -> None:
        if getattr(args, "fsdp", None) or getattr(args, "deepspeed", None):
            warn(
                "the model is spread over processes, so that this one alone cannot keep it; save it, then: "
                "run.log_model(folder)",
                IntegrationWarning,
            )
            return
        tags: dict[str, Any] = {"checkpoint_step": state.global_step}
        if state.best_model_checkpoint and args.load_best_model_at_end:
            checkpoint = os.path.basename(state.best_model_checkpoint)
            tags = {"checkpoint": checkpoint, "checkpoint_step": checkpoint.rpartition("-")[2]}
            tags |= {"monitor": args.metric_for_best_model, "score": float(state.best_metric)}
        self._attached.run.log_model(model, "model", preprocessor=processing_class, tags=tags)
