"""The demo's training: a sweep over two data sets that ship with scikit-learn, tracked by outgrow.

    python -m outgrow.demo.train [EPOCHS]

It reads `outgrow.toml` of the working directory, as any training script does.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import outgrow
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import f1_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

EPOCHS = 12
BATCH = 64
SEED = 20_26


@dataclass(frozen=True)
class Data:
    name: str
    x: Any
    y: Any
    train: Any
    test: Any


def data_sets() -> Iterator[Data]:
    for name, load in (("digits", load_digits), ("breast-cancer", load_breast_cancer)):
        x, y = load(return_X_y=True)
        train, test = train_test_split(np.arange(len(y)), test_size=0.25, random_state=SEED, stratify=y)
        yield Data(name, x, y, train, test)


def trials() -> Iterator[dict[str, Any]]:
    for alpha in (1e-5, 1e-4, 1e-3, 1e-2):
        yield {"model": "sgd", "alpha": alpha, "penalty": "l2"}
    for alpha in (1e-4, 1e-3):
        yield {"model": "sgd", "alpha": alpha, "penalty": "elasticnet"}
    for width in (16, 64):
        for rate in (1e-3, 1e-2):
            yield {"model": "mlp", "hidden": [width], "learning_rate": rate}
    yield {"model": "mlp", "hidden": [64, 32], "learning_rate": 1e6}  # diverges: a run that fails


def build(trial: dict[str, Any]) -> Any:
    if trial["model"] == "sgd":
        return SGDClassifier(
            loss="log_loss", alpha=trial["alpha"], penalty=trial["penalty"], random_state=SEED
        )
    return MLPClassifier(
        tuple(trial["hidden"]), solver="sgd", learning_rate_init=trial["learning_rate"], random_state=SEED
    )


def fit(run: outgrow.Run, data: Data, trial: dict[str, Any], epochs: int) -> tuple[float, Any, Any]:
    """Train one model, logging after each epoch; its accuracy, itself, its preprocessor."""
    scaler = StandardScaler().fit(data.x[data.train])
    x, y = scaler.transform(data.x), data.y
    model, classes = build(trial), np.unique(y)
    order = np.random.default_rng(SEED)
    accuracy = 0.0
    for epoch in range(epochs):
        rows = order.permutation(data.train)
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            model.partial_fit(x[batch], y[batch], classes=classes)
        accuracy = float(model.score(x[data.test], y[data.test]))
        metrics = {
            "train/loss": log_loss(y[data.train], model.predict_proba(x[data.train]), labels=classes),
            "train/accuracy": model.score(x[data.train], y[data.train]),
            "eval/loss": log_loss(y[data.test], model.predict_proba(x[data.test]), labels=classes),
            "eval/accuracy": accuracy,
            "eval/f1": f1_score(y[data.test], model.predict(x[data.test]), average="macro"),
        }
        run.log(metrics, step=epoch)
    return accuracy, model, scaler


def sweep(data: Data, epochs: int) -> tuple[int, int]:
    """All trials on one data set, below one parent run; runs made, runs that failed."""
    tags = {"project": data.name, "owner": "demo", "intent": "sweep"}
    best, failed, count = 0.0, 0, 1
    summary = tags | {"intent": "summary"}
    with outgrow.start_run(data.name, f"{data.name}-summary-all", tags=summary, seed=SEED) as parent:
        for number, trial in enumerate(trials(), 1):
            count += 1
            try:
                with outgrow.start_run(
                    data.name,
                    f"{data.name}-sweep-{number:03d}",
                    tags=tags,
                    params=trial | {"epochs": epochs, "batch": BATCH},
                    parent=parent,
                    seed=SEED,
                ) as run:
                    run.use_dataset(
                        {"x": data.x, "y": data.y}, data.name, source=f"sklearn.datasets:{data.name}"
                    )
                    run.log_split(train=data.train, test=data.test)
                    accuracy, model, scaler = fit(run, data, trial, epochs)
                    better = accuracy > best
                    best = max(best, accuracy)
                    run.log_model(
                        model,
                        "classifier",
                        preprocessor=scaler,
                        input_example=scaler.transform(data.x[:2]),
                        # Every model that is the best so far becomes the next version.
                        register="digits-classifier" if better and data.name == "digits" else None,
                        aliases=["champion"] if better else [],
                    )
            except ValueError as error:
                failed += 1
                print(
                    f"  {data.name}-sweep-{number:03d} failed, as it was meant to: {str(error).split('.')[0]}"
                )
        parent.log({"eval/best_accuracy": best})
    return count, failed


def main() -> None:
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.simplefilter("ignore", RuntimeWarning)  # the run that diverges says so itself
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else EPOCHS
    made, failed = 0, 0
    for data in data_sets():
        runs, broken = sweep(data, epochs)
        made, failed = made + runs, failed + broken
    print(f"  {made} runs, {failed} of them failed")


if __name__ == "__main__":
    main()
