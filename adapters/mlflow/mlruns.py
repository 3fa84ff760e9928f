"""Reading a directory of MLflow's file store (`mlruns`), by its own layout and without the SDK.

    <experiment>/meta.yaml · tags/<key> · models/<model id>/ · datasets/<id>/ · traces/<id>/
    <experiment>/<run>/meta.yaml · params/<key> · tags/<key> · metrics/<key> · inputs/ · outputs/ · artifacts/
    .trash/<experiment>   deleted experiments
    models/<name>/meta.yaml · version-<n>/ · aliases/ · tags/   the registry

MLflow itself no longer opens such a store unless `MLFLOW_ALLOW_FILE_STORE` is set. Nothing is
written here. What cannot be read is left out and told by `problems`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from ...errors import Corrupt, LocationError, Vanished
from ...model import (
    Artifact,
    ArtifactUse,
    DatasetUse,
    Experiment,
    File,
    LinkedMetric,
    RegisteredModel,
    Run,
    Trace,
)
from ..base import RunStats, Source, Throughput
from . import assets, records
from .artifacts import DirectoryFiles, Files, files_at
from .mlruns_files import Folder, metric_value, points, read_metric, trace
from .place import directory, local_path

if TYPE_CHECKING:
    import pyarrow as pa

    from ...filters import Filter
    from ...locations import Location

TRASH = ".trash"
RESERVED_FOLDERS = ("tags", "datasets", "traces", "models")
# mlflow/protos/service.proto: RunStatus, LoggedModelStatus
RUN_STATUS = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
MODEL_STATUS = {1: "PENDING", 2: "READY", 3: "FAILED"}


class MlrunsSource(Source):
    """A `mlruns` directory. Raises `LocationError` where there is none."""

    throughput = Throughput(
        path="files of an mlruns directory",
        points_per_second=500_000,
        files_per_second=2_000,
        runs_per_second=100,
    )

    def __init__(self, location: Location) -> None:
        self.location = location
        self.root = Folder(directory(location), self._problem)
        self._problems: dict[str, None] = {}
        self._lock = threading.Lock()
        if not any((folder.path / "meta.yaml").is_file() for folder in self._experiment_folders()):
            raise LocationError(
                f"{self.root.path} is no directory of MLflow's: no experiment in it has a meta.yaml",
                hint="give the directory that holds the experiments' folders, usually called mlruns",
            )
        self._folders: dict[str, Folder] = {}
        """Run or logged-model id → its folder."""

    def problems(self) -> list[str]:
        with self._lock:
            return list(self._problems)

    def _problem(self, text: str) -> None:
        with self._lock:
            self._problems[text] = None

    # --- experiments and runs ---------------------------------------------------------------------

    def experiments(self) -> Iterator[Experiment]:
        for folder in self._experiment_folders():
            meta = folder.yaml("meta.yaml")
            if meta is None or "experiment_id" not in meta:
                continue
            yield records.experiment_record(
                id=str(meta["experiment_id"]),
                name=str(meta.get("name") or folder.name),
                tags=folder.texts("tags"),
                created_ms=meta.get("creation_time"),
                modified_ms=meta.get("last_update_time"),
                lifecycle_stage=meta.get("lifecycle_stage"),
                artifact_location=meta.get("artifact_location"),
                workspace=meta.get("workspace"),
            )

    def _experiment_folders(self) -> Iterator[Folder]:
        for place in (self.root, self.root / TRASH):
            for folder in place.folders():
                if folder.name not in (TRASH, "models"):
                    yield folder

    def _experiment_folder(self, experiment_id: str) -> Folder:
        for folder in (self.root / experiment_id, self.root / TRASH / experiment_id):
            if folder.exists():
                return folder
        raise Vanished(f"the experiment {experiment_id} is gone from {self.location}")

    def runs(self, experiment: Experiment, where: Filter | None = None) -> Iterator[Run]:
        for folder in self._experiment_folder(experiment.id).folders():
            if folder.name in RESERVED_FOLDERS:
                continue
            meta = folder.yaml("meta.yaml")
            if meta is not None and (run_id := meta.get("run_id") or meta.get("run_uuid")):
                self._folders[str(run_id)] = folder
                yield self._run(folder, meta, str(run_id), experiment)

    def _run(self, folder: Folder, meta: dict[str, Any], run_id: str, experiment: Experiment) -> Run:
        status = meta.get("status")
        return records.run_record(
            id=run_id,
            experiment=experiment.id,
            name=meta.get("run_name") or meta.get("name"),
            status=RUN_STATUS.get(status, "RUNNING") if isinstance(status, int) else status,
            start_ms=meta.get("start_time"),
            end_ms=meta.get("end_time"),
            user=meta.get("user_id"),
            lifecycle_stage=meta.get("lifecycle_stage"),
            artifact_uri=meta.get("artifact_uri"),
            params=folder.texts("params"),
            tags=folder.texts("tags"),
            metrics={key: metric_value(path) for key, path in folder.files("metrics")},
            datasets=self._datasets(folder, experiment),
            model_inputs=[
                str(edge["source_id"])
                for edge in self._edges(folder / "inputs")
                if edge.get("source_type") == "MODEL"
            ],
            model_outputs=[
                (str(edge["destination_id"]), int(edge.get("step") or 0))
                for edge in self._edges(folder / "outputs")
            ],
        )

    def _edges(self, folder: Folder) -> Iterator[dict[str, Any]]:
        for edge in folder.folders():
            meta = edge.yaml("meta.yaml")
            if meta is not None and "source_id" in meta and "destination_id" in meta:
                yield meta

    def _datasets(self, folder: Folder, experiment: Experiment) -> list[DatasetUse]:
        uses: list[DatasetUse] = []
        for edge in self._edges(folder / "inputs"):
            if edge.get("source_type") != "DATASET":
                continue
            meta = (self._experiment_folder(experiment.id) / "datasets" / str(edge["source_id"])).yaml(
                "meta.yaml"
            )
            if meta is None:
                self._problem(f"run {folder.name}: its data set {edge['source_id']} cannot be read")
                continue
            native = assets.NativeDataset(
                name=str(meta.get("name")),
                digest=str(meta.get("digest") or ""),
                source_type=str(meta.get("source_type") or ""),
                source=str(meta.get("source") or ""),
                schema=meta.get("schema") or None,
                profile=meta.get("profile") or None,
                tags={str(k): str(v) for k, v in (edge.get("tags") or {}).items()},
            )
            uses += assets.dataset_uses(native)
        return uses

    # --- points -----------------------------------------------------------------------------------

    def points(self, run: Run) -> Iterator[pa.RecordBatch]:
        folder = self._run_folder(run)
        return points(folder.files("metrics"), folder.told)

    def stats(self, run: Run) -> RunStats:
        return RunStats(series=len(run.summary), texts=0, histograms=0, fractional_steps=0)

    def _run_folder(self, run: Run) -> Folder:
        folder = self._folders.get(run.id) or self._experiment_folder(run.experiment) / run.id
        if not folder.exists():
            raise Vanished(f"run {run.id} is gone from {self.location}")
        return folder

    # --- files and artifacts ------------------------------------------------------------------------

    def files(self, run: Run) -> Iterator[File]:
        return self._run_files(run).walk()

    def _run_files(self, run: Run) -> Files:
        uri = run.extra.get("mlflow", {}).get("artifact_uri")
        return self._files(self._run_folder(run), uri if isinstance(uri, str) else None)

    def _files(self, folder: Folder, uri: str | None) -> Files:
        """The files of a run or a model: beside its own record, else where its record says.

        A store that was moved, or an experiment in the trash, has them beside the record only. A
        record's own word for a directory elsewhere is only believed where it ends as MLflow's do.
        """
        beside = folder.path / "artifacts"
        if not uri or beside.is_dir():
            return DirectoryFiles(beside)
        if "://" not in uri or uri.startswith("file:"):
            path = local_path(uri)
            if path.parts[-2:] != (folder.name, "artifacts") or ".." in path.parts:
                raise Corrupt(
                    f"{folder.name}: refused to read artifacts from {uri!r}",
                    hint="MLflow's own artifact folders end in <id>/artifacts; correct meta.yaml",
                )
            return DirectoryFiles(path)
        return files_at(uri, self.location)

    def artifacts(self, run: Run) -> Iterator[Artifact]:
        for use in run.artifacts:
            yield self._artifact(use, run)

    def _artifact(self, use: ArtifactUse, run: Run) -> Artifact:
        folder = self._model_folder(use.artifact, run.experiment)
        meta = folder.yaml("meta.yaml") if folder is not None else None
        if folder is None or meta is None:
            raise Vanished(f"the logged model {use.artifact} of run {run.id} is gone from {self.location}")
        return assets.artifact_record(
            id=use.artifact,
            name=str(meta.get("name")),
            model_type=meta.get("model_type"),
            status=MODEL_STATUS.get(int(meta.get("status") or 0), "READY"),
            run=meta.get("source_run_id"),
            params=folder.texts("params"),
            tags=folder.texts("tags"),
            created_ms=meta.get("creation_timestamp"),
            modified_ms=meta.get("last_updated_timestamp"),
            experiment=str(meta.get("experiment_id") or ""),
            artifact_location=meta.get("artifact_location"),
            metrics=self._linked_metrics(folder),
        )

    def _model_folder(self, model_id: str, experiment_id: str) -> Folder | None:
        if model_id not in self._folders:
            own = self._experiment_folder(experiment_id)
            for experiment in (own, *self._experiment_folders()):
                if (folder := experiment / "models" / model_id).exists():
                    self._folders[model_id] = folder
                    break
        return self._folders.get(model_id)

    def _linked_metrics(self, folder: Folder) -> list[LinkedMetric]:
        metrics = []
        for key, path in folder.files("metrics"):
            for words in read_metric(path, (4, 6), folder.told):
                metrics.append(
                    LinkedMetric(
                        key=key,
                        value=float(words[1]),
                        step=int(words[2]),
                        time=records.time_of(int(words[0])),
                        run=words[3],
                        dataset=words[4] if len(words) > 4 else None,
                        digest=words[5] if len(words) > 5 else None,
                    )
                )
        return metrics

    def artifact_files(self, artifact: Artifact) -> Iterator[File]:
        for file in self._artifact_files(artifact.id).walk():
            yield File(path=file.path, size=file.size, artifact=artifact.id)

    def _artifact_files(self, artifact_id: str) -> Files:
        folder = self._model_folder(artifact_id, "0") if artifact_id in self._folders else None
        if folder is None:
            raise Vanished(f"the logged model {artifact_id} is gone from {self.location}")
        meta = folder.yaml("meta.yaml") or {}
        return self._files(folder, meta.get("artifact_location"))

    def open(self, run: Run, file: File) -> BinaryIO:
        files = self._artifact_files(file.artifact) if file.artifact else self._run_files(run)
        return files.open(file.path)

    # --- registry and traces ------------------------------------------------------------------------

    def registry(self) -> Iterator[RegisteredModel]:
        uris = self._artifact_uris()
        for folder in (self.root / "models").folders():
            meta = folder.yaml("meta.yaml")
            if meta is not None and "name" in meta:
                yield self._registered(folder, meta, uris)

    def _artifact_uris(self) -> dict[str, str]:
        return {
            str(meta.get("run_id") or meta.get("run_uuid")): str(meta.get("artifact_uri") or "")
            for experiment in self._experiment_folders()
            for folder in experiment.folders()
            if folder.name not in RESERVED_FOLDERS and (meta := folder.yaml("meta.yaml")) is not None
        }

    def _registered(self, folder: Folder, meta: dict[str, Any], uris: dict[str, str]) -> RegisteredModel:
        aliases: dict[str, list[str]] = {}
        for alias, version in {**folder.texts("aliases"), **(meta.get("aliases") or {})}.items():
            aliases.setdefault(str(version).strip(), []).append(alias)
        versions = []
        for place in folder.folders():
            found = place.yaml("meta.yaml") if place.name.startswith("version-") else None
            if found is None or found.get("current_stage") == "Deleted_Internal":
                continue
            versions.append(
                assets.version_record(
                    model=str(meta["name"]),
                    version=str(found["version"]),
                    run=found.get("run_id"),
                    source=found.get("source"),
                    run_artifact_uri=uris.get(str(found.get("run_id"))),
                    model_id=found.get("model_id"),
                    stage=found.get("current_stage"),
                    aliases=aliases.get(str(found["version"]), ()),
                    tags=place.texts("tags"),
                    description=found.get("description"),
                    status=found.get("status"),
                    user=found.get("user_id"),
                    created_ms=found.get("creation_timestamp"),
                    modified_ms=found.get("last_updated_timestamp"),
                )
            )
        return assets.model_record(
            name=str(meta["name"]),
            description=meta.get("description"),
            tags=folder.texts("tags"),
            versions=versions,
            created_ms=meta.get("creation_timestamp"),
            modified_ms=meta.get("last_updated_timestamp"),
        )

    def traces(self, experiment: Experiment) -> Iterator[Trace]:
        for folder in (self._experiment_folder(experiment.id) / "traces").folders():
            if (found := trace(folder, experiment.id)) is not None:
                yield found
