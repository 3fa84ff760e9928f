"""One run being written to an MLflow database. Rows wait on the sink's stage; files go at once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO

from ...errors import Unsupported
from ...model import Artifact, ArtifactUse, DatasetUse, File, Origin, Run, Value
from ..base import MARK_KEY, RunWriter
from ..fit import text_of
from . import sql_points
from .artifacts import files_at
from .assets import metrics_tag, native_datasets, native_model, point_of
from .records import LARGEST, labels_tag, ms_of, native_run, own_history, user_tags
from .sql_assets import MODEL_STATUS
from .sql_store import joined

if TYPE_CHECKING:
    import pyarrow as pa

    from .sql_sink import Home, SqlSink
    from .sql_stage import Row

_STATUS_CODE = {word: code for code, word in MODEL_STATUS.items()}


class SqlRunWriter(RunWriter):
    """What was staged is in the database after the next `SqlSink.flush`."""

    def __init__(self, sink: SqlSink, home: Home, run: Run, origin: Origin, labels: Sequence[str]) -> None:
        self.sink = sink
        self.home = home
        self.origin = origin
        self.run_id = home.run_id
        self._labels = list(labels)
        self._files = files_at(home.artifact_uri, sink.location)
        self._put_run(run, finished=False)

    def _put_run(self, run: Run, finished: bool, mark: str | None = None) -> None:
        native = native_run(run, self.origin)
        tags = own_history(native.tags, self.run_id)
        if mark is not None:
            tags[MARK_KEY] = mark
        deleted = native.lifecycle_stage == "deleted" and finished
        row: Row = {
            "run_uuid": self.run_id,
            "name": native.name,
            "source_type": "UNKNOWN",
            "source_name": "",
            "entry_point_name": "",
            "user_id": native.user or "",  # MLflow cannot show a run whose user is null
            "status": native.status if finished else "RUNNING",
            "start_time": native.start_ms,
            "end_time": native.end_ms if finished else None,
            "deleted_time": _deleted_ms(run) if deleted else None,
            "source_version": "",
            "lifecycle_stage": "deleted" if deleted else "active",
            "artifact_uri": self.home.artifact_uri,
            "experiment_id": self.home.experiment_id,
        }
        self.sink.put(self.run_id, {"runs": [row], "tags": self._rows(tags)})

    def _rows(self, pairs: Mapping[str, str]) -> list[Row]:
        return [{"key": k, "value": v, "run_uuid": self.run_id} for k, v in pairs.items()]

    def params(self, params: Mapping[str, Value]) -> None:
        texts = {k: v if isinstance(v, str) else text_of(v) for k, v in params.items()}
        self.sink.put(self.run_id, {"params": self._rows(texts)})

    def tags(self, tags: Mapping[str, str], labels: Sequence[str] = ()) -> None:
        self._labels = list(dict.fromkeys([*self._labels, *labels]))
        self.sink.put(self.run_id, {"tags": self._rows(user_tags(tags) | labels_tag(self._labels))})

    def points(self, batch: pa.RecordBatch) -> None:
        self.sink.put_points(self.run_id, sql_points.native(batch))

    def datasets(self, uses: Sequence[DatasetUse]) -> None:
        self.sink.put_datasets(self.home, native_datasets(uses))

    def file(self, file: File, stream: BinaryIO | None) -> None:
        if stream is None:
            raise Unsupported("MLflow holds no files that are only pointed at")
        self._files.put(file.path, stream)

    def artifact(
        self, artifact: Artifact, use: ArtifactUse, files: Iterable[tuple[File, BinaryIO | None]]
    ) -> str:
        model_id, origin_id, there = self.sink.model_id(artifact, self.origin)
        self._put_metrics(model_id, artifact)
        if not (there and use.role == "input"):  # a model that a run only used was written with its maker
            self._put_model(model_id, origin_id, artifact, use)
            root = files_at(self._model_uri(model_id), self.sink.location)
            for file, stream in files:
                if stream is not None:
                    root.put(file.path, stream)
        edge: Row = {
            "input_uuid": hashlib.blake2b(
                f"{use.role} {self.run_id} {model_id}".encode(), digest_size=16
            ).hexdigest(),
            "source_type": "RUN_INPUT" if use.role == "input" else "RUN_OUTPUT",
            "source_id": self.run_id,
            "destination_type": "MODEL_INPUT" if use.role == "input" else "MODEL_OUTPUT",
            "destination_id": model_id,
            "step": use.step or 0,
        }
        self.sink.put(self.run_id, {"inputs": [edge]})
        return model_id

    def _model_uri(self, model_id: str) -> str:
        return joined(self.home.experiment_uri, "models", model_id, "artifacts")

    def _put_model(self, model_id: str, origin_id: str, artifact: Artifact, use: ArtifactUse) -> None:
        native = native_model(artifact, origin_id)
        experiment = self.home.experiment_id
        created = ms_of(artifact.created_at)
        now = time.time_ns() // 1_000_000
        maker = self.run_id if use.role == "output" else artifact.created_by
        self.sink.put(
            self.run_id,
            {
                "logged_models": [
                    {
                        "model_id": model_id,
                        "experiment_id": experiment,
                        "name": native.name,
                        "artifact_location": self._model_uri(model_id),
                        "creation_timestamp_ms": now if created is None else created,
                        "last_updated_timestamp_ms": ms_of(artifact.modified_at) or created or now,
                        "status": _STATUS_CODE.get(native.status, 0),
                        "lifecycle_stage": "active",
                        "model_type": native.model_type,
                        "source_run_id": maker,
                        "status_message": None,
                    }
                ],
                "logged_model_params": [
                    {"model_id": model_id, "experiment_id": experiment, "param_key": k, "param_value": v}
                    for k, v in native.params.items()
                ],
                "logged_model_tags": self._model_tags(model_id, native.tags),
            },
        )

    def _put_metrics(self, model_id: str, artifact: Artifact) -> None:
        """The model's metrics that this run measured; those of other runs come with them."""
        own = [metric for metric in artifact.metrics if metric.run == self.run_id]
        rows: list[Row] = [
            {
                "model_id": model_id,
                "metric_name": metric.key,
                "metric_timestamp_ms": ms_of(metric.time),
                "metric_step": metric.step,
                "metric_value": _stored(metric.value),
                "experiment_id": self.home.experiment_id,
                "run_id": self.run_id,
                "dataset_uuid": None,
                "dataset_name": metric.dataset,
                "dataset_digest": metric.digest,
            }
            for metric in own
            if point_of(metric) is not None
        ]
        rest = [metric for metric in own if point_of(metric) is None]
        tags = metrics_tag(self.run_id, rest) if rest else {}
        self.sink.put(
            self.run_id, {"logged_model_metrics": rows, "logged_model_tags": self._model_tags(model_id, tags)}
        )

    def _model_tags(self, model_id: str, tags: Mapping[str, str]) -> list[Row]:
        experiment = self.home.experiment_id
        return [
            {"model_id": model_id, "experiment_id": experiment, "tag_key": k, "tag_value": v}
            for k, v in tags.items()
        ]

    def finish(self, run: Run, mark: str | None) -> None:
        self._put_run(run, finished=True, mark=mark)

    def abort(self) -> None:
        self.sink.drop(self.run_id)


def _stored(value: float) -> float:
    return 0.0 if value != value else min(max(value, -LARGEST), LARGEST)


def _deleted_ms(run: Run) -> int:
    """When the run was deleted; MLflow's clean-up goes by it."""
    told = run.extra.get("mlflow", {}).get("deleted_time")
    if isinstance(told, int) and not isinstance(told, bool):
        return told
    return ms_of(run.ended_at) or ms_of(run.started_at) or time.time_ns() // 1_000_000
