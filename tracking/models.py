"""Saving a model as a folder of files, in formats that run no code when they are loaded."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..errors import MissingSDK
from ..model import Value
from .values import files_below
from .warning import IntegrationWarning, warn


@dataclass(frozen=True, slots=True)
class Saved:
    """The files of a saved model, with their paths within it."""

    files: list[tuple[str, Path]]
    metadata: dict[str, Value]


@contextlib.contextmanager
def save(
    model: Any, *, preprocessor: Any, input_example: Any, format: str, trusted: list[str]
) -> Iterator[Saved]:
    """The model saved in a temporary folder, which lives as long as the context.

    Raises `TypeError` for a model without a safe format, unless `format` is `cloudpickle`.
    """
    with tempfile.TemporaryDirectory(prefix="outgrow-model-") as temporary:
        folder = Path(temporary) / "model"
        metadata = _save(model, folder, input_example, format, trusted)
        if preprocessor is not None:
            kept = _save_beside(preprocessor, folder / "preprocessor", format, trusted)
            metadata["preprocessor"] = {"path": "preprocessor", **kept}
        yield Saved(files_below(folder), metadata)


def _library(thing: Any) -> str:
    """The library whose class it is, looking through base classes: `torch`, `sklearn`, `transformers`…"""
    modules = [kind.__module__.partition(".")[0] for kind in type(thing).__mro__]
    for name in (
        "transformers",
        "tokenizers",
        "xgboost",
        "lightgbm",
        "catboost",
        "sklearn",
        "keras",  # before torch: with that backend a Keras model is a torch module too
        "torch",
    ):
        if name in modules:
            return name
    return modules[0]


def _save(model: Any, folder: Path, example: Any, format: str, trusted: list[str]) -> dict[str, Value]:
    library = _library(model)
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    facts: dict[str, Value] = {"class": kind, "library": library}
    with contextlib.suppress(PackageNotFoundError):
        facts["version"] = version({"sklearn": "scikit-learn"}.get(library, library))
    if isinstance(model, str | Path):
        return {"format": "files"} | _copy(Path(model), folder)
    if library == "sklearn" and importlib.util.find_spec("mlflow.sklearn"):
        return facts | _save_sklearn(model, folder, example, format, trusted)
    if library == "lightgbm" and hasattr(model, "booster_"):  # the wrapper that looks like scikit-learn's
        if hasattr(model, "classes_"):
            facts["classes"] = model.classes_.tolist()
        model = model.booster_
    signature = None if example is None else _signature(model, example)
    if library in _FLAVORS and format == "auto":
        facts |= _save_flavor(library, model, folder, signature)
    else:
        facts |= _save_beside(model, folder, format, trusted)
    if example is not None:
        _save_example(example, folder)
    if signature is not None:
        facts["signature"] = json.loads(json.dumps(signature.to_dict()))
    return facts


_FLAVORS = {"xgboost": "ubj", "lightgbm": "lgb", "catboost": "cbm", "keras": "keras"}
"""Libraries whose models MLflow keeps in the library's own file, which runs no code, and its format."""


def _save_flavor(library: str, model: Any, folder: Path, signature: Any) -> dict[str, Value]:
    """MLflow's flavor, so that `mlflow.xgboost.load_model` and serving take it wherever it arrives."""
    flavor = importlib.import_module(f"mlflow.{library}")
    versions = {name: sys.modules[name].__version__ for name in (library, "mlflow")}
    with _quiet():
        flavor.save_model(
            model,
            str(folder),
            signature=signature,
            pip_requirements=[f"{name}=={version}" for name, version in versions.items()],
        )
    return {"flavor": f"mlflow.{library}", "format": _FLAVORS[library], "version": versions[library]}


def _signature(model: Any, example: Any) -> Any:
    """Of the inputs, and of the outputs where the model takes the example as it is; None with a warning."""
    from mlflow.models import infer_signature

    with _quiet():
        try:
            return infer_signature(_arrays(example), _arrays(_predicted(model, example)))
        except Exception as error:  # noqa: BLE001 - a model may want its input in another form
            reason = error
    warn(f"the model does not take the input example: {reason}", IntegrationWarning)
    return None


def _save_example(example: Any, folder: Path) -> None:
    """The example in the form that MLflow's scoring takes."""
    given = _arrays(example)
    if hasattr(given, "to_json"):
        content = {"dataframe_split": json.loads(given.to_json(orient="split", index=False))}
    else:
        content = {"inputs": given}
    text = json.dumps(content, default=lambda value: value.tolist())
    (folder / "input_example.json").write_text(text, "utf-8")


def _predicted(model: Any, example: Any) -> Any:
    if _library(model) == "keras":
        return model.predict(example, verbose=0)
    if hasattr(model, "predict"):
        return model.predict(example)
    if not hasattr(model, "state_dict"):
        return None  # a pipeline, a tokenizer
    import torch

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return model(**example) if isinstance(example, Mapping) else model(example)
    finally:
        model.train(training)


def _arrays(value: Any) -> Any:
    """Tensors as NumPy arrays, in the mappings and objects with fields that hold them."""
    if hasattr(value, "detach"):
        return value.detach().cpu().numpy()
    if isinstance(value, Mapping):
        return {str(key): _arrays(item) for key, item in value.items() if item is not None}
    return value


