"""The schema versions of MLflow's tracking database that the SQL path knows, and the tables it writes.

A database of any other version is refused: its columns may mean something else. Heads were read
from `mlflow/store/db_migrations/versions` of each release.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from ...errors import LocationError, SchemaVersionError

if TYPE_CHECKING:
    from .sql_database import Database

SCHEMAS: dict[str, str] = {
    "bf29a5ff90ea": "3.5 to 3.7",
    "1bd49d398cd23": "3.8",
    "d3e4f5a6b7c8": "3.9",
    "1b5f0d9ad7c1": "3.10",
    "c3d6457b6d8a": "3.11",
    "7d34483879f0": "3.12",
    "da6fb0208061": "3.13",
    "b7e4c1a90f23": "3.14",
    "6f8d9c3b2a1e": "3.15",
    "b7e2c1a4d9f3": "3.16",
    "dc11669786a5": "3.17",
}
"""Alembic head → the MLflow releases that have it."""

NEEDED: dict[str, frozenset[str]] = {
    "experiments": frozenset({"experiment_id", "name", "artifact_location", "lifecycle_stage"}),
    "runs": frozenset({"run_uuid", "name", "status", "start_time", "end_time", "artifact_uri"}),
    "metrics": frozenset({"key", "value", "timestamp", "run_uuid", "step", "is_nan"}),
    "latest_metrics": frozenset({"key", "value", "timestamp", "run_uuid", "step", "is_nan"}),
    "params": frozenset({"key", "value", "run_uuid"}),
    "tags": frozenset({"key", "value", "run_uuid"}),
    "inputs": frozenset({"input_uuid", "source_type", "source_id", "destination_id", "step"}),
    "logged_models": frozenset({"model_id", "name", "artifact_location", "source_run_id"}),
}
"""Columns without which a database is not what its version says."""


def check_schema(database: Database) -> str:
    """The database's schema version.

    Raises `LocationError` where it is no MLflow database at all, `SchemaVersionError` where its
    version is not in `SCHEMAS` or its tables are not those of that version.
    """
    if not database.columns("alembic_version"):
        raise LocationError(
            f"{database.public} is not an MLflow tracking database: it has no table alembic_version",
            hint="give the database that `mlflow server --backend-store-uri` uses",
        )
    found = [str(version) for (version,) in database.tuples("SELECT version_num FROM alembic_version")]
    revision = found[0] if len(found) == 1 else " and ".join(found) or "none"
    missing = {
        f"{table}.{column}"
        for table, columns in NEEDED.items()
        for column in columns - database.columns(table)
    }
    if revision in SCHEMAS and not missing:
        return revision
    if revision not in SCHEMAS and len(missing) == sum(map(len, NEEDED.values())):
        raise LocationError(
            f"{database.public} is not an MLflow tracking database: it is another tool's",
            hint="give the database that `mlflow server --backend-store-uri` uses",
        )
    reason = f"lacks {', '.join(sorted(missing))}" if revision in SCHEMAS else "is not known to this release"
    raise SchemaVersionError(
        f"schema version {revision} of {database.public} {reason} "
        f"(known: MLflow {', '.join(SCHEMAS.values())})",
        hint="back it up and run `mlflow db upgrade URI`, or read it through MLflow itself "
        "with ?outgrow.via=client",
    )


@dataclass(frozen=True, slots=True)
class Table:
    """A table that the SQL path writes: its columns, and its primary key."""

    columns: pa.Schema
    key: tuple[str, ...]
    json: frozenset[str] = frozenset()
    """Columns of the type JSON, which PostgreSQL fills from text only by a cast."""


_S, _I, _F, _B = pa.string(), pa.int64(), pa.float64(), pa.bool_()


def _table(key: str, /, json: str = "", **columns: pa.DataType) -> Table:
    return Table(pa.schema(list(columns.items())), tuple(key.split()), frozenset(json.split()))


TABLES: dict[str, Table] = {
    "experiment_tags": _table("key experiment_id", key=_S, value=_S, experiment_id=_I),
    "runs": _table(
        "run_uuid",
        run_uuid=_S, name=_S, source_type=_S, source_name=_S, entry_point_name=_S, user_id=_S,
        status=_S, start_time=_I, end_time=_I, deleted_time=_I, source_version=_S,
        lifecycle_stage=_S, artifact_uri=_S, experiment_id=_I,
    ),
    "params": _table("key run_uuid", key=_S, value=_S, run_uuid=_S),
    "tags": _table("key run_uuid", key=_S, value=_S, run_uuid=_S),
    "metrics": _table(
        "key timestamp step run_uuid value is_nan",
        key=_S, value=_F, timestamp=_I, run_uuid=_S, step=_I, is_nan=_B,
    ),
    "latest_metrics": _table(
        "key run_uuid", key=_S, value=_F, timestamp=_I, step=_I, is_nan=_B, run_uuid=_S
    ),
    "datasets": _table(
        "experiment_id name digest",
        dataset_uuid=_S, experiment_id=_I, name=_S, digest=_S, dataset_source_type=_S,
        dataset_source=_S, dataset_schema=_S, dataset_profile=_S,
    ),
    "inputs": _table(
        "source_type source_id destination_type destination_id",
        input_uuid=_S, source_type=_S, source_id=_S, destination_type=_S, destination_id=_S, step=_I,
    ),
    "input_tags": _table("input_uuid name", input_uuid=_S, name=_S, value=_S),
    "logged_models": _table(
        "model_id",
        model_id=_S, experiment_id=_I, name=_S, artifact_location=_S, creation_timestamp_ms=_I,
        last_updated_timestamp_ms=_I, status=_I, lifecycle_stage=_S, model_type=_S,
        source_run_id=_S, status_message=_S,
    ),
    "logged_model_params": _table(
        "model_id param_key", model_id=_S, experiment_id=_I, param_key=_S, param_value=_S
    ),
    "logged_model_tags": _table(
        "model_id tag_key", model_id=_S, experiment_id=_I, tag_key=_S, tag_value=_S
    ),
    "logged_model_metrics": _table(
        "model_id metric_name metric_timestamp_ms metric_step run_id",
        model_id=_S, metric_name=_S, metric_timestamp_ms=_I, metric_step=_I, metric_value=_F,
        experiment_id=_I, run_id=_S, dataset_uuid=_S, dataset_name=_S, dataset_digest=_S,
    ),
    "registered_models": _table(
        "workspace name",
        name=_S, creation_time=_I, last_updated_time=_I, description=_S, workspace=_S,
    ),
    "registered_model_tags": _table("workspace key name", key=_S, value=_S, name=_S, workspace=_S),
    "model_versions": _table(
        "workspace name version",
        name=_S, version=_I, creation_time=_I, last_updated_time=_I, description=_S, user_id=_S,
        current_stage=_S, source=_S, run_id=_S, status=_S, status_message=_S, run_link=_S,
        storage_location=_S, workspace=_S,
    ),
    "model_version_tags": _table(
        "workspace key name version", key=_S, value=_S, name=_S, version=_I, workspace=_S
    ),
    "registered_model_aliases": _table(
        "workspace name alias", alias=_S, version=_I, name=_S, workspace=_S
    ),
}  # fmt: skip
