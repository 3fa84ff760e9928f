"""Experiments and runs out of MLflow's tables, set by set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from ...filters import EVERY_PART, Filter, Keys, Parts
from ...model import DatasetUse, Experiment, Run
from ..base import ORIGIN_KEY, RunStats
from .assets import NativeDataset, dataset_uses
from .capabilities import TAG_VALUE_LENGTH
from .records import LARGEST, PLATFORM, RUN_NAME, USER, experiment_record, run_record, tag_keys
from .sql_database import Database
from .sql_filters import Condition, sendable
from .structured import ENVIRONMENT

Row = tuple[Any, ...]
Grouped = dict[str, list[Row]]


def grouped(database: Database, sql: str, ids: Sequence[str]) -> Grouped:
    """Rows by their first column. `sql` has one parameter, the list of ids (`Database.among`)."""
    groups: Grouped = defaultdict(list)
    for row in database.tuples(sql, (database.listed(ids),)):
        groups[row[0]].append(row[1:])
    return groups


def in_workspace(database: Database, table: str, parameter: str) -> str:
    """A condition on a table's workspace; true in schema versions that have none."""
    return f"workspace = {parameter}" if "workspace" in database.columns(table) else f"{parameter} <> ''"


def experiments(database: Database, workspace: str) -> Iterator[Experiment]:
    tags: dict[int, dict[str, str | None]] = defaultdict(dict)
    for id, key, value in database.tuples("SELECT experiment_id, key, value FROM experiment_tags"):
        tags[id][key] = value
    rows = database.tuples(
        "SELECT experiment_id, name, creation_time, last_update_time, lifecycle_stage, artifact_location "
        f"FROM experiments WHERE {in_workspace(database, 'experiments', '$1')} ORDER BY experiment_id",
        (workspace,),
    )
    for id, name, created, modified, stage, artifacts in rows:
        yield experiment_record(
            id=str(id),
            name=name,
            tags=tags[id],
            created_ms=created,
            modified_ms=modified,
            lifecycle_stage=stage,
            artifact_location=artifacts,
            workspace=workspace,
        )


def run_ids(database: Database, experiment: int) -> list[str]:
    """Ids of an experiment's runs, oldest first, so that parents mostly come before children."""
    return [
        str(id)
        for (id,) in database.tuples(
            "SELECT run_uuid FROM runs WHERE experiment_id = $1 ORDER BY start_time, run_uuid", (experiment,)
        )
    ]


_ROW = (
    "run_uuid, experiment_id, name, status, start_time, end_time, user_id, lifecycle_stage, "
    "artifact_uri, deleted_time"
)


def runs(database: Database, ids: Sequence[str]) -> Iterator[Run]:
    """The runs of these ids that are still there, in that order."""
    sql = f"SELECT {_ROW} FROM runs WHERE {database.among('run_uuid', '$1')}"
    rows = {row[0]: row for row in database.tuples(sql, (database.listed(ids),))}
    yield from _built(database, [rows[id] for id in ids if id in rows], EVERY_PART)


def listed(
    database: Database, experiment: Experiment, where: Filter | None, parts: Parts, page: int
) -> Iterator[list[Run]]:
    """Lists of at most `page` runs, in the order of `run_ids`. See `Source.listed`."""
    passes, parameters = "", [int(experiment.id)]
    if where and where.ids is not None:
        passes = f" AND {database.among('run_uuid', '$2')}"
        parameters.append(database.listed([id for id in where.ids if sendable(id)]))
    elif where and (condition := Condition(where, experiment.name, first=2)).sql:
        passes = f" AND (({condition.sql}) OR {_COPIED})"
        parameters += condition.parameters
    rows = database.tuples(
        f"SELECT {_ROW}, {_COPIED} FROM runs WHERE experiment_id = $1{passes} ORDER BY start_time, run_uuid",
        parameters,
    )
    for start in range(0, len(rows), page):
        of_page = rows[start : start + page]
        found = {run.id: run for run in _built(database, [row[:-1] for row in of_page if not row[-1]], parts)}
        copies = [row[:-1] for row in of_page if row[-1]]
        found |= {run.id: run for run in _built(database, copies, EVERY_PART)}
        yield [found[row[0]] for row in of_page]


