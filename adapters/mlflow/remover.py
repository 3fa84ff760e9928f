"""Deleting by retention: the bytes of a run, and its record as softly as MLflow can."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...locations import Location
from ..base import Remover
from .connection import Connection
from .place import local_path

REMOVED_TAG = "retention.files_removed"
"""Tag of a run whose files were deleted: when, ISO 8601."""
_RUN_ID = re.compile(r"[0-9a-f]{32}")


class MlflowRemover(Remover):
    """Deletes through MLflow's own stores and artifact repositories.

    A deleted run can be restored (`mlflow runs restore`) until `mlflow gc`; deleted files cannot.
    """

    def __init__(self, location: Location) -> None:
        self.connection = Connection(location, writable=True)
        self.location = location

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
        for root, known in self._local_roots():
            for folder in sorted(root.iterdir()):
                if _RUN_ID.fullmatch(folder.name) and folder.name not in known and not folder.is_symlink():
                    for path in sorted(folder.rglob("*")):
                        if path.is_file() and not path.is_symlink():
                            yield str(path), path.stat().st_size

    def _local_roots(self) -> Iterator[tuple[Path, set[str]]]:
        """Local artifact folders of experiments, with the ids of every run, deleted ones included."""
        from mlflow.entities import ViewType

        with self.connection.calling("could not list the runs"):
            experiments = list(self.connection.tracking.search_experiments(view_type=ViewType.ALL))
            known: set[str] = set()
            for experiment in experiments:
                token = None
                while True:
                    page = self.connection.tracking.search_runs(
                        [experiment.experiment_id], "", ViewType.ALL, 1000, None, token
                    )
                    known |= {run.info.run_id for run in page}
                    if not (token := page.token):
                        break
        for experiment in experiments:
            uri = experiment.artifact_location or ""
            if uri.startswith("file:") or "://" not in uri:
                root = local_path(uri)
                if uri and root.is_dir():
                    yield root, known

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
