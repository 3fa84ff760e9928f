"""The callback of Hugging Face's Trainer, with the real one and a model made from a configuration."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import framework_runs
import outgrow
import pytest
from outgrow.model import Status
from outgrow.tracking.warning import IntegrationWarning

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="Accelerate is not installed")

with framework_runs.without_comet():
    import transformers.integrations.integration_utils

from outgrow.tracking.integrations import TransformersCallback  # noqa: E402
from outgrow.tracking.integrations.transformers import metric_names  # noqa: E402

WORDS = {"[UNK]": 0, "[PAD]": 1, "good": 2, "bad": 3}


def make_tokenizer() -> Any:
    tokenizers = pytest.importorskip("tokenizers")
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="[UNK]"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", pad_token="[PAD]")


def make_model() -> Any:
    torch.manual_seed(0)
    return transformers.DistilBertForSequenceClassification(
        transformers.DistilBertConfig(
            vocab_size=4, dim=8, hidden_dim=8, n_layers=1, n_heads=1, max_position_embeddings=8
        )
    )


ROWS = [{"input_ids": [2, 3], "attention_mask": [1, 1], "labels": row % 2} for row in range(8)]


class Recorder(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
    """What the Trainer itself says."""

    def __init__(self) -> None:
        self.logs: list[tuple[int, dict[str, Any]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.logs.append((state.global_step, dict(logs)))


def trainer(folder: Path, *callbacks: Any, rows: Any = None, **options: Any) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "out"), num_train_epochs=2, per_device_train_batch_size=4,
        logging_steps=1, report_to="none", disable_tqdm=True, use_cpu=True, seed=1,
        **({"eval_strategy": "epoch", "save_strategy": "no"} | options),
    )  # fmt: skip
    return transformers.Trainer(
        make_model(), arguments, train_dataset=rows or ROWS, eval_dataset=ROWS,
        processing_class=make_tokenizer(), callbacks=list(callbacks),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path) -> Any:
    framework_runs.settings(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def outputs(model: Any) -> Any:
    model.eval()
    with torch.no_grad():
        return model(torch.tensor([[2, 3, 1]])).logits


def test_a_training_arrives_with_its_best_model_and_tokenizer(tmp_path: Path) -> None:
    said = Recorder()
    callback = TransformersCallback("digits", tags={"owner": "ml"}, capture=False)
    training = trainer(
        tmp_path, said, callback,
        run_name="tiny", save_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="loss",
    )  # fmt: skip
    training.train()
    assert outgrow.active_run() is None
    training.evaluate()
    training.predict(ROWS)
    got = framework_runs.arrived(tmp_path)["tiny"]
    assert (got.run.status, got.run.tags["owner"]) == (Status.FINISHED, "ml")
    assert got.run.params["learning_rate"] == training.args.learning_rate
    assert got.run.params["model/vocab_size"] == 4
    expected: dict[str, list[tuple[int, float]]] = {}
    for step, logs in said.logs:
        for name, value in metric_names(logs).items():
            expected.setdefault(name, []).append((step, value))
    assert {key: value for key, value in got.points.items() if not key.startswith("test/")} == {
        key: sorted(value) for key, value in expected.items()
    }
    assert len(got.points["train/loss"]) == 4
    assert [step for step, _ in got.points["eval/loss"]] == [2, 4, 4]
    assert [step for step, _ in got.points["test/loss"]] == [4]
    ((artifact, _),) = got.models
    assert artifact.tags["checkpoint"] == Path(training.state.best_model_checkpoint).name
    assert artifact.tags["checkpoint_step"] == artifact.tags["checkpoint"].removeprefix("checkpoint-")
    assert float(artifact.tags["score"]) == training.state.best_metric
    folder = got.save(tmp_path / "back")
    assert (folder / "model.safetensors").exists()
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert torch.equal(outputs(loaded), outputs(training.model))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "preprocessor")
    assert tokenizer("good bad")["input_ids"] == [2, 3]


class Breaking(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2:
            raise self.error


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("boom"), "failed"), (KeyboardInterrupt(), "killed")]
)
def test_a_training_that_breaks_off_in_a_with_block(
    tmp_path: Path, error: BaseException, status: str
) -> None:
    with pytest.raises(type(error)), outgrow.start_run("digits", "broken", capture=False):
        trainer(tmp_path, TransformersCallback(), Breaking(error)).train()
    got = framework_runs.arrived(tmp_path)["broken"]
    assert got.run.status.value == status
    assert [step for step, _ in got.points["train/loss"]] == [1]
    assert got.models == []


def test_a_training_that_breaks_off_and_is_forgotten(tmp_path: Path) -> None:
    """Nobody tells the callback; it is no longer used when the Trainer is gone."""
    import gc

    training = trainer(
        tmp_path, TransformersCallback("digits", name="lost", capture=False), Breaking(ValueError())
    )
    with pytest.raises(ValueError, match=r"^$"):
        training.train()
    assert outgrow.active_run() is not None
    del training
    gc.collect()
    assert outgrow.active_run() is None
    assert framework_runs.arrived(tmp_path)["lost"].run.status is Status.FAILED


def test_trials_of_a_search_are_runs(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed").logging.set_verbosity(40)
    callback = TransformersCallback("digits", log_model=False, capture=False)
    training = trainer(tmp_path, callback, max_steps=1, eval_strategy="no")
    training.model_init = lambda trial: make_model()
    training.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2)},
        compute_objective=lambda metrics: 0.0,
        backend="optuna", n_trials=2, hp_name=lambda trial: f"trial-{trial.number}",
    )  # fmt: skip
    found = framework_runs.arrived(tmp_path)
    assert set(found) == {"trial-0", "trial-1"}
    rates = {got.run.params["learning_rate"] for got in found.values()}
    assert len(rates) == 2
    assert all(len(got.points["train/loss"]) == 1 for got in found.values())


def test_only_the_worlds_process_zero_logs(tmp_path: Path) -> None:
    callback = TransformersCallback("digits", capture=False)
    training = trainer(tmp_path, callback)
    training.is_world_process_zero = lambda: False
    state, control = training.state, training.control
    state.is_world_process_zero = False
    callback.on_train_begin(training.args, state, control, model=training.model)
    callback.on_log(training.args, state, control, logs={"loss": 1.0})
    callback.on_predict(training.args, state, control, {"test_loss": 1.0})
    callback.on_train_end(training.args, state, control, model=training.model)
    assert not (tmp_path / ".outgrow").exists()


def test_a_model_that_cannot_be_kept_does_not_spoil_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = trainer(tmp_path, TransformersCallback("digits", name="kept", capture=False))
    monkeypatch.setattr(
        type(training.model), "save_pretrained", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.warns(IntegrationWarning, match="could not log the model: OSError"):
        assert training.train().global_step == 4
    assert framework_runs.arrived(tmp_path)["kept"].run.status is Status.FINISHED


def test_names_say_the_split() -> None:
    given = {"loss": 1, "eval_loss": 2, "eval_good_f1": 3, "test_runtime": 4, "train_loss": 5, "eval_": 6}
    assert metric_names(given) == {
        "train/loss": 1, "eval/loss": 2, "eval/good_f1": 3, "test/runtime": 4, "train/train_loss": 5,
        "train/eval_": 6,
    }  # fmt: skip
