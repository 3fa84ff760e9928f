"""Saving a model as a folder of files, in formats that run no code when they are loaded."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..model import Value
from .values import files_below


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
        "torch",
        "keras",
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
    if library in ("xgboost", "lightgbm", "catboost") and hasattr(model, "save_model"):
        folder.mkdir(parents=True)
        name = {"xgboost": "model.ubj", "catboost": "model.cbm"}.get(library, "model.txt")
        model.save_model(str(folder / name))
        return facts | {"format": Path(name).suffix[1:]}
    return facts | _save_beside(model, folder, format, trusted)


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
        options = (
            {"safe_serialization": True} if library == "transformers" and hasattr(thing, "parameters") else {}
        )
        thing.save_pretrained(str(folder), **options)
        return {"format": "pretrained"}
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
    """Weights only, as safetensors: the class itself is in the code."""
    if importlib.util.find_spec("safetensors") is None:
        raise TypeError("torch weights are kept as safetensors; pip install safetensors")
    from safetensors.torch import save_model

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
