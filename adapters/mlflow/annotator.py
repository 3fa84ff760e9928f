"""Writing a card back: loose files of a run, and the description of a registered model's version."""

from __future__ import annotations

import io
from collections.abc import Mapping

from ...locations import Location
from ..base import Annotator, TextLimit
from .artifacts import files_at
from .connection import Connection


class MlflowAnnotator(Annotator):
    """Writes through MLflow's own stores, and to wherever the run keeps its artifacts."""

    description = TextLimit(length=5_000)
    """`store/model_registry/dbmodels/models.py`: `description = Column(String(5000))`."""

    def __init__(self, location: Location) -> None:
        self.connection = Connection(location, writable=True)
        self.location = location

    def attach(self, run_id: str, files: Mapping[str, bytes]) -> None:
        with self.connection.calling(f"could not read run {run_id}"):
            uri = self.connection.tracking.get_run(run_id).info.artifact_uri
        place = files_at(uri, self.location, self.connection.http, run_id)
        for path, data in files.items():
            place.put(path, io.BytesIO(data))

    def describe(self, model: str, version: str, text: str) -> None:
        with self.connection.calling(f"could not describe version {version} of {model!r}"):
            self.connection.registry.update_model_version(model, version, text)

    def close(self) -> None:
        """The stores hold no connection of ours."""
