"""Cards of models that their own libraries and MLflow wrote; the code that loads them is run."""

import re
import subprocess
import sys

import pytest
from outgrow.cards import compose, model_card
from outgrow.cards.model_files import download
from outgrow.reading import open_location
from sql_stores import fresh_sqlite


@pytest.fixture
def logged(tmp_path, monkeypatch):
    """Logs and registers a model with the given flavor; its card, and what its own snippet printed."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    uri = fresh_sqlite(tmp_path / "mlflow.db")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    experiment = mlflow.create_experiment("made", artifact_location=(tmp_path / "artifacts").as_uri())

    def log(flavor, model, **options):
        options.setdefault("pip_requirements", [])
        with mlflow.start_run(experiment_id=experiment):
            getattr(mlflow, flavor).log_model(model, name="model", registered_model_name="made", **options)
        location = f"mlflow:{uri}"
        card = model_card(location, "made")
        with open_location(location) as source:
            download(source, "made", tmp_path / "model")
        text = compose(card).files["README.md"].decode()
        snippet = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
        done = subprocess.run(
            [sys.executable, "-c", snippet + "\nprint(type(model).__name__)"],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=180,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return card, done.stdout.split()[-1]

    yield log
    mlflow.set_tracking_uri(before)


def test_a_scikit_learn_model_loads_as_its_card_says(logged):
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    from mlflow.models import infer_signature

    inputs = [[0.0], [1.0], [2.0], [3.0]]
    model = linear.LogisticRegression().fit(inputs, [0, 0, 1, 1])
    numpy = pytest.importorskip("numpy")
    signature = infer_signature(numpy.array(inputs), model.predict(inputs))
    card, loaded = logged("sklearn", model, signature=signature, serialization_format="cloudpickle")
    assert loaded == "LogisticRegression"
    assert card.front["library_name"] == "sklearn"
    assert card.front["pipeline_tag"] == "tabular-classification"


def test_a_pytorch_model_loads_as_its_card_says_and_its_task_is_not_guessed(logged):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    card, loaded = logged("pytorch", torch.nn.Linear(2, 1), serialization_format="pickle")
    assert loaded == "Linear"
    assert card.front.get("library_name") in (None, "pytorch")
    assert "pipeline_tag" not in card.front
    assert "pipeline_tag" in {u.name for u in card.unknown}


def test_a_transformers_model_loads_as_its_card_says_and_brings_its_task(logged):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    words = {"[UNK]": 0, "[PAD]": 1, "good": 2, "bad": 3}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="[UNK]", pad_token="[PAD]"
    )
    model = transformers.DistilBertForSequenceClassification(
        transformers.DistilBertConfig(
            vocab_size=4, dim=8, hidden_dim=8, n_layers=1, n_heads=1, max_position_embeddings=8
        )
    )
    card, loaded = logged(
        "transformers", {"model": model, "tokenizer": tokenizer}, task="text-classification"
    )
    assert loaded == "TextClassificationPipeline"
    assert card.front["library_name"] == "transformers"
    assert card.front["pipeline_tag"] == "text-classification"
