"""The --where language."""

from datetime import UTC, datetime

import pytest
from outgrow import filters
from outgrow.errors import ConfigError
from outgrow.model import Run, Status

RUN = Run(
    id="r1",
    experiment="7",
    name="digits-3",
    status=Status.FINISHED,
    user="ana",
    started_at=datetime(2026, 2, 1, 12, tzinfo=UTC),
    params={"lr": "0.01", "depth": 3, "flag": True},
    summary={"eval/accuracy": 0.91, "loss": float("nan")},
    tags={"owner": "ml"},
    labels=["best"],
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('status == "finished"', True),
        ('status in ["failed", "killed"]', False),
        ("params.lr > 0.001", True),  # a number that the platform keeps as text
        ("params.lr == 0.01", True),
        ("params.depth >= 3 and params.depth < 4", True),
        ("1 < params.depth <= 3", True),
        ("params.flag == True", True),
        ("params.missing > 3", False),
        ("params.missing == None", True),
        ("not params.missing", True),
        ('metrics["eval/accuracy"] >= 0.9', True),
        ("metrics.loss > 0 or metrics.loss <= 0", False),  # NaN has no order
        ('tags.owner == "ml"', True),
        ('"best" in labels', True),
        ('"worst" not in labels', True),
        ('started_at >= "2026-02-01"', True),
        ('started_at < "2026-02-01T11:00:00+00:00"', False),
        ('ended_at < "2026-02-01"', False),
        ('matches(name, "digits-*")', True),
        ('matches(tags.nobody, "?*")', False),
        ('experiment == "digits"', True),
        ("name > 3", False),
        ("metrics.loss > -1", False),
    ],
)
def test_an_expression_selects(text, expected):
    assert filters.parse(text)(RUN, experiment="digits") is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "status =",
        "params.lr = 3",
        '__import__("os").system("true")',
        "().__class__",
        "params.lr + 1 > 2",
        "open('x')",
        "params[3] == 1",
        "unknown == 1",
        "name is None",
        "[x for x in labels]",
        "lambda: 1",
        "status\x00",
    ],
)
def test_anything_else_is_refused_with_what_is_known(text):
    with pytest.raises(ConfigError) as caught:
        filters.parse(text)
    assert caught.value.hint
