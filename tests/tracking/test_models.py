"""`log_model` and `use_dataset` with the real libraries: what arrives loads back and predicts the same."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import framework_runs
import numpy as np
import pytest
from outgrow.tracking import datasets as describing
from outgrow.tracking.datasets import describe
from outgrow.tracking.start import start_run

X = np.arange(24.0, dtype=np.float32).reshape(8, 3) / 24
Y = np.array([0, 1] * 4)
Keep = Callable[..., tuple[Any, Path]]


@pytest.fixture
def kept(tmp_path: Path) -> Keep:
    """Logs a model; its artifact as it arrived, and a folder with its files."""
    framework_runs.settings(tmp_path)

    def keep(model: Any, **options: Any) -> tuple[Any, Path]:
        with start_run("models", "run", capture=False) as run:
            run.log_model(model, "model", **options)
        got = framework_runs.arrived(tmp_path)["run"]
        return got.models[0][0], got.save(tmp_path / "back")

    return keep


def test_a_torch_module(kept: Keep) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from safetensors.torch import load_model

    def make() -> Any:
        layer = torch.nn.Linear(3, 3)
        tied = torch.nn.Sequential(layer, torch.nn.Dropout(), layer, torch.nn.BatchNorm1d(3))
        return torch.nn.DataParallel(tied)

    model, example = make(), torch.from_numpy(X)
    model(example)  # moves the batch norm
    artifact, folder = kept(model, input_example=example)
    assert model.training
    assert artifact.metadata["format"] == "safetensors"
    assert artifact.metadata["library"] == "torch"
    assert json.loads((folder / "input_example.json").read_text())["inputs"] == X.tolist()
    signature = {k: json.loads(v) for k, v in artifact.metadata["signature"].items() if v}
    assert signature["inputs"][0]["tensor-spec"] == {"dtype": "float32", "shape": [-1, 3]}
    assert signature["outputs"][0]["tensor-spec"] == {"dtype": "float32", "shape": [-1, 3]}
    loaded = make()
    load_model(loaded.module, folder / "model.safetensors")
    assert torch.equal(loaded.eval()(example), model.eval()(example))


def test_a_compiled_torch_module_has_its_own_names(kept: Keep) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from safetensors import safe_open

    _, folder = kept(torch.compile(torch.nn.Linear(3, 1)))
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert set(file.keys()) == {"weight", "bias"}


def test_an_example_that_the_model_refuses(kept: Keep) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    with pytest.warns(UserWarning, match="does not take the input example"):
        artifact, folder = kept(torch.nn.Linear(3, 1), input_example=np.zeros((2, 2)))
    assert "signature" not in artifact.metadata
    assert (folder / "input_example.json").exists()


def test_a_transformers_model_with_its_tokenizer(kept: Keep) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    tokenizers = pytest.importorskip("tokenizers")
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "[PAD]": 1, "good": 2}, "[UNK]"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="[UNK]", pad_token="[PAD]"
    )
    config = transformers.GPT2Config(vocab_size=3, n_positions=8, n_embd=8, n_layer=1, n_head=1)
    model = transformers.GPT2LMHeadModel(config)
    example = tokenizer("good", return_tensors="pt")
    artifact, folder = kept(model, preprocessor=tokenizer, input_example=example)
    assert artifact.metadata["format"] == artifact.metadata["preprocessor"]["format"] == "pretrained"
    assert (folder / "model.safetensors").exists()
    assert not list(folder.rglob("*.bin")) + list(folder.rglob("*.pkl"))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = transformers.AutoTokenizer.from_pretrained(folder / "preprocessor")("good", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**ids).logits, model.eval()(**example).logits)


def test_a_plain_tokenizer(kept: Keep) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "good": 1}, "[UNK]"))
    _, folder = kept(raw)
    assert tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode("good").ids == [1]


def test_a_keras_model(kept: Keep) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    artifact, folder = kept(model, input_example=X)
    assert (artifact.metadata["format"], artifact.metadata["library"]) == ("keras", "keras")
    assert json.loads(artifact.metadata["signature"]["outputs"])[0]["tensor-spec"]["shape"] == [-1, 2]
    import mlflow.keras

    for loaded in (
        keras.models.load_model(folder / "data/model.keras"),
        mlflow.keras.load_model(str(folder)),
    ):
        assert np.array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))


def test_xgboost(kept: Keep) -> None:
    xgboost = pytest.importorskip("xgboost", reason="XGBoost is not installed")
    model = xgboost.XGBClassifier(n_estimators=2, max_depth=2).fit(X, Y)
    artifact, folder = kept(model, input_example=X)
    assert (artifact.metadata["format"], artifact.metadata["library"]) == ("ubj", "xgboost")
    import mlflow.pyfunc
    import mlflow.xgboost

    loaded = mlflow.xgboost.load_model(str(folder))
    assert np.array_equal(loaded.predict_proba(X), model.predict_proba(X))
    served = mlflow.pyfunc.load_model(str(folder))
    assert np.array_equal(served.predict(X), model.predict(X))
    assert served.metadata.signature.to_dict() == artifact.metadata["signature"]
    plain = xgboost.XGBClassifier()
    plain.load_model(folder / "model.ubj")
    assert np.array_equal(plain.predict(X), model.predict(X))


@pytest.mark.parametrize("kind", ["booster", "classifier"])
def test_lightgbm(kept: Keep, kind: str) -> None:
    lightgbm = pytest.importorskip("lightgbm", reason="LightGBM is not installed")
    model = lightgbm.LGBMClassifier(n_estimators=2, min_child_samples=1, verbose=-1).fit(X, Y)
    artifact, folder = kept(model.booster_ if kind == "booster" else model, input_example=X)
    assert (artifact.metadata["library"], artifact.metadata["format"]) == ("lightgbm", "lgb")
    assert artifact.metadata.get("classes") == ([0, 1] if kind == "classifier" else None)
    import mlflow.lightgbm

    loaded = mlflow.lightgbm.load_model(str(folder))
    assert np.array_equal(loaded.predict(X), model.predict_proba(X)[:, 1])
    assert not list(folder.rglob("*.pkl"))


def test_hugging_face_data_sets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    framework_runs.settings(tmp_path)
    rows = {"text": ["a", "b", "c"], "label": [0, 1, 1]}
    data = datasets.Dataset.from_dict(rows)
    with start_run("data", "run", capture=False) as run:
        whole = run.use_dataset(data, "reviews", source="hub:reviews", version="2")
        again = run.use_dataset(datasets.Dataset.from_dict(rows), "again")
        other = run.use_dataset(datasets.Dataset.from_dict(rows | {"label": [0, 0, 0]}), "other")
        less = run.use_dataset(data.filter(lambda row: row["label"] == 1), "filtered")
        parts = run.use_dataset(datasets.DatasetDict({"train": data, "test": data.select([0])}), "parts")
        stream = run.use_dataset(data.to_iterable_dataset(), "stream")
    got = framework_runs.arrived(tmp_path)["run"].run
    arrived = {use.name: use for use in got.datasets}
    assert set(arrived) == {"reviews", "again", "other", "filtered", "parts", "stream"}
    assert arrived["reviews"].digest == whole.digest == again.digest
    assert len({use.digest for use in (whole, other, less, parts, stream)}) == 5
    assert whole.digest == describe(data.select(range(3)), "rows", context=None).digest
    assert (whole.rows, less.rows, parts.rows) == (3, 2, 3)
    assert (whole.source, whole.source_type, whole.version) == ("hub:reviews", "hugging_face", "2")
    assert set(json.loads(str(arrived["reviews"].schema))["features"]) == {"text", "label"}
    assert set(json.loads(str(parts.schema))) == {"train", "test"}
    assert stream.rows is None
    assert set(json.loads(str(stream.schema))["features"]) == {"text", "label"}


def test_a_large_hugging_face_data_set_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    monkeypatch.setattr(describing, "_HASHED", 0)
    monkeypatch.setattr(datasets.Dataset, "iter", None)
    data = datasets.Dataset.from_dict({"label": [0, 1]})
    use = describe(data, "large", context=None)
    assert use.rows == 2
    assert use.digest == describe(data, "again", context=None).digest
    assert use.digest != describe(data.select([1, 0]), "other", context=None).digest
