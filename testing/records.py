"""Builders of realistic records, for tests. Deterministic: the same arguments give the same records."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from ..adapters import batches
from ..model import (
    Artifact,
    ArtifactUse,
    CodeVersion,
    DatasetUse,
    Environment,
    Experiment,
    File,
    ModelVersion,
    RegisteredModel,
    Run,
    Status,
)
from .memory_source import ArtifactData, MemorySource, RunData

START = datetime(2026, 3, 14, 15, 9, 26, 535897, tzinfo=UTC)


def experiment(number: int = 1, name: str = "digits", **changes: Any) -> Experiment:
    facts: dict[str, Any] = {
        "id": str(number),
        "name": name,
        "description": f"Classifiers on {name}",
        "tags": {"team": "vision"},
        "created_at": START - timedelta(days=1),
    } | changes
    return Experiment(**facts)


def run(number: int = 1, experiment: str = "1", **changes: Any) -> Run:
    """A finished run with typed params, tags, labels, a data set, code and environment."""
    facts: dict[str, Any] = {
        "id": f"run{number:05d}",
        "experiment": experiment,
        "name": f"digits-sweep-{number:03d}",
        "status": Status.FINISHED,
        "created_at": START + timedelta(hours=number),
        "started_at": START + timedelta(hours=number, seconds=1),
        "ended_at": START + timedelta(hours=number, minutes=30),
        "user": "ada",
        "description": "Sweep over the learning rate.",
        "tags": {"owner": "ml", "intent": "sweep"},
        "labels": ["baseline"],
        "params": {"lr": 10.0**-number, "epochs": 10 + number, "model/kind": "mlp", "nesterov": True},
        "summary": {"train/loss": 1.0 / (number or 1), "eval/accuracy": 0.9 + number * 1e-4},
        "datasets": [DatasetUse(name="digits", digest="sha256:0f1e", context="training", rows=1797)],
        "code": CodeVersion(
            repository="https://example.org/digits.git", commit="c0ffee", branch="main", dirty=False
        ),
        "environment": Environment(python="3.11.9", packages={"numpy": "2.1.0"}, seeds={"numpy": number}),
    } | changes
    return Run(**facts)


def points(
    keys: Sequence[str] = ("train/loss", "eval/accuracy"),
    steps: int = 10,
    *,
    start: datetime = START,
    seed: int = 0,
    first_step: int = 0,
) -> pa.RecordBatch:
    """`steps` points of each key, one a second, key after key."""
    rng = np.random.default_rng(seed)
    index = np.repeat(np.arange(len(keys), dtype=np.int32), steps)
    step = np.tile(np.arange(first_step, first_step + steps, dtype=np.int64), len(keys))
    micros = int(start.timestamp()) * 1_000_000 + start.microsecond + step * 1_000_000
    return pa.record_batch(
        [
            pa.DictionaryArray.from_arrays(pa.array(index), pa.array(list(keys), pa.string())),
            pa.array(step),
            pa.array(micros).cast(batches.TIME),
            pa.array(rng.standard_normal(len(step))),
        ],
        schema=batches.POINTS,
    )


def texts(rows: Sequence[tuple[str, float | None, datetime | None, str]]) -> pa.RecordBatch:
    """A batch of `batches.TEXTS` from (key, step, time, text)."""
    keys, steps, times, words = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pa.record_batch(
        [
            pa.array(keys, pa.string()).dictionary_encode(),
            pa.array(steps, pa.float64()),
            pa.array(times, batches.TIME),
            pa.array(words, pa.large_string()),
        ],
        schema=batches.TEXTS,
    )


def histograms(
    rows: Sequence[tuple[str, float | None, datetime | None, list[float], list[float]]],
) -> pa.RecordBatch:
    """A batch of `batches.HISTOGRAMS` from (key, step, time, edges, counts)."""
    keys, steps, times, edges, counts = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return pa.record_batch(
        [
            pa.array(keys, pa.string()).dictionary_encode(),
            pa.array(steps, pa.float64()),
            pa.array(times, batches.TIME),
            pa.array(edges, pa.list_(pa.float64())),
            pa.array(counts, pa.list_(pa.float64())),
        ],
        schema=batches.HISTOGRAMS,
    )


def file(path: str, data: bytes, **changes: Any) -> tuple[File, bytes]:
    """A loose file with its size and SHA-256."""
    facts: dict[str, Any] = {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return File(**(facts | changes)), data


def model(number: int, maker: Run, **changes: Any) -> ArtifactData:
    """A model artifact that a run made, with two files."""
    facts: dict[str, Any] = {
        "id": f"m{number}",
        "name": "classifier",
        "type": "model",
        "version": f"v{number}",
        "aliases": ["best"] if number == 1 else [],
        "metadata": {"layers": [64, 10]},
        "created_by": maker.id,
        "created_at": maker.ended_at,
    } | changes
    artifact = Artifact(**facts)
    held = [
        file("model/weights.bin", bytes([number % 256]) * 1000),
        file("model/MLmodel", b"flavor: sklearn\n"),
    ]
    return ArtifactData(artifact, [(f, data) for f, data in held])


def history(
    runs: int = 3, steps: int = 10, *, platform: str = "memory", name: str = "digits"
) -> MemorySource:
    """A whole small platform: one experiment, `runs` runs with points, texts, files and a model, a registry."""
    exp = experiment(name=name)
    data: list[RunData] = []
    models: list[ArtifactData] = []
    versions: list[ModelVersion] = []
    for number in range(1, runs + 1):
        made = model(number, one := run(number))
        models.append(made)
        one = run(number, artifacts=[ArtifactUse(artifact=made.artifact.id, role="output")])
        data.append(
            RunData(
                one,
                [points(steps=steps, seed=number, start=one.started_at or START)],
                [texts([("console/stdout", 1.0, one.started_at, f"epoch {number}\n")])],
                [histograms([("weights", 1.0, one.started_at, [0.0, 0.5, 1.0], [3.0, float(number)])])],
                [
                    file("split.json", b'{"train": [1, 2], "test": [3]}'),
                    file(f"plots/{number}.svg", b"<svg/>"),
                ],
            )
        )
        versions.append(
            ModelVersion(
                model="digits-classifier",
                version=str(number),
                run=one.id,
                artifact=made.artifact.id,
                aliases=["champion"] if number == runs else [],
                tags={"accuracy": str(0.9)},
                created_at=one.ended_at,
            )
        )
    registered = RegisteredModel(
        name="digits-classifier", description="Handwritten digits.", versions=versions, created_at=START
    )
    return MemorySource([exp], data, models, registry=[registered] if versions else [], platform=platform)
