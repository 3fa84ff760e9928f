"""Optuna: every trial of a study as a child run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..run import Run
from ..start import start_run


def optuna_callback(
    experiment: str, *, parent: Run | None = None, metric: str = "value", **options: Any
) -> Callable[[Any, Any], None]:
    """A callback for `study.optimize(callbacks=[…])`: each trial becomes a run named STUDY-NUMBER.

    Params, values (`metric`, or `metric/0`… of a multi-objective study), intermediate values as a
    series, user attributes as tags, and the trial's state as the run's status. `options` go to
    `start_run`.
    """

    def log_trial(study: Any, trial: Any) -> None:
        settings = {"capture": parent is None} | options
        run = start_run(
            experiment,
            f"{study.study_name}-{trial.number:04d}",
            params=trial.params,
            parent=parent,
            group=study.study_name,
            **settings,
        )
        for step, value in sorted(trial.intermediate_values.items()):
            run.log({metric: value}, step=step)
        last = max(trial.intermediate_values, default=-1) + 1
        values = trial.values or []
        names = [metric] if len(values) == 1 else [f"{metric}/{number}" for number in range(len(values))]
        if values:
            run.log(dict(zip(names, values, strict=True)), step=last)
        run.set_tags(
            {key: str(value) for key, value in trial.user_attrs.items()} | {"state": trial.state.name.lower()}
        )
        run.finish("failed" if trial.state.name == "FAIL" else "finished", timeout=0)

    return log_trial
