"""`Run`: one run being logged. Every call appends to the journal and returns; nothing waits for a network."""

from __future__ import annotations

import mimetypes
import os
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from ..errors import PolicyViolation
from ..model import Artifact, CodeVersion, DatasetUse, Environment, File, Status, Value, to_builtins
from . import values
from .ending import Ending, ending
from .journal import Journal
from .records import Change, Dataset, Finish, Histogram, Made, Params, Stored, Tags, Text
from .warning import DeliveryWarning, JournalWarning, warn

if TYPE_CHECKING:
    from ..config import Config
    from .capture.system import Sampler
    from .report import Report

_open: list[Run] = []
_alive: weakref.WeakSet[Run] = weakref.WeakSet()


class Run:
    """Made by `outgrow.start_run`. Safe in threads and forked processes.

    Steps: without `step` a call gets the number after the highest so far, beginning at 0. A given
    step is kept as it is on every platform that can: repeated, decreasing, negative or fractional.
    """

    def __init__(self, run_id: str, name: str | None, journal: Journal | None, config: Config) -> None:
        self.id = run_id
        self.name = name
        self._journal = journal
        self._config = config
        self._keys: set[str] = set()
        self._next_step = 0
        self._params: dict[str, Value] = {}
        self._tags: dict[str, str] = {}
        self._has: set[str] = set()
        """Kinds (`model`, `split`…) and paths of what was logged, for the policy."""
        self._seeds: dict[str, int] = {}
        self._environment: Environment | None = None
        self._code: CodeVersion | None = None
        self._lock = threading.Lock()
        self._finished = False
        self._if_left: Ending = "finished"
        """Its status where the program ends without an error, and without `finish`."""
        self._sampler: Sampler | None = None
        self._pid = os.getpid()
        _alive.add(self)
        _open.append(self)

    @property
    def folder(self) -> Path | None:
        """The journal's folder; None where this process does not log (a rank that is not the main one)."""
        return self._journal.folder if self._journal else None

    # --- series ------------------------------------------------------------------------------

    def log(
        self, data: Mapping[str, Any], *, step: float | None = None, time: datetime | float | None = None
    ) -> None:
        """Log numbers: metric key → value. All of one call share a step and a time.

        `step` defaults to the next one, `time` (a `datetime`, or seconds since 1970) to now.
        Raises `TypeError` or `ValueError` for what is no number, key, step or time.
        """
        now = values.microseconds(time)
        known = self._keys
        try:
            for key, value in data.items():
                # The last test is true for NaN and the infinities.
                if type(value) is not float or key not in known or value - value != 0.0:
                    data = values.metrics(data)
                    known.update(data)
                    break
        except AttributeError:
            data = values.metrics(data)  # raises what is wrong
        self._append(("m", self._step(step), now, data))

    def log_text(
        self, key: str, text: str, *, step: float | None = None, time: datetime | float | None = None
    ) -> None:
        """Log a point of a text series (a prediction, a note)."""
        if not isinstance(text, str):
            raise TypeError(f"text {key!r} must be text, not {type(text).__name__}")
        self._append(
            Text(values.check_key(key), self._step(step), values.microseconds(time), values.text(text))
        )

    def log_histogram(
        self,
        key: str,
        edges: Sequence[float],
        counts: Sequence[float],
        *,
        step: float | None = None,
        time: datetime | float | None = None,
    ) -> None:
        """Log a point of a histogram series, as `numpy.histogram` gives it: one edge more than counts."""
        if len(edges) != len(counts) + 1:
            raise ValueError(f"histogram {key!r} has {len(counts)} counts and must have one edge more")
        values.check_key(key)
        now = values.microseconds(time)
        numbers = values.numbers(edges), values.numbers(counts)
        self._append(Histogram(key, self._step(step), now, *numbers))

    def _step(self, step: float | None) -> int | float:
        if step is None:
            with self._lock:
                step = self._next_step
                self._next_step = step + 1
            return step
        if type(step) is not int or not -(2**62) < step < 2**62:
            step = values.step(step)
        if step >= self._next_step:
            self._next_step = int(step) + 1
        return step

    # --- facts -------------------------------------------------------------------------------

    def log_params(self, params: Any) -> None:
        """Log hyperparameters: a mapping (nested ones are joined with `/`), dataclass or namespace.

        Raises `ValueError` where a param already has another value.
        """
        flat = values.params(params)
        for key, value in flat.items():
            if key in self._params and to_builtins(self._params[key]) != to_builtins(value):
                raise ValueError(f"param {key!r} is {self._params[key]!r} already; a param is set once")
        if flat:
            self._append(Params(to_builtins(flat)))
        self._params.update(flat)

    def set_tags(self, tags: Mapping[str, Any] | None = None, /, *labels: str) -> None:
        """Set key → text tags, and add plain labels. A repeated key replaces."""
        given = values.tags(tags or {})
        self._append(Tags(given, [values.check_key(label, "label") for label in labels]))
        self._tags.update(given)

    def log_seeds(self, **seeds: int) -> None:
        """Record the seeds in use, such as `log_seeds(numpy=0, split=7)`."""
        every = self._seeds | {name: int(seed) for name, seed in seeds.items()}
        self._append(Change({"seeds": every}))
        self._seeds = every

    # --- files, data, models -----------------------------------------------------------------

    def log_artifact(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        step: float | None = None,
        kind: str | None = None,
    ) -> None:
        """Log a file, or a folder with all that is in it, as it is now.

        `name`: its path within the run; the file's own name by default. `kind` is a word of the
        policy that it answers to (`split`, `preprocessor`…). Raises `OSError` where it cannot be read.
        """
        source = Path(path)
        if not source.exists():
            raise FileNotFoundError(f"there is no file or folder {source}")
        base = values.file_path(name or source.name)
        files = values.files_below(source) if source.is_dir() else [("", source)]
        for relative, file in files:
            self._store(f"{base}/{relative}" if relative else base, file, kind, step)
        self._has.update({base} | ({kind} if kind else set()))

    def log_bytes(self, data: bytes | str, name: str, *, kind: str | None = None) -> None:
        """Log bytes, or text as UTF-8, as the file `name`."""
        self._store(values.file_path(name), data.encode() if isinstance(data, str) else data, kind)
        self._has.update({name} | ({kind} if kind else set()))

    def _file(self, path: str, source: Path | bytes, step: float | None = None) -> File | None:
        """Keep a file in the journal; None (and a warning) where the disk refuses it."""
        if self._journal is None:
            return None
        try:
            sha256, size = self._journal.store(source)
        except OSError as error:
            if isinstance(source, Path) and not os.access(source, os.R_OK):
                raise
            warn(f"outgrow could not keep {path!r}: {error}; training goes on", JournalWarning)
            return None
        media_type = mimetypes.guess_type(path)[0]
        now = values.moment(values.now_us())
        at = None if step is None else float(values.step(step))
        return File(path=path, size=size, sha256=sha256, media_type=media_type, step=at, created_at=now)

    def _store(
        self, path: str, source: Path | bytes, kind: str | None = None, step: float | None = None
    ) -> None:
        if (file := self._file(path, source, step)) is not None:
            self._append(Stored(to_builtins(file), kind))

    def use_dataset(
        self,
        data: Any,
        name: str,
        *,
        context: str = "training",
        version: str | None = None,
        source: str | None = None,
    ) -> DatasetUse:
        """Record a data set that the run reads: its digest, schema, rows; not its contents.

        Takes pandas, NumPy, Arrow and Hugging Face data, a file or folder, a tuple or mapping of these.
        """
        from .datasets import describe

        use = describe(data, name, context=context, version=version, source=source)
        self._append(Dataset(to_builtins(use)))
        self._has.add("dataset")
        return use

    def log_split(self, **parts: Any) -> None:
        """Record which rows went where: `log_split(train=indices, test=indices)`.

        The indices become the file `split/indices.json`, with a digest of each part in the
        dataset uses. Raises `ValueError` where a row is in two parts.
        """
        from .datasets import describe_split

        uses, content = describe_split(parts)
        for use in uses:
            self._append(Dataset(to_builtins(use)))
        self.log_bytes(content, "split/indices.json", kind="split")

    def log_model(
        self,
        model: Any,
        name: str = "model",
        *,
        preprocessor: Any = None,
        input_example: Any = None,
        register: str | None = None,
        aliases: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        format: Literal["auto", "cloudpickle"] = "auto",
        trusted: Iterable[str] = (),
    ) -> None:
        """Log a model as an artifact version: weights, preprocessor or tokenizer, signature, example.

        Safe formats only (skops, safetensors, the library's own), unless `format="cloudpickle"`
        is asked for. `trusted`: further types that skops may load. `register`: also make it the
        next version of that registered model, with `aliases`. Raises `TypeError` for a model that
        has no safe format.
        """
        from .models import save

        if self._journal is None:
            return
        values.file_path(name)
        with save(
            model,
            preprocessor=preprocessor,
            input_example=input_example,
            format=format,
            trusted=list(trusted),
        ) as saved:
            files = [self._file(path, file) for path, file in saved.files]
        number = sum(1 for word in self._has if word.startswith(f"{self.id}/"))
        artifact = Artifact(
            id=f"{self.id}/{number}/{name}",
            name=name,
            type="model",
            tags=values.tags(tags or {}),
            params=values.params(params if params is not None else self._params),
            metadata=saved.metadata,
            status="READY",
            created_by=self.id,
            created_at=values.moment(values.now_us()),
        )
        registered = None
        if register is not None:
            registered = {"name": values.check_key(register, "model"), "aliases": list(aliases)}
        stored = [to_builtins(file) for file in files if file is not None]
        self._append(Made(to_builtins(artifact), stored, register=registered))
        self._has |= {"model", artifact.id} | (
            {"preprocessor"} if saved.metadata.get("preprocessor") else set()
        )

    # --- the end -----------------------------------------------------------------------------

    def finish(
        self,
        status: Ending = "finished",
        *,
        timeout: float | None = None,
        exit_code: int | None = None,
    ) -> Report:
        """End the run and wait up to `timeout` seconds for its delivery; says what is undelivered.

        Repeating it only waits again. Raises `PolicyViolation` where a rule of level `error` is
        broken and the run ends well; the run is delivered all the same, tagged as a violation.
        """
        from .report import Report, wait

        if self._journal is None or os.getpid() != self._pid:
            self._leave()
            return Report(())
        violation = None if self._finished else self._end(Status(status), exit_code)
        timeout = self._config.tracking.finish_timeout if timeout is None else timeout
        report = wait(self._journal.folder, self._config, timeout)
        if report.undelivered and timeout > 0 and self._config.tracking.delivery != "off":
            warn(f"run {self.name or self.id}: {report}", DeliveryWarning)
        if violation is not None:
            raise violation
        return report

    def _end(self, status: Status, code: int | None, at: int | None = None) -> PolicyViolation | None:
        from .policing import check_end

        assert self._journal is not None
        if self._sampler:
            self._sampler.stop()
        violation = check_end(self, status)
        self._append(Finish(status, at or values.now_us(), code))
        self._journal.sync()
        if lost := self._journal.lost + self._journal.waiting:
            warn(
                f"run {self.name or self.id}: {lost:,} records are lost, because the disk never took them",
                JournalWarning,
            )
        self._leave()
        self._journal.close()
        return violation

    def _leave(self) -> None:
        self._finished = True
        if self in _open:
            _open.remove(self)

    def _append(self, record: Any) -> None:
        if self._finished:
            raise RuntimeError(f"run {self.name or self.id} has ended; nothing more can be logged to it")
        if self._journal is not None:
            self._journal.append(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not self._finished:
            self._end_with(error)

    def _end_with(self, error: BaseException | None, *, timeout: float | None = None) -> None:
        status = ending(error)
        if status == "failed" and error is not None:
            self.log_text("console/exception", f"{type(error).__name__}: {error}")
        self.finish(status, timeout=timeout, exit_code=1 if status == "failed" else None)

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to another process of this machine, it logs to the same run, and never ends it."""
        return _attached, (self.id, self.name, self.folder, self._config, self._next_step)

    def __repr__(self) -> str:
        return f"<outgrow run {self.name or self.id}{' (ended)' if self._finished else ''}>"


def _attached(run_id: str, name: str | None, folder: Path | None, config: Config, next_step: int) -> Run:
    run = Run(run_id, name, Journal(folder) if folder else None, config)
    run._next_step, run._pid = next_step, -1
    _open.remove(run)
    return run


def active_run() -> Run | None:
    """The innermost run that this process has open."""
    return _open[-1] if _open else None


def log(data: Mapping[str, Any], *, step: float | None = None, time: datetime | float | None = None) -> None:
    """`Run.log` of the active run. Raises `RuntimeError` where there is none."""
    if not _open:
        raise RuntimeError("there is no active run; begin one with outgrow.start_run(...)")
    _open[-1].log(data, step=step, time=time)


def _after_fork() -> None:
    for run in _alive:
        run._lock = threading.Lock()
        run._sampler = None
        if run._journal is not None:
            run._journal.after_fork()


os.register_at_fork(after_in_child=_after_fork)
