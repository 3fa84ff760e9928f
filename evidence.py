"""What a run holds that lets somebody reproduce or redeploy it.

The same rules serve the policy of live logging, the audit of history and the cards, so that a
run that passes one passes the others. Each kind of evidence is recognised from canonical facts
first, then from file names by convention.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from .model import Artifact, File, Run

Kind = Literal["model", "preprocessor", "split", "seed", "code", "environment", "dataset", "owner"]

REPRODUCIBLE: tuple[Kind, ...] = ("code", "environment", "seed", "split", "dataset")
"""What is needed to train it again."""
REDEPLOYABLE: tuple[Kind, ...] = ("model", "preprocessor", "environment")
"""What is needed to serve it without training."""

# Weights, by the endings that the frameworks themselves write.
_WEIGHTS = re.compile(
    r"(\.(safetensors|ckpt|pt|pth|onnx|h5|keras|tflite|gguf|joblib|skops|pb|cbm|ubj|mar|engine)$)"
    r"|((^|/)(MLmodel|(pytorch_)?model[^/]*\.(bin|pkl|txt|json|xgb)|weights[^/]*))$",
    re.IGNORECASE,
)
_PREPROCESSOR = re.compile(
    r"(preprocess|tokenizer|token_map|vocab|scaler|encoder|vectori[sz]er|feature_extractor|image_processor|merges\.txt"
    r"|sentencepiece|spiece|transform)",
    re.IGNORECASE,
)
_SPLIT = re.compile(
    r"(^|[/_.-])(split|splits|folds?|(train|test|val|validation)[_-]?(idx|ids|index|indices))", re.IGNORECASE
)
_ENVIRONMENT = re.compile(
    r"(^|/)(requirements[^/]*\.txt|conda\.ya?ml|environment\.ya?ml|python_env\.yaml|uv\.lock|poetry\.lock|pylock[^/]*\.toml|Pipfile\.lock"
    r"|pip[_-]?freeze\.txt|Dockerfile)$",
    re.IGNORECASE,
)
_SEED = re.compile(r"(^|[/_.-])(seed|random_state|random_seed)s?($|[/_.-])", re.IGNORECASE)
_OWNERS = ("owner", "team", "mlflow.user")


def evidence(run: Run, files: Sequence[File] = (), artifacts: Sequence[Artifact] = ()) -> dict[Kind, str]:
    """Kind → where it was found, for every kind that the run holds."""
    paths = [file.path for file in files]
    found: dict[Kind, str | None] = {
        "model": next((f"{a.type} {a.name}" for a in artifacts if a.type == "model"), None)
        or _first(_WEIGHTS, (p for p in paths if not _PREPROCESSOR.search(p.rpartition("/")[2]))),
        "preprocessor": next(
            (f"{a.type} {a.name}" for a in artifacts if a.type in ("preprocessor", "tokenizer")), None
        )
        or _first(_PREPROCESSOR, paths),
        "split": _first(_SPLIT, paths) or next((f"tag {k}" for k in run.tags if _SPLIT.search(k)), None),
        "seed": _seed(run),
        "code": f"commit {run.code.commit}" if run.code and run.code.commit else None,
        "environment": "packages"
        if run.environment and run.environment.packages
        else _first(_ENVIRONMENT, paths) or (run.environment and run.environment.image) or None,
        "dataset": next((f"data set {use.name}" for use in run.datasets if use.digest), None),
        "owner": next((f"tag {k}" for k in _OWNERS if run.tags.get(k)), None)
        or (f"user {run.user}" if run.user else None),
    }
    return {kind: where for kind, where in found.items() if where}


def missing(kinds: Iterable[Kind], found: dict[Kind, str]) -> list[Kind]:
    return [kind for kind in kinds if kind not in found]


def _first(pattern: re.Pattern[str], paths: Iterable[str]) -> str | None:
    return next((path for path in paths if pattern.search(path)), None)


def _seed(run: Run) -> str | None:
    if run.environment and run.environment.seeds:
        return "seed of " + ", ".join(sorted(run.environment.seeds))
    return next(
        (
            f"param {key}"
            for key, value in run.params.items()
            if _SEED.search(key) and value not in (None, "", "None")
        ),
        None,
    )
