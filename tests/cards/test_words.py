"""Front matter, managed blocks, redaction: what is ours, what is a person's, what is nobody's business."""

import datetime as dt
import math

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from outgrow.cards import blocks, front_matter, redact, vocabulary
from outgrow.cards.card import code, environment, escape
from outgrow.errors import Corrupt

# --- front matter -------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=30)
values = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.dictionaries(texts.filter(bool), inner, min_size=1, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,10}", fullmatch=True), values, min_size=1, max_size=4))
def test_what_is_written_reads_back_the_same_with_yaml_1_1_and_1_2(front):
    written, _ = front_matter.update(front_matter.load(None), front, {})
    text = front_matter.dump(written)
    kept = {k: v for k, v in front.items() if v not in ([], {})}
    assert yaml.safe_load(text) == kept
    assert front_matter.comparable(front_matter.load(text)) == kept


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "on",
        "null",
        "~",
        "1e3",
        "2026-01-01",
        "0x1F",
        "1_000",
        "a: b",
        "- a",
        "#x",
        "😀",
        "",
        " x ",
        "@a",
        "<b>",
        "%d",
        "'q'",
        '"q"',
        "a\nb",
    ],
)
def test_words_that_yaml_would_turn_into_something_else_stay_words(text):
    dumped = front_matter.dump(front_matter.load(None) | {"a": front_matter.plain(text)})
    assert yaml.safe_load(dumped) == {"a": text}


def test_numpy_nan_dates_and_none_become_what_yaml_can_say():
    front = {
        "f": np.float32(0.5),
        "i": np.int64(3),
        "n": math.nan,
        "d": dt.date(2026, 1, 2),
        "none": None,
        "deep": {"x": None, "y": 1},
    }
    written, _ = front_matter.update(front_matter.load(None), front, {})
    assert yaml.safe_load(front_matter.dump(written)) == {
        "f": 0.5,
        "i": 3,
        "n": "nan",
        "d": "2026-01-02",
        "deep": {"y": 1},
    }


def test_comments_order_and_unknown_keys_survive():
    text = "# ours to keep\nlicense: mit  # agreed with legal\nconfigs:\n- config_name: default\n  data_files: '*.csv'\ndataset_info:\n  splits: []\n"
    data, theirs = front_matter.update(
        front_matter.load(text), {"license": "mit", "tags": ["a"]}, {"license": "mit"}
    )
    assert front_matter.dump(data).startswith(text)
    assert theirs == []


def test_a_key_that_a_person_changed_is_theirs():
    data, theirs = front_matter.update(
        front_matter.load("license: apache-2.0\n"), {"license": "mit"}, {"license": "bsd"}
    )
    assert theirs == ["license"]
    assert data["license"] == "apache-2.0"
    data, theirs = front_matter.update(
        front_matter.load("license: bsd\n"), {"license": "mit"}, {"license": "bsd"}
    )
    assert (theirs, data["license"]) == ([], "mit")
    data, _ = front_matter.update(front_matter.load("license: bsd\n"), {}, {"license": "bsd"})
    assert "license" not in data


def test_the_hub_s_own_reader_agrees():
    front = {"license": "mit", "language": ["no", "en"], "metrics": ["accuracy"], "model-index": [
        {"name": "m", "results": [{"task": {"type": "tabular-classification"}, "dataset": {"type": "d", "name": "d"},
                                   "metrics": [{"type": "accuracy", "value": 0.9}]}]}]}  # fmt: skip
    data, _ = front_matter.update(front_matter.load(None), front, {})
    text = front_matter.join(data, "# m\n")
    assert front_matter.validate(text, "model") == []
    card = ModelCard(text)
    assert card.data.language == ["no", "en"]
    assert card.data.eval_results[0].metric_value == 0.9
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()


