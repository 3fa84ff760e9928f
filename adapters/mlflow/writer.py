"""One run being written to MLflow through its stores."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random

from ...errors import Rejected, Unsupported
from ...model import Artifact, ArtifactUse, DatasetUse, File, LinkedMetric, Origin, Run, Value
from ..base import MARK_KEY, RunWriter
from ..fit import text_of
from . import assets, entities, records
from .artifacts import Files, files_at, read_up_to
from .capabilities import BATCH_PARAMS_TAGS, PARAM_VALUE_LENGTH, TAG_VALUE_LENGTH
from .errors import LostRace
from .points import write_points

if TYPE_CHECKING:
    import pyarrow as pa

    from .sink import ClientSink

SMALL_FILE = 1 << 20
"""Bytes up to which a file is held in memory and sent beside others."""
PENDING_FILES = 32
T = TypeVar("T")


class ClientWriter(RunWriter):
    """A run that exists in MLflow. `native` is the entity as it was when the writing began."""

    def __init__(self, sink: ClientSink, run: Run, origin: Origin, native: Any) -> None:
        self.sink, self.connection, self.tracking = sink, sink.connection, sink.tracking
        self.run, self.origin, self.native = run, origin, native
        self.run_id = native.info.run_id
        self.url = sink.run_url(native)
        self._params = dict(native.data.params)
        self._tags = dict(native.data.tags)
        self._labels = records.labels_of(self._tags)
        self._files = files_at(native.info.artifact_uri, sink.location, self.connection.http, self.run_id)
        self._uploads: deque[Future[None]] = deque()
        self._closed = False
        self._set_tags(records.native_run(run, origin).tags)

    # --- small things -----------------------------------------------------------------------------

    def params(self, params: Mapping[str, Value]) -> None:
        texts = {k: v if isinstance(v, str) else text_of(v) for k, v in params.items()}
        for key, text in texts.items():
            if len(text) > PARAM_VALUE_LENGTH:  # MLflow would cut it without a word
                raise Rejected(f"param {key!r} has {len(text)} characters, MLflow takes {PARAM_VALUE_LENGTH}")
            if key in self._params and self._params[key] != text:
                raise Rejected(
                    f"param {key!r} of run {self.run_id} is {self._params[key][:50]!r} and cannot become {text[:50]!r}",
                    hint="MLflow never changes a param: delete that run in the target and copy it again",
                )
        new = [(k, v) for k, v in texts.items() if k not in self._params]
        from mlflow.entities import Param

        for some in _chunks(new, BATCH_PARAMS_TAGS):
            with self.connection.calling(f"could not write params of run {self.run_id}"):
                self.tracking.log_batch(self.run_id, [], [Param(k, v) for k, v in some], [])
            self._params.update(some)

    def tags(self, tags: Mapping[str, str], labels: Sequence[str] = ()) -> None:
        self._labels = list(dict.fromkeys([*self._labels, *labels]))
        self._set_tags(records.user_tags(tags) | records.labels_tag(self._labels))

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        tags = records.own_history(dict(tags), self.run_id)
        new = [(k, v) for k, v in tags.items() if self._tags.get(k) != v and k != records.USER]
        for key, value in new:
            if len(value) > TAG_VALUE_LENGTH:
                raise Rejected(f"tag {key!r} has {len(value)} characters, MLflow takes {TAG_VALUE_LENGTH}")
        for some in _chunks(new, BATCH_PARAMS_TAGS):
            with self.connection.calling(f"could not write tags of run {self.run_id}"):
                self.tracking.log_batch(self.run_id, [], [], [RunTag(k, v) for k, v in some])
            self._tags.update(some)

    def datasets(self, uses: Sequence[DatasetUse]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(d.name, d.digest, d.source_type, d.source, d.schema, d.profile),
                [InputTag(k, v) for k, v in d.tags.items()],
            )
            for d in assets.native_datasets(uses)
        ]
        if inputs:
            self._log_inputs(inputs)

    @retry(
        retry=retry_if_exception_type(LostRace),
        stop=stop_after_attempt(8),
        wait=wait_random(0.01, 0.2),
        reraise=True,
    )
    def _log_inputs(self, inputs: list[Any]) -> None:
        """Runs of one experiment share the rows of their data sets, so writers side by side race for them."""
        with self.connection.calling(f"could not write data sets of run {self.run_id}"):
            self.tracking.log_inputs(self.run_id, datasets=inputs)

    def points(self, batch: pa.RecordBatch) -> None:
        write_points(self.connection, self.run_id, batch, self.sink.flow)

    # --- files ------------------------------------------------------------------------------------

    def file(self, file: File, stream: BinaryIO | None) -> None:
        if stream is None:
            raise Unsupported(f"MLflow cannot point at {file.reference or file.path!r}")
        self._put(self._files, file.path, stream)

    def _put(self, files: Files, path: str, stream: BinaryIO) -> None:
        """Small files go side by side; an error of one comes with a later call, or with `finish`."""
        files.check(path)
        head = read_up_to(stream, SMALL_FILE + 1)
        if len(head) > SMALL_FILE:
            files.put(path, io.BufferedReader(_Joined(head, stream)))
            return
        self._uploads.append(self.sink.uploads.submit(files.put, path, io.BytesIO(head)))
        while len(self._uploads) > PENDING_FILES:
            self._uploads.popleft().result()

    def _drain(self) -> None:
        while self._uploads:
            self._uploads.popleft().result()

    # --- artifact versions ------------------------------------------------------------------------

    def artifact(
        self, artifact: Artifact, use: ArtifactUse, files: Iterable[tuple[File, BinaryIO | None]]
    ) -> str:
        model = self._logged_model(artifact, use)
        if model.status.value == "PENDING":
            place = files_at(model.artifact_location, self.sink.location, self.connection.http)
            for file, stream in files:
                if stream is None:
                    raise Unsupported(f"MLflow cannot point at {file.reference or file.path!r}")
                self._put(place, file.path, stream)
            self._drain()
            self._finalize(model.model_id, artifact)
        else:
            for _ in files:  # here already; who gives them keeps account of their names
                pass
        self._link(model.model_id, use)
        self._linked_metrics(model.model_id, artifact.metrics)
        return str(model.model_id)

    def _logged_model(self, artifact: Artifact, use: ArtifactUse) -> Any:
        from mlflow.entities import LoggedModelParameter, LoggedModelTag

        if use.artifact != artifact.id:  # the engine knows it from another run
            with self.connection.calling(f"could not read the logged model {use.artifact}"):
                return entities.logged_model(self.connection, use.artifact)
        origin_id = f"{self.origin.platform}:{artifact.id}"
        if (found := entities.find_model(self.connection, self.run.experiment, origin_id)) is not None:
            return found
        native = assets.native_model(artifact, origin_id)
        with self.connection.calling(f"could not create the logged model {artifact.name!r}"):
            return self.tracking.create_logged_model(
                experiment_id=self.run.experiment,
                name=native.name,
                source_run_id=self.run_id if use.role == "output" else None,
                tags=[LoggedModelTag(k, v) for k, v in native.tags.items()],
                params=[LoggedModelParameter(k, v) for k, v in native.params.items()],
                model_type=native.model_type,
            )

    def _finalize(self, model_id: str, artifact: Artifact) -> None:
        from mlflow.entities import LoggedModelStatus

        status = assets.native_model(artifact).status
        if status != "PENDING":
            with self.connection.calling(f"could not finish the logged model {model_id}"):
                self.tracking.finalize_logged_model(model_id, LoggedModelStatus(status))

    def _link(self, model_id: str, use: ArtifactUse) -> None:
        from mlflow.entities import LoggedModelInput, LoggedModelOutput

        inputs, outputs = self.native.inputs, self.native.outputs
        with self.connection.calling(f"could not link the logged model {model_id} to run {self.run_id}"):
            if use.role == "input":
                if model_id not in {m.model_id for m in (inputs.model_inputs if inputs else None) or ()}:
                    self.tracking.log_inputs(self.run_id, models=[LoggedModelInput(model_id)])
            elif model_id not in {m.model_id for m in (outputs.model_outputs if outputs else None) or ()}:
                self.tracking.log_outputs(self.run_id, [LoggedModelOutput(model_id, use.step or 0)])

    def _linked_metrics(self, model_id: str, metrics: Sequence[LinkedMetric]) -> None:
        """The model's metrics that this run measured; those of other runs come with them.

        MLflow logs one to the run, too. So only one that is a point of the run anyway is logged;
        another is kept as a tag of the model.
        """
        from mlflow.entities import LoggedModelTag, Metric

        own = [m for m in metrics if m.run == self.run_id]
        points = {key: self._points_of(key) for key in {m.key for m in own}}
        native = [m for m in own if assets.point_of(m) in points[m.key]]
        rest = [m for m in own if assets.point_of(m) not in points[m.key]]
        entities_ = [
            Metric(
                m.key,
                m.value,
                records.ms_of(m.time),
                m.step,
                model_id=model_id,
                dataset_name=m.dataset,
                dataset_digest=m.digest,
                run_id=self.run_id,
            )
            for m in native
        ]
        with self.connection.calling(f"could not write metrics of the logged model {model_id}"):
            for some in _chunks(entities_, 500):
                self.tracking.log_batch(self.run_id, some, [], [])
            if rest:
                tags = assets.metrics_tag(self.run_id, rest)
                self.tracking.set_logged_model_tags(model_id, [LoggedModelTag(k, v) for k, v in tags.items()])

    def _points_of(self, key: str) -> set[assets.Point]:
        with self.connection.calling(f"could not read {key!r} of run {self.run_id}"):
            history = self.tracking.get_metric_history(self.run_id, key)
        return {assets.point(m.timestamp, m.step, records.metric_value(m.value)) for m in history}

    # --- the end ----------------------------------------------------------------------------------

    def finish(self, run: Run, mark: str | None) -> None:
        from mlflow.entities import RunStatus, RunTag

        self._drain()
        native = records.native_run(run, self.origin)
        self._set_tags(native.tags)
        with self.connection.calling(f"could not finish run {self.run_id}"):
            self.tracking.update_run_info(
                self.run_id, RunStatus.from_string(native.status), native.end_ms, native.name
            )
            if mark is not None and self._tags.get(MARK_KEY) != mark:
                self.tracking.set_tag(self.run_id, RunTag(MARK_KEY, mark))
            if run.deleted:
                self.tracking.delete_run(self.run_id)
        self._close()

    def abort(self) -> None:
        for upload in self._uploads:
            upload.cancel()
        self._uploads.clear()
        self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self.sink.closed(self.run.experiment)


class _Joined(io.RawIOBase):
    """A stream with its beginning, already read, put back."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self.head, self.rest = memoryview(head), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data: Any = self.head[: len(buffer)]
        if len(data):
            self.head = self.head[len(data) :]
        else:
            data = self.rest.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
