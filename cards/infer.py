"""What a model's own files say of its library, task and loading. Each inference says from what."""

from __future__ import annotations

import json
from typing import Any

from . import vocabulary
from .facts import ModelFacts

# MLflow flavor → the Hub's library name, where they differ.
_LIBRARIES = {
    "sklearn": "sklearn", "transformers": "transformers", "sentence_transformers": "sentence-transformers", "keras": "keras",
    "tensorflow": "tf-keras", "spacy": "spacy", "paddle": "paddlepaddle", "fastai": "fastai", "diviner": "diviner", "pytorch": "pytorch",
}  # fmt: skip
# MLflow's own task names (mlflow.transformers.llm_inference_utils) → the Hub's.
_MLFLOW_TASKS = {
    "llm/v1/chat": "text-generation", "llm/v1/completions": "text-generation", "llm/v1/embeddings": "feature-extraction",
}  # fmt: skip
_PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".ckpt")


def flavors(facts: ModelFacts) -> dict[str, Any]:
    found = facts.mlmodel.get("flavors")
    return found if isinstance(found, dict) else {}


def main_flavor(facts: ModelFacts) -> str | None:
    """The flavor that is not the generic `python_function`, if there is one."""
    names = list(flavors(facts))
    return next((name for name in names if name != "python_function"), names[0] if names else None)


def inferred_library(facts: ModelFacts) -> str | None:
    """The Hub's name of the library, from the flavor in `MLmodel`; None where the Hub knows none."""
    flavor = main_flavor(facts)
    if flavor is None:
        return "safetensors" if any(f.path.endswith(".safetensors") for f in facts.files) else None
    name = _LIBRARIES.get(flavor, flavor)
    return name if name in vocabulary.words("library_name") else None


def signature(facts: ModelFacts) -> dict[str, Any]:
    """`inputs` and `outputs` of the model's signature, decoded."""
    raw = facts.mlmodel.get("signature")
    result: dict[str, Any] = {}
    for side in ("inputs", "outputs", "params"):
        text = raw.get(side) if isinstance(raw, dict) else None
        if isinstance(text, str):
            try:
                result[side] = json.loads(text)
            except ValueError:
                continue
    return result


def signature_rows(facts: ModelFacts) -> list[tuple[str, str]]:
    """(side, text) for the page."""
    rows = []
    for side, columns in signature(facts).items():
        if isinstance(columns, list) and columns:
            rows.append(
                (side, ", ".join(_column(c) for c in columns[:12]) + (" …" if len(columns) > 12 else ""))
            )
    return rows


def _column(spec: Any) -> str:
    if not isinstance(spec, dict):
        return str(spec)
    tensor = spec.get("tensor-spec")
    if isinstance(tensor, dict):
        kind = f"{tensor.get('dtype')}{tensor.get('shape')}"
    else:
        kind = str(spec.get("type"))
    return f"{spec['name']}: {kind}" if spec.get("name") else kind


def inferred_task(facts: ModelFacts) -> tuple[str | None, str | None]:
    """The pipeline tag and what it was inferred from, or (None, None)."""
    all_flavors = flavors(facts)
    for name in ("transformers", "sentence_transformers"):
        flavor = all_flavors.get(name)
        recorded = str(flavor.get("task")) if isinstance(flavor, dict) else ""
        task = _MLFLOW_TASKS.get(recorded, recorded)
        if task in vocabulary.words("pipeline_tag"):
            return task, f"the task recorded with the {name} flavor"
    described = signature(facts)
    outputs, inputs = described.get("outputs"), described.get("inputs")
    if "sklearn" not in all_flavors or not isinstance(outputs, list) or len(outputs) != 1 or not inputs:
        return None, None
    kind = _column(outputs[0]).rpartition(": ")[2].partition("[")[0]
    if kind in ("long", "integer", "string", "boolean", "int64", "int32", "bool", "object", "str"):
        return (
            "tabular-classification",
            f"inferred from the signature: a scikit-learn model whose output is {kind}",
        )
    if kind in ("double", "float", "float64", "float32"):
        return (
            "tabular-regression",
            f"inferred from the signature: a scikit-learn model whose output is {kind}",
        )
    return None, None


def load_snippet(facts: ModelFacts) -> tuple[str | None, str | None]:
    """Code that loads the downloaded files from the folder `model`, or (None, why not)."""
    all_flavors = flavors(facts)
    if all_flavors:
        flavor = main_flavor(facts) or "python_function"
        module = "pyfunc" if flavor == "python_function" else flavor
        return f'import mlflow\n\nmodel = mlflow.{module}.load_model("model")', None
    names = [f.path.rpartition("/")[2] for f in facts.files]
    for ending, code in (
        (".safetensors", 'from safetensors import safe_open\n\nwith safe_open("model/{}", framework="np") as weights:\n    state = {{key: weights.get_tensor(key) for key in weights.keys()}}'),
        (".skops", 'import skops.io\n\nunknown = skops.io.get_untrusted_types(file="model/{}")  # read this list before you trust it\nmodel = skops.io.load("model/{}", trusted=unknown)'),
        (".onnx", 'import onnxruntime\n\nsession = onnxruntime.InferenceSession("model/{}")'),
    ):  # fmt: skip
        if found := next((n for n in names if n.endswith(ending)), None):
            return code.format(found, found), None
    return None, "the model has no MLmodel file and no file of a known format"


def unsafe(facts: ModelFacts) -> list[str]:
    """Files that can run code when they are loaded."""
    return sorted({f.path.rpartition("/")[2] for f in facts.files if f.path.lower().endswith(_PICKLES)})
