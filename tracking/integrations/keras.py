"""Keras: a callback for `model.fit(callbacks=[…])`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..run import Run
from .attachment import Attachment, missing

try:
    from keras import ops
    from keras.callbacks import Callback
except ModuleNotFoundError as error:
    if error.name != "keras":
        raise  # Keras is there; its backend is not, and it says so
    raise missing("Keras", "keras") from error


class KerasCallback(Callback):  # type: ignore[misc]
    """Settings, the metrics of each epoch, the learning rate and the model of a training.

    Metrics keep Keras' names (`loss`, `val_loss`), beside `learning_rate`; the step is the epoch.
    `evaluate` outside of `fit` logs `test_loss`…, one step after the last. The run ends with `fit`.
    """

    def __init__(
        self, experiment: str | None = None, *, run: Run | None = None, log_model: bool = True, **options: Any
    ) -> None:
        """`run`: an open run to log to; else one is begun with `experiment` and `options`, those of
        `start_run`. With none of these the active run is taken, where one is open.

        `log_model`: keep the model at the end of the training, as `model`.
        Raises `TypeError` for an unknown option.
        """
        super().__init__()
        self._attached = Attachment(experiment, run, options)
        self._log_model = log_model
        self._fitting = False

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._fitting = True
        self._attached.training(self)
        with self._attached.harmless("read the settings"):
            self._attached.params(self._settings())

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            key: self.params[key] for key in ("epochs", "steps") if key in self.params
        }
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is not None:
            settings["optimizer"] = optimizer.get_config()
        settings["model"] = {"name": self.model.name, "class": type(self.model).__name__}
        if self.model.built:
            settings["model"]["parameters"] = self.model.count_params()
        loss = getattr(self.model, "loss", None)
        return settings | ({"loss": loss} if loss is not None else {})

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        rate: dict[str, Any] = {}
        with self._attached.harmless("read the learning rate"):
            optimizer = getattr(self.model, "optimizer", None)
            if optimizer is not None and "learning_rate" not in (logs or {}):
                rate = {"learning_rate": ops.convert_to_numpy(optimizer.learning_rate)}
        self._attached.log({**(logs or {}), **rate}, epoch)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        self._fitting = False
        if self._log_model:
            with self._attached.harmless("log the model"):
                self._attached.run.log_model(self.model, "model")
        self._attached.finish()

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        if not self._fitting and logs:
            self._attached.log({f"test_{key}": value for key, value in logs.items()}, None)
            self._attached.finish()
