"""A card written back to a real MLflow store: as files of the run, as the version's description."""

from dataclasses import replace

import pytest
from click.testing import CliRunner
from outgrow import locations, migrate
from outgrow.adapters.mlflow.annotator import MlflowAnnotator
from outgrow.cards import blocks, compose, model_card, open_annotator, write_back
from outgrow.cli import main
from outgrow.errors import ConfigError, Rejected, Unsupported
from outgrow.reading import find_run, open_location
from outgrow.testing import records
from sql_stores import fresh_sqlite

MODEL = "digits-classifier"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    location = "mlflow:" + fresh_sqlite(tmp_path / "mlflow.db")
    assert migrate.copy(records.history(runs=2), location).exit_code == 0
    return location


def run_card(*arguments):
    return CliRunner().invoke(main, ["card", "model", *arguments], catch_exceptions=False)


def native(location):
    from mlflow import MlflowClient

    return MlflowClient(location.removeprefix("mlflow:"))


def files_of(location, run):
    with open_location(location) as source:
        _, found = find_run(source, run)
        return {f.path: source.open(found, f).read() for f in source.files(found)}


def test_the_card_becomes_files_of_the_run_and_its_summary_the_description(place):
    asked = (place, MODEL, "--write-back", "artifact", "--write-back", "description")
    before = native(place).get_model_version(MODEL, "2").description or ""
    first = run_card(*asked)
    assert first.exit_code == 0, first.output
    card = model_card(place, MODEL)
    here = files_of(place, card.run)
    written = compose(card).files
    assert {p: d for p, d in here.items() if p.startswith("card/")} == {
        f"card/{p}": d for p, d in written.items()
    }
    text = native(place).get_model_version(MODEL, "2").description
    assert text.startswith(before)
    assert f"trained by run `{card.run}`" in text
    assert blocks.without(text) == before
    # The facts of the card are not changed by the card itself, so a second time writes nothing.
    again = run_card(*asked)
    assert again.exit_code == 0
    assert again.stdout == ""
    assert run_card(place, MODEL, "--check").exit_code == 0


def test_what_people_wrote_in_the_description_stays_and_is_no_part_of_what_we_add(place):
    native(place).update_model_version(MODEL, "2", "Ask Grace first.")
    assert run_card(place, MODEL, "--write-back", "description").exit_code == 0
    text = native(place).get_model_version(MODEL, "2").description
    assert text.startswith("Ask Grace first.\n\n<!-- outgrow:begin summary ")
    assert text.count("Ask Grace") == 1
    native(place).update_model_version(MODEL, "2", text.replace("trained by", "made by"))
    refused = run_card(place, MODEL, "--write-back", "description")
    assert refused.exit_code == 1
    assert "made by run" in refused.stderr
    assert "made by" in native(place).get_model_version(MODEL, "2").description


def test_it_is_never_implied_and_a_dry_run_only_says(place):
    before = native(place).get_model_version(MODEL, "2").description
    assert run_card(place, MODEL).exit_code == 0
    said = run_card(
        place, MODEL, "--dry-run", "--write-back", "artifact", "--write-back", "description"
    ).stdout
    assert "would write card/README.md of run" in said
    assert f"would write the description of {MODEL} version 2" in said
    assert native(place).get_model_version(MODEL, "2").description == before
    assert not any(p.startswith("card/") for p in files_of(place, model_card(place, MODEL).run))
    assert run_card(place, MODEL, "--check", "--write-back", "artifact").exit_code == 2


def test_a_description_keeps_to_the_column_s_length(place):
    native(place).update_model_version(MODEL, "2", "w" * 4_900)
    card = model_card(place, MODEL)
    with open_annotator(place, card, ["description"]) as annotator, pytest.raises(Rejected, match="of 5000"):
        write_back(place, card, compose(card), ["description"], annotator)
    native(place).update_model_version(MODEL, "2", "w" * 4_600)
    long = replace(model_card(place, MODEL), description="One line.\n" + "x\n" * 500)
    with open_annotator(place, long, ["description"]) as annotator:
        done = write_back(place, long, compose(long), ["description"], annotator)
    assert len(done.description) <= 5_000
    assert "One line." in done.description


def test_files_that_are_no_card_are_not_replaced(place):
    card = model_card(place, MODEL)
    with MlflowAnnotator(locations.parse(place)) as annotator:
        annotator.attach(card.run, {"card/README.md": b"# mine"})
        with pytest.raises(Rejected, match="did not write"):
            write_back(place, card, compose(card), ["artifact"], annotator)
    assert files_of(place, card.run)["card/README.md"] == b"# mine"


def test_what_cannot_take_a_card_says_so(place, tmp_path):
    card = model_card(place, MODEL)
    with pytest.raises(Unsupported, match="archive takes no card back"):
        open_annotator("archive:history", card, ["artifact"])
    (tmp_path / "mlruns").mkdir()
    with pytest.raises(Unsupported, match="directory of files"):
        open_annotator(f"mlflow:{tmp_path}/mlruns", card, ["artifact"])
    with pytest.raises(ConfigError, match="no version to describe"):
        open_annotator(place, model_card(place, card.run), ["description"])
