"""Publishing through the unmodified huggingface_hub client, to a Hub on loopback."""

import os

import pytest
from emulators import hub as hub_emulator

# Read by huggingface_hub when it is imported.
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from huggingface_hub import HfApi, ModelCard
from outgrow.cards import model_card
from outgrow.cards.blocks import CardConflict
from outgrow.cards.publish import StaleParent, push
from outgrow.errors import ConfigError, CredentialsError, Unavailable
from outgrow.testing import records


@pytest.fixture
def hub():
    with hub_emulator.serve() as running:
        yield running


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token=hub_emulator.TOKEN)


@pytest.fixture(scope="module")
def cards():
    source = records.history(runs=3)
    return {n: model_card(source, f"digits-classifier/{n}") for n in (1, 2, 3)}


def text(hub, repo="ada/digits", revision="main", kind="model", path="README.md"):
    return hub.repos[kind, repo].head(revision).files[path].decode()


def test_a_card_is_one_commit_with_its_sidecar_and_figures(hub, api, cards):
    done = push(cards[2], "ada/digits", create=True, api=api)
    repo = hub.repos["model", "ada/digits"]
    assert repo.private
    assert len(repo.branches["main"]) == 2
    assert {"README.md", "card.json", "figures/eval_accuracy.png"} <= repo.head("main").files.keys()
    assert done.created
    assert done.url.endswith(repo.head("main").oid)
    assert ModelCard(text(hub)).data.metrics == ["accuracy"]


def test_pushing_the_same_card_again_commits_nothing(hub, api, cards):
    push(cards[2], "ada/digits", create=True, api=api)
    again = push(cards[2], "ada/digits", api=api)
    assert [p for p in again.changed if not p.endswith(".png")] == []
    texts = [c.files["README.md"] for c in hub.repos["model", "ada/digits"].branches["main"][1:]]
    assert len(set(texts)) == 1


def test_a_new_version_keeps_what_people_wrote(hub, api, cards):
    push(cards[2], "ada/digits", create=True, api=api)
    repo = hub.repos["model", "ada/digits"]
    files = dict(repo.head("main").files)
    files["README.md"] = files["README.md"].replace(
        b"## Contact\n", b"## Contact\n\nAsk Grace. \xf0\x9f\x98\x80\n"
    )
    hub.commit(repo, "main", "a person's edit", files)
    push(cards[3], "ada/digits", api=api)
    assert "Ask Grace. 😀" in text(hub)
    assert "Changes since version 2" in text(hub)


def test_a_dry_run_shows_the_difference_and_changes_nothing(hub, api, cards):
    push(cards[2], "ada/digits", create=True, api=api)
    before = hub.repos["model", "ada/digits"].head("main").oid
    shown = push(cards[3], "ada/digits", dry_run=True, api=api)
    assert "+digits-classifier version 3" in shown.diff
    assert hub.repos["model", "ada/digits"].head("main").oid == before
    assert push(cards[3], "ada/other", create=True, dry_run=True, api=api).created
    assert ("model", "ada/other") not in hub.repos


def test_a_pull_request_leaves_the_head_alone(hub, api, cards):
    push(cards[2], "ada/digits", create=True, api=api)
    before = hub.repos["model", "ada/digits"].head("main").oid
    done = push(cards[3], "ada/digits", pull_request=True, api=api)
    assert "/discussions/1" in done.url
    assert hub.repos["model", "ada/digits"].head("main").oid == before
    assert "version 3" in text(hub, revision="refs/pr/1")


def test_a_commit_in_between_is_not_overwritten(hub, api, cards, monkeypatch):
    push(cards[2], "ada/digits", create=True, api=api)
    repo = hub.repos["model", "ada/digits"]
    original = HfApi.create_commit

    def somebody_was_faster(self, *args, **kwargs):
        hub.commit(repo, "main", "faster", dict(repo.head("main").files))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", somebody_was_faster)
    with pytest.raises(StaleParent):
        push(cards[3], "ada/digits", api=api)
    assert repo.head("main").message == "faster"


def test_an_edited_block_is_refused_not_overwritten(hub, api, cards):
    push(cards[2], "ada/digits", create=True, api=api)
    repo = hub.repos["model", "ada/digits"]
    files = dict(repo.head("main").files)
    files["README.md"] = files["README.md"].replace(b"version 2 is", b"version 2 (our best) is")
    hub.commit(repo, "main", "a person's edit", files)
    with pytest.raises(CardConflict, match="our best"):
        push(cards[3], "ada/digits", api=api)
    assert "our best" in text(hub)


def test_model_files_go_along_through_lfs(hub, api, cards, tmp_path):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(bytes(range(256)) * 40)
    done = push(cards[2], "ada/digits", create=True, api=api, extra_files={"model/weights.bin": weights})
    assert done.uploaded == ["model/weights.bin"]
    assert hub.repos["model", "ada/digits"].head("main").files["model/weights.bin"] == weights.read_bytes()
    assert any(path.startswith("/lfs/") for _, path in hub.requests)


def test_refusals_say_what_to_do(hub, api, cards):
    with pytest.raises(ConfigError, match="--create"):
        push(cards[2], "ada/nothing", api=api)
    with pytest.raises(CredentialsError, match="auth login"):
        push(cards[2], "ada/digits", create=True, api=HfApi(endpoint=hub.url, token="hf_" + "x" * 34))
    push(cards[2], "ada/digits", create=True, api=api)
    hub.repos["model", "ada/digits"].gated = True
    with pytest.raises(CredentialsError):
        push(cards[3], "ada/digits", api=api)
    hub.repos["model", "ada/digits"].gated = False
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        push(cards[2], "a/b/c", create=True, api=api)


def test_a_hub_that_is_down_is_unavailable(cards):
    with pytest.raises(Unavailable):
        push(
            cards[2],
            "ada/digits",
            create=True,
            api=HfApi(endpoint="http://127.0.0.1:9", token=hub_emulator.TOKEN),
        )
