"""`plan`: what a copy would do. Reads; writes nothing but its answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace

from ..adapters.base import Capabilities, RunStats, Sink, Source
from ..adapters.fit import KeyMap, Loss, fit_experiment, fit_model, fit_run
from ..adapters.fit_stream import STREAMS, Losses
from ..adapters.restored import Restored, restored
from ..errors import CredentialsError, LocationError, OutgrowError, Unavailable
from ..filters import Filter
from ..model import Artifact, Experiment, Run
from .foresee import only_in_origin, possible_losses
from .ids import Ids, origin_of
from .losses import LossTable
from .marks import Mark
from .names import (
    FileNames,
    artifact_aspects,
    artifact_moved,
    concept_of,
    model_name,
    references_moved,
)
from .parallel import ordered_map
from .places import Place, sink_of, source_of, source_of_sink
from .report import Collision, Counts, Failure, Plan, Side
from .select import Selection
from .streams import FittedStream

DEFAULT_WORKERS = 8


def plan(
    source: Place | Source,
    target: Place | Sink,
    *,
    experiments: Iterable[str] | None = None,
    where: Filter | str | None = None,
    deep: bool = False,
    workers: int = DEFAULT_WORKERS,
    progress: Callable[[int], None] | None = None,
) -> Plan:
    """Counts, losses, collisions, what is there already, and how long a copy takes.

    `deep` reads every point, so that no loss is only a possibility. `progress` is called with the
    number of runs looked at. Raises `ConfigError` for a selection that is not understood, and
    what opening either side raises.
    """
    selection = Selection.of(experiments, where)
    with ExitStack() as opened:
        src = restored(source_of(source, opened))
        sink = sink_of(target, opened)
        planner = _Planner(src, sink, selection, deep=deep)
        planner.run(workers, progress)
        return planner.report(_names_there(sink, opened))


@dataclass(kw_only=True)
class _Survey:
    """What was found out about one run."""

    run: Run
    identity: str
    stats: RunStats
    losses: Losses
    present: str
    failure: Failure | None = None


class _Planner:
    def __init__(self, source: Restored, sink: Sink, selection: Selection, *, deep: bool) -> None:
        self.source, self.sink, self.selection, self.deep = source, sink, selection, deep
        self.caps: Capabilities = sink.capabilities
        self.ids = Ids(sink, source.location.platform, {})
        self.losses = LossTable()
        self.counts = Counts()
        self.sums: dict[str, int | None] = dict.fromkeys((f.name for f in fields(RunStats)), 0)
        self.to_copy: dict[str, int] = dict.fromkeys(self.sums, 0)
        self.present: Counter[str] = Counter()
        self.identities: set[str] = set()
        self.failures: list[Failure] = []
        self.experiments: dict[str, str] = {}
        """Name in the source → name in the target."""
        self.models: dict[str, str] = {}

    def run(self, workers: int, progress: Callable[[int], None] | None) -> None:
        self.ids.load(self.sink.copies())
        experiments = self.selection.listed(self.source)
        names = KeyMap(self.caps.experiment_name, (e.name for e in experiments))
        status: Counter[str] = Counter()
        deleted = artifacts = runs = 0
        met: dict[str, Experiment] = {}
        for survey in ordered_map(lambda item: self._survey(*item), self._listed(experiments, met), workers):
            runs += 1
            status[survey.run.status.value] += 1
            deleted += survey.run.deleted
            artifacts += sum(use.role == "output" for use in survey.run.artifacts)
            self.present[survey.present] += 1
            self.identities.add(survey.identity)
            self.losses.add(survey.losses)
            if survey.failure is not None:
                self.failures.append(survey.failure)
            self._add(survey)
            if progress is not None:
                progress(runs)
        for experiment in met.values():
            self.experiments[experiment.name] = names(experiment.name)
            self.losses.add(fit_experiment(experiment, self.caps)[1], runs=0)
        self.counts = Counts(
            experiments=len(met),
            runs=runs,
            by_status=dict(status),
            deleted=deleted,
            series=self.sums["series"],
            points=self.sums["points"],
            texts=self.sums["texts"],
            histograms=self.sums["histograms"],
            files=self.sums["files"],
            file_bytes=self.sums["file_bytes"],
            artifacts=artifacts,
            **self._beyond_runs(experiments),
        )

    def _listed(
        self, experiments: Iterable[Experiment], met: dict[str, Experiment]
    ) -> Iterator[tuple[Run, Experiment]]:
        for listed in experiments:
            empty = True
            try:
                for run in self.selection.runs(self.source, listed):
                    empty = False
                    experiment = self.source.experiment_of(run, listed)
                    met.setdefault(experiment.id, experiment)
                    yield run, experiment
            except (CredentialsError, Unavailable, LocationError):
                raise
            except OutgrowError as error:
                self.failures.append(Failure.of(error))
            if empty and self.selection.where is None:
                met.setdefault(listed.id, listed)

    def _add(self, survey: _Survey) -> None:
        for name in self.sums:
            value = getattr(survey.stats, name)
            total = self.sums[name]
            self.sums[name] = None if value is None or total is None else total + value
            if survey.present in ("new", "begun"):
                self.to_copy[name] += value or 0

    # --- one run ---------------------------------------------------------------------------

    def _survey(self, run: Run, experiment: Experiment) -> _Survey:
        origin = origin_of(run, self.source.location.platform, self.source.location.public)
        losses = Losses()
        survey = _Survey(
            run=run,
            identity=origin.identity,
            stats=RunStats(),
            losses=losses,
            present=self._present(origin.identity),
        )
        try:
            survey.stats = self.source.stats(run)
            fitted = fit_run(run, self.caps)
            losses.add(fitted.losses)
            if self.deep:
                survey.stats = self._read(run, survey.stats, losses)
            else:
                losses.add(possible_losses(survey.stats, self.caps))
            survey.stats = self._files(run, survey.stats, losses)
        except OutgrowError as error:
            survey.failure = Failure.of(error)
        return survey

    def _present(self, identity: str) -> str:
        copy = self.ids.existing(identity)
        if copy is None:
            return "new"
        if copy.home:
            return "home"
        return "complete" if Mark.parse(copy.mark) else "begun"

    def _read(self, run: Run, stats: RunStats, losses: Losses) -> RunStats:
        """Every row of every stream."""
        told: dict[str, int] = {}
        for stream in STREAMS:
            fitted = FittedStream(self.source, stream, run, stats, fit_run(run, self.caps), self.caps)
            for _ in fitted:
                pass
            told[stream] = fitted.fitter.original.count
            if stream == "points":
                told["series"] = len(fitted.fitter.original.by_key)
            if self.caps.native(stream):
                losses.add(fitted.fitter.losses)
            elif told[stream]:
                losses.add([only_in_origin(stream, told[stream])])
        return replace(stats, **told)

    def _files(self, run: Run, stats: RunStats, losses: Losses) -> RunStats:
        """Names and sizes, where the source does not tell or they may have to change."""
        caps = self.caps
        limited = bool(caps.file_path.allowed or caps.file_path.length or not caps.native("references"))
        if stats.files is None or self.deep or (limited and stats.files):
            names = FileNames(self.source.files(run), caps)
            losses.add(names.losses)
            for path, reason in names.refused.items():
                losses.add(
                    [
                        Loss(
                            "dropped",
                            "files",
                            "files with unsafe paths are refused",
                            example=f"{path!r}: {reason}",
                        )
                    ]
                )
            references = sum(file.reference is not None for file in names.files)
            if references and not caps.native("references"):
                losses.add([references_moved(references)])
            stats = replace(
                stats, files=len(names.files), file_bytes=sum(file.size or 0 for file in names.files)
            )
        if run.artifacts:
            losses.add(self._artifacts(run))
        return stats

    def _artifacts(self, run: Run) -> Iterator[Loss]:
        native = self.caps.native
        outputs = [use for use in run.artifacts if use.role == "output"]
        if len(outputs) < len(run.artifacts) and not native("artifact_inputs"):
            detail = "which run used which artifact version: only in the origin record"
            yield Loss("moved", "artifact_inputs", detail, len(run.artifacts) - len(outputs))
        made = {use.artifact for use in outputs}
        if self.deep or not (native("artifacts") and native("aliases") and native("linked_metrics")):
            for artifact in self.source.artifacts(run):
                if artifact.id in made or native("artifact_inputs"):
                    yield from self._artifact(artifact)

    def _artifact(self, artifact: Artifact) -> Iterator[Loss]:
        native = self.caps.native
        if not native("artifacts"):
            yield artifact_moved(artifact)
        else:
            yield from artifact_aspects(artifact, self.caps)
        if self.deep and not native("references"):
            files = self.source.artifact_files(artifact)
            references = sum(file.reference is not None for file in files)
            if references:
                yield references_moved(references)

    # --- beyond runs -----------------------------------------------------------------------

    def _beyond_runs(self, experiments: Iterable[Experiment]) -> dict[str, int]:
        models = versions = traces = datasets = 0
        for model in self.source.registry():
            models += 1
            versions += len(model.versions)
            self.losses.add(fit_model(model, self.caps)[1], runs=0)
            if self.caps.native(concept_of(model)):
                self.models[model.name] = model_name(model, self.caps)
        for experiment in experiments:
            traces += sum(1 for _ in self.source.traces(experiment))
        if traces and not self.caps.native("traces"):
            self.losses.add([Loss("dropped", "traces", "traces: the target has none", traces)], runs=0)
        if self.selection.everything:
            datasets = sum(1 for _ in self.source.evaluation_datasets())
        if datasets and not self.caps.native("evaluation_datasets"):
            detail = "evaluation data sets: the target has none"
            self.losses.add([Loss("dropped", "evaluation_datasets", detail, datasets)], runs=0)
        return {
            "registered_models": models,
            "model_versions": versions,
            "traces": traces,
            "evaluation_datasets": datasets,
        }

    def report(self, there: _Names) -> Plan:
        reading, writing = self.source.throughput, self.sink.throughput
        return Plan(
            source=Side(
                location=str(self.source.location),
                path=reading.path,
                points_per_second=reading.points_per_second,
                advice=reading.advice,
            ),
            target=Side(
                location=str(self.sink.location),
                path=writing.path,
                points_per_second=writing.points_per_second,
                advice=writing.advice,
            ),
            counts=self.counts,
            present={name: self.present[name] for name in ("new", "begun", "complete", "home")},
            losses=self.losses.lines(),
            collisions=list(self._collisions(there)),
            problems=list(self.source.problems()),
            failures=self.failures,
            seconds=self._seconds(),
            deep=self.deep,
        )

    def _collisions(self, there: _Names) -> Iterator[Collision]:
        for name, target in sorted(self.experiments.items()):
            foreign = there.experiments.get(target, set()) - self.identities
            if foreign:
                detail = (
                    f"the target's experiment of that name holds {len(foreign)} other runs; these join them"
                )
                yield Collision(concept="experiments", name=name, detail=detail)
        for name, target in sorted(self.models.items()):
            if foreign := there.models.get(target, set()) - self.identities:
                detail = f"the target's model of that name has {len(foreign)} other versions; these join them"
                yield Collision(concept="registry", name=name, detail=detail)

    def _seconds(self) -> float | None:
        """Reading and writing overlap, so the slower side counts. None where the bulk is not known."""
        if self.sums["points"] is None:
            return None
        runs = self.present["new"] + self.present["begun"]
        sides = [
            self.to_copy["points"] / side.points_per_second
            + (self.to_copy["files"] / side.files_per_second)
            + (self.to_copy["file_bytes"] / side.bytes_per_second)
            + runs / side.runs_per_second
            for side in (self.source.throughput, self.sink.throughput)
        ]
        return max(sides)


@dataclass(kw_only=True)
class _Names:
    """Names in use in the target → identities of the runs behind them."""

    experiments: dict[str, set[str]]
    models: dict[str, set[str]]


def _names_there(sink: Sink, opened: ExitStack) -> _Names:
    """What the target holds now; nothing, where it does not exist yet or cannot be read."""
    names = _Names(experiments={}, models={})
    try:
        target = opened.enter_context(source_of_sink(sink))
        by_id: dict[str, str] = {}
        for experiment in target.experiments():
            for run in target.runs(experiment):
                identity = origin_of(run, target.location.platform, "").identity
                by_id[run.id] = identity
                names.experiments.setdefault(experiment.name, set()).add(identity)
        for model in target.registry():
            names.models[model.name] = {
                by_id.get(v.run or "", f"version {v.version}") for v in model.versions
            }
    except LocationError:
        return _Names(experiments={}, models={})  # nothing is there yet
    return names
