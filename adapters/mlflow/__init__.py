"""MLflow: a tracking server, a database, Databricks, or a directory of files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import Unsupported

if TYPE_CHECKING:
    from ...locations import Location
    from ..base import Annotator, Remover, Sink, Source

_SQL = ("sqlite:", "sqlite+", "postgresql:", "postgresql+", "postgres:")  # others go through the client


def _via_sql(location: Location) -> bool:
    return location.rest.startswith(_SQL) and location.options.get("via") != "client"


class MlflowAdapter:
    """Chooses the way in: SQL for a database, files for a directory, else the client."""

    def source(self, location: Location) -> Source:
        if _via_sql(location):
            from .sql_source import SqlSource

            return SqlSource(location)
        from .place import is_directory

        if is_directory(location):
            from .mlruns import MlrunsSource

            return MlrunsSource(location)
        from .source import ClientSource

        return ClientSource(location)

    def sink(self, location: Location) -> Sink:
        if _via_sql(location):
            from .sql_sink import SqlSink

            return SqlSink(location)
        from .place import is_directory

        if is_directory(location):
            raise Unsupported(
                f"{location}: MLflow no longer writes to a directory of files",
                hint="write to a database, mlflow:sqlite:///mlflow.db, or to a server",
            )
        from .sink import ClientSink

        return ClientSink(location)

    def remover(self, location: Location) -> Remover:
        from .remover import MlflowRemover

        return MlflowRemover(location)

    def annotator(self, location: Location) -> Annotator:
        from .place import is_directory

        if is_directory(location):
            raise Unsupported(
                f"{location}: MLflow no longer writes to a directory of files",
                hint="leave out --write-back, and keep the card in a folder with --out",
            )
        from .annotator import MlflowAnnotator

        return MlflowAnnotator(location)

    def credentials(self) -> str | None:
        from .place import credentials

        return credentials()


adapter = MlflowAdapter()