_COPIED = f"(run_uuid IN (SELECT run_uuid FROM tags WHERE key = '{ORIGIN_KEY}'))"


def _built(database: Database, rows: Sequence[Row], parts: Parts) -> Iterator[Run]:
    if not rows:
        return
    ids = [row[0] for row in rows]
    params = _mappings(database, "params", "value", ids, parts.params)
    tags = _tags(database, rows, parts)
    metrics = _mappings(database, "latest_metrics", "value, is_nan", ids, parts.summary)
    datasets = _datasets(database, ids) if "datasets" in parts.fields else {}
    models = _models(database, ids) if "artifacts" in parts.fields else {}
    for id, experiment, name, status, start, end, user, stage, artifact_uri, deleted in rows:
        run = run_record(
            id=id,
            experiment=str(experiment),
            name=name,
            status=status,
            start_ms=start,
            end_ms=end,
            user=user,
            lifecycle_stage=stage,
            artifact_uri=artifact_uri,
            params=params.get(id, {}),
            tags=tags.get(id, {}),
            metrics=metrics.get(id, {}),
            datasets=datasets.get(id, ()),
            model_inputs=[model for kind, model, _ in models.get(id, ()) if kind == "RUN_INPUT"],
            model_outputs=[
                (model, step or 0) for kind, model, step in models.get(id, ()) if kind == "RUN_OUTPUT"
            ],
        )
        if deleted is not None:  # only the database tells
            run = replace(run, extra={PLATFORM: run.extra.get(PLATFORM, {}) | {"deleted_time": deleted}})
        yield run


def _models(database: Database, ids: Sequence[str]) -> Grouped:
    return grouped(
        database,
        "SELECT source_id, source_type, destination_id, step FROM inputs "
        f"WHERE {database.among('source_id', '$1')} AND ("
        "(source_type = 'RUN_INPUT' AND destination_type = 'MODEL_INPUT') OR "
        f"(source_type = 'RUN_OUTPUT' AND destination_type = 'MODEL_OUTPUT')) ORDER BY {database.written('inputs')}",
        ids,
    )


def _tags(database: Database, rows: Sequence[Row], parts: Parts) -> dict[str, dict[str, Any]]:
    """The tags behind these parts of the runs."""
    ids = [row[0] for row in rows]
    keys = tag_keys(parts)
    found = _mappings(database, "tags", "value", ids, keys)
    if keys is None:
        return found
    more: dict[str, list[str]] = {
        RUN_NAME: [row[0] for row in rows if "name" in parts.fields and not row[2]],
        USER: [row[0] for row in rows if "user" in parts.fields and not row[6]],
    }
    for key, some in more.items():
        for id, tags in _mappings(database, "tags", "value", some, frozenset({key})).items():
            found.setdefault(id, {}).update(tags)
    # A long environment goes on in further tags, of a number that only they tell.
    long = [id for id, tags in found.items() if len(tags.get(ENVIRONMENT) or "") >= TAG_VALUE_LENGTH]
    return found | _mappings(database, "tags", "value", long, None)


