"""A PostgreSQL server for tests: `pgserver` (PyPI), else Debian's run as the user `postgres`."""

from __future__ import annotations

import atexit
import glob
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

_numbers = itertools.count()


@cache
def server() -> str:
    """The URI of a server that lives as long as this process. Raises `RuntimeError` where there is none."""
    try:
        return _pgserver()
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError, AssertionError) as error:
        first = error
    try:
        return _debian()
    except (IndexError, OSError, subprocess.SubprocessError) as error:
        raise RuntimeError(f"no PostgreSQL: pgserver: {first}; Debian: {error!r}") from error


def _pgserver() -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pgserver

    folder = tempfile.mkdtemp(prefix="outgrow-pg-")
    found = pgserver.get_server(folder, cleanup_mode="stop")

    def stop() -> None:
        found.cleanup()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    return str(found.get_uri())


def _debian() -> str:
    binaries = Path(sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1])
    folder = Path(tempfile.mkdtemp(prefix="outgrow-pg-"))
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if user:
        shutil.chown(folder, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(folder / "data")
    run = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "timeout": 60}
    subprocess.run([*user, str(binaries / "initdb"), "-A", "trust", "-U", "postgres", "-D", data], **run)  # type: ignore[call-overload]
    options = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off"
    control = [*user, str(binaries / "pg_ctl"), "-D", data, "-w"]
    subprocess.run([*control, "-o", options, "-l", str(folder / "log"), "start"], **run)  # type: ignore[call-overload]

    def stop() -> None:
        subprocess.run([*control, "-m", "immediate", "stop"], check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    return f"postgresql://postgres@127.0.0.1:{port}/postgres"


def database() -> str:
    """A new, empty database; its URI."""
    return _create("empty")


@cache
def _template() -> str:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    uri = _create("template")
    SqlAlchemyStore(uri, "/nowhere").engine.dispose()
    return uri


def fresh_postgres() -> str:
    """A new database as MLflow's migrations make it (made once a session, then copied); its URI."""
    name = _template().partition("?")[0].rpartition("/")[2]
    return _create("store", f" TEMPLATE {name}")


def _create(kind: str, how: str = "") -> str:
    import psycopg

    name = f"{kind}_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}{how}")  # type: ignore[arg-type]
    head, mark, query = server().partition("?")
    return f"{head.rpartition('/')[0]}/{name}{mark}{query}"


def location(uri: str, artifacts: Path) -> str:
    return f"mlflow:{uri}{'&' if '?' in uri else '?'}outgrow.artifacts={artifacts}"
