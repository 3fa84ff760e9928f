"""Optuna: every trial of a study as a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..run import Run
from .attachment import Attachment


def optuna_callback(
    experiment: str = "default", *, parent: Run | None = None, metric: str = "value", **options: Any
) -> Callable[[Any, Any], None]:
    """A callback for `study.optimize(callbacks=[…])`: each trial becomes a run named STUDY-NUMBER.

    Params, values (`metric`, or `metric/0`… of a multi-objective study), intermediate values as a
    series, user attributes as tags, and the trial's state as the run's status. `parent`: the run
    that the trials are children of. `options` are those of `start_run`.
    Raises `TypeError` for an unknown option.
    """
    Attachment(experiment, None, options)  # raises what is wrong with them now

    def log_trial(study: Any, trial: Any) -> None:
        begin = {
            "name": f"{study.study_name}-{trial.number:04d}",
            "params": trial.params,
            "parent": parent,
            "group": study.study_name,
            "capture": parent is None,
        }
        attached = Attachment(experiment, None, begin | options)
        run = attached.run
        with attached.harmless("log a trial"):
            _log(run, trial, metric)
        with attached.harmless("end a trial"):
            run.finish("failed" if trial.state.name == "FAIL" else "finished", timeout=0)

    return log_trial


def _log(run: Run, trial: Any, metric: str) -> None:
    for step, value in sorted(trial.intermediate_values.items()):
        run.log({metric: value}, step=step)
    last = max(trial.intermediate_values, default=-1) + 1
    values = trial.values or []
    names = [metric] if len(values) == 1 else [f"{metric}/{number}" for number in range(len(values))]
    if values:
        run.log(dict(zip(names, values, strict=True)), step=last)
    run.set_tags({"state": trial.state.name.lower()})
    run.set_tags({key: str(value) for key, value in trial.user_attrs.items()})
