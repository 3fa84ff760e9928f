"""Whole cards: what they say, what they admit not to know, and how they age."""

import json
from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import yaml
from outgrow.adapters import batches
from outgrow.cards import (
    Options,
    blocks,
    check,
    compose,
    dataset_card,
    front_matter,
    model_card,
    read_folder,
    write_folder,
)
from outgrow.cards.bom import bill_of_materials
from outgrow.cards.facts import model_facts
from outgrow.cards.model_files import download
from outgrow.errors import Corrupt, LocationError, SchemaVersionError
from outgrow.model import (
    Artifact,
    ArtifactUse,
    CodeVersion,
    DatasetUse,
    Environment,
    LinkedMetric,
    ModelVersion,
    RegisteredModel,
)
from outgrow.reading import resolve_model
from outgrow.testing import records
from outgrow.testing.memory import MemorySource, RunData
from outgrow.testing.memory_source import ArtifactData

SIGNATURE = {
    "inputs": '[{"name": "x", "type": "double"}]',
    "outputs": '[{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}]',
}
MLMODEL = yaml.safe_dump(
    {"flavors": {"python_function": {}, "sklearn": {"pickled_model": "model.pkl"}}, "signature": SIGNATURE}
).encode()
CURVE = [0.5, 0.7, 0.93, 0.8, 0.6]


def made(number, seed=0, lr=0.1, value=0.0, step=2, **changes):
    """A run with a model saved at `step`, whose accuracy is best there."""
    artifact = Artifact(id=f"m{number}", name="clf", type="model", created_by=f"r{number}")
    facts = {
        "id": f"r{number}",
        "artifacts": [ArtifactUse(artifact=artifact.id, role="output", step=step)],
        "params": {"lr": lr, "seed": seed, "epochs": 5},
        "summary": {"eval/accuracy": CURVE[-1] + value},
        "datasets": [
            DatasetUse(name="digits", digest="d1", context="train"),
            DatasetUse(name="digits-test", digest="d2", context="eval"),
        ],
        "code": CodeVersion(commit="a" * 40, repository="https://github.com/acme/digits", dirty=False),
        "environment": Environment(
            python="3.11.9",
            packages={"scikit-learn": "1.5"},
            host="gpu-7",
            seeds={"numpy": seed},
            command=["train.py", "--data", "/home/ada/d.csv"],
        ),
    } | changes
    run = records.run(number, **facts)
    curve = batches.points(["eval/accuracy"] * 5, list(range(5)), [None] * 5, [v + value for v in CURVE])
    files = [
        records.file("MLmodel", MLMODEL),
        records.file("model.pkl", b"pickle"),
        records.file("preprocessor.skops", b"p"),
    ]
    return RunData(run, [curve], files=[records.file("split.json", b"{}")]), ArtifactData(artifact, files)


def history(*pairs, versions=None, tags=None):
    versions = (
        versions
        if versions is not None
        else [{"run": p[0].run.id, "artifact": p[1].artifact.id} for p in pairs]
    )
    model = RegisteredModel(
        name="digits",
        tags={"license": "mit"} | (tags or {}),
        versions=[ModelVersion(model="digits", version=str(i), **v) for i, v in enumerate(versions, 1)],
    )
    return MemorySource(
        [records.experiment()], [p[0] for p in pairs], [p[1] for p in pairs], registry=[model]
    )


@pytest.fixture
def three():
    return history(made(1, lr=0.5, value=-0.1), made(2, seed=1), made(3, seed=2, value=0.02))


def page(card):
    return compose(card).files["README.md"].decode()


def test_results_are_of_the_registered_checkpoint_not_of_the_last_step(three):
    facts = model_facts(three, "digits/2")
    (result,) = [r for r in facts.results if r.metric == "eval/accuracy"]
    assert result.value == 0.93
    assert result.step == 2
    assert "0.93" in page(model_card(three, "digits/2"))
    assert (
        front_matter.load(front_matter.split(page(model_card(three, "digits/2")))[0])["model-index"][0][
            "results"
        ][0]["metrics"][0]["value"]
        == 0.93
    )


