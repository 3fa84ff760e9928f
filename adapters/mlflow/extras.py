"""Traces and evaluation data sets."""

from __future__ import annotations

from collections.abc import Iterator

from ...model import EvaluationDataset, Experiment, Origin, Trace
from .connection import Connection


def read_traces(connection: Connection, experiment: Experiment) -> Iterator[Trace]:
    return iter(())


def read_datasets(connection: Connection) -> Iterator[EvaluationDataset]:
    return iter(())


def write_trace(connection: Connection, trace: Trace, origin: Origin) -> str:
    return ""


def write_dataset(connection: Connection, dataset: EvaluationDataset) -> str:
    return ""
