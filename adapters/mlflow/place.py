"""What a location of MLflow names: a server, a database, Databricks, or a directory."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from ...errors import LocationError
from .errors import clean

if TYPE_CHECKING:
    from ...locations import Location

FORMS = "sqlite:///FILE, postgresql://HOST/DB, http(s)://HOST, databricks[://PROFILE], or a directory"


def scheme(location: Location) -> str:
    """`http`, `https`, `sqlite`, `postgresql`, …, `databricks`, or `` for a directory."""
    if location.rest == "databricks":
        return "databricks"
    head, colon, _ = location.rest.partition(":")
    if not colon or len(head) == 1 or head == "file":  # one letter: a Windows drive
        return ""
    return head.partition("+")[0].lower()


def is_directory(location: Location) -> bool:
    return scheme(location) == ""


def is_server(location: Location) -> bool:
    return scheme(location) in ("http", "https")


def directory(location: Location) -> Path:
    """The directory that a location names. Raises `LocationError` where it is none."""
    path = local_path(location.rest)
    if not path.is_dir():
        raise LocationError(f"{path} is not a directory", hint=f"an MLflow location is {FORMS}")
    return path


def local_path(uri: str) -> Path:
    """A `file:` URI, or a path, as a path."""
    if uri.startswith("file:"):
        return Path(unquote(urlsplit(uri).path))
    return Path(uri)


def sqlite_path(location: Location) -> Path | None:
    """The file of a SQLite location, absolute; None for one in memory or for another scheme."""
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]*)(?:\?.*)?", location.rest)
    if not match or match[1] in ("", ":memory:"):
        return None
    return Path(os.path.abspath(unquote(match[1])))


def artifact_root(location: Location) -> str:
    """Where new experiments of a database keep their artifacts: the option `outgrow.artifacts`,
    else `mlartifacts` beside a SQLite file `mlflow.db`, `NAME-artifacts` beside any other: two
    databases in one directory may hold the same run ids. Raises `LocationError` for another
    database without it.
    """
    if root := location.options.get("artifacts"):
        return root if "://" in root else Path(root).absolute().as_uri()
    if path := sqlite_path(location):
        name = "mlartifacts" if path.name == "mlflow.db" else f"{path.stem}-artifacts"
        return (path.parent / name).as_uri()
    raise LocationError(
        f"{location} does not say where artifacts go",
        hint="add ?outgrow.artifacts=URI to the location, for example s3://bucket/mlflow or a directory",
    )


def served_root(location: Location) -> str:
    """What `mlflow-artifacts:/` means for a database that a server uses: the server's
    `--artifacts-destination`, given as `outgrow.artifacts`, else `mlartifacts` beside a SQLite file.
    """
    if "artifacts" not in location.options and (path := sqlite_path(location)):
        return (path.parent / "mlartifacts").as_uri()
    return artifact_root(location)


def split_userinfo(url: str) -> tuple[str, str | None, str | None]:
    """A URL without its user name and password, and the two."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, None, None
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    user, password = parts.username, parts.password
    return bare, unquote(user) if user else None, unquote(password) if password else None


def check_scheme(location: Location) -> str:
    """The scheme, if MLflow knows it. Raises `LocationError`."""
    known = ("", "http", "https", "databricks", "sqlite", "postgresql", "mysql", "mssql")
    if (found := scheme(location)) not in known:
        raise LocationError(f"{clean(location)} is no MLflow location", hint=f"write mlflow: and {FORMS}")
    return found


# MLflow's own variables, and those of the Databricks SDK behind it.
_VARIABLES = (
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "DATABRICKS_TOKEN",
    "DATABRICKS_CLIENT_ID",
)
_FILES = ("~/.mlflow/credentials", "~/.databrickscfg")


def credentials() -> str | None:
    """Where MLflow would find credentials: the name of a variable or of a file."""
    for name in _VARIABLES:
        if os.environ.get(name):
            return f"environment variable {name}"
    for file in _FILES:
        if Path(file).expanduser().is_file():
            return file
    return None