def test_seeds_give_an_interval_and_other_params_do_not_count(three):
    (result,) = model_facts(three, "digits/2").results
    assert result.seeds == 2
    assert result.mean == pytest.approx(0.94)
    assert result.half_width == pytest.approx(12.706 * 0.01, rel=1e-3)  # t(0.975, 1) × s/√2
    (alone,) = model_facts(three, "digits/1").results
    assert alone.mean is None


def test_a_linked_metric_is_believed_before_the_curve():
    data, model = made(1)
    metric = LinkedMetric(key="eval/accuracy", value=0.99, step=2, run="r1", dataset="digits-test")
    facts = model_facts(
        history((data, replace(model, artifact=replace(model.artifact, metrics=[metric])))), "digits"
    )
    assert facts.results[0].value == 0.99
    assert facts.results[0].is_checkpoint


def test_without_a_recorded_checkpoint_the_card_says_so():
    card = model_card(history(made(1, step=None)), "digits")
    assert "these are the last values" in page(card)
    assert "checkpoint" in {u.name for u in card.unknown}


def test_the_changelog_compares_with_the_previous_version(three):
    text = page(model_card(three, "digits/2"))
    assert "Changes since version 1" in text
    assert "| parameter | lr | 0.5 | 0.1 |" in text
    assert "(+0.1)" in text
    assert "Changes since" not in page(model_card(three, "digits/1"))


def test_every_number_has_a_source(three):
    card = model_card(three, "digits/2")
    sidecar = json.loads(compose(card).files["card.json"])
    named = {f["name"]: f for f in sidecar["facts"]}
    assert named["result eval/accuracy"]["value"] == 0.93
    assert "run r2, metric eval/accuracy at step 2" in named["result eval/accuracy"]["source"]
    assert named["param lr"]["source"] == "run r2, params"
    assert all(f["source"] for f in sidecar["facts"])


def test_what_is_inferred_says_from_what_and_tags_win(three):
    card = model_card(three, "digits/2")
    assert card.front["pipeline_tag"] == "tabular-classification"
    assert card.front["library_name"] == "sklearn"
    assert "inferred from the signature" in page(card)
    told = model_card(history(made(1), tags={"pipeline_tag": "tabular-regression"}), "digits")
    assert told.front["pipeline_tag"] == "tabular-regression"
    assert "inferred" not in page(told)


def test_training_and_testing_on_the_same_data_is_a_warning():
    both = [
        DatasetUse(name="a", digest="d", context="train"),
        DatasetUse(name="b", digest="d", context="test"),
    ]
    assert "same digest" in page(model_card(history(made(1, datasets=both)), "digits"))
    assert "same digest" not in page(model_card(history(made(1)), "digits"))


def test_nothing_private_is_published_unless_asked_for(three):
    for name, data in compose(model_card(three, "digits/2")).files.items():
        for private in (b"ada", b"gpu-7", b"/home"):
            assert private not in data, name
    shown = page(model_card(three, "digits/2", Options(show=frozenset({"host", "user"}))))
    assert "gpu-7" in shown
    assert "ada" in shown


def test_hostile_names_stay_text():
    evil = {
        "<script>alert(1)</script>": "`x` | y",
        "a|b": "[c](javascript:d)",
        "<!-- outgrow:end summary -->": "--> <b>",
        "token": "hunter2",
    }
    card = model_card(history(made(1, params=evil, name="no: yes\n---\nx")), "digits")
    text = page(card)
    assert "<script>" not in text
    assert "hunter2" not in str(compose(card).files)
    body = front_matter.split(text)[1]
    assert list(blocks.find(body)) == list(card.blocks)
    assert blocks.edited(body) == []


def test_the_unknown_is_admitted_with_its_reason():
    data, model = made(1, params={}, code=None, environment=None, datasets=[])
    card = model_card(
        history((replace(data, files=[]), ArtifactData(model.artifact, [])), tags={"license": ""}), "digits"
    )
    assert {"license", "pipeline_tag", "split", "seed", "code", "environment", "dataset"} <= {
        u.name for u in card.unknown
    }
    assert "More Information Needed" not in page(card)
    assert "**license**: unknown, because" in page(card)


