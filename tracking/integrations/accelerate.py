"""Accelerate: a tracker for `Accelerator(log_with=…)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..run import Run
from .attachment import Attachment, missing

try:
    from accelerate.tracking import GeneralTracker, on_main_process
except ModuleNotFoundError as error:
    raise missing("Accelerate", "accelerate") from error


class AccelerateTracker(GeneralTracker):  # type: ignore[misc]
    """Configuration and metrics, as `init_trackers` and `accelerator.log` are given them.

    Metrics keep their names and steps; only the main process logs. The run ends with
    `accelerator.end_training()`. Everything else of the run is at hand on the main process:
    `accelerator.get_tracker("outgrow", unwrap=True).log_model(…)`.
    """

    name = "outgrow"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, experiment: str | None = None, *, run: Run | None = None, **options: Any) -> None:
        """`run`: an open run to log to; else one is begun with `experiment` and `options`, those of
        `start_run`. With none of these the active run is taken, where one is open.
        Raises `TypeError` for an unknown option.
        """
        super().__init__()
        self._attached = Attachment(experiment, run, options)

    @property
    def tracker(self) -> Run:
        return self._attached.run

    @on_main_process  # type: ignore[untyped-decorator]
    def start(self) -> None:
        self._attached.run  # noqa: B018 - begins it: a wrong configuration is told before the training

    @on_main_process  # type: ignore[untyped-decorator]
    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        self._attached.params(values)

    @on_main_process  # type: ignore[untyped-decorator]
    def log(self, values: Mapping[str, Any], step: int | None = None, **_: Any) -> None:
        self._attached.log(values, step)

    @on_main_process  # type: ignore[untyped-decorator]
    def finish(self) -> None:
        self._attached.finish()
