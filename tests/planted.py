"""Small histories with planted facts, for the tests of answers and pages."""

from datetime import UTC, datetime, timedelta

from outgrow.adapters import batches
from outgrow.model import (
    CodeVersion,
    DatasetUse,
    Environment,
    Experiment,
    ModelVersion,
    RegisteredModel,
    Run,
    Status,
)
from outgrow.testing import records
from outgrow.testing.memory import MemorySource, RunData

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def run(number, **changes):
    facts = {
        "id": f"r{number:04d}",
        "experiment": "1",
        "name": f"digits-{number}",
        "status": Status.FINISHED,
        "started_at": NOW - timedelta(days=200 - number),
        "ended_at": NOW - timedelta(days=200 - number) + timedelta(hours=1),
        "user": "ada",
        "tags": {"project": "digits", "owner": "ml"},
        "params": {"lr": 0.1, "seed": 1},
        "summary": {"eval/accuracy": 0.9},
        "datasets": [DatasetUse(name="digits", digest="d1", context="training")],
        "code": CodeVersion(commit="a" * 40, dirty=False),
        "environment": Environment(python="3.11", packages={"numpy": "2.0"}, seeds={"numpy": 1}),
    } | changes
    return Run(**facts)


def source(*runs, registry=(), artifacts=(), files=None, points=None):
    files, points = files or {}, points or {}
    data = [
        RunData(
            r,
            points.get(r.id, ()),
            files=[(f, d) for f, d in (records.file(p, c) for p, c in files.get(r.id, {}).items())],
        )
        for r in runs
    ]
    return MemorySource([Experiment(id="1", name="digits")], data, list(artifacts), registry=list(registry))


def curve(key, values, first=0):
    return batches.points(
        [key] * len(values), list(range(first, first + len(values))), [None] * len(values), values
    )


def registered(*versions, name="digits"):
    return RegisteredModel(
        name=name, versions=[ModelVersion(model=name, version=str(i), **v) for i, v in enumerate(versions, 1)]
    )