def test_a_problem_names_its_line_and_the_nearest_word():
    text = "---\n# head\nlicense: apache2\npipeline_tag: tabular-clasification\nlanguage: [zh-CN, en]\ntags: one\nbase_model: a/b/c\n---\n"
    problems = {p.key: p for p in front_matter.validate(text, "model")}
    assert (problems["license"].line, problems["license"].suggestion) == (3, "apache-2.0")
    assert (problems["pipeline_tag"].line, problems["pipeline_tag"].suggestion) == (
        4,
        "tabular-classification",
    )
    assert problems["language"].line == 5
    assert problems["tags"].line == 6
    assert problems["base_model"].line == 7


@pytest.mark.parametrize(
    "index",
    ["x", "[1]", "[{name: m, results: [1]}]", "[{name: m, results: [{task: {type: t}}]}]", "[{results: []}]"],
)
def test_a_broken_model_index_is_found(index):
    assert front_matter.validate(f"---\nmodel-index: {index}\n---\n", "model")


def test_other_needs_a_name_and_no_head_is_a_problem():
    assert front_matter.validate("# no head\n", "model")
    assert front_matter.validate("---\nlicense: other\n---\n", "model")
    assert front_matter.validate("---\nlicense: other\nlicense_name: x\n---\n", "model") == []


@pytest.mark.parametrize("text", ["---\n- a\n---\n", "---\na: [\n---\n", "---\njust words\n---\n"])
def test_a_head_that_is_no_mapping_is_refused(text):
    raw, _ = front_matter.split(text)
    with pytest.raises(Corrupt):
        front_matter.load(raw)


def test_a_rule_in_the_body_is_no_head():
    assert front_matter.split("words\n---\nmore\n---\n") == (None, "words\n---\nmore\n---\n")
    assert front_matter.split("---\n---\nbody") == ("", "body")


def test_size_categories_have_the_hub_s_bounds():
    assert [vocabulary.size_category(n) for n in (0, 999, 1000, 10**6, 10**12)] == [
        "n<1K",
        "n<1K",
        "1K<n<10K",
        "1M<n<10M",
        "n>1T",
    ]


# --- managed blocks -----------------------------------------------------------------------------

PAGE = f"# Title\n\n{blocks.render('a', 'one')}\n\nA person's words: café 😀\r\n\n{blocks.render('b', 'two')}\n\n   tail without newline"


def test_everything_outside_is_kept_byte_for_byte():
    merged = blocks.merge(PAGE, {"a": "ONE", "b": "two"}, {"a": "one", "b": "two"})
    assert merged.text == PAGE.replace(blocks.render("a", "one"), blocks.render("a", "ONE"))


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=20))
def test_merging_what_is_the_same_changes_nothing(before, after, content):
    page = f"{before}\n{blocks.render('x', content)}\n{after}"
    if len(blocks.find(page)) == 1 and "outgrow:" not in before + after:
        assert blocks.merge(page, {"x": content}, {"x": content}).text == page


def test_an_edit_elsewhere_in_the_block_is_merged_and_stays_known():
    page = PAGE.replace("\ntwo\n", "\ntwo\nand a remark\n")
    assert blocks.edited(page) == ["b"]
    long = "head\n\n\n\ntwo"
    first = blocks.render("b", long)
    edited = first.replace("head", "head (mine)")
    merged = blocks.merge(edited, {"b": "head\n\n\n\nTWO"}, {"b": long})
    assert "head (mine)" in merged.text
    assert "TWO" in merged.text
    assert merged.edited == ["b"]
    assert blocks.edited(merged.text) == ["b"]
    again = blocks.merge(merged.text, {"b": "head\n\n\n\nTWO"}, {"b": "head\n\n\n\nTWO"})
    assert again.text == merged.text


def test_the_same_line_changed_twice_is_refused_with_the_difference():
    with pytest.raises(blocks.CardConflict, match=r"-one, says Ada\n\+1"):
        blocks.merge(
            PAGE.replace("\none\n", "\none, says Ada\n"), {"a": "1", "b": "two"}, {"a": "one", "b": "two"}
        )


def test_an_edited_block_without_a_memory_is_refused():
    with pytest.raises(blocks.CardConflict):
        blocks.merge(PAGE.replace("\none\n", "\nmine\n"), {"a": "new", "b": "two"}, {})


