"""Delivering what a framework's test has logged to a real archive, and reading it back."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outgrow.config import Config, read
from outgrow.locations import open_source
from outgrow.model import Run
from outgrow.tracking.journal import journals
from outgrow.tracking.sync import sync


@contextlib.contextmanager
def without_comet() -> Iterator[None]:
    """For the import of what imports Comet's SDK where it finds it, which then also logs MLflow's runs."""
    if "comet_ml" in sys.modules:
        yield
        return
    sys.modules["comet_ml"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["comet_ml"]


@dataclass
class Arrived:
    """One run as the archive has it."""

    run: Run
    points: dict[str, list[tuple[float, float]]]
    """Metric key → (step, value), in the order of steps."""
    texts: dict[str, list[str]]
    files: dict[str, bytes]
    models: list[tuple[Any, dict[str, bytes]]]
    """Artifact and its files, by path; oldest first."""

    def save(self, folder: Path, number: int = -1) -> Path:
        """The files of a model, in a folder."""
        for path, content in self.models[number][1].items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return folder


def settings(folder: Path, text: str = "") -> Config:
    """A configuration file in the folder: an archive, and no process that delivers."""
    (folder / "outgrow.toml").write_text(
        '[tracking]\nto = ["archive:history"]\ndelivery = "off"\nsystem_interval = 0\n' + text
    )
    return read(folder / "outgrow.toml")


def arrived(folder: Path) -> dict[str, Arrived]:
    """Deliver all journals; run name → what arrived."""
    config = read(folder / "outgrow.toml")
    assert all(report.complete for report in sync(journals(config.journal), config))
    found = {}
    with open_source(f"archive:{folder / 'history'}") as source:
        for run in [run for experiment in source.experiments() for run in source.runs(experiment)]:
            points: dict[str, list[tuple[float, float]]] = {}
            for row in [row for batch in source.points(run) for row in batch.to_pylist()]:
                points.setdefault(row["key"], []).append((row["step"], row["value"]))
            texts: dict[str, list[str]] = {}
            for row in [row for batch in source.texts(run) for row in batch.to_pylist()]:
                texts.setdefault(row["key"], []).append(row["text"])
            loose = {}
            for file in source.files(run):
                with source.open(run, file) as stream:
                    loose[file.path] = stream.read()
            models = []
            for artifact in sorted(source.artifacts(run), key=lambda artifact: str(artifact.created_at)):
                files = {}
                for file in source.artifact_files(artifact):
                    with source.open(artifact, file) as stream:
                        files[file.path] = stream.read()
                models.append((artifact, files))
            name = run.name or run.id
            assert name not in found
            found[name] = Arrived(run, {k: sorted(v) for k, v in points.items()}, texts, loose, models)
    return found
