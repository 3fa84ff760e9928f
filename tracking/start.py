"""`start_run`: configuration, policy, context, journal, delivery, in this order."""

from __future__ import annotations

import atexit
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import config as configuration
from ..config import Config
from ..errors import PolicyViolation
from ..model import Run as RunRecord
from ..model import to_builtins
from ..policy import example_name
from . import (
    journal,
    notebook,
    ranks,
    report,  # noqa: F401 - imported at exit it would change the exit code of a program that Ctrl-C ended
    values,
)
from .ending import ending
from .fold import Fold, News
from .journal import Journal
from .policing import check_start
from .records import JOURNAL_FORMAT, Start
from .run import Run, _open
from .spawn import ensure_delivery, public_locations
from .warning import JournalWarning, warn


def start_run(
    experiment: str = "default",
    name: str | None = None,
    *,
    tags: Mapping[str, Any] | None = None,
    labels: Sequence[str] = (),
    params: Any = None,
    description: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    parent: Run | str | None = None,
    seed: int | None = None,
    id: str | None = None,
    to: Sequence[str] | str | None = None,
    config: Config | str | os.PathLike[str] | None = None,
    capture: bool = True,
) -> Run:
    """Begin a run, or take one up again by its `id`. Use it with `with`, or call `finish`.

    - `experiment`: the named set that it belongs to (W&B, Comet, Neptune: project or group).
    - `parent`: the run, or its id, that this one is a child of.
    - `seed`: seeds `random`, and NumPy and torch where they are imported already, and records it.
    - `to`: locations instead of those of the configuration; `config`: a file or a `Config`.
    - `capture=False` records neither code, environment nor system metrics.

    Raises `ConfigError`, `LocationError`, `PolicyViolation`, and `TypeError` or `ValueError` for
    bad arguments. Once the run has begun, nothing but a caller's mistake raises.
    """
    settings = config if isinstance(config, Config) else configuration.read(_path(config))
    if to is not None:
        targets = [to] if isinstance(to, str) else list(to)
        settings = replace(settings, tracking=replace(settings.tracking, to=targets))
    locations = list(public_locations(settings))
    values.check_key(experiment, "experiment")
    given_tags = values.tags(tags or {})
    given_params = values.params(params if params is not None else {})
    run_id = _check_id(id) if id is not None else _new_id()
    if name is None and settings.policy is not None and settings.policy.name is not None:
        name = example_name(settings.policy.name, given_tags, run_id[-8:])
    check_start(settings.policy, name, given_tags)
    shared = settings.tracking.ranks == "all"
    if shared and ranks.local_rank():
        return _joined(ranks.join(settings, run_id, name), capture)
    if not shared and ranks.rank():
        return Run(run_id, name, None, settings)

    folder, settings = _folder(settings, run_id)
    run = Run(run_id, name, _journal(folder), settings)
    before = _taken_up(run, folder) if id is not None else None
    record = RunRecord(
        id=run_id,
        experiment=before.experiment if before else experiment,
        name=None if name is None else values.text(name),
        started_at=values.moment(values.now_us()),
        group=group,
        job_type=job_type,
        parent=parent.id if isinstance(parent, Run) else parent,
        description=None if description is None else values.text(description),
        tags=given_tags,
        labels=[values.check_key(label, "label") for label in labels],
    )
    diff = None
    if capture:
        record, diff = _captured(record, settings, seed)
    elif seed is not None:
        from .capture.environment import set_seed

        run._seeds = set_seed(seed)
    run._tags |= given_tags
    run._environment, run._code = record.environment, record.code
    if record.environment is not None:
        run._seeds |= record.environment.seeds
    _begin(run, record, locations)
    if given_params:
        run.log_params(given_params)
    if run._seeds and record.environment is None:
        run.log_seeds(**run._seeds)
    _keep_context(run, record, diff)
    ensure_delivery(settings)
    if shared:
        ranks.announce(settings, run_id)
    if capture:
        _sample(run)
    notebook.began(run)
    return run


def _sample(run: Run, prefix: str = "") -> None:
    interval = run._config.tracking.system_interval
    if interval > 0 and run._journal is not None:
        from .capture.system import Sampler

        run._sampler = Sampler(run._journal.append, interval, prefix)


def _joined(run: Run, capture: bool) -> Run:
    if capture and isinstance(run, ranks.RankRun):
        _sample(run, run.prefix)
    return run


