"""Minfx's unmodified client against the 2.x emulator, and our reading of what it logged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from emulators.neptune_legacy import Server
from outgrow.locations import open_source

CODE = """
import minfx.neptune_v2 as minfx
run = minfx.init_run(project="ws/project", capture_hardware_metrics=False, capture_stdout=False,
    capture_stderr=False, capture_traceback=False, git_ref=False, source_files=[])
run["params/lr"] = 1e-5
run["loss"].extend([1.0, 0.5], steps=[0.5, 1.5], timestamps=[1700000000.0, 1700000001.0])
run["sys/tags"].add(["x"])
run["text"].upload(minfx.types.File.from_content("hello", extension="txt"))
run.stop()
"""


def test_what_minfx_logged_is_read(legacy: Server, tmp_path: Path) -> None:
    legacy.runs.clear()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NEPTUNE_", "MINFX_"))}
    tokens = dict.fromkeys(("NEPTUNE_API_TOKEN", "MINFX_API_TOKEN"), legacy.token)
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=tmp_path,
        env=kept | tokens,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with open_source("neptune:ws/project") as source:
        (run,) = (run for e in source.experiments() for run in source.runs(e))
        assert run.params["params/lr"] == 1e-5
        assert run.labels == ["x"]
        (batch,) = source.points(run)
        assert batch.column("step").to_pylist() == [0.5, 1.5]
        assert [t.timestamp() for t in batch.column("time").to_pylist()] == [1_700_000_000, 1_700_000_001]
        assert [source.open(run, f).read() for f in source.files(run)] == [b"hello"]
