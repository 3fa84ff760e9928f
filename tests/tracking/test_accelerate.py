"""The Accelerate tracker, with the real Accelerator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import framework_runs
import outgrow
import pytest
from outgrow.model import Status

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
accelerate = pytest.importorskip("accelerate", reason="Accelerate is not installed")

from outgrow.tracking.integrations import AccelerateTracker  # noqa: E402


@pytest.fixture(autouse=True)
def _apart_from_other_tests(tmp_path: Path) -> Any:
    framework_runs.settings(tmp_path)
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def train(accelerator: Any, error: BaseException | None = None) -> Any:
    accelerator.init_trackers("ignored", config={"lr": 0.5, "layers": {"width": 2}})
    model = torch.nn.Linear(2, 1)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.5))
    for step in range(3):
        loss = model(torch.ones(1, 2)).pow(2).mean()
        accelerator.log({"loss": loss, "note": "text", "nothing": None}, step=step)
        if error is not None:
            raise error
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    if accelerator.is_main_process:
        accelerator.get_tracker("outgrow", unwrap=True).log_model(accelerator.unwrap_model(model), "weights")
    accelerator.end_training()
    return accelerator.unwrap_model(model)


def test_a_training_arrives(tmp_path: Path) -> None:
    accelerator = accelerate.Accelerator(
        cpu=True, log_with=AccelerateTracker("digits", name="loop", capture=False)
    )
    with pytest.warns(UserWarning, match="outgrow leaves out 'nothing'"):
        model = train(accelerator)
    assert outgrow.active_run() is None
    got = framework_runs.arrived(tmp_path)["loop"]
    assert got.run.status is Status.FINISHED
    assert got.run.params == {"lr": 0.5, "layers/width": 2}
    assert [step for step, _ in got.points["loss"]] == [0, 1, 2]
    assert got.texts == {"note": ["text"] * 3}
    from safetensors.torch import load_model

    loaded = torch.nn.Linear(2, 1)
    load_model(loaded, got.save(tmp_path / "back") / "model.safetensors")
    assert torch.equal(loaded(torch.ones(1, 2)), model(torch.ones(1, 2)))


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("boom"), "failed"), (KeyboardInterrupt(), "killed")]
)
def test_a_training_that_breaks_off(tmp_path: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), outgrow.start_run("digits", "broken", capture=False) as run:
        train(accelerate.Accelerator(cpu=True, log_with=AccelerateTracker(run=run)), error)
    got = framework_runs.arrived(tmp_path)["broken"]
    assert got.run.status.value == status
    assert [step for step, _ in got.points["loss"]] == [0]


def test_only_the_main_process_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = accelerate.Accelerator(cpu=True, log_with=AccelerateTracker("digits", capture=False))
    monkeypatch.setattr(accelerate.PartialState, "is_main_process", False)
    monkeypatch.setattr(accelerate.PartialState, "use_distributed", True)
    train(accelerator)
    assert not (tmp_path / ".outgrow").exists()
