"""MLflow's plugin: unmodified MLflow code also logs to the other locations of the configuration.

With `MLFLOW_TRACKING_URI=outgrow://` the first MLflow location of `[tracking] to` is the store
that MLflow itself works with, unchanged: what it answers is what its own client would have
answered. Runs, params, metrics, tags and data sets are journalled beside that for the other
locations as they are logged; files and logged models when the run ends. Registered models stay in
MLflow: `outgrow copy` moves them.
"""

from __future__ import annotations

import atexit
import inspect
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ... import config as configuration
from ...adapters.paths import checked
from ...config import Config
from ...errors import ConfigError
from ...locations import parse
from ...model import DatasetUse, Origin, Status
from ..journal import RECORDS
from ..records import Change, Dataset
from ..run import Run
from ..start import adopt
from ..values import number as metric_value
from ..warning import DeliveryWarning, warn

SCHEME = "outgrow"
_RECENT = 10_000
"""Points of a run that are kept in mind, to tell one that is sent again."""
_ENDS = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "killed"}


def _split(config: Config) -> tuple[str, Config]:
    """MLflow's own URI, and the configuration for everything else. Raises `ConfigError`."""
    for text in config.tracking.to:
        location = parse(text)
        if location.platform == "mlflow":
            others = [other for other in config.tracking.to if other != text]
            rest = location.rest
            if rest.startswith("sqlite:///") and not rest.startswith("sqlite:////"):
                rest = f"sqlite:///{config.base / rest.removeprefix('sqlite:///')}"
            return rest, replace(config, tracking=replace(config.tracking, to=others))
    raise ConfigError(
        f"{SCHEME}:// needs an MLflow location in [tracking] to",
        hint='for example: to = ["mlflow:sqlite:///mlflow.db", "wandb:team/project"]',
    )


def tracking_store(store_uri: str, artifact_uri: str | None = None) -> Any:
    """Entry point `mlflow.tracking_store`: MLflow's own store, with every write told to a `Mirror`."""
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry

    uri, others = _split(configuration.read())
    store = _tracking_store_registry.get_store_builder(uri)(store_uri=uri, artifact_uri=artifact_uri)
    if not others.tracking.to:
        return store
    # The store stays of its own class, which parts of MLflow ask for, with our methods before its own.
    store.__class__ = type("Mirrored" + type(store).__name__, (_Mirrored, type(store)), {})
    store._outgrow = Mirror(others)
    # MLflow's asynchronous logging has taken the method as it was before.
    if (queue := getattr(store, "_async_logging_queue", None)) is not None:
        queue._logging_func = store.log_batch
    return store


def registry_store(store_uri: str) -> Any:
    """Entry point `mlflow.model_registry_store`: MLflow's own registry."""
    from mlflow.tracking._model_registry.utils import _get_store_registry

    # Not through MLflow's own getter, which holds a lock while it asks us.
    uri = _split(configuration.read())[0]
    builder = _get_store_registry().get_store_builder(uri)
    if "tracking_uri" in inspect.signature(builder).parameters:
        return builder(store_uri=uri, tracking_uri=uri)
    return builder(store_uri=uri)


def artifact_repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> Any:
    """Entry point `mlflow.artifact_repository` for `mlflow-artifacts:`: these are found by the tracking URI."""
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
    from mlflow.tracking import get_tracking_uri

    uri = tracking_uri or get_tracking_uri()
    if uri.startswith(f"{SCHEME}:"):
        uri = _split(configuration.read())[0]
    return MlflowArtifactsRepository(artifact_uri, tracking_uri=uri, registry_uri=registry_uri)