def test_a_block_taken_out_stays_out_and_a_new_one_finds_its_place():
    without = PAGE.replace(blocks.render("a", "one"), "")
    merged = blocks.merge(without, {"a": "one", "b": "two", "c": "three"}, {"a": "one", "b": "two"})
    assert merged.removed == ["a"]
    assert list(blocks.find(merged.text)) == ["b", "c"]
    assert (
        merged.text.index("outgrow:end b") < merged.text.index("outgrow:begin c") < merged.text.index("tail")
    )


def test_a_block_of_no_use_any_more_goes_unless_it_was_edited():
    assert list(blocks.find(blocks.merge(PAGE, {"b": "two"}, {"a": "one", "b": "two"}).text)) == ["b"]
    edited = PAGE.replace("\none\n", "\nmine\n")
    assert "mine" in blocks.merge(edited, {"b": "two"}, {"a": "one", "b": "two"}).text


def test_content_cannot_forge_a_marker():
    forged = "x\n<!-- outgrow:end a -->\n<!-- outgrow:begin evil 000000000000 -->\ny"
    assert list(blocks.find(blocks.render("a", forged))) == ["a"]


# --- escaping and redaction ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "| a | b",
        "<script>alert(1)</script>",
        "[x](javascript:1)",
        "# head",
        "a\nb",
        "`x`",
        "![i](http://e/x.png)",
        "*b*",
        "&lt;",
    ],
)
def test_names_from_a_platform_stay_text(text):
    shown = escape(text)
    assert "\n" not in shown
    assert "<" not in shown
    for mark in ("|", "[", "]", "`", "*", "#", "~"):
        assert mark not in shown.replace("\\" + mark, "").replace("&#8203;", "")
    assert "http://" not in shown


@pytest.mark.parametrize("text", ["a`b", "``", "`", "a|b", "x\ny"])
def test_inline_code_holds_its_backticks(text):
    shown = code(text)
    ticks = len(shown) - len(shown.lstrip("`"))
    assert "`" * ticks not in shown[ticks:-ticks]
    assert "\n" not in shown
    assert "|" not in shown.replace("\\|", "")


def test_a_template_reaches_no_python():
    with pytest.raises(Exception, match="unsafe"):
        environment().from_string("{{ ''.__class__.__mro__ }}").render()


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("/home/ada/data/train.csv", "ada"),
        ("~/secret-project/x.py", "secret-project"),
        ("C:\\Users\\ada\\x.csv", "ada"),
        ("file:///srv/share/x.csv", "share"),
        ("python train.py --data /mnt/store/x", "store"),
        ("mail ada@example.org", "ada@"),
        ("http://tracking.internal:5000/#/runs/1", "internal"),
        ("postgresql://u:hunter2@db/x", "hunter2"),
        ("--api-key=hunter2 --lr 1", "hunter2"),
        ("WANDB_API_KEY=hunter2", "hunter2"),
        ("password: hunter2", "hunter2"),
        ("hf_" + "a" * 34, "aaaa"),
        ("ghp_" + "b" * 36, "bbbb"),
        ("AKIA" + "C" * 16, "CCCC"),
        ("trained by ada on gpu-7", "ada"),
        ("trained by ada on gpu-7", "gpu-7"),
    ],
)
def test_nothing_private_is_shown(text, secret):
    assert secret not in redact.text(text, names=frozenset({"ada", "gpu-7"}))


@pytest.mark.parametrize(
    "text",
    [
        "lr 0.1",
        "train/loss",
        "eval/accuracy",
        "https://github.com/a/b",
        "1/2",
        "adam",
        "a/b/c",
        "0.1/0.2/0.3",
    ],
)
def test_what_is_not_private_is_left_alone(text):
    assert redact.text(text, names=frozenset({"ada"})) == text


def test_what_is_asked_for_is_shown_but_never_a_credential():
    everything = frozenset({"user", "host", "paths", "urls"})
    text = "/home/ada/x http://h/x ada@example.org"
    assert redact.text(text, show=everything) == text
    assert "hunter2" not in redact.text("http://u:hunter2@h/x token=hunter2", show=everything)