def test_a_run_has_a_card_too_and_a_wrong_name_says_what_there_is(three):
    assert model_card(three, "r2").title == "digits-sweep-002"
    with pytest.raises(LocationError, match="1, 2, 3"):
        model_card(three, "digits/9")
    with pytest.raises(LocationError, match="no alias"):
        model_card(three, "digits@production")
    with pytest.raises(LocationError):
        model_card(three, "nothing")


def test_names_with_slashes_and_at_signs_resolve():
    models = [
        RegisteredModel(name=n, versions=[ModelVersion(model=n, version="1", aliases=["p"])])
        for n in ("a", "a/b", "c@d")
    ]
    assert resolve_model(models, "a/b")[0].name == "a/b"
    assert resolve_model(models, "a/1")[0].name == "a"
    assert resolve_model(models, "c@d")[1].version == "1"
    assert resolve_model(models, "c@d@p")[0].name == "c@d"
    with pytest.raises(LocationError):
        resolve_model(models, "a/b@nope")


# --- ageing -------------------------------------------------------------------------------------


def test_writing_the_same_facts_again_writes_nothing(three, tmp_path):
    card = model_card(three, "digits/2")
    assert write_folder(tmp_path, compose(card).files)
    assert write_folder(tmp_path, compose(model_card(three, "digits/2"), read_folder(tmp_path)).files) == []
    assert check(card, read_folder(tmp_path)) == []


def test_a_new_version_updates_the_facts_and_keeps_the_words(three, tmp_path):
    write_folder(tmp_path, compose(model_card(three, "digits")).files)
    readme = tmp_path / "README.md"
    readme.write_text(
        readme.read_text()
        .replace("## Contact\n", "## Contact\n\nAsk Grace.\n")
        .replace("license: mit", "license: bsd-3-clause # ours")
    )
    newer = history(
        made(1, lr=0.5, value=-0.1),
        made(2, seed=1),
        made(3, seed=2, value=0.02),
        made(4, lr=0.01, value=0.05),
    )
    card = model_card(newer, "digits")
    kinds = {f.kind for f in check(card, read_folder(tmp_path))}
    assert kinds == {"stale"}
    written = compose(card, read_folder(tmp_path))
    assert written.their_keys == ["license"]
    write_folder(tmp_path, written.files)
    text = readme.read_text()
    assert "Ask Grace." in text
    assert "license: bsd-3-clause # ours" in text
    assert "Changes since version 3" in text
    assert "| parameter | lr | 0.1 | 0.01 |" in text
    assert check(card, read_folder(tmp_path)) == []


def test_check_finds_what_is_wrong(three, tmp_path):
    card = model_card(three, "digits/2")
    assert [f.kind for f in check(card, {})] == ["missing"]
    write_folder(tmp_path, compose(card).files)
    readme = tmp_path / "README.md"
    good = readme.read_text()
    assert [f.kind for f in check(card, read_folder(tmp_path), required=["Uses and limits", "license"])] == [
        "incomplete"
    ]
    readme.write_text(good.replace("license: mit", "license: mitt"))
    (found,) = [f for f in check(card, read_folder(tmp_path)) if f.kind == "invalid"]
    assert found.line
    assert "mit" in found.detail
    readme.write_text(good.replace("value: 0.93", "value: 0.99"))
    assert "contradiction" in {f.kind for f in check(card, read_folder(tmp_path))}
    readme.write_text(good)
    assert {f.kind for f in check(model_card(three, "digits/3"), read_folder(tmp_path))} == {
        "contradiction",
        "stale",
    }


def test_the_required_facts_are_a_gate():
    card = model_card(history(made(1), tags={"license": ""}), "digits")
    assert [
        f.detail.split(":")[0] for f in check(card, compose(card).files, required=["license", "split"])
    ] == ["license"]


def test_a_damaged_memory_is_an_error_not_a_fresh_start(three, tmp_path):
    write_folder(tmp_path, compose(model_card(three, "digits")).files)
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(Corrupt):
        compose(model_card(three, "digits"), read_folder(tmp_path))
    (tmp_path / "card.json").write_text('{"format": 99}')
    with pytest.raises(SchemaVersionError):
        compose(model_card(three, "digits"), read_folder(tmp_path))


def test_nothing_is_written_outside_the_folder(tmp_path):
    with pytest.raises(Corrupt):
        write_folder(tmp_path / "card", {"../evil": b""})
    assert list(tmp_path.iterdir()) == []


