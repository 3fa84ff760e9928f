"""`check`: read the target back and compare it with the source."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from ..adapters.base import Capabilities, Copy, Sink, Source
from ..adapters.fit import KeyMap, fit_experiment, fit_run
from ..adapters.restored import Restored, restored
from ..errors import CredentialsError, LocationError, OutgrowError, Unavailable
from ..filters import Filter
from ..model import Experiment, Run
from .compare import Comparison, Pair
from .compare_registry import compare_registry
from .ids import origin_of
from .losses import LossTable
from .marks import Mark
from .parallel import ordered_map
from .places import Place, sink_of, sink_of_source, source_of, source_of_sink
from .report import CheckReport, Difference, Failure, RunCheck, Sign
from .select import Selection

DEFAULT_WORKERS = 4


def check(
    source: Place | Source,
    target: Place | Sink | Source,
    *,
    deep: bool = False,
    experiments: Iterable[str] | None = None,
    where: Filter | str | None = None,
    workers: int = DEFAULT_WORKERS,
    progress: Callable[[RunCheck], None] | None = None,
) -> CheckReport:
    """Compare every selected run with its copy, through the target's own reading side.

    By default: records, final values, counts, file names and sizes; points only where those
    differ. `deep`: every point, every file's SHA-256, and the origin records. Raises
    `ConfigError` for a selection that is not understood, and what opening either side raises.
    """
    started = time.monotonic()
    selection = Selection.of(experiments, where)
    with ExitStack() as opened:
        src = restored(source_of(source, opened))
        if isinstance(target, Source):
            back, sink = target, sink_of_source(target, opened)
        else:
            sink = sink_of(target, opened)
            back = opened.enter_context(source_of_sink(sink))
        checker = _Checker(src, restored(back), sink, selection, deep=deep)
        checker.run(workers, progress)
        return checker.report(time.monotonic() - started)


@dataclass(frozen=True)
class _Twin:
    run: Run
    experiment: Experiment


class _Checker:
    def __init__(
        self, source: Restored, target: Restored, sink: Sink, selection: Selection, *, deep: bool
    ) -> None:
        self.source, self.target, self.selection, self.deep = source, target, selection, deep
        self.caps: Capabilities = sink.capabilities
        self.copies: dict[str, Copy] = {copy.identity: copy for copy in sink.copies()}
        self.twins: dict[str, _Twin] = {}
        self.doubled: set[str] = set()
        for identity, twin in self._twins():
            if identity in self.twins:
                self.doubled.add(identity)
            self.twins[identity] = twin
        self.experiments: dict[str, tuple[Experiment, Experiment]] = {}
        self.experiment_differences: list[Difference] = []
        self.identities: dict[str, str] = {}
        self.checks: list[RunCheck] = []
        self.ready: list[str] = []
        self.registry: list[Difference] = []
        self.failures: list[Failure] = []
        self.losses = LossTable()
        self.names = KeyMap(self.caps.experiment_name)

    def _twins(self) -> Iterator[tuple[str, _Twin]]:
        """The target's runs by identity, as its source gives them."""
        raw = self.target.source
        for experiment in raw.experiments():
            for run in raw.runs(experiment):
                yield self._identity(run, self.target), _Twin(run, experiment)

    @staticmethod
    def _identity(run: Run, of: Restored) -> str:
        return origin_of(run, of.location.platform, of.location.public).identity

    def run(self, workers: int, progress: Callable[[RunCheck], None] | None) -> None:
        experiments = self.selection.listed(self.source)
        self.names = KeyMap(self.caps.experiment_name, (e.name for e in experiments))
        for result in ordered_map(lambda item: self._check(*item), self._listed(experiments), workers):
            self.checks.append(result)
            if progress is not None:
                progress(result)
        if self.selection.everything:
            self._extra()
        try:
            for experiment, twin in self.experiments.values():
                self.experiment_differences += self._compare_experiment(experiment, twin)
            self.registry = compare_registry(
                self.source,
                self.target.source,
                self.caps,
                {run: self.twins[i].run.id for run, i in self.identities.items() if i in self.twins},
                {run for run, i in self.identities.items() if self._home(i)},
                filtered=not self.selection.everything,
            )
        except OutgrowError as error:
            self.failures.append(Failure.of(error))

    def _listed(self, experiments: Iterable[Experiment]) -> Iterator[tuple[Run, Experiment]]:
        # All identities first: a child may be listed before its parent.
        listed = []
        for experiment in experiments:
            try:
                for run in self.selection.runs(self.source, experiment):
                    self.identities[run.id] = self._identity(run, self.source)
                    listed.append((run, self.source.experiment_of(run, experiment)))
            except (CredentialsError, Unavailable, LocationError):
                raise
            except OutgrowError as error:
                self.failures.append(Failure.of(error))
        yield from listed

    def _check(self, run: Run, experiment: Experiment) -> RunCheck:
        identity = self.identities[run.id]
        twin = self.twins.get(identity)
        sign: Sign = "="
        differences: list[Difference] = []
        points = files = 0
        if twin is None:
            sign, differences = "-", [Difference(sign="-", what="run", detail="it is not in the target")]
        elif self._home(identity):
            pass  # recorded in the target itself: there is nothing to compare it with
        else:
            try:
                compared = Comparison(
                    self._pair(run, experiment, twin), self.source, self.target, self.caps, deep=self.deep
                )
                differences = self._completion(identity) + compared.compare()
                points, files = compared.points, compared.files
            except Exception as error:  # noqa: BLE001 - one run's failure must not stop the others
                failure = Failure.of(error)
                sign, differences = "!", [Difference(sign="!", what=failure.type, detail=failure.message)]
            if sign == "=" and any(not difference.expected for difference in differences):
                sign = "*"
            self.losses.add(fit_run(run, self.caps).losses)
        if sign == "=" and self.deep and run.status.terminal and self._complete(identity):
            self.ready.append(run.id)
        return RunCheck(
            identity=identity,
            source_run=run.id,
            name=run.name,
            experiment=experiment.name,
            run_id=twin.run.id if twin else None,
            sign=sign,
            differences=differences,
            points=points,
            files=files,
        )

    def _pair(self, run: Run, experiment: Experiment, twin: _Twin) -> Pair:
        self.experiments.setdefault(experiment.id, (experiment, twin.experiment))
        parent = self.identities.get(run.parent or "", f"{self.source.location.platform}:{run.parent}")
        there = self.twins.get(parent) if run.parent else None
        fitted, losses = fit_experiment(experiment, self.caps)
        del fitted
        self.losses.add(losses, runs=0)
        return Pair(
            run=run,
            experiment=experiment,
            twin=twin.run,
            twin_experiment=twin.experiment,
            experiment_name=self.names(experiment.name),
            parent=there.run.id if there else None,
        )

    def _home(self, identity: str) -> bool:
        """Whether the run was recorded in the target itself."""
        if (copy := self.copies.get(identity)) is not None:
            return copy.home
        twin = self.twins.get(identity)
        return twin is not None and twin.run.origin is None

    def _compare_experiment(self, experiment: Experiment, twin: Experiment) -> Iterator[Difference]:
        what = f"experiments/{experiment.name}"
        if self.caps.native("experiment_tags"):
            expected = not self.caps.holds["experiment_tags"].lossless
            for key in experiment.tags.keys() - twin.tags.keys():
                yield Difference(sign="-", what=f"{what}/tags/{key}", expected=expected)
            if experiment.description and not twin.description:
                yield Difference(sign="-", what=f"{what}/description", expected=expected)
        if self.deep and self.caps.native("traces") and self.selection.everything:
            want = sum(1 for _ in self.source.traces(experiment))
            have = sum(1 for _ in self.target.source.traces(twin)) if want else 0
            if have < want:
                yield Difference(sign="-", what=f"{what}/traces", detail=f"{want} expected, {have} found")

    def _complete(self, identity: str) -> bool:
        copy = self.copies.get(identity)
        mark = Mark.parse(copy.mark) if copy else None
        return mark is not None and not mark.refused

    def _completion(self, identity: str) -> list[Difference]:
        if identity in self.doubled:
            return [Difference(sign="+", what="run", detail="it is in the target more than once")]
        copy = self.copies.get(identity)
        if copy is not None and copy.mark is not None:
            return []
        return [
            Difference(sign="*", what="completion", detail="the copy was begun and not finished: copy again")
        ]

    def _extra(self) -> None:
        """Copies from this source whose run is no longer there."""
        here = set(self.identities.values())
        for identity, twin in self.twins.items():
            origin = twin.run.origin
            if origin is None or identity in here or origin.location != self.source.location.public:
                continue
            gone = Difference(sign="+", what="run", detail="it is no longer in the source", expected=True)
            self.checks.append(
                RunCheck(
                    identity=identity,
                    source_run=origin.run_id,
                    name=twin.run.name,
                    experiment=twin.experiment.name,
                    run_id=twin.run.id,
                    sign="+",
                    differences=[gone],
                )
            )

    def report(self, seconds: float) -> CheckReport:
        found = [difference for one in self.checks for difference in one.differences]
        found += self.experiment_differences + self.registry
        return CheckReport(
            source=str(self.source.location),
            target=str(self.target.location),
            deep=self.deep,
            runs=self.checks,
            counts=dict(Counter(one.sign for one in self.checks)),
            experiments=self.experiment_differences,
            registry=self.registry,
            losses=self.losses.lines(),
            unexpected=sum(not difference.expected for difference in found),
            expected=sum(difference.expected for difference in found),
            deletion_ready=self.ready,
            failures=self.failures,
            seconds=seconds,
        )