def adopt(record: RunRecord, settings: Config) -> Run:
    """Log a run that another tracker began, under the identity that it has there (`record.origin`).

    A run whose journal is here already is taken up again.
    """
    folder, settings = _folder(settings, _check_id(record.id))
    run = Run(record.id, record.name, _journal(folder), settings)
    _taken_up(run, folder)
    _open.remove(run)  # its end is the other tracker's to tell
    _begin(run, record, list(public_locations(settings)))
    ensure_delivery(settings)
    return run


def _begin(run: Run, record: RunRecord, locations: list[str]) -> None:
    host, process, now = socket.gethostname(), os.getpid(), values.now_us()
    run._append(Start(JOURNAL_FORMAT, to_builtins(record), locations, host, process, now))


def _path(given: Any) -> str | None:
    return None if given is None else os.fspath(given)


def _new_id() -> str:
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"


def _check_id(given: str) -> str:
    if not given.replace("-", "").replace("_", "").isalnum() or not given.isascii() or len(given) > 100:
        raise ValueError(f"a run id has up to 100 letters, digits, - and _, unlike {given!r}")
    return given


def _folder(settings: Config, run_id: str) -> tuple[Path, Config]:
    """The journal's folder; elsewhere, with a warning, where the configured place cannot be written."""
    root = settings.journal
    try:
        journal.make_folder(root / run_id)
        os.utime(root)  # tells a running delivery process to look again
        return root / run_id, settings
    except OSError as error:
        other = Path(tempfile.gettempdir()) / f"outgrow-journal-{os.getuid()}"
        other.mkdir(mode=0o700, exist_ok=True)
        if other.is_symlink() or other.stat().st_uid != os.getuid():  # somebody else's: not trusted
            other = Path(tempfile.mkdtemp(prefix="outgrow-journal-"))
        (other / run_id).mkdir(exist_ok=True)
        warn(
            f"outgrow cannot write its journal below {root} ({error.strerror}); it goes to {other} instead. "
            f"Deliver later with: outgrow sync {other}",
            JournalWarning,
        )
        return other / run_id, replace(settings, tracking=replace(settings.tracking, journal=str(other)))


def _journal(folder: Path) -> Journal:
    opened = Journal(folder)
    ignore = folder.parent / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", "utf-8")
    return opened


def _taken_up(run: Run, folder: Path) -> RunRecord | None:
    """Go on where an earlier process of this run stopped, as far as its journal is here."""
    fold = Fold()
    for record, _ in journal.read(folder):
        if record is not None:
            fold.add(record, News())
    if fold.run is None:
        return None
    run._next_step = int(fold.highest_step) + 1
    run._params = dict(fold.run.params)
    run._tags = dict(fold.run.tags)
    run._keys = set(fold.run.summary)
    run._has = set(fold.has)
    run.name = run.name or fold.run.name
    return fold.run


def _captured(record: RunRecord, settings: Config, seed: int | None) -> tuple[RunRecord, str | None]:
    from .capture.code import code
    from .capture.environment import environment, known_seeds, set_seed, user

    seeds = known_seeds() | (set_seed(seed) if seed is not None else {})
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    folder = Path(main).resolve().parent if main else Path.cwd()
    version, diff = code(folder, settings.tracking.diff_limit)
    surroundings = environment(settings.tracking.environment, seeds)
    return replace(record, code=version, environment=surroundings, user=user()), diff


def _keep_context(run: Run, record: RunRecord, diff: str | None) -> None:
    """The context as files too: a lock file that pip reads, and the uncommitted difference."""
    if record.environment is not None:
        lock = "".join(f"{name}=={version}\n" for name, version in record.environment.packages.items())
        run.log_bytes(lock, "environment/requirements.txt")
        facts = {k: v for k, v in to_builtins(record.environment).items() if k != "packages"}
        import json

        run.log_bytes(json.dumps(facts, indent=2, sort_keys=True), "environment/environment.json")
    if diff and record.code is not None and record.code.diff is not None:
        run.log_bytes(diff, record.code.diff)


@atexit.register
def _at_exit() -> None:
    """End what was left open: as the exception says that ended the program, if one did."""
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    if notebook.inside() is not None:
        error = None  # some cell's, which did not end the program
    for run in [*reversed(_open)]:
        try:
            run.finish(run._if_left if error is None else ending(error))
        except PolicyViolation as violation:
            print(f"outgrow: {violation}", file=sys.stderr)