def test_templates_and_sections_can_be_the_organisation_s_own(three, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "lineage.md.j2").write_text("## Where from\n\n{{ chain|length }} links\n")
    text = page(
        model_card(
            three,
            "digits",
            Options(
                templates=tmp_path,
                sections={"support": "## Support\n\nmail us"},
                front={"license": "apache-2.0"},
            ),
        )
    )
    assert "## Where from" in text
    assert "## Support" in text
    assert "license: apache-2.0" in text


def test_figures_are_png_and_always_the_same_bytes(three):
    one, two = (model_card(three, "digits").files["figures/eval_accuracy.png"] for _ in range(2))
    assert one.startswith(b"\x89PNG")
    assert one == two


def test_the_bill_of_materials_is_valid_cyclonedx(three):
    validation = pytest.importorskip(
        "cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed"
    )
    schema = pytest.importorskip("cyclonedx.schema", reason="cyclonedx-python-lib is not installed")
    bom = bill_of_materials(model_facts(three, "digits"), model_card(three, "digits")).decode()
    assert validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(bom) is None


def test_model_files_are_fetched_and_climbing_names_refused(three, tmp_path):
    found = download(three, "digits", tmp_path)
    assert found["model/model.pkl"].read_bytes() == b"pickle"
    data, model = made(1)
    evil = ArtifactData(model.artifact, [(replace(records.file("x", b"")[0], path="../../evil"), b"x")])
    with pytest.raises(Corrupt):
        download(history((data, evil)), "digits", tmp_path)


# --- data sets ----------------------------------------------------------------------------------


def test_a_data_set_s_card_says_who_read_it_and_with_what_result(three):
    card = dataset_card(three, "digits-test", Options(front={"license": "cc0-1.0"}))
    text = page(card)
    assert "read by 3 runs" in text
    assert "`r3`" in text
    assert "digits version 3" in text
    assert "none is the hash of a file" in text
    assert "croissant.json" not in card.files
    assert front_matter.validate(text, "dataset") == []
    with pytest.raises(LocationError, match="digits-test"):
        dataset_card(three, "digits-tset")


def test_the_data_itself_gives_columns_hashes_and_croissant(three, tmp_path):
    table = pa.table({"pixel": [0.0, 1.0, None], "label": ["a", "b", "b"]})
    pq.write_table(table, tmp_path / "train.parquet")
    pacsv.write_csv(table, tmp_path / "test.csv")
    card = dataset_card(three, "digits", data=tmp_path)
    text = page(card)
    assert card.front["size_categories"] == ["n<1K"]
    assert "| pixel | `double` | 2 | 2 | 0 | 1 | 0.5 |" in text
    assert "| train | 3 |" in text
    assert "## Sample" not in text
    assert "## Sample" in page(dataset_card(three, "digits", data=tmp_path, sample_rows=1))
    distribution = json.loads(card.files["croissant.json"])["distribution"]
    assert {len(f["sha256"]) for f in distribution} == {64}


def test_croissant_is_valid(three, tmp_path):
    croissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    pq.write_table(pa.table({"pixel": [0.0], "label": ["a"]}), tmp_path / "train.parquet")
    card = dataset_card(three, "digits", Options(front={"license": "mit"}), data=tmp_path)
    data = croissant.Dataset(jsonld=json.loads(card.files["croissant.json"]))
    assert list(data.metadata.ctx.issues.errors) == []


def test_damaged_data_is_refused(three, tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    with pytest.raises(Corrupt, match=r"x\.parquet"):
        dataset_card(three, "digits", data=tmp_path)


def test_configs_of_a_person_survive_a_dataset_card(three):
    card = dataset_card(three, "digits")
    files = compose(card).files
    files["README.md"] = files["README.md"].replace(
        b"---\n", b"---\nconfigs:\n- config_name: default\n  data_files: x.csv\n", 1
    )
    assert b"config_name: default" in compose(card, files).files["README.md"]


def test_the_wall_time_is_the_run_s_own():
    data, model = made(1)
    run = replace(data.run, ended_at=data.run.started_at + timedelta(seconds=61))
    assert "| wall time | 61 s |" in page(model_card(history((replace(data, run=run), model)), "digits"))
