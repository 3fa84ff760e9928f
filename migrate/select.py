"""Which experiments and runs a command is about."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..adapters.restored import Restored
from ..errors import ConfigError, Transient
from ..filters import Filter, parse
from ..model import Experiment, Run

_LISTING_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Selection:
    """Experiments by name, id or glob; runs by a filter. Nothing given: everything."""

    experiments: tuple[str, ...] = ()
    where: Filter | None = None

    @classmethod
    def of(cls, experiments: Iterable[str] | None, where: Filter | str | None) -> Selection:
        """Raises `ConfigError` for a filter that is not understood."""
        return cls(tuple(experiments or ()), parse(where) if isinstance(where, str) else where)

    @property
    def everything(self) -> bool:
        return not self.experiments and self.where is None

    def takes(self, experiment: Experiment) -> bool:
        return not self.experiments or any(
            wanted in (experiment.name, experiment.id) or fnmatchcase(experiment.name, wanted)
            for wanted in self.experiments
        )

    def listed(self, source: Restored) -> list[Experiment]:
        """The selected experiments. Raises `ConfigError` where a name matches none."""
        every = list(source.experiments())
        for wanted in self.experiments:
            one = Selection((wanted,))
            if not any(one.takes(experiment) for experiment in every):
                known = ", ".join(sorted(e.name for e in every)[:10]) or "none"
                raise ConfigError(
                    f"no experiment {wanted!r} in {source.location}", hint=f"experiments there: {known}"
                )
        return [experiment for experiment in every if self.takes(experiment)]

    def runs(self, source: Restored, experiment: Experiment) -> Iterator[Run]:
        """The experiment's selected runs. A listing that breaks off is taken up again, each run once."""
        seen: set[str] = set()
        for attempt in range(1, _LISTING_ATTEMPTS + 1):
            try:
                for run in source.runs(experiment, self.where):
                    if run.id not in seen:
                        seen.add(run.id)
                        yield run
                return
            except Transient as error:
                if attempt == _LISTING_ATTEMPTS:
                    raise
                time.sleep(error.retry_after or 0.5 * attempt)
