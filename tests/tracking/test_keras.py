"""The Keras callback, with the real Keras on the PyTorch backend."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import framework_runs
import numpy as np
import outgrow
import pytest
from outgrow.model import Status

pytest.importorskip("torch", reason="PyTorch is not installed")
os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="Keras is not installed")

from outgrow.tracking.integrations import KerasCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
X, Y = np.arange(16.0).reshape(8, 2) / 16, np.ones((8, 1))


def make(rate: Any = 0.1) -> Any:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)], name="line")
    model.compile(optimizer=keras.optimizers.SGD(rate), loss="mse", metrics=["mae"])
    return model


@pytest.fixture(autouse=True)
def _configured(tmp_path: Path) -> None:
    framework_runs.settings(tmp_path)


def test_a_training_arrives_with_its_model(tmp_path: Path) -> None:
    decay = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))
    callback = KerasCallback("digits", name="fit", capture=False)
    model = make()
    history = model.fit(
        X, Y, validation_data=(X, Y), epochs=3, verbose=0, callbacks=[decay, callback]
    ).history
    assert outgrow.active_run() is None
    measured = model.evaluate(X, Y, verbose=0, callbacks=[callback], return_dict=True)
    got = framework_runs.arrived(tmp_path)["fit"]
    assert got.run.status is Status.FINISHED
    assert got.run.params["epochs"] == 3
    assert got.run.params["optimizer/name"] == "sgd"
    assert got.run.params["loss"] == "mse"
    assert got.run.params["model/parameters"] == 3
    trained = {key: list(enumerate(series)) for key, series in history.items()}
    assert set(trained) == {"loss", "mae", "val_loss", "val_mae", "learning_rate"}
    tested = {f"test_{key}": [(3, value)] for key, value in measured.items()}
    assert got.points == trained | tested
    ((artifact, _),) = got.models
    assert artifact.metadata["format"] == "keras"
    loaded = keras.models.load_model(got.save(tmp_path / "back") / "data/model.keras")
    assert np.array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))


def test_the_rate_of_a_schedule(tmp_path: Path) -> None:
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=1, decay_rate=0.5)
    callback = KerasCallback("digits", name="decay", log_model=False, capture=False)
    make(rate).fit(X, Y, epochs=2, batch_size=8, verbose=0, callbacks=[callback])
    got = framework_runs.arrived(tmp_path)["decay"]
    assert [value for _, value in got.points["learning_rate"]] == pytest.approx([0.05, 0.025])
    assert got.run.params["optimizer/learning_rate/config/decay_rate"] == 0.5
    assert got.models == []


class Breaking(keras.callbacks.Callback):  # type: ignore[misc,name-defined]
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            raise self.error


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("boom"), "failed"), (KeyboardInterrupt(), "killed")]
)
def test_a_training_that_breaks_off(tmp_path: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), outgrow.start_run("digits", "broken", capture=False) as run:
        make().fit(X, Y, epochs=3, verbose=0, callbacks=[KerasCallback(run=run), Breaking(error)])
    got = framework_runs.arrived(tmp_path)["broken"]
    assert got.run.status.value == status
    assert [step for step, _ in got.points["loss"]] == [0, 1]
