"""Exceptions of MLflow, requests and SQLAlchemy → the typed errors of outgrow.

A tracking server's word for what went wrong is `error_code` (`mlflow/protos/databricks_pb2.py`);
behind a proxy only the HTTP status tells.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import (
    CredentialsError,
    LocationError,
    OutgrowError,
    Rejected,
    SchemaVersionError,
    TargetFull,
    Unavailable,
    Vanished,
)

AUTH_HINT = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, as for MLflow itself"
DATABRICKS_HINT = "set DATABRICKS_HOST and DATABRICKS_TOKEN, or name a profile of ~/.databrickscfg: mlflow:databricks://PROFILE"
HOST_HINT = "the server only answers to known names: start it with --allowed-hosts, or use a listed name"
SERVER_HINT = "check that the server runs and that the address is right; a repeat resumes where this stopped"
UPGRADE_HINT = "install the MLflow release of that database, or upgrade a copy of it: mlflow db upgrade URI"

_MISSING = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}
_REFUSED = {"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "UNAUTHORIZED"}
_LATER = {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
_INTERNAL = {"INTERNAL_ERROR", None}
_FULL = re.compile(r"no space left on device|disk is full|disk full|quota exceeded", re.IGNORECASE)
_HOST = re.compile(r"invalid host header", re.IGNORECASE)
_SCHEMA = re.compile(r"database schema|can't locate revision|alembic|no such (?:table|column)", re.IGNORECASE)
# The server looks, then inserts: of two requests for the same new row one loses, and a repeat finds it.
_RACE = re.compile(r"UNIQUE constraint failed|UniqueViolation|duplicate key value|database is locked")
_DATABRICKS = re.compile(r"Databricks credential configuration|cannot configure default credentials")
_STATUS = re.compile(r"failed with error code (\d{3})|\b([45]\d\d) (?:Client|Server) Error")
_USERINFO = re.compile(r"(//)[^/@\s]+@")


def clean(text: object, length: int = 400) -> str:
    """An error's text without user names and passwords of URLs, on one line."""
    return " ".join(_USERINFO.sub(r"\1", str(text)).split())[:length]


class LostRace(Unavailable):
    """Another writer was first, to a new row or to the lock: the same call again succeeds."""


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what MLflow raises inside into a typed error that says what was being done."""
    try:
        yield
    except OutgrowError:
        raise
    except Exception as error:
        if (typed := typed_error(error, doing)) is None:
            raise
        raise typed from error


def typed_error(error: Exception, doing: str) -> OutgrowError | None:
    """The typed error for an exception, or None for one that is a bug of ours."""
    import requests

    text = clean(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return full(doing)
    if isinstance(error, requests.exceptions.RequestException):
        response = error.response
        if response is not None:
            return status_error(
                response.status_code, response.text, doing, response.headers.get("Retry-After")
            )
        if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.MissingSchema):
            return LocationError(f"{doing}: {text}")
        return Unavailable(f"{doing}: {text}", hint=SERVER_HINT)
    if type(error).__module__.startswith(("sqlalchemy", "sqlite3", "psycopg", "alembic")):
        return _database_error(error, doing)
    if type(error).__module__.startswith(("botocore", "boto3", "google.", "azure.", "s3transfer")):
        return _cloud_error(error, doing)
    if type(error).__module__.startswith("urllib3"):
        return Unavailable(f"{doing}: {text}", hint=SERVER_HINT)  # the connection broke half-way
    if not type(error).__module__.startswith("mlflow"):
        return None
    return _mlflow_error(getattr(error, "error_code", None), text, doing)


def _mlflow_error(code: str | None, text: str, doing: str) -> OutgrowError:
    if _FULL.search(text):
        return full(doing)
    if _HOST.search(text):
        return CredentialsError(f"{doing}: {text}", hint=HOST_HINT)
    if code in _MISSING:
        return Vanished(f"{doing}: {text}")
    if _DATABRICKS.search(text):
        return CredentialsError(f"{doing}: {text}", hint=DATABRICKS_HINT)
    if code in _REFUSED:
        return CredentialsError(f"{doing}: {text}", hint=AUTH_HINT)
    if _RACE.search(text):
        return LostRace(f"{doing}: {text}", hint=SERVER_HINT)
    if code in _LATER:
        return Unavailable(f"{doing}: {text}", hint=SERVER_HINT)
    if match := _STATUS.search(text):
        return status_error(int(match[1] or match[2]), text, doing)
    if code in _INTERNAL and _SCHEMA.search(text):
        return SchemaVersionError(f"{doing}: {text}", hint=UPGRADE_HINT)
    if code in _INTERNAL:
        return Unavailable(f"{doing}: {text}", hint=SERVER_HINT)
    return Rejected(f"{doing}: {text}")


def _database_error(error: Exception, doing: str) -> OutgrowError:
    text = clean(getattr(error, "orig", None) or error)
    if _FULL.search(text):
        return full(doing)
    if _SCHEMA.search(text) or "readonly database" in text:
        return SchemaVersionError(
            f"{doing}: not a database of this MLflow release ({text})", hint=UPGRADE_HINT
        )
    if re.search(r"password|authentication|permission denied", text):
        return CredentialsError(
            f"{doing}: {text}", hint="check the user and the password of the database URL"
        )
    if "file is not a database" in text or "malformed" in text:
        return LocationError(f"{doing}: {text}", hint="check that the path is that of an MLflow database")
    if type(error).__name__ in ("IntegrityError", "DataError"):
        return Rejected(f"{doing}: {text}")
    return Unavailable(
        f"{doing}: {text}", hint="check that the database runs, and that nothing holds a lock on it"
    )


def _cloud_error(error: Exception, doing: str) -> OutgrowError:
    """Of an object store, whose SDKs tell the HTTP status in different places."""
    hint = "check the object store's own credentials (for S3: AWS_ACCESS_KEY_ID, AWS_PROFILE…)"
    response = getattr(error, "response", None)
    told = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    status = told.get("HTTPStatusCode") or getattr(error, "code", None) or getattr(error, "status_code", None)
    if isinstance(status, int):
        typed = status_error(status, str(error), doing)
        return CredentialsError(typed.message, hint=hint) if isinstance(typed, CredentialsError) else typed
    if "Credentials" in type(error).__name__:
        return CredentialsError(f"{doing}: {clean(error)}", hint=hint)
    return Unavailable(f"{doing}: {clean(error)}", hint="check the address of the object store")


def status_error(status: int, text: str, doing: str, retry_after: str | None = None) -> OutgrowError:
    """The typed error of an HTTP answer that is not 200."""
    text = clean(text)
    said = f"{doing}: HTTP {status} {text}".rstrip()
    if status in (507,) or _FULL.search(text):
        return full(doing)
    if status == 403 and _HOST.search(text):
        return CredentialsError(said, hint=HOST_HINT)
    if status in (401, 403):
        return CredentialsError(said, hint=AUTH_HINT)
    if status in (404, 410):
        return Vanished(said)
    if status in (408, 425, 429) or status >= 500:
        wait = float(retry_after) if retry_after and retry_after.isdigit() else None
        return Unavailable(said, hint=SERVER_HINT, retry_after=wait)
    return Rejected(said)


def full(doing: str) -> TargetFull:
    return TargetFull(f"{doing}: there is no room left", hint="make room and repeat: what is complete stays")
