"""Configuration and policy: what is refused, what is flagged, and in which words."""

from __future__ import annotations

import dataclasses
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from outgrow import config as configuration
from outgrow.cli import main
from outgrow.cli.tracking import STARTING_FILE
from outgrow.config import Advise, Cards, Config, Override, Policy, Retention, Tracking
from outgrow.errors import ConfigError, PolicyViolation
from outgrow.policy import check_finish, check_start
from outgrow.tracking.start import start_run
from outgrow.tracking.warning import PolicyWarning

Settings = Callable[..., Config]
TAGS = {"project": "digits", "owner": "ml", "intent": "sweep"}


def test_the_nearest_file_counts(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[tool.outgrow.tracking]\nto = ["archive:project"]\n')
    assert configuration.read(start=deep).tracking.to == ["archive:project"]
    assert configuration.read(start=deep).base == tmp_path
    (tmp_path / "a" / "outgrow.toml").write_text('[tracking]\nto = ["archive:own"]\n')
    assert configuration.read(start=deep).tracking.to == ["archive:own"]
    assert configuration.read(start=deep).journal == tmp_path / "a" / ".outgrow" / "journal"


def test_a_pyproject_of_others_is_passed_by(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    assert (
        configuration.find(tmp_path / "sub") is None
        or configuration.find(tmp_path) != tmp_path / "pyproject.toml"
    )


def test_the_environment_has_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outgrow.toml").write_text('[tracking]\nto = ["archive:file"]\n')
    monkeypatch.setenv("OUTGROW_TO", "archive:one, archive:two archive:three")
    assert configuration.read().tracking.to == ["archive:one", "archive:two", "archive:three"]
    monkeypatch.setenv("OUTGROW_TO", "none")
    assert configuration.read().tracking.to == []
    (tmp_path / "other.toml").write_text("[retention]\npromotion_window_days = 7\n")
    monkeypatch.setenv("OUTGROW_CONFIG", str(tmp_path / "other.toml"))
    assert configuration.read().retention.promotion_window_days == 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tracking]\ntoo = []\n", "did you mean 'to'"),
        ("[trackin]\n", "did you mean 'tracking'"),
        ("[tracking]\nto = 3\n", "tracking.to"),
        ('[tracking]\ndelivery = "thread"\n', "tracking.delivery"),
        ("[policy]\nlevels = { name = 'fatal' }\n", "policy.levels"),
        ("[policy]\nlevels = { nam = 'off' }\n", "policy.levels"),
        ("[[policy.override]]\nwhen = {}\n", "did you mean 'where'"),
        ("policy = 3\n", "must be a table"),
        ("[tracking\n", "cannot read"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "outgrow.toml").write_text(text)
    with pytest.raises(ConfigError, match=words) as told:
        configuration.read()
    assert "outgrow.toml" in str(told.value)


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        configuration.read(tmp_path / "missing.toml")


def test_init_writes_every_setting(tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(main, ["init"]).exit_code == 0
    written = (tmp_path / "outgrow.toml").read_text()
    assert configuration.read().tracking.to == ["mlflow:sqlite:///mlflow.db"]
    assert runner.invoke(main, ["init"]).exit_code == 2
    assert runner.invoke(main, ["init", "--show"]).stdout == written == STARTING_FILE
    for table in (Tracking, Policy, Retention, Advise, Cards):
        for setting in dataclasses.fields(table):
            if setting.name != "override":
                assert f"{setting.name} =" in written
    # What is commented out can be used as it stands.
    alive = "\n".join(
        line.removeprefix("# ")
        for line in written.splitlines()
        if " = " in line or line.lstrip("# ").startswith("[")
    )
    tomllib.loads(alive.replace('to = ["mlflow:sqlite:///mlflow.db"]\n', "", 1))


POLICY = Policy(
    name="{project}-{intent}-{*}",
    allowed={"intent": ["sweep", "baseline"]},
    required_metrics=["eval/*"],
    required_artifacts=["model", "split"],
    override=[Override(where={"intent": "baseline"}, required_artifacts=[])],
)


def test_rules_at_the_start() -> None:
    assert check_start(POLICY, "digits-sweep-003", TAGS) == []
    rules = [
        (v.rule, v.missing) for v in check_start(POLICY, "mine", {"project": "digits", "intent": "play"})
    ]
    assert [rule for rule, _ in rules] == ["required_tags", "allowed", "name"]
    assert "'owner'" in rules[0][1]
    violation = check_start(POLICY, "digits-sweep-3", TAGS | {"owner": ""})[0]
    assert str(violation) == (
        '[policy] required_tags: the tag \'owner\' is missing; add tags={"owner": "…"} to start_run'
    )
    assert check_start(POLICY, "digits.sweep.3", TAGS)  # a pattern's characters stand for themselves


def test_rules_at_the_end() -> None:
    assert check_finish(POLICY, TAGS, ["eval/f1"], ["model", "split"]) == []
    missing = check_finish(POLICY, TAGS, ["train/loss"], ["model"])
    assert [(v.rule, v.fix) for v in missing] == [
        ("required_metrics", 'add run.log({"eval/*": …})'),
        ("required_artifacts", "add run.log_split(train=indices, test=indices)"),
    ]
    assert [v.rule for v in check_finish(POLICY, TAGS | {"intent": "baseline"}, [], [])] == [
        "required_metrics"
    ]


def test_levels() -> None:
    quiet = dataclasses.replace(POLICY, levels={"required_metrics": "off", "required_artifacts": "error"})
    assert {v.level for v in check_finish(quiet, TAGS, [], [])} == {"error"}
    assert check_finish(dataclasses.replace(POLICY, level="off"), TAGS, [], []) == []


def test_an_error_at_the_start_leaves_nothing(settings: Settings) -> None:
    config = settings(policy=dataclasses.replace(POLICY, level="error"))
    with pytest.raises(PolicyViolation, match="required_tags"):
        start_run("digits", config=config, capture=False)
    assert not config.journal.exists()


def test_an_error_at_the_end_is_raised_after_everything_is_kept(settings: Settings, target: Any) -> None:
    config = settings(policy=dataclasses.replace(POLICY, level="error"))
    run = start_run("digits", config=config, capture=False, tags=TAGS)
    run.log({"eval/f1": 0.5})
    with pytest.raises(PolicyViolation, match="'model' is missing"):
        run.finish()
    target.deliver(run.folder)
    assert target.points() == [("eval/f1", 0, 0.5)]
    assert target.run.tags["policy.status"] == "violated"
    assert "model" in target.run.tags["policy.violations"]
    assert target.run.status.value == "finished"


def test_a_warning_tags_the_run(settings: Settings, target: Any) -> None:
    config = settings(policy=POLICY)
    run = start_run("digits", config=config, capture=False, tags=TAGS)
    assert run.name is not None
    assert run.name.startswith("digits-sweep-")  # made after the pattern
    with pytest.warns(PolicyWarning) as told:
        run.finish()
    assert [Path(one.filename) for one in told] == [Path(__file__)]
    target.deliver(run.folder)
    assert target.run.tags["policy.status"] == "violated"


def test_a_run_that_keeps_the_policy(settings: Settings, target: Any, tmp_path: Path) -> None:
    rules = dataclasses.replace(
        POLICY, required_artifacts=["model", "split", "seed", "dataset", "notes/*", "environment", "preprocessor"], level="error"
    )  # fmt: skip
    (tmp_path / "w").write_bytes(b"w")
    config = settings(policy=rules)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with start_run("digits", config=config, tags=TAGS, seed=1) as run:
            run.log({"eval/f1": 0.5})
            run.log_model(tmp_path / "w", preprocessor=tmp_path / "w")
            run.log_split(train=[0], test=[1])
            run.use_dataset([1.0, 2.0], "numbers")
            run.log_bytes("x", "notes/a.txt")
    target.deliver(run.folder)
    assert target.run.tags["policy.status"] == "met"


def test_what_was_logged_before_a_restart_counts(settings: Settings, target: Any, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"w")
    config = settings(policy=dataclasses.replace(POLICY, level="error"))
    first = start_run("digits", id="again", config=config, capture=False, tags=TAGS)
    first.log({"eval/f1": 0.5})
    first.log_model(tmp_path / "w")
    first.log_split(train=[0], test=[1])
    first.finish("killed")
    with start_run("digits", id="again", config=config, capture=False, tags=TAGS) as run:
        run.log({"eval/f1": 0.6})
    target.deliver(run.folder)
    assert target.run.tags["policy.status"] == "met"


def test_a_run_that_failed_is_not_held_to_its_end(settings: Settings, target: Any) -> None:
    config = settings(policy=dataclasses.replace(POLICY, level="error"))
    with pytest.raises(RuntimeError), start_run("digits", config=config, capture=False, tags=TAGS) as run:
        raise RuntimeError("boom")
    target.deliver(run.folder)
    assert target.run.tags["policy.status"] == "met"
