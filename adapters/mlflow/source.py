"""Reading MLflow through its stores: a tracking server, Databricks, or a database by the client."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from ...errors import Rejected, Unsupported, Vanished
from ...model import Artifact, EvaluationDataset, Experiment, File, RegisteredModel, Run, Trace
from ..base import ORIGIN_KEY, RunStats, Source, Throughput
from . import entities, extras, registry
from .artifacts import Files, files_at
from .connection import Connection
from .points import read_points
from .search_filters import search_filter

if TYPE_CHECKING:
    import pyarrow as pa

    from ...filters import Filter, Parts
    from ...locations import Location

PAGE_EXPERIMENTS = 1_000
PAGE_RUNS = 500
"""Runs a `runs/search` call; one may hold a hundred kilobytes of params and tags."""
PAGE_MODELS = 50  # SEARCH_LOGGED_MODEL_MAX_RESULTS_DEFAULT is 100


def _order(run: Any) -> tuple[int, str]:
    """As the search orders by start time."""
    return run.info.start_time, run.info.run_id


class ClientSource(Source):
    """MLflow through its stores. Raises on opening what `Connection` raises."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.connection = Connection(location, writable=False)
        self.tracking = self.connection.tracking
        server = self.connection.http is not None
        self.throughput = Throughput(
            path="tracking server, REST" if server else "MLflow client",
            points_per_second=15_000 if server else 20_000,
            runs_per_second=100,
            advice="read the server's database directly where you can: mlflow:postgresql://… or mlflow:sqlite:///…",
        )
        self._lock = threading.Lock()
        self._has_models: bool | None = None
        self._locations: dict[str, str] = {}
        """Artifact location of each logged model seen."""

    # --- records ------------------------------------------------------------------------------

    def experiments(self) -> Iterator[Experiment]:
        from mlflow.entities import ViewType

        token = None
        while True:
            with self.connection.calling("could not list experiments"):
                page = self.tracking.search_experiments(
                    view_type=ViewType.ALL,
                    max_results=PAGE_EXPERIMENTS,
                    order_by=["experiment_id ASC"],
                    page_token=token,
                )
            yield from map(entities.experiment, page)
            if not (token := page.token):
                return

    def runs(self, experiment: Experiment, where: Filter | None = None) -> Iterator[Run]:
        return self._records(self._search(experiment, ""), whole=True)

    def listed(self, experiment: Experiment, where: Filter | None, parts: Parts) -> Iterator[Run]:
        whole = "artifacts" in parts.fields
        if where is not None and where.ids is not None:
            return self._records(self._found(experiment, where.ids), whole)
        asked = search_filter(where) if where is not None else ""
        if not asked:
            return self._records(self._search(experiment, ""), whole)
        # The language has no OR; copies come whatever the filter says.
        passing = {run.info.run_id: run for run in self._search(experiment, asked)}
        passing |= {run.info.run_id: run for run in self._search(experiment, f"tags.`{ORIGIN_KEY}` LIKE '%'")}
        return self._records(iter(sorted(passing.values(), key=_order)), whole)

    def _records(self, found: Iterator[Any], whole: bool) -> Iterator[Run]:
        for run in found:
            # A search tells the models that a run made, but not those that it used.
            if (whole or ORIGIN_KEY in run.data.tags) and self._models_exist():
                run = self._native_run(run.info.run_id)
            yield entities.run(run, entities.run_url(self.connection, run))

    def _search(self, experiment: Experiment, filter_string: str) -> Iterator[Any]:
        from mlflow.entities import ViewType

        token = None
        while True:
            with self.connection.calling(f"could not list the runs of {experiment.name!r}"):
                page = self.tracking.search_runs(
                    [experiment.id],
                    filter_string,
                    ViewType.ALL,
                    max_results=PAGE_RUNS,
                    order_by=["attributes.start_time ASC"],
                    page_token=token,
                )
            yield from page
            if not (token := page.token):
                return

    def _found(self, experiment: Experiment, ids: Iterable[str]) -> Iterator[Any]:
        """The runs of these ids that are in the experiment."""
        for id in sorted(ids):
            try:
                run = self._native_run(id)
            except (Vanished, Rejected):  # an id that MLflow finds malformed is not here either
                continue
            if run.info.experiment_id == experiment.id:
                yield run

    def _models_exist(self) -> bool:
        with self._lock:
            if self._has_models is None:
                self._has_models = entities.any_logged_model(self.connection)
            return self._has_models

    def _native_run(self, run_id: str) -> Any:
        with self.connection.calling(f"could not read run {run_id}"):
            return self.tracking.get_run(run_id)

    # --- points -------------------------------------------------------------------------------

    def points(self, run: Run) -> Iterator[pa.RecordBatch]:
        # Asked anew: a run that is gone must not look like one without points.
        keys = list(self._native_run(run.id).data.metrics)
        return read_points(self.connection, run.id, keys)

    def stats(self, run: Run) -> RunStats:
        return RunStats(series=len(run.summary), texts=0, histograms=0, fractional_steps=0)

    # --- files and artifacts --------------------------------------------------------------------

    def files(self, run: Run) -> Iterator[File]:
        return self._run_files(run).walk()

    def artifacts(self, run: Run) -> Iterator[Artifact]:
        for use in run.artifacts:
            with self.connection.calling(f"could not read the logged model {use.artifact}"):
                model = entities.logged_model(self.connection, use.artifact)
            artifact = entities.artifact(model, self.connection)
            self._locations[artifact.id] = model.artifact_location
            yield artifact

    def artifact_files(self, artifact: Artifact) -> Iterator[File]:
        for file in self._artifact_files(artifact.id).walk():
            yield File(path=file.path, size=file.size, artifact=artifact.id)

    def open(self, run: Run, file: File) -> BinaryIO:
        files = self._artifact_files(file.artifact) if file.artifact else self._run_files(run)
        return files.open(file.path)

    def _run_files(self, run: Run) -> Files:
        uri = run.extra.get("mlflow", {}).get("artifact_uri")
        if not isinstance(uri, str):
            uri = self._native_run(run.id).info.artifact_uri
        if not uri:
            raise Unsupported(f"run {run.id} has no artifact location")
        return files_at(uri, self.location, self.connection.http, run.id)

    def _artifact_files(self, artifact_id: str) -> Files:
        if artifact_id not in self._locations:
            with self.connection.calling(f"could not read the logged model {artifact_id}"):
                model = entities.logged_model(self.connection, artifact_id)
            self._locations[artifact_id] = model.artifact_location
        uri = self._locations[artifact_id]
        if not uri:
            raise Vanished(f"the logged model {artifact_id} has no artifact location")
        return files_at(uri, self.location, self.connection.http)

    # --- registry and more ------------------------------------------------------------------------

    def registry(self) -> Iterator[RegisteredModel]:
        return registry.read_models(self.connection)

    def traces(self, experiment: Experiment) -> Iterator[Trace]:
        return extras.read_traces(self.connection, experiment)

    def evaluation_datasets(self) -> Iterator[EvaluationDataset]:
        if self.connection.registry_kind != "mlflow":
            return iter(())
        return extras.read_datasets(self.connection)

    def problems(self) -> Iterable[str]:
        if self.connection.registry_kind != "mlflow":  # its API of them has no records (managed-evals)
            yield "evaluation data sets of Databricks are tables of Unity Catalog: they are not read"
