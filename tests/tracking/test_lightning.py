"""The Lightning logger with the real Trainer."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import framework_runs as frameworks
import outgrow
import pytest
from outgrow.model import Status
from outgrow.tracking.warning import IntegrationWarning

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
lightning = pytest.importorskip("lightning", reason="Lightning is not installed")

from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402
from lightning.pytorch.utilities import rank_zero_only  # noqa: E402
from outgrow.tracking.integrations import LightningLogger  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning:lightning")


class Net(lightning.LightningModule):  # type: ignore[misc,name-defined]
    def __init__(self, width: int = 3, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(2, 1)
        self.error: BaseException | None = None
        self.seen: list[float] = []

    def loss(self, batch: Any) -> Any:
        return self.layer(batch[0]).pow(2).mean()

    def training_step(self, batch: Any, _: int) -> Any:
        if self.error is not None and self.global_step == 2:
            raise self.error
        loss = self.loss(batch)
        self.seen.append(loss.item())
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val/loss", self.loss(batch))

    def test_step(self, batch: Any, number: int) -> None:
        self.log("test/loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


@pytest.fixture
def batches() -> Any:
    data = torch.utils.data.TensorDataset(torch.arange(16.0).reshape(8, 2) / 16)
    return torch.utils.data.DataLoader(data, batch_size=2)


def trainer(logger: Any, **options: Any) -> Any:
    return lightning.Trainer(
        logger=logger, accelerator="cpu", log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, **({"max_epochs": 2} | options),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path) -> Any:
    frameworks.settings(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        yield


def test_a_training_arrives_with_its_best_checkpoint(tmp_path: Path, batches: Any) -> None:
    logger = LightningLogger(
        "digits", name="fit", tags={"owner": "ml"}, capture=False, save_dir=tmp_path / "files"
    )
    net = Net()
    training = trainer(logger, callbacks=[ModelCheckpoint(monitor="val/loss", mode="min")])
    training.fit(net, batches, batches)
    assert training.log_dir == str(tmp_path / "files")
    run_id = logger.version
    assert outgrow.active_run() is None
    training.test(net, batches, verbose=False)
    assert outgrow.active_run() is None
    logger.experiment.log_bytes("fine", "notes.txt")  # whoever asks for the run takes it up again
    logger.finalize("success")
    got = frameworks.arrived(tmp_path)["fit"]
    assert (got.run.status, got.run.tags["owner"]) == (Status.FINISHED, "ml")
    assert got.run.params == {"width": 3, "lr": 0.1}
    assert got.points["train/loss"] == list(enumerate(net.seen))
    assert [step for step, _ in got.points["val/loss"]] == [3, 7]
    assert [step for step, _ in got.points["test/loss"]] == [8]
    assert got.files == {"notes.txt": b"fine"}
    ((artifact, files),) = got.models
    best = training.checkpoint_callback.best_model_path
    assert Path(best).parent == tmp_path / "files" / "digits" / run_id / "checkpoints"
    assert artifact.tags == {
        "format": "lightning", "checkpoint": Path(best).name, "monitor": "val/loss", "mode": "min",
        "checkpoint_step": best.rpartition("=")[2].removesuffix(".ckpt"),
        "score": str(float(training.checkpoint_callback.best_model_score)),
    }  # fmt: skip
    assert float(artifact.tags["score"]) == pytest.approx(min(value for _, value in got.points["val/loss"]))
    loaded = Net.load_from_checkpoint(next(got.save(tmp_path / "back").iterdir()))
    x = torch.ones(3, 2)
    assert torch.equal(loaded.layer(x), net.layer(x))
    assert list(files) == [Path(best).name]


@pytest.mark.parametrize(
    ("error", "raised", "status"),
    [(ValueError("boom"), ValueError, "failed"), (KeyboardInterrupt(), SystemExit, "killed")],
)
@pytest.mark.parametrize("given", [False, True])
def test_a_training_that_breaks_off(
    tmp_path: Path, batches: Any, error: BaseException, raised: Any, status: str, given: bool
) -> None:
    """With a run of its own and within a `with` block the status is the same."""
    net = Net()
    net.error = error
    if given:
        with pytest.raises(raised), outgrow.start_run("digits", "broken", capture=False):
            trainer(LightningLogger()).fit(net, batches)
    else:
        with pytest.raises(raised):
            trainer(LightningLogger("digits", name="broken", capture=False)).fit(net, batches)
    got = frameworks.arrived(tmp_path)["broken"]
    assert got.run.status.value == status
    assert [step for step, _ in got.points["train/loss"]] == [0, 1]
    assert got.texts == ({"console/exception": ["ValueError: boom"]} if status == "failed" else {})


def test_every_checkpoint_where_that_is_asked_for(tmp_path: Path, batches: Any) -> None:
    logger = LightningLogger("digits", name="all", log_model="all", capture=False)
    saving = ModelCheckpoint(save_top_k=-1, every_n_epochs=1)
    trainer(logger, callbacks=[saving]).fit(Net(), batches)
    got = frameworks.arrived(tmp_path)["all"]
    assert [artifact.tags["checkpoint"] for artifact, _ in got.models] == [
        "epoch=0-step=4.ckpt",
        "epoch=1-step=8.ckpt",
    ]


def test_a_run_is_taken_up_again_by_its_id(tmp_path: Path, batches: Any) -> None:
    first = LightningLogger("digits", name="resumed", id="one", log_model=False, capture=False)
    training = trainer(first)
    training.fit(Net(), batches)
    checkpoint = training.checkpoint_callback.best_model_path
    second = LightningLogger("digits", id="one", log_model=False, capture=False)
    with pytest.warns(IntegrationWarning, match=r"keep the values .*\['lr'\]"):
        trainer(second, max_epochs=3).fit(Net(lr=0.2), batches, ckpt_path=checkpoint)
    got = frameworks.arrived(tmp_path)["resumed"]
    assert [step for step, _ in got.points["train/loss"]] == list(range(12))
    assert got.run.params["lr"] == 0.1


def test_only_rank_zero_logs(tmp_path: Path, batches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = LightningLogger("digits", capture=False)
    trainer(logger, enable_checkpointing=False).fit(Net(), batches)
    logger.experiment.log({"anything": "goes"})  # does nothing, as in Lightning's own loggers
    assert logger.version is None
    assert not (tmp_path / ".outgrow").exists()
