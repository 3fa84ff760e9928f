"""Experiments and runs out of MLflow's tables, set by set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ...model import DatasetUse, Experiment, Run
from ..base import RunStats
from .assets import NativeDataset, dataset_uses
from .records import LARGEST, PLATFORM, experiment_record, metric_value, run_record
from .sql_database import Database

Grouped = dict[str, list[tuple[Any, ...]]]


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


def runs(database: Database, ids: Sequence[str]) -> Iterator[Run]:
    """The runs of these ids that are still there, in that order."""
    rows = {
        row[0]: row
        for row in database.tuples(
            "SELECT run_uuid, experiment_id, name, status, start_time, end_time, user_id, lifecycle_stage, "
            f"artifact_uri, deleted_time FROM runs WHERE {database.among('run_uuid', '$1')}",
            (database.listed(ids),),
        )
    }
    of_run = database.among("run_uuid", "$1")
    params = grouped(database, f"SELECT run_uuid, key, value FROM params WHERE {of_run}", ids)
    tags = grouped(database, f"SELECT run_uuid, key, value FROM tags WHERE {of_run}", ids)
    metrics = grouped(
        database, f"SELECT run_uuid, key, value, is_nan FROM latest_metrics WHERE {of_run}", ids
    )
    datasets = _datasets(database, ids)
    models = grouped(
        database,
        "SELECT source_id, source_type, destination_id, step FROM inputs "
        f"WHERE {database.among('source_id', '$1')} AND ("
        "(source_type = 'RUN_INPUT' AND destination_type = 'MODEL_INPUT') OR "
        f"(source_type = 'RUN_OUTPUT' AND destination_type = 'MODEL_OUTPUT')) ORDER BY {database.written('inputs')}",
        ids,
    )
    for id in ids:
        if id not in rows:
            continue
        _, experiment, name, status, start, end, user, stage, artifact_uri, deleted = rows[id]
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
            params=dict(params.get(id, ())),
            tags=dict(tags.get(id, ())),
            metrics={
                key: metric_value(float(value), bool(is_nan)) for key, value, is_nan in metrics.get(id, ())
            },
            datasets=datasets.get(id, ()),
            model_inputs=[model for kind, model, _ in models.get(id, ()) if kind == "RUN_INPUT"],
            model_outputs=[
                (model, step or 0) for kind, model, step in models.get(id, ()) if kind == "RUN_OUTPUT"
            ],
        )
        if deleted is not None:  # only the database tells
            run = replace(run, extra={PLATFORM: run.extra.get(PLATFORM, {}) | {"deleted_time": deleted}})
        yield run


def _datasets(database: Database, ids: Sequence[str]) -> dict[str, list[DatasetUse]]:
    edges = (
        "FROM inputs i JOIN datasets d ON d.dataset_uuid = i.source_id {join} "
        "WHERE i.source_type = 'DATASET' AND i.destination_type = 'RUN' "
        f"AND {database.among('i.destination_id', '$1')}"
    )
    tags = grouped(
        database,
        "SELECT t.input_uuid, t.name, t.value "
        + edges.format(join="JOIN input_tags t ON t.input_uuid = i.input_uuid"),
        ids,
    )
    uses: dict[str, list[DatasetUse]] = defaultdict(list)
    rows = database.tuples(
        "SELECT i.destination_id, i.input_uuid, d.name, d.digest, d.dataset_source_type, d.dataset_source, "
        f"d.dataset_schema, d.dataset_profile {edges.format(join='')} ORDER BY {database.written('i')}",
        (database.listed(ids),),
    )
    for run, edge, name, digest, source_type, source, schema, profile in rows:
        native = NativeDataset(
            name=name,
            digest=digest,
            source_type=source_type,
            source=source,
            schema=schema or None,
            profile=profile or None,
            tags={key: value or "" for key, value in tags.get(edge, ())},
        )
        uses[run] += dataset_uses(native)
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
