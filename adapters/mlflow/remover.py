"""Deleting by retention: the bytes of a run, and its record as softly as MLflow can."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ...filters import Parts
from ...locations import Location
from ...model import Experiment
from ..base import Remover
from .connection import Connection
from .place import local_path
from .records import PLATFORM

REMOVED_TAG = "retention.files_removed"
"""Tag of a run whose files were deleted: when, ISO 8601."""
_RUN_ID = re.compile(r"[0-9a-f]{32}")


class MlflowRemover(Remover):
    """Deletes through MLflow's own stores and artifact repositories.

    A deleted run can be restored (`mlflow runs restore`) until `mlflow gc`; deleted files cannot.
    """

    def __init__(self, location: Location) -> None:
        self.location = location

    @cached_property
    def connection(self) -> Connection:
        """Opened for the first deletion: a plan needs none, nor the import of MLflow."""
        return Connection(self.location, writable=True)

    def remove_files(self, run_id: str) -> None:
        from mlflow.entities import RunTag

        with self.connection.calling(f"could not delete the files of run {run_id}"):
            run = self.connection.tracking.get_run(run_id)
            self._delete_under(run.info.artifact_uri)
            for model in self._models_of(run):
                self._delete_under(model.artifact_location)
            tag = RunTag(REMOVED_TAG, datetime.now(UTC).isoformat(timespec="seconds"))
            if run.info.lifecycle_stage == "active":
                self.connection.tracking.set_tag(run_id, tag)

    def _models_of(self, run: Any) -> Iterator[Any]:
        """The logged models that the run both made and lists as outputs: what a plan has shown."""
        outputs = {output.model_id for output in (run.outputs.model_outputs if run.outputs else ())}
        token = None
        while outputs:
            page = self.connection.tracking.search_logged_models(
                experiment_ids=[run.info.experiment_id],
                filter_string=f"source_run_id = '{run.info.run_id}'",
                page_token=token,
            )
            yield from (model for model in page if model.model_id in outputs)
            if not (token := page.token):
                return

    def _delete_under(self, uri: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        repository = get_artifact_repository(uri, tracking_uri=self.connection.uri)
        for item in repository.list_artifacts():
            repository.delete_artifacts(item.path)

    def remove_run(self, run_id: str) -> None:
        with self.connection.calling(f"could not delete run {run_id}"):
            self.connection.tracking.delete_run(run_id)

    def orphans(self) -> Iterator[tuple[str, int]]:
        """Files in folders named like a run, where no run of that name exists; local roots only."""
        from . import adapter

        with adapter.source(self.location) as source:
            experiments = list(source.experiments())
            # Folders before runs: a run that begins meanwhile is no orphan.
            folders = [folder for root in _local_roots(experiments) for folder in _run_folders(root)]
            known = (
                {run.id for e in experiments for run in source.listed(e, None, Parts())} if folders else ()
            )
        for folder in folders:
            if folder.name not in known:
                for path in sorted(folder.rglob("*")):
                    if path.is_file() and not path.is_symlink():
                        yield str(path), path.stat().st_size

    def remove_orphan(self, path: str) -> None:
        """Only a file that `orphans` names now is deleted; its emptied folders go too."""
        if path not in {found for found, _ in self.orphans()}:
            return
        file = Path(path)
        file.unlink()
        for folder in file.parents:
            if any(folder.iterdir()):
                break
            folder.rmdir()
            if _RUN_ID.fullmatch(folder.name):
                break

    def close(self) -> None:
        """The stores hold no connection of ours."""


def _local_roots(experiments: Iterable[Experiment]) -> Iterator[Path]:
    """Folders of this machine that experiments keep their artifacts in."""
    for experiment in experiments:
        uri = str(experiment.extra.get(PLATFORM, {}).get("artifact_location") or "")
        if uri and (uri.startswith("file:") or "://" not in uri) and (root := local_path(uri)).is_dir():
            yield root


def _run_folders(root: Path) -> list[Path]:
    return [f for f in sorted(root.iterdir()) if _RUN_ID.fullmatch(f.name) and not f.is_symlink()]
