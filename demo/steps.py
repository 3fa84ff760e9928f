"""The steps of `outgrow demo`, in order. A further leg is one more `Step` in `LEGS`."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator

from .cards import ask, cards
from .legs import LEGS
from .stage import Stage, Step

FIRST = "mlflow:sqlite:///first/mlflow.db"
ARCHIVE = "archive:archive"
LEAST_RUNS = 20
TRAINING_CONFIG = f"""\
[tracking]
to = ["{FIRST}"]
finish_timeout = 0.0   # the sweep does not wait for delivery: the next step does
system_interval = 2.0

[policy]
name = "{{project}}-{{intent}}-{{*}}"
allowed = {{ intent = ["sweep", "summary"] }}
required_metrics = ["eval/accuracy"]
required_artifacts = ["model", "preprocessor", "split", "seed", "environment"]

[[policy.override]]
where = {{ intent = "summary" }}
required_metrics = []
required_artifacts = []
"""
STOPPED_AT = 0.2
"""Share of the runs after which the copy is killed."""


def train(stage: Stage) -> Iterator[str]:
    stage.facts["server"] = stage.mlflow_server("second")  # it starts while the models train
    (stage.folder / "outgrow.toml").write_text(TRAINING_CONFIG, "utf-8")
    done = subprocess.run(
        stage.python(
            "-W", "ignore", "-m", "outgrow.demo.train", *([str(stage.epochs)] if stage.epochs else [])
        ),
        cwd=stage.folder,
        env=stage.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    yield from done.stdout.splitlines()
    (stage.folder / "training.log").write_text(done.stdout + done.stderr, "utf-8")
    stage.expect(done.returncode == 0, f"the training failed: {done.stderr[-500:]}")
    delivery = stage.outgrow_json("sync")
    runs = len(delivery.get("runs", []))
    stage.facts["runs"] = runs
    stage.expect(bool(delivery.get("complete")), "not everything in the journals was delivered")
    stage.expect(runs >= LEAST_RUNS, f"{runs} runs were tracked, not at least {LEAST_RUNS}")
    yield f"{runs} runs in the journal, all delivered to {FIRST}"


def plan(stage: Stage) -> Iterator[str]:
    report = stage.outgrow_json("plan", FIRST, ARCHIVE)
    counts = report.get("counts", {})
    yield _counted(counts)
    stage.expect(counts.get("runs") == stage.facts["runs"], "the plan counts other runs than were tracked")
    stage.expect(counts.get("model_versions", 0) > 1, "no registered model with several versions was found")
    stage.expect(not (stage.folder / "archive").exists(), "the plan wrote to its target")
    yield f"losses: {_losses(report)}"


def archive(stage: Stage) -> Iterator[str]:
    report = stage.outgrow_json("copy", FIRST, ARCHIVE)
    yield _copied(report)
    yield from _check(stage, FIRST, ARCHIVE)


def serve(stage: Stage) -> Iterator[str]:
    stage.facts["url"] = stage.facts["server"]()
    stage.facts["second"] = f"mlflow:{stage.facts['url']}"
    yield f"a second MLflow answers at {stage.facts['url']}, over its own SQLite and artifact folder"


def kill(stage: Stage) -> Iterator[str]:
    """SIGKILL a copy once part of the runs are there."""
    second = stage.facts["second"]
    # One run at a time, so that the middle is not over before it is seen.
    arguments = ("copy", ARCHIVE, second, "--workers", "1")
    stage.console.print(
        f"  $ outgrow {' '.join(arguments)}   (killed on the way)", style="cyan", markup=False
    )
    process = stage.start("-m", "outgrow.cli", *arguments, log="killed-copy.log")
    enough = max(1, int(stage.facts["runs"] * STOPPED_AT))
    while process.poll() is None and _complete(stage) < enough:
        time.sleep(0.02)
    stage.expect(process.poll() is None, "the copy was over before it could be killed: see killed-copy.log")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    there = _complete(stage)
    stage.expect(0 < there < stage.facts["runs"], f"{there} runs were complete when the copy was killed")
    yield f"SIGKILL with {there} of {stage.facts['runs']} runs complete, and one in the middle"


def resume(stage: Stage) -> Iterator[str]:
    second = stage.facts["second"]
    yield _copied(stage.outgrow_json("copy", ARCHIVE, second))
    again = stage.outgrow_json("copy", ARCHIVE, second)
    states = {run["state"] for run in again.get("runs", [])}
    stage.expect(states == {"unchanged"}, f"a repeated copy did not leave everything unchanged: {states}")
    yield "repeated once more, it changed nothing"
    there = _complete(stage)
    stage.expect(
        there == stage.facts["runs"], f"{there} complete runs in the target, not {stage.facts['runs']}"
    )


def check(stage: Stage) -> Iterator[str]:
    yield from _check(stage, ARCHIVE, stage.facts["second"])


def _check(stage: Stage, source: str, target: str) -> Iterator[str]:
    report = stage.outgrow_json("check", source, target, "--deep")
    counts, runs = report.get("counts", {}), report.get("runs", [])
    stage.expect(
        counts == {"=": stage.facts["runs"]} and not report.get("unexpected", 1),
        f"the check of {target} did not find every run equal: {counts}",
    )
    points, files = sum(run["points"] for run in runs), sum(run["files"] for run in runs)
    yield f"{counts.get('=', 0)} runs equal, {points:,} points and {files:,} files compared one by one"
    yield f"expected losses: {report.get('expected', 0)}, unexpected: {report.get('unexpected', '?')}"


def _complete(stage: Stage) -> int:
    """Runs of the second MLflow that carry the completion mark, by looking into its database."""
    from ..adapters.base import MARK_KEY

    path = stage.folder / "second" / "mlflow.db"
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5) as database:
            rows = database.execute("SELECT count(*) FROM tags WHERE key = ?", (MARK_KEY,))
            return int(rows.fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # busy, or not made yet


def _counted(counts: dict[str, int]) -> str:
    words = (
        ("runs", "runs"), ("points", "points"), ("files", "files"), ("artifacts", "logged models"),
        ("registered_models", "registered model"), ("model_versions", "versions"),
    )  # fmt: skip
    return ", ".join(f"{counts.get(key, 0):,} {word}" for key, word in words)


def _copied(report: dict[str, object]) -> str:
    runs = report.get("runs", [])
    assert isinstance(runs, list)
    states: dict[str, int] = {}
    for run in runs:
        states[run["state"]] = states.get(run["state"], 0) + 1
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "nothing copied"


def _losses(report: dict[str, object]) -> str:
    losses = report.get("losses", [])
    assert isinstance(losses, list)
    return "; ".join(loss["detail"] for loss in losses) or "none"


STEPS: list[Step] = [
    Step("Train and track a sweep over two data sets", train),
    Step("Plan the move into an archive", plan),
    Step("Copy into the archive, and check every point and file", archive),
    Step("Meet a second MLflow, served over HTTP", serve),
    Step("Copy from the archive to the server, and kill it in the middle", kill),
    Step("Copy again: it goes on where it was killed", resume),
    Step("Check every point and file on the server", check),
    Step("Ask which run made the champion, and write a report page", ask),
    Step("Write a model card twice, and a dataset card", cards),
    *LEGS,
]