def _mappings(
    database: Database, table: str, columns: str, ids: Sequence[str], keys: Keys
) -> dict[str, dict[str, Any]]:
    """Run id → key → value, out of a table of keys and values. `keys`: None for all."""
    wanted = None if keys is None else sorted(filter(sendable, keys))
    if not ids or wanted == []:
        return {}
    condition, parameters = database.among("run_uuid", "$1"), [database.listed(ids)]
    if wanted is not None:
        condition += f" AND {database.among('key', '$2')}"
        parameters.append(database.listed(wanted))
    rows = database.table(
        f"SELECT run_uuid, key, {columns} FROM {table} WHERE {condition} ORDER BY run_uuid", parameters
    )
    if not rows.num_rows:
        return {}
    runs, words = (_encoded(rows.column(i)) for i in (0, 1))
    names = words.dictionary.to_pylist()
    every_key = [names[i] for i in words.indices.to_pylist()]  # equal keys are one object
    values = _metric_values(rows) if "is_nan" in columns else rows.column(2).to_pylist()
    ends = [*np.flatnonzero(np.diff(runs.indices.to_numpy())).tolist(), rows.num_rows - 1]
    starts = [0, *(end + 1 for end in ends[:-1])]
    owners = runs.dictionary.to_pylist()
    return {
        owner: dict(zip(every_key[start : end + 1], values[start : end + 1], strict=True))
        for owner, start, end in zip(owners, starts, ends, strict=True)
    }


def _metric_values(rows: pa.Table) -> list[float]:
    """As `records.metric_value`."""
    values = rows.column(2).to_numpy().astype(np.float64)
    is_nan = rows.column(3).to_numpy().astype(bool)
    values = np.where(np.abs(values) >= LARGEST, np.copysign(np.inf, values), values)
    return list(np.where(is_nan, np.nan, values).tolist())


def _encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    return column.combine_chunks().dictionary_encode()


def _datasets(database: Database, ids: Sequence[str]) -> dict[str, list[DatasetUse]]:
    edges = (
        "FROM inputs i {join} WHERE i.source_type = 'DATASET' AND i.destination_type = 'RUN' "
        f"AND {database.among('i.destination_id', '$1')}"
    )
    rows = database.tuples(
        f"SELECT i.destination_id, i.input_uuid, i.source_id {edges.format(join='')} ORDER BY {database.written('i')}",
        (database.listed(ids),),
    )
    if not rows:
        return {}
    tagged = edges.format(join="JOIN input_tags t ON t.input_uuid = i.input_uuid")
    tags = grouped(database, f"SELECT t.input_uuid, t.name, t.value {tagged}", ids)
    datasets = grouped(  # once each: a profile may be large
        database,
        "SELECT dataset_uuid, name, digest, dataset_source_type, dataset_source, dataset_schema, dataset_profile "
        f"FROM datasets WHERE {database.among('dataset_uuid', '$1')}",
        list({row[2] for row in rows}),
    )
    known: dict[Row, list[DatasetUse]] = {}  # most runs use the same few
    uses: dict[str, list[DatasetUse]] = defaultdict(list)
    for run, edge, dataset in rows:
        of_edge = tags.get(edge, [])
        if dataset not in datasets:
            continue
        if (key := (dataset, *of_edge)) not in known:
            name, digest, source_type, source, schema, profile = datasets[dataset][0]
            native = NativeDataset(
                name=name,
                digest=digest,
                source_type=source_type,
                source=source,
                schema=schema or None,
                profile=profile or None,
                tags={name: value or "" for name, value in of_edge},
            )
            known[key] = dataset_uses(native)
        uses[run] += known[key]
    return uses


def stats(database: Database, ids: Sequence[str]) -> dict[str, RunStats]:
    """Counts of the points of these runs; two queries for all of them."""
    series = grouped(
        database,
        f"SELECT run_uuid, COUNT(*) FROM metrics WHERE {database.among('run_uuid', '$1')} GROUP BY run_uuid, key",
        ids,
    )
    nonfinite = grouped(
        database,
        f"SELECT run_uuid, COUNT(*) FROM metrics WHERE {database.among('run_uuid', '$1')} "
        f"AND (is_nan OR value >= {LARGEST!r} OR value <= {-LARGEST!r}) GROUP BY run_uuid",
        ids,
    )
    counted = {}
    for id in ids:
        counts = [count for (count,) in series.get(id, ())]
        counted[id] = RunStats(
            series=len(counts),
            points=sum(counts),
            texts=0,
            histograms=0,
            longest_series=max(counts, default=0),
            fractional_steps=0,
            nonfinite=nonfinite[id][0][0] if id in nonfinite else 0,
        )
    return counted