def _copy(source: Path, folder: Path) -> dict[str, Value]:
    if not source.exists():
        raise FileNotFoundError(f"there is no model file or folder {source}")
    if source.is_dir():
        shutil.copytree(source, folder)
    else:
        folder.mkdir(parents=True)
        shutil.copy2(source, folder)
    return {}


def _save_beside(thing: Any, folder: Path, format: str, trusted: list[str]) -> dict[str, Value]:
    """A model or preprocessor in its library's own safe format."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(thing, str | Path):
        shutil.rmtree(folder)
        return _copy(Path(thing), folder) | {"format": "files"}
    library = _library(thing)
    if hasattr(thing, "save_pretrained"):
        thing.save_pretrained(str(folder))
        return {"format": "pretrained"}
    if library == "tokenizers" and hasattr(thing, "save"):
        thing.save(str(folder / "tokenizer.json"))
        return {"format": "tokenizers"}
    if library == "torch" and hasattr(thing, "state_dict"):
        return _save_torch(thing, folder)
    if library == "keras":
        thing.save(str(folder / "model.keras"))
        return {"format": "keras"}
    if format == "cloudpickle":
        return _save_pickled(thing, folder)
    if importlib.util.find_spec("skops") and (done := _save_skops(thing, folder, trusted)) is not None:
        return done
    raise TypeError(
        f"{type(thing).__module__}.{type(thing).__qualname__} has no format that is safe to load. Give the "
        "path of a file that you saved, name its types in trusted=[…], or ask for format='cloudpickle'"
    )


def _save_skops(thing: Any, folder: Path, trusted: list[str]) -> dict[str, Value] | None:
    """None where skops cannot keep it, or would have to trust a type that nobody named.

    Classes of scikit-learn itself count as named: skops lists its estimators, not their parts.
    """
    from skops import io

    path = folder / "model.skops"
    try:
        io.dump(thing, path)
        named = {name for name in io.get_untrusted_types(file=path) if _is_sklearn_class(name)}
        unknown = set(io.get_untrusted_types(file=path)) - named - set(trusted)
    except Exception:  # noqa: BLE001 - whatever stops skops, the next format is tried
        unknown = {"?"}
    if unknown:
        path.unlink(missing_ok=True)
        return None
    needed: list[Value] = [*sorted(named | set(trusted))]
    return {"format": "skops"} | ({"trusted": needed} if needed else {})


def _is_sklearn_class(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    found = getattr(sys.modules.get(module), attribute, None)
    return module.startswith("sklearn.") and isinstance(found, type)


def _save_pickled(thing: Any, folder: Path) -> dict[str, Value]:
    import cloudpickle

    with (folder / "model.pkl").open("wb") as stream:
        cloudpickle.dump(thing, stream)
    return {"format": "cloudpickle", "warning": "loading it runs code"}


def _save_torch(module: Any, folder: Path) -> dict[str, Value]:
    """Weights only, as safetensors: the class itself is in the code.

    With the names that the module itself gives them, without those of what wraps it.
    """
    if importlib.util.find_spec("safetensors") is None:
        raise MissingSDK("torch weights are kept as safetensors", hint="pip install safetensors")
    from safetensors.torch import save_model
    from torch.nn.parallel import DataParallel, DistributedDataParallel

    while True:
        if isinstance(module, DataParallel | DistributedDataParallel):
            module = module.module
        elif (compiled := getattr(module, "_orig_mod", None)) is not None:
            module = compiled
        else:
            break
    save_model(module, str(folder / "model.safetensors"))
    return {"format": "safetensors"}


def _save_sklearn(
    model: Any, folder: Path, example: Any, format: str, trusted: list[str]
) -> dict[str, Value]:
    """MLflow's flavor, so that `mlflow.sklearn.load_model` and serving take it wherever it arrives."""
    import mlflow.sklearn
    from mlflow.models import infer_signature

    with tempfile.TemporaryDirectory(prefix="outgrow-model-") as trial:
        safe = _save_skops(model, Path(trial), trusted) if format == "auto" else None
    if format == "auto" and safe is None:
        raise TypeError(
            f"{type(model).__name__} holds types that skops does not trust. Name them in trusted=[…], "
            "or ask for format='cloudpickle', which runs code when it is loaded"
        )
    serialization = "cloudpickle" if safe is None else "skops"
    packages = ["scikit-learn", "numpy", "scipy", "mlflow", serialization]
    signature = None
    if example is not None:
        with _quiet():
            signature = infer_signature(example, model.predict(example))
    with _quiet():
        mlflow.sklearn.save_model(
            model,
            str(folder),
            serialization_format=serialization,
            signature=signature,
            input_example=example,
            pip_requirements=[f"{name}=={version(name)}" for name in packages],
            skops_trusted_types=(safe or {}).get("trusted"),
        )
    facts = {"format": serialization, "flavor": "mlflow.sklearn"} | (safe or {})
    if signature is not None:
        facts["signature"] = json.loads(json.dumps(signature.to_dict()))
    return facts


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """MLflow's hints about its own client (integer columns, requirements) are not for our users."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
