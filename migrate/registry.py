"""Copying what is not a run: the registry, traces, evaluation data sets. After the runs."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..adapters.base import LIVE_MARK
from ..adapters.fit import Loss, fit_key, fit_model
from ..errors import OutgrowError
from ..model import Experiment, ModelVersion, Origin, RegisteredModel, digest
from .context import Context
from .engine import Engine
from .ledger import Ledger
from .losses import LossTable
from .names import concept_of
from .report import Failure


@dataclass(kw_only=True)
class Beyond:
    """What was copied beside runs."""

    models: int = 0
    versions: int = 0
    omitted: list[str] = field(default_factory=list)
    traces: int = 0
    evaluation_datasets: int = 0
    failures: list[Failure] = field(default_factory=list)


class BeyondRuns:
    """What was written is remembered in the ledger, so that a second copy asks the target for nothing."""

    def __init__(self, engine: Engine, ledger: Ledger, losses: LossTable, *, filtered: bool) -> None:
        self.context: Context = engine.context
        self.engine, self.ledger, self.losses, self.filtered = engine, ledger, losses, filtered
        self.source, self.sink, self.caps = engine.source, engine.sink, engine.caps
        self.where = (str(self.source.location), str(self.sink.location))
        self.done = Beyond()

    def copy(self) -> Beyond:
        for step in (self._registry, self._traces, self._evaluation_datasets):
            try:
                step()
            except OutgrowError as error:
                self.done.failures.append(Failure.of(error))
        return self.done

    # --- registry --------------------------------------------------------------------------

    @cached_property
    def _here(self) -> dict[tuple[str, str], list[ModelVersion]]:
        """The target's versions, by kind and name of the model."""
        with closing(self.context.open_target()) as target:
            return {(model.kind, model.name): model.versions for model in target.registry()}

    def _home(self, model: RegisteredModel, version: ModelVersion) -> bool:
        """Whether the version was registered in the target itself: it is left alone there.

        One without a run says nothing of where it is from: the same facts under the same number
        are taken for the same version. A run that was logged live to both sides may have been
        registered on one only.
        """
        if version.run is None:
            return any(
                native.run is None
                and native.version == version.version
                and (
                    native.created_at == version.created_at
                    or (native.tags, native.description) == (version.tags, version.description)
                )
                for native in self._here.get((model.kind, model.name), ())
            )
        twin = self.context.ids.twin(version.run)
        if twin is None or not twin.home:
            return False
        if twin.mark != LIVE_MARK:
            return True
        here = self._here.get((model.kind, fit_key(model.name, self.caps.model_name)), ())
        return any(version.run == twin.run_id for version in here)

    def _registry(self) -> None:
        known = self.ledger.remembered(*self.where, "model")
        for model in self.source.registry():
            if not self.caps.native(concept_of(model)):
                self.losses.add(fit_model(model, self.caps)[1], runs=0)
                continue
            versions = [v for v in model.versions if not self._home(model, v) and self._there(model, v)]
            if model.versions and not versions:
                continue
            fitted, losses = fit_model(
                replace(model, versions=[self._placed(v) for v in versions]), self.caps
            )
            self.losses.add(losses, runs=0)
            now = digest(fitted)
            if known.get(f"{model.kind}/{model.name}") == now and not self.engine.again:
                continue
            try:
                self.sink.register(fitted)
            except OutgrowError as error:
                self.done.failures.append(Failure.of(error))
                continue
            self.done.models += 1
            self.done.versions += len(fitted.versions)
            self.ledger.remember(*self.where, "model", {f"{model.kind}/{model.name}": now})

    def _there(self, model: RegisteredModel, version: ModelVersion) -> bool:
        """Whether what the version points at is in the target."""
        what = f"{model.name} version {version.version}"
        if version.run is not None and self.context.ids.run(version.run) is None:
            self.done.omitted.append(f"{what}: its run {version.run} is not in the target")
            return False
        if version.run is None and self.filtered:
            self.done.omitted.append(f"{what}: it has no run, and only some runs were asked for")
            return False
        return True

    def _placed(self, version: ModelVersion) -> ModelVersion:
        """The version with the target's ids; its files among those of the run, where they are loose there."""
        run = self.context.ids.run(version.run)
        artifact = version.artifact and self.context.ids.artifact(version.artifact)
        path = version.path
        if version.artifact is not None and artifact is None:
            folder = self.context.ids.loose(version.artifact)
            path = folder if not path else f"{folder}/{path}" if folder else path
        return replace(version, run=run, artifact=artifact, path=path)

    # --- traces and evaluation data sets ---------------------------------------------------

    def _traces(self) -> None:
        known = self.ledger.remembered(*self.where, "trace")
        platform, location = self.source.location.platform, self.source.location.public
        for experiment in self.engine.experiments:
            new: dict[str, str] = {}
            dropped = 0
            for trace in self.source.traces(experiment):
                if not self.caps.native("traces"):
                    dropped += 1
                    continue
                if trace.id in known:
                    continue
                run = self.context.ids.run(trace.run)
                if self.filtered and run is None:
                    continue
                self.context.check_stop()
                placed = replace(trace, experiment=self._experiment_id(experiment), run=run)
                origin = Origin(platform=platform, run_id=trace.id, location=location)
                new[trace.id] = self.sink.trace(placed, origin)
                self.done.traces += 1
            self.ledger.remember(*self.where, "trace", new)
            if dropped:
                self.losses.add([Loss("dropped", "traces", "traces: the target has none", dropped)], runs=0)

    def _experiment_id(self, experiment: Experiment) -> str:
        return self.engine.experiment_id(experiment)[1]

    def _evaluation_datasets(self) -> None:
        if self.filtered:
            return
        known = self.ledger.remembered(*self.where, "evaluation_dataset")
        by_id = {experiment.id: experiment for experiment in self.engine.experiments}
        for dataset in self.source.evaluation_datasets():
            if not self.caps.native("evaluation_datasets"):
                detail = "evaluation data sets: the target has none"
                self.losses.add([Loss("dropped", "evaluation_datasets", detail)], runs=0)
                continue
            now = digest(dataset)
            if known.get(dataset.id) == now:
                continue
            here = [self._experiment_id(by_id[e]) for e in dataset.experiments if e in by_id]
            self.sink.evaluation_dataset(replace(dataset, experiments=here))
            self.done.evaluation_datasets += 1
            self.ledger.remember(*self.where, "evaluation_dataset", {dataset.id: now})
