"""The closed vocabularies of card metadata, checked offline.

Source: the Hugging Face hub's own lists (`@huggingface/tasks` and hub-docs, MIT), read 2026-11;
the size categories are those of hub-docs `datasetcard.md`.
"""

from __future__ import annotations

import difflib
import json
from functools import cache
from importlib.resources import files
from typing import Literal

Field = Literal[
    "license",
    "pipeline_tag",
    "library_name",
    "task_ids",
    "language",
    "size_categories",
    "base_model_relation",
]

SIZE_CATEGORIES = (
    "n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B",
    "1B<n<10B", "10B<n<100B", "100B<n<1T", "n>1T",
)  # fmt: skip
_BOUNDS = tuple(10**power for power in range(3, 13))

# ISO 639-2 codes without a two-letter form that the Hub accepts besides its own list.
_MORE_LANGUAGES = frozenset({"ber", "fre", "ger", "chi", "dut", "gre", "code", "multilingual"})


@cache
def words(field: Field) -> frozenset[str]:
    """Every allowed value of a field."""
    if field == "size_categories":
        return frozenset(SIZE_CATEGORIES)
    if field == "base_model_relation":
        return frozenset({"adapter", "merge", "quantized", "finetune"})
    data = json.loads((files(__package__) / "data" / "vocabulary.json").read_text("utf-8"))
    allowed = {word for line in data[field] for word in line.split()}
    if field == "pipeline_tag":
        allowed -= {word for line in data["hide_in_models"] for word in line.split()}
    if field == "language":
        allowed |= _MORE_LANGUAGES
    return frozenset(allowed)


def nearest(field: Field, value: str) -> str | None:
    """The allowed value that is most like `value`."""
    lowered = value.lower().replace("_", "-").replace(" ", "-")
    if lowered in words(field):
        return lowered
    close = difflib.get_close_matches(lowered, sorted(words(field)), n=1, cutoff=0.5)
    return close[0] if close else None


def size_category(rows: int) -> str:
    """The Hub's size category of a data set of that many rows."""
    return SIZE_CATEGORIES[sum(rows >= bound for bound in _BOUNDS)]