class _Mirrored:
    """Before the methods of an MLflow store: what succeeded there is told to the mirror."""

    _outgrow: Mirror

    def create_run(self, *arguments: Any, **options: Any) -> Any:
        run = super().create_run(*arguments, **options)  # type: ignore[misc]
        self._outgrow(lambda mirror: mirror.begin(self, run))
        return run

    def log_batch(self, run_id: str, metrics: Any, params: Any, tags: Any) -> Any:
        done = super().log_batch(run_id, metrics, params, tags)  # type: ignore[misc]
        self._outgrow(lambda mirror: mirror.logged(self, run_id, metrics, params, tags))
        return done

    def log_metric(self, run_id: str, metric: Any) -> Any:
        done = super().log_metric(run_id, metric)  # type: ignore[misc]
        self._outgrow(lambda mirror: mirror.logged(self, run_id, [metric]))
        return done

    def log_param(self, run_id: str, param: Any) -> Any:
        done = super().log_param(run_id, param)  # type: ignore[misc]
        self._outgrow(lambda mirror: mirror.logged(self, run_id, params=[param]))
        return done

    def set_tag(self, run_id: str, tag: Any) -> Any:
        done = super().set_tag(run_id, tag)  # type: ignore[misc]
        self._outgrow(lambda mirror: mirror.logged(self, run_id, tags=[tag]))
        return done

    def log_inputs(self, run_id: str, datasets: Any = None, models: Any = None) -> Any:
        done = super().log_inputs(run_id, datasets=datasets, models=models)  # type: ignore[misc]
        self._outgrow(lambda mirror: mirror.read(self, run_id, datasets or []))
        return done

    def update_run_info(self, run_id: str, run_status: Any, *arguments: Any, **options: Any) -> Any:
        done = super().update_run_info(run_id, run_status, *arguments, **options)  # type: ignore[misc]
        self._outgrow(lambda mirror: mirror.ended(self, run_id))
        return done


