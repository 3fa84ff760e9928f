"""What every logger and callback shares: the run it logs to, and that it never disturbs a training."""

from __future__ import annotations

import contextlib
import inspect
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import MissingSDK, PolicyViolation
from ...model import flatten, to_builtins
from .. import values
from ..ending import ending
from ..run import Run, active_run
from ..start import start_run
from ..warning import IntegrationWarning, PolicyWarning, warn

_begun: weakref.WeakSet[Run] = weakref.WeakSet()
"""Runs that belong to one logger or callback: no other one takes them for the active run."""


def missing(framework: str, package: str) -> MissingSDK:
    return MissingSDK(f"{framework} is not installed", hint=f"pip install {package}")


class Attachment:
    """The run of one logger or callback: given to it, or begun by it when something is logged first.

    Its own run it also ends, and takes up again where something is logged after that (an
    evaluation after the training). A run that it was given stays open.
    """

    def __init__(self, experiment: str | None, run: Run | None, options: Mapping[str, Any]) -> None:
        """Neither run, experiment nor options: the active run where one is open, else its own.

        Raises `TypeError` for options that `start_run` does not have, or that come with a run.
        """
        unknown = [key for key in options if key not in inspect.signature(start_run).parameters]
        if unknown:
            raise TypeError(f"start_run has no option {', '.join(map(repr, sorted(unknown)))}")
        if run is not None and (experiment is not None or options):
            raise TypeError("give a run to log to, or what to begin one with; not both")
        self.experiment = experiment or "default"
        self.options = dict(options)
        self._joins = experiment is None and not options
        self._run = run
        self._own = False
        self._told: set[str] = set()

    @property
    def run(self) -> Run:
        """The run, begun where it has not. Raises what `start_run` raises."""
        if self._run is None:
            active = active_run() if self._joins else None
            if active is not None and active not in _begun:
                self._run = active
            else:
                self._begin(self.options)
        elif self._own and self._run._finished:
            again = {"id": self._run.id, "capture": False, "params": None, "seed": None}
            self._begin(self.options | again)
        assert self._run is not None
        return self._run

    @property
    def begun(self) -> bool:
        return self._run is not None

    @property
    def run_id(self) -> str:
        """Of the run, which is begun for it, but not taken up again."""
        return (self._run or self.run).id

    def _begin(self, options: dict[str, Any]) -> None:
        self._run = start_run(self.experiment, **options)
        self._own = True
        _begun.add(self._run)

    def renew(self, **options: Any) -> None:
        """Let the next thing logged begin another run of its own, as for the next trial of a search."""
        if self._run is None or self._own:
            self._run = None
            self.options |= options

    # --- logging -----------------------------------------------------------------------------

    def log(self, data: Mapping[str, Any], step: float | None) -> None:
        """Numbers as metrics, text as text series; anything else is left out, with one warning a key."""
        run = self.run
        with self.harmless("log metrics"):
            numbers: dict[str, float] = {}
            for key, value in flatten(data).items():
                if isinstance(value, str):
                    run.log_text(key, value, step=step)
                    continue
                try:
                    numbers[values.check_key(key)] = float(values.number(key, value))
                except (TypeError, ValueError) as error:
                    self._tell(str(key), f"outgrow leaves out {key!r}: {error}")
            if numbers:
                run.log(numbers, step=step)

    def params(self, given: Any) -> None:
        """Params. One that the run has with another value (a resumed training) keeps the first."""
        run = self.run
        with self.harmless("log params"):
            flat = values.params(given)
            kept = {key: value for key, value in flat.items() if not self._differs(run, key, value)}
            run.log_params(kept)
            if changed := sorted(flat.keys() - kept.keys()):
                self._tell("params", f"these params keep the values of the run's beginning: {changed}")

    def _differs(self, run: Run, key: str, value: Any) -> bool:
        return key in run._params and to_builtins(run._params[key]) != to_builtins(value)

    def _tell(self, what: str, message: str) -> None:
        if what not in self._told:
            self._told.add(what)
            warn(message, IntegrationWarning)

    # --- the end -----------------------------------------------------------------------------

    def training(self, holder: object) -> None:
        """A training begins whose failure nobody will tell.

        Its own run counts as failed unless `finish` is called before the program ends, or before
        `holder` (the callback) is no longer used.
        """
        run = self.run
        if self._own:
            run._if_left = "failed"
            weakref.finalize(holder, _dropped, run).atexit = False

    def finish(self, error: BaseException | None = None) -> None:
        """End its own run, as the exception says."""
        if self._run is None or not self._own or self._run._finished:
            return
        self._run._if_left = ending(error)
        with self.harmless("end the run"):
            self._run._end_with(error)

    @contextlib.contextmanager
    def harmless(self, what: str) -> Iterator[None]:
        """A warning instead of an exception: a training must not end over its log or a broken policy."""
        try:
            yield
        except PolicyViolation as violation:
            warn(str(violation), PolicyWarning)
        except Exception as error:  # noqa: BLE001 - whatever it is, the training is worth more
            self._tell(what, f"outgrow could not {what}: {type(error).__name__}: {error}; training goes on")


def _dropped(run: Run) -> None:
    """The callback is gone, and its training did not end."""
    if not run._finished and run._if_left == "failed":
        run.finish("failed", timeout=0)
