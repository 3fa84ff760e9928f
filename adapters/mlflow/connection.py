"""A connection to MLflow through its own stores: REST for a server, SQLAlchemy for a database.

The stores (`AbstractStore`, the interface of MLflow's plugins) do the small calls; points and
artifacts of a server go through `Http`, which is MLflow's `http_request` with its authentication
(environment, `~/.mlflow/credentials`, workspace header) and without entities or hidden retries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ...errors import LocationError
from .capabilities import RegistryKind
from .errors import clean, translated
from .http import API, Http
from .place import artifact_root, check_scheme, directory, is_server, split_userinfo, sqlite_path

if TYPE_CHECKING:
    from ...locations import Location

CONNECT_TIMEOUT = 10.0
"""Seconds that the first call may take: a server that is down is told at once."""


class Connection:
    """The stores of a location. Opening one makes the first call, so that errors come early.

    Raises `Unavailable`, `CredentialsError`, `LocationError`, `SchemaVersionError`.
    """

    def __init__(self, location: Location, *, writable: bool) -> None:
        self.location = location
        self.scheme = check_scheme(location)
        self.http: Http | None = None
        self.registry_kind: RegistryKind = "mlflow"
        self.artifact_root: str | None = None
        """Where new experiments keep their artifacts; None: the server knows."""
        self.uri, user, password = split_userinfo(location.rest)
        _quiet()
        if is_server(location):
            self._open_server(user, password)
        elif self.scheme == "databricks":
            self._open_databricks()
        elif self.scheme == "":
            raise LocationError(f"{directory(location)} is read without a client")
        else:
            self._open_database(writable)

    def _open_server(self, user: str | None, password: str | None) -> None:
        from .rest import RegistryStore, TrackingStore

        def host_creds() -> Any:
            from mlflow.utils.credentials import get_default_host_creds

            creds = get_default_host_creds(self.uri)
            if user is not None:
                creds.username, creds.password = user, password
            return creds

        self.http = Http(self.uri, host_creds)
        self.http.post(
            f"{API}/experiments/search",
            b'{"max_results": 1}',
            "could not reach the tracking server",
            timeout=CONNECT_TIMEOUT,
        )
        self.tracking: Any = TrackingStore(host_creds)
        self.registry: Any = RegistryStore(host_creds)

    def _open_databricks(self) -> None:
        from mlflow.tracking._model_registry.utils import _get_store as registry_store
        from mlflow.tracking._model_registry.utils import _resolve_registry_uri
        from mlflow.tracking._tracking_service.utils import _get_store as tracking_store

        with self.calling("could not open Databricks"):
            self.tracking = tracking_store(self.uri)
            registry_uri = _resolve_registry_uri(tracking_uri=self.uri)  # MLFLOW_REGISTRY_URI, if set
            self.registry = registry_store(registry_uri, self.uri)
            unity_catalog = registry_uri.startswith("databricks-uc")
            self.registry_kind = "unity catalog" if unity_catalog else "workspace"
            self.tracking.search_experiments(max_results=1)

    def _open_database(self, writable: bool) -> None:
        uri = self.location.rest
        path = sqlite_path(self.location)
        if not writable:
            if path is not None:
                if not path.is_file():
                    raise LocationError(
                        f"there is no database {path}", hint="check the path; a source is never made"
                    )
                # The driver is named so that MLflow takes no part of this for a folder to make.
                uri = f"sqlite+pysqlite:///file:{quote(path.as_posix())}?mode=ro&uri=true"
            root = "mlflow-artifacts:/"  # nothing is ever created under it
        else:
            root = self.artifact_root = artifact_root(self.location)
        with self.calling("could not open the database"):
            self.tracking, self.registry = _database_stores(uri, root)

    @contextmanager
    def calling(self, doing: str) -> Iterator[None]:
        """Typed errors for calls of the stores inside."""
        with translated(f"{doing} ({clean(self.location)})"):
            yield

    @contextmanager
    def as_current(self) -> Iterator[None]:
        """Make a database MLflow's current one inside: its registry store looks logged models up
        in the current one (`SqlAlchemyStore.create_model_version`). A server does its own look-up.
        """
        if self.http is not None or self.scheme == "databricks":
            yield
            return
        from mlflow.tracking._tracking_service.utils import _use_tracking_uri

        with _use_tracking_uri(self.location.rest):
            yield


@cache
def _database_stores(uri: str, root: str) -> tuple[Any, Any]:
    """MLflow reads all its migrations to check the schema, half a second: once a process is enough."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryStore
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    return SqlAlchemyStore(uri, root), RegistryStore(uri)


def _quiet() -> None:
    """MLflow logs each database migration, and warns of stages being deprecated."""
    import logging

    for name in ("mlflow.store.db.utils", "alembic"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)
