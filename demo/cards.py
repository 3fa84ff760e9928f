"""The demo's questions and cards: answered from the first MLflow, written into folders."""

from __future__ import annotations

from collections.abc import Iterator

from .stage import Stage

FIRST = "mlflow:sqlite:///first/mlflow.db"
MODEL = "digits-classifier"
WORDS = "Ask the demo's author: this sentence is a person's, and stays."


def ask(stage: Stage) -> Iterator[str]:
    found = stage.outgrow_json("lineage", FIRST, f"{MODEL}@champion")
    made_by = {node["label"] for node in found.get("nodes", []) if node["kind"] == "run"}
    stage.expect(bool(made_by), "the champion's run was not found")
    yield f"the champion came from {', '.join(sorted(made_by))}"
    best = stage.outgrow_json("best", FIRST, "--metric", "eval/accuracy", "--experiment", "digits")
    winners = best.get("winners", [])
    stage.expect(bool(winners), "no run won")
    if winners:
        yield f"the best of {best['runs']} runs: {winners[0][0]['name']}, accuracy {winners[0][1]:.3f}"
    stage.outgrow("report", FIRST, "--metric", "eval/accuracy", "--out", "report.html")
    yield "report.html: everything on one page, which opens without a network"


def cards(stage: Stage) -> Iterator[str]:
    write = ("--license", "mit", "--out", "cards/model")
    stage.outgrow("card", "model", FIRST, f"{MODEL}/2", *write)
    readme = stage.folder / "cards" / "model" / "README.md"
    text = readme.read_text("utf-8")
    readme.write_text(text.replace("## Contact\n", f"## Contact\n\n{WORDS}\n"), "utf-8")
    stage.outgrow("card", "model", FIRST, f"{MODEL}@champion", *write)
    text = readme.read_text("utf-8")
    stage.expect("Changes since version 2" in text, "the newer card has no changelog")
    stage.expect(WORDS in text, "a person's words were lost")
    stage.outgrow("card", "model", FIRST, f"{MODEL}@champion", *write, "--check")
    stage.outgrow("card", "dataset", FIRST, "digits", "--license", "cc-by-4.0", "--out", "cards/dataset")
    yield "cards/model: the champion's card, with what changed since version 2, and a person's words kept"
    yield "cards/dataset: who read the data set, in which version, with what results"
