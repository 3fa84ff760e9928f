"""A target database as such: whether it is there, making one, and its experiments."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from ...errors import LocationError, Rejected, Unavailable
from ...locations import Location
from ...model import Experiment
from .errors import clean, full, translated
from .records import ms_of
from .sql_database import Database
from .sql_runs import in_workspace
from .sql_schema import check_schema

WORKSPACE = "default"


def is_there(database: Database) -> bool:
    """Whether the database holds an MLflow store; False where it is empty or does not exist.

    Raises `LocationError` for a database of something else, and what `check_schema` raises.
    """
    if database.path is not None and (not database.path.exists() or database.path.stat().st_size == 0):
        return False
    if not database.columns("alembic_version"):
        if not _tables(database):
            return False
        raise LocationError(
            f"{database.public} holds tables, but none of MLflow's",
            hint="give an empty database, or one that MLflow made",
        )
    check_schema(database)
    return True


def _tables(database: Database) -> int:
    if database.kind == "sqlite":
        sql = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'"
    else:
        sql = (
            "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = ANY(current_schemas(false))"
        )
    return int(database.tuples(sql)[0][0])


def create(location: Location, artifact_root: str, database: Database) -> None:
    """Make the store as MLflow makes it: by its migrations, with the experiment `Default`."""
    with translated(f"could not make an MLflow store in {location}"):
        if database.path is None:
            _migrate(location.rest, artifact_root)
        else:
            _create_file(database.path, artifact_root)
    database.forget_columns()
    check_schema(database)


def _create_file(path: Path, artifact_root: str) -> None:
    """In a file of its own, which then takes its name: no half-made store is ever seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".outgrow-") as folder:
        made = Path(folder) / "mlflow.db"
        _migrate(f"sqlite:///{made}", artifact_root)
        if path.exists() and path.stat().st_size == 0:
            os.replace(made, path)
        else:
            try:
                os.link(made, path)  # fails where another process was faster, whose store is as good
            except FileExistsError:
                return


_MIGRATE = """
import json, logging, sys
uri, root = json.load(sys.stdin)
for name in ("mlflow.store.db.utils", "alembic"):  # they tell of every migration
    logging.getLogger(name).setLevel(logging.WARNING)
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
SqlAlchemyStore(uri, root).engine.dispose()
"""


def _migrate(uri: str, artifact_root: str) -> None:
    """In a process of its own: MLflow's server side takes 250 MB, which a copy does not need.

    The URI may hold a password, so it goes through the pipe and not on the command line.
    """
    done = subprocess.run(
        [sys.executable, "-c", _MIGRATE],
        input=json.dumps([uri, artifact_root]),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = clean(done.stderr.strip().rpartition("\n")[2])
        if re.search(r"disk is full|No space left", done.stderr):
            raise full("could not make an MLflow store")
        raise Unavailable(
            f"MLflow could not make its tables: {reason}",
            hint="check that the database can be reached and that its user may create tables",
        )


def experiment(database: Database, experiment: Experiment, artifact_root: str) -> tuple[int, bool]:
    """The id of the experiment of that name, and whether it was made just now."""
    here = in_workspace(database, "experiments", "$1")
    sql = f"SELECT experiment_id, lifecycle_stage FROM experiments WHERE {here} AND name = $2"
    if found := database.tuples(sql, (WORKSPACE, experiment.name)):
        if found[0][1] == "deleted" and not experiment.deleted:
            raise Rejected(
                f"the experiment {experiment.name!r} is deleted in {database.public}, and still holds its name",
                hint=f"restore it there (mlflow experiments restore --experiment-id {found[0][0]}), "
                "or purge it (mlflow gc)",
            )
        return int(found[0][0]), False
    now = time.time_ns() // 1_000_000
    created = ms_of(experiment.created_at)
    with database.transaction() as cursor:
        cursor.execute(sql, (WORKSPACE, experiment.name))  # again: now no other process can add it
        if rows := cursor.tuples():
            return int(rows[0][0]), False
        cursor.execute(
            "INSERT INTO experiments (name, lifecycle_stage, creation_time, last_update_time) "
            "VALUES ($1, $2, $3, $4) RETURNING experiment_id",
            (
                experiment.name,
                "deleted" if experiment.deleted else "active",
                created if created is not None else now,
                ms_of(experiment.modified_at) or created or now,
            ),
        )
        id = int(cursor.tuples()[0][0])
        cursor.execute(
            "UPDATE experiments SET artifact_location = $1 WHERE experiment_id = $2",
            (joined(artifact_root, str(id)), id),
        )
    return id, True


def joined(uri: str, *parts: str) -> str:
    """`uri/part/part`; a query stays at the end."""
    pieces = urlsplit(uri)
    if pieces.scheme and (pieces.query or pieces.fragment):
        return urlunsplit(pieces._replace(path=joined(pieces.path, *parts)))
    return "/".join([uri.rstrip("/"), *parts])
