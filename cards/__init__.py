"""Model cards and dataset cards from tracked facts: each with its source, human words kept."""

from .card import Card, compose, read_folder, write_folder
from .check import check
from .dataset_card import dataset_card
from .model_card import model_card
from .page import Options
from .publish import push
from .write_back import open_annotator, write_back

__all__ = [
    "Card",
    "Options",
    "check",
    "compose",
    "dataset_card",
    "model_card",
    "open_annotator",
    "push",
    "read_folder",
    "write_back",
    "write_folder",
]
