"""The same answers from MLflow and from an archive; deleting in a real MLflow store."""

from datetime import timedelta

import pytest
from click.testing import CliRunner
from outgrow import insight, locations, migrate
from outgrow.cli import main
from outgrow.config import Retention
from outgrow.model import Artifact, ArtifactUse, DatasetUse
from outgrow.testing import records
from outgrow.testing.memory_source import ArtifactData
from planted import NOW, curve, registered, run, source

COMPLETE = {"model/weights.safetensors": b"w" * 50, "model/tokenizer.json": b"{}", "split.json": b"{}"}


@pytest.fixture(scope="module")
def held():
    """Five runs: the best is behind an alias, one swapped its data, one has no weights."""
    runs = [
        run(i, params={"lr": 10.0**-i, "seed": 1}, summary={"eval/accuracy": 0.5 + i / 10}) for i in range(4)
    ]
    runs[2] = run(
        2,
        params={"lr": 0.5, "seed": 1},
        datasets=[DatasetUse(name="digits", digest="d2", context="training")],
        summary={"eval/accuracy": 0.7},
    )
    model = ArtifactData(
        Artifact(id="m1", name="clf", type="model", created_by="r0003"),
        [records.file("weights.pt", b"best" * 9)],
    )
    runs[3] = run(
        3,
        artifacts=[ArtifactUse(artifact="m1", role="output", step=2)],
        params={"lr": 0.001, "seed": 1},
        summary={"eval/accuracy": 0.8},
    )
    files = {r.id: COMPLETE for r in runs} | {"r0001": {"split.json": b"{}"}}
    points = {r.id: [curve("eval/accuracy", [0.1, 0.2, r.summary["eval/accuracy"]])] for r in runs}
    return source(
        *runs,
        registry=[
            registered({"run": "r0000"}, {"run": "r0003", "artifact": "m1", "aliases": ["production"]})
        ],
        artifacts=[model],
        files=files,
        points=points,
    )


PLACES = [
    "mlflow:sqlite:///{}/mlflow.db",
    "archive:{}/history",
    "wandb:{}/runs",
    "comet:{}/zips",
    "neptune:{}/queues",
]


@pytest.fixture(scope="module", params=PLACES)
def place(request, held, tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    location = request.param.format(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert migrate.copy(held, location).exit_code == 0
    return location


def test_lists_and_filters(place):
    table = insight.runs(
        place,
        where='metrics["eval/accuracy"] > 0.65',
        sort=["-metrics.eval/accuracy"],
        columns=["name", "params.lr"],
    )
    assert table.to_pylist() == [
        {"name": "digits-3", "params.lr": 0.001},
        {"name": "digits-2", "params.lr": 0.5},
    ]


def test_diffs(place):
    result = insight.diff([f"{place}#digits-0", f"{place}#digits-2"])
    found = [(d.section, d.key) for d in result.differences]
    assert found[0] == ("data", "training: digits")
    assert ("params", "lr") in found


def test_follows_a_data_set_to_the_run_that_read_it(place):
    found = insight.lineage(place, "d2").nodes
    assert {n.label for n in found if n.kind == "run"} == {"digits-2"}


def test_finds_the_run_behind_the_alias(place):
    if place.startswith(("comet:", "neptune:")):
        pytest.skip("the local form of this platform holds no registry")
    result = insight.lineage(place, "digits@production")
    assert "digits-3" in {n.label for n in result.nodes if n.kind == "run"}


def test_audits(place):
    by_name = {a.run.name: a for a in insight.audit(place, deep=True).runs}
    assert "weights" in {f.rule for f in by_name["digits-1"].findings}
    assert by_name["digits-0"].redeployable
    assert by_name["digits-0"].reproducible


def test_shows_and_reports(place):
    shown = insight.show(f"{place}#digits-3")
    assert shown.series[0].last == 0.8
    assert [a.name for a in shown.artifacts] == ["clf"]
    assert insight.best(place, "eval/accuracy").winners[0][0].name == "digits-3"
    assert insight.advise(place, now=NOW).verdict == "stay"


@pytest.mark.parametrize(
    "command",
    [["runs"], ["best", "--metric", "eval/accuracy"], ["audit", "--threshold", "99"], ["advise"], ["retain"]],
)
def test_the_commands_print_a_table_and_json(place, command):
    for extra in ([], ["--json"]):
        done = CliRunner().invoke(main, [command[0], place, *command[1:], *extra], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert done.stdout


def test_retention_deletes_files_in_mlflow_and_nothing_that_must_stay(held, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    location = f"mlflow:sqlite:///{tmp_path}/mlflow.db"
    assert migrate.copy(held, location).exit_code == 0
    stray = tmp_path / "mlartifacts" / "1" / ("f" * 32) / "artifacts" / "stray.bin"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"stray")
    policy = Retention(promotion_window_days=0, keep_last=0, keep_best=0)
    parsed, adapter = locations.load(location)
    with adapter.remover(parsed) as remover:
        plan = insight.retain(location, policy, now=NOW + timedelta(days=900), remover=remover)
        assert {e.name for e in plan.expiring} == {"digits-1", "digits-2"}
        assert plan.orphans == [str(stray)]
        insight.apply_retention(plan, plan.hash, location, policy, remover)
    files = {
        r.name: len(insight.show(f"{location}#{r.id}").files)
        for r in [r for _, r in insight.select(insight.open_location(location))]
    }
    assert (files["digits-1"], files["digits-2"]) == (0, 0)
    assert files["digits-0"] == 3
    assert insight.show(f"{location}#digits-1").series  # its record stays
    assert not stray.exists()
    assert stray.parents[2].exists()
