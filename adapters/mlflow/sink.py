"""Writing to MLflow through its stores: a tracking server, Databricks, or a database by the client."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import Rejected, Vanished
from ...model import EvaluationDataset, Experiment, Origin, RegisteredModel, Run, Trace
from ..base import NATIVE_MARK, ORIGIN_KEY, Capabilities, Copy, RunWriter, Sink, Throughput
from . import capabilities, entities, extras, records, registry
from .artifacts import DIRECT_PATH, PROXIED_PATH
from .connection import Connection
from .flow import Flow
from .writer import ClientWriter

if TYPE_CHECKING:
    from ...locations import Location

PAGE_RUNS = 500
UPLOADS = 8
"""Small files that are on their way at once."""
DELETED = "outgrow.deleted"
"""Tag of an experiment that we made and that is to be deleted: it is once its runs are written."""


class ClientSink(Sink):
    """MLflow through its stores. Raises on opening what `Connection` raises."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.connection = Connection(location, writable=True)
        self.tracking = self.connection.tracking
        self.uploads = ThreadPoolExecutor(UPLOADS, thread_name_prefix="mlflow-upload")
        self.flow = Flow()
        server = self.connection.http is not None
        self.throughput = Throughput(
            path="tracking server, REST" if server else "MLflow client",
            points_per_second=4_500,
            files_per_second=150,
            runs_per_second=10,
            advice="write to the server's database directly where you can: mlflow:postgresql://… or mlflow:sqlite:///…",
        )
        self._capabilities = replace(
            capabilities.client(
                sqlite=self.connection.scheme == "sqlite", registry=self.connection.registry_kind
            ),
            file_path=PROXIED_PATH if server else DIRECT_PATH,
        )
        self._lock = threading.RLock()
        self._experiments: dict[str, str] = {}
        self._to_delete: dict[str, int] = {}
        """Experiments that are deleted whenever no run of theirs is being written → open writers."""
        self._restored: set[str] = set()

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def close(self) -> None:
        self.uploads.shutdown(wait=True)
        self.flush()

    # --- what is here -----------------------------------------------------------------------------

    def copies(self) -> Iterator[Copy]:
        for run in self._search(f"tags.`{ORIGIN_KEY}` LIKE '%'"):
            yield self._copy(run)

    def copy_of(self, identity: str) -> Copy | None:
        for run in self._search(f"tags.`{ORIGIN_KEY}` {entities.equals(identity)}"):
            if run.data.tags.get(ORIGIN_KEY) == identity:
                return self._copy(run)
        return None

    def native(self, run_id: str) -> Copy | None:
        try:
            with self.connection.calling(f"could not look for run {run_id}"):
                run = self.tracking.get_run(run_id)
        except (Vanished, Rejected):  # an id that MLflow finds malformed is not here either
            return None
        if ORIGIN_KEY in run.data.tags:
            return None
        identity = f"{records.PLATFORM}:{run_id}"
        return Copy(identity=identity, run_id=run_id, mark=NATIVE_MARK, url=self.run_url(run))

    def _search(self, filter_string: str) -> Iterator[Any]:
        from mlflow.entities import ViewType

        for some in entities.chunks(entities.experiment_ids(self.connection)):
            token = None
            while True:
                with self.connection.calling("could not list copied runs"):
                    page = self.tracking.search_runs(
                        some, filter_string, ViewType.ALL, max_results=PAGE_RUNS, page_token=token
                    )
                yield from page
                if not (token := page.token):
                    break

    def _copy(self, run: Any) -> Copy:
        tags = run.data.tags
        return Copy(
            identity=tags[ORIGIN_KEY],
            run_id=run.info.run_id,
            mark=records.mark_of(tags),
            url=self.run_url(run),
        )

    def run_url(self, run: Any) -> str | None:
        return entities.run_url(self.connection, run)

    # --- experiments ------------------------------------------------------------------------------

    def experiment(self, experiment: Experiment) -> str:
        with self._lock:
            key = f"{experiment.deleted}:{experiment.name}"
            if key not in self._experiments:
                self._experiments[key] = self._ensure_experiment(experiment)
            return self._experiments[key]

    def _ensure_experiment(self, experiment: Experiment) -> str:
        found = self._experiment_named(experiment.name)
        if found is None:
            found = self._create_experiment(experiment)
        gone = found.lifecycle_stage == "deleted"
        if gone and not experiment.deleted:
            raise Rejected(
                f"the experiment {experiment.name!r} is deleted in {self.location}, and still holds its name",
                hint=f"restore it there (mlflow experiments restore --experiment-id {found.experiment_id}), "
                "or purge it (mlflow gc)",
            )
        if experiment.deleted and (gone or DELETED in found.tags):
            self._to_delete.setdefault(found.experiment_id, 0)
            if not gone:
                self._restored.add(found.experiment_id)
        return str(found.experiment_id)

    def _experiment_named(self, name: str) -> Any:
        try:
            with self.connection.calling(f"could not look for the experiment {name!r}"):
                return self.tracking.get_experiment_by_name(name)
        except Vanished:
            return None

    def _create_experiment(self, experiment: Experiment) -> Any:
        from uuid import uuid4

        from mlflow.entities import ExperimentTag

        tags = records.experiment_tags(experiment) | ({DELETED: "true"} if experiment.deleted else {})
        root = self.connection.artifact_root
        location = f"{root.rstrip('/')}/{uuid4().hex}" if root else None
        try:
            with self.connection.calling(f"could not create the experiment {experiment.name!r}"):
                self.tracking.create_experiment(
                    experiment.name, location, [ExperimentTag(k, v) for k, v in tags.items()]
                )
        except Rejected:
            if self._experiment_named(experiment.name) is None:
                raise  # else another process was faster
        return self._experiment_named(experiment.name)

    def _open_experiment(self, experiment_id: str) -> None:
        """MLflow refuses runs in a deleted experiment: it is restored while one is written."""
        with self._lock:
            if experiment_id not in self._to_delete:
                return
            if experiment_id not in self._restored:
                with self.connection.calling(f"could not restore the experiment {experiment_id}"):
                    self.tracking.restore_experiment(experiment_id)
                self._restored.add(experiment_id)
            self._to_delete[experiment_id] += 1

    def closed(self, experiment_id: str) -> None:
        """A writer in that experiment is done."""
        with self._lock:
            if experiment_id in self._to_delete:
                self._to_delete[experiment_id] -= 1

    def flush(self) -> None:
        with self._lock:
            for experiment_id, writers in self._to_delete.items():
                if writers == 0 and experiment_id in self._restored:
                    with self.connection.calling(f"could not delete the experiment {experiment_id}"):
                        self.tracking.delete_experiment(experiment_id)
                    self._restored.discard(experiment_id)

    # --- runs -------------------------------------------------------------------------------------

    def begin(self, run: Run, origin: Origin, existing: Copy | None = None) -> RunWriter:
        self._open_experiment(run.experiment)
        try:
            found = self._existing(existing.run_id) if existing is not None else None
            return ClientWriter(self, run, origin, found or self._create_run(run, origin))
        except BaseException:
            self.closed(run.experiment)
            raise

    def _existing(self, run_id: str) -> Any:
        try:
            with self.connection.calling(f"could not read run {run_id}"):
                found = self.tracking.get_run(run_id)
                if found.info.lifecycle_stage == "deleted":
                    self.tracking.restore_run(run_id)
                return found
        except Vanished:
            return None  # deleted for good since it was listed

    def _create_run(self, run: Run, origin: Origin) -> Any:
        from mlflow.entities import RunTag

        native = records.native_run(run, origin)
        with self.connection.calling("could not create a run"):
            return self.tracking.create_run(
                experiment_id=run.experiment,
                user_id=native.user or "",
                start_time=native.start_ms,
                tags=[RunTag(k, v) for k, v in native.tags.items()],
                run_name=native.name,
            )

    # --- registry and more ------------------------------------------------------------------------

    def register(self, model: RegisteredModel) -> Mapping[str, str]:
        with self._lock:
            return registry.write_model(self.connection, model)

    def trace(self, trace: Trace, origin: Origin) -> str:
        return extras.write_trace(self.connection, trace, origin)

    def evaluation_dataset(self, dataset: EvaluationDataset) -> str:
        with self._lock:
            return extras.write_dataset(self.connection, dataset)