class Mirror:
    """The journal's side. Whatever goes wrong here is a warning: the caller's MLflow call was fine."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._runs: dict[str, Run] = {}
        self._recent: dict[str, dict[tuple[Any, ...], None]] = {}
        """The last points of each run, oldest first."""
        self._lock = threading.RLock()
        self._again = False

    def __call__(self, tell: Any) -> None:
        try:
            with self._lock:
                tell(self)
        except Exception as error:  # noqa: BLE001 - existing code must run as it did
            warn(
                f"outgrow could not log this beside MLflow: {type(error).__name__}: {error}", DeliveryWarning
            )

    def begin(self, store: Any, native: Any) -> None:
        from ...adapters.mlflow.records import run_record

        info, tags = native.info, native.data.tags
        record = run_record(
            id=info.run_id,
            experiment=store.get_experiment(info.experiment_id).name,
            name=info.run_name,
            status=info.status,
            start_ms=info.start_time,
            end_ms=None,
            user=info.user_id or None,
            artifact_uri=info.artifact_uri,
            params={},
            tags=tags,
            metrics={},
        )
        origin = Origin(platform="mlflow", run_id=info.run_id)
        self._runs[info.run_id] = adopt(replace(record, origin=origin), self._config)

    def _run(self, store: Any, run_id: str) -> Run | None:
        """A run that began here. One that has ended, or began in another process of this folder, is taken
        up again; one that was never told to the mirror stays MLflow's alone, rather than half a run.
        """
        if run_id not in self._runs and (self._config.journal / run_id / RECORDS).is_file():
            self.begin(store, store.get_run(run_id))
            if not self._again:
                self._again = True
                atexit.register(self, lambda _: self._end_again(store))
        return self._runs.get(run_id)

    def _end_again(self, store: Any) -> None:
        """At the end of the program: what was logged to runs after their end ends again."""
        for run_id in [*self._runs]:
            self.ended(store, run_id)

    def logged(
        self,
        store: Any,
        run_id: str,
        metrics: Iterable[Any] = (),
        params: Iterable[Any] = (),
        tags: Iterable[Any] = (),
    ) -> None:
        if (run := self._run(store, run_id)) is None:
            return
        points: dict[tuple[int, int], dict[str, float]] = {}
        for metric in metrics:
            if self._repeated(run_id, metric):
                continue
            row = points.setdefault((metric.step, metric.timestamp), {})
            if metric.key in row:
                run.log({metric.key: metric.value}, step=metric.step, time=metric.timestamp / 1_000)
            else:
                row[metric.key] = metric.value
        for (step, time), row in points.items():
            run.log(row, step=step, time=time / 1_000)
        if given := {param.key: param.value for param in params}:
            run.log_params(given)
        self._tags(run, {tag.key: tag.value for tag in tags})

    def _repeated(self, run_id: str, metric: Any) -> bool:
        """MLflow holds two equal points as one, and its autologging sends some again, soon after."""
        recent = self._recent.setdefault(run_id, {})
        point = (metric.key, metric.step, metric.timestamp, str(metric.value))
        if point in recent:
            return True
        recent[point] = None
        if len(recent) > _RECENT:
            del recent[next(iter(recent))]
        return False

    def _tags(self, run: Run, tags: dict[str, str]) -> None:
        own = {key: value for key, value in tags.items() if not key.startswith(("mlflow.", "outgrow."))}
        if own:
            run.set_tags(own)

    def read(self, store: Any, run_id: str, inputs: Iterable[Any]) -> None:
        from ...model import to_builtins

        if (run := self._run(store, run_id)) is None:
            return
        for one in inputs:
            data, tags = one.dataset, {tag.key: tag.value for tag in one.tags or []}
            use = DatasetUse(
                name=data.name,
                digest=data.digest,
                context=tags.get("mlflow.data.context"),
                source_type=data.source_type,
                source=data.source,
                schema=data.schema,
                profile=data.profile,
            )
            run._append(Dataset(to_builtins(use)))

    def ended(self, store: Any, run_id: str) -> None:
        run = self._runs.get(run_id)
        if run is None:
            return
        native = store.get_run(run_id)
        status = _ENDS.get(str(native.info.status))
        if status is None:
            return
        with TemporaryDirectory(prefix="outgrow-mlflow-") as folder:
            self._files(run, native.info.artifact_uri, Path(folder) / "files")
            outputs = native.outputs.model_outputs if native.outputs else []
            models = [store.get_logged_model(output.model_id) for output in outputs]
            models.sort(key=lambda model: model.creation_timestamp)
            told = sum(word.startswith(f"{run.id}/") for word in run._has)
            for number, model in enumerate(models[told:]):
                place = _downloaded(model.artifact_location, Path(folder) / str(number))
                if place is not None:
                    run.log_model(place, model.name)
        latest = {key: metric_value(key, value) for key, value in native.data.metrics.items()}
        run._append(Change({"summary": latest}))  # of the highest step, whatever was logged last
        del self._runs[run_id]
        self._recent.pop(run_id, None)
        ended = native.info.end_time
        violation = run._end(Status(status), None, None if ended is None else ended * 1_000)
        run.finish(timeout=0)
        if violation is not None:
            raise violation

    def _files(self, run: Run, uri: str, folder: Path) -> None:
        place = _downloaded(uri, folder)
        for entry in sorted(place.iterdir()) if place is not None else ():
            run.log_artifact(entry)


def _downloaded(uri: str, folder: Path) -> Path | None:
    """The files below an artifact URI in a folder of this machine; None where there are none."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    repository = get_artifact_repository(uri)
    if not repository.list_artifacts():
        return None
    if isinstance(repository, LocalArtifactRepository):
        return Path(repository.artifact_dir)
    folder.mkdir()
    try:
        return Path(repository.download_artifacts("", str(folder)))
    except RuntimeError:  # at the end of the program its threads are gone; this takes none
        _fetch(repository, "", folder)
        return folder


def _fetch(repository: Any, path: str, folder: Path) -> None:
    for entry in repository.list_artifacts(path):
        if entry.is_dir:
            _fetch(repository, entry.path, folder)
        else:
            target = folder / checked(entry.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            repository._download_file(entry.path, str(target))
