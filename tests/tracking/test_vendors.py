"""Live runs on servers of W&B, Comet and Neptune (emulated), sent by the vendors' own clients."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comet_server import running
from emulators import neptune_legacy, neptune_scale
from emulators.wandb import WandbServer
from outgrow.adapters.batches import Fingerprint
from outgrow.adapters.fit_stream import STREAMS, fingerprint
from outgrow.adapters.restored import restored
from outgrow.config import Config
from outgrow.locations import open_source
from outgrow.model import Run
from outgrow.tracking.start import start_run
from outgrow.tracking.sync import sync


@pytest.fixture(params=["wandb", "comet", "neptune 2", "neptune 3"])
def location(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    with ExitStack() as stack:
        if request.param == "wandb":
            server = stack.enter_context(WandbServer())
            for name, value in server.environment(tmp_path / "home").items():
                monkeypatch.setenv(name, value)
            yield "wandb:ada/live"
        elif request.param == "comet":
            stack.enter_context(running())
            yield "comet:team/live"
        else:
            # The vendor's clients make several for each connection; the servers here speak plain http.
            monkeypatch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
            monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
            kind = neptune_legacy if request.param.endswith("2") else neptune_scale
            neptune = stack.enter_context(kind.Server("ws/project"))
            monkeypatch.setenv("NEPTUNE_API_TOKEN", neptune.token)
            yield f"neptune:ws/project?outgrow.api={request.param[-1]}"


def told(location: str) -> tuple[Run, dict[str, Any], dict[str, bytes]]:
    """The one run there, as it was logged: its record, its rows and its files."""
    with open_source(location) as source:
        source = restored(source)
        (run,) = (run for experiment in source.experiments() for run in source.runs(experiment))
        rows = {}
        for stream in STREAMS:
            seen = Fingerprint()
            for batch in getattr(source, stream)(run):
                fingerprint(stream, batch, seen)
            rows[stream] = seen.by_key
        return run, rows, {file.path: source.open(run, file).read() for file in source.files(run)}


def test_a_run_arrives_once_and_whole(location: str, settings: Callable[..., Config], tmp_path: Path) -> None:
    exact = f"archive:{tmp_path / 'exact'}"
    config = settings(to=[location, exact])
    with start_run(
        "digits", "first", config=config, capture=False, params={"lr": 0.1, "n": {"layers": [64, 32]}, "no": None}
    ) as run:  # fmt: skip
        for step in range(200):
            run.log({"loss": 1 / (step + 1), "accuracy": step / 200}, step=step)
        run.log({"loss": float("nan")}, step=200)
        run.log_text("sample", "a cat", step=1)
        run.log_histogram("weights", *reversed(np.histogram(np.arange(9.0), bins=3)), step=1)
        run.set_tags({"owner": "ml"})
        run.log_bytes(b"hello", "notes/hello.txt")
    assert run.folder is not None
    for _ in range(2):
        (report,) = sync([run.folder], config)
        assert report.delivered, report
        for cursor in (run.folder / "sinks").iterdir():  # as on a machine that never delivered it
            cursor.unlink()
    (here, here_rows, here_files), (wanted, wanted_rows, wanted_files) = told(location), told(exact)
    for name in ("name", "status", "params", "tags", "started_at", "ended_at"):
        assert getattr(here, name) == getattr(wanted, name), name
    assert here_rows == wanted_rows
    assert here_files == wanted_files
