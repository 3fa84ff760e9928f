"""The 2.x client's own connection to a server, with its errors in ours.

`HostedNeptuneBackend` is what `neptune.init_run` and `neptune sync` speak to a server through; used
directly it starts no background threads and no run of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from ...errors import (
    ConfigError,
    CredentialsError,
    LocationError,
    Rejected,
    TargetFull,
    Unavailable,
    Vanished,
)
from ...locations import Location
from .places import BASE_URL, TOKEN, Server

INSECURE = "OAUTHLIB_INSECURE_TRANSPORT"


@contextlib.contextmanager
def errors(what: str) -> Iterator[None]:
    """The client's errors as typed ones; `what` is being done."""
    from neptune import exceptions as vendor
    from neptune.common import exceptions as common
    from neptune.management.exceptions import ObjectNotFound

    try:
        yield
    except (common.NeptuneInvalidApiTokenException, common.Unauthorized, common.Forbidden) as error:
        raise CredentialsError(
            f"the server refused the token of {TOKEN}: {what}", hint="make a new token"
        ) from error
    except (vendor.ContainerUUIDNotFound, vendor.MetadataContainerNotFound, ObjectNotFound) as error:
        raise Vanished(f"gone since it was listed: {what}", hint="run the command again") from error
    except vendor.FetchAttributeNotFoundException as error:
        raise Vanished(f"an attribute is gone since it was listed: {what}") from error
    except vendor.ProjectNotFound as error:
        raise LocationError(
            f"there is no such project on the server: {what}", hint="is it WORKSPACE/PROJECT?"
        ) from error
    except vendor.NeptuneLimitExceedException as error:
        raise TargetFull(f"the server's quota is used up: {what}") from error
    except (
        common.NeptuneConnectionLostException,
        common.NeptuneSSLVerificationError,
        common.InternalServerError,
    ) as error:
        raise Unavailable(
            f"the server did not answer: {what}", hint="is it up? run the command again"
        ) from error
    except (ConnectionError, TimeoutError) as error:
        raise Unavailable(
            f"the server did not answer: {what}", hint="is it up? run the command again"
        ) from error
    except common.NeptuneException as error:
        raise Rejected(f"{what}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line and not line.startswith(("-", "\x1b"))), type(error).__name__)


class Backend:
    """A connection to one project."""

    def __init__(self, location: Location, server: Server, project: str) -> None:
        if server.url.startswith("http:") and not os.environ.get(INSECURE):
            raise ConfigError(
                f"{location} is served without encryption ({server.url})",
                hint=f"set {INSECURE}=1 if that is meant, or an https URL in {BASE_URL} or the token",
            )
        logging.getLogger("neptune").setLevel(logging.ERROR)
        with errors(f"connecting to {server.url}"):
            from neptune.internal.backends.hosted_neptune_backend import HostedNeptuneBackend
            from neptune.internal.container_type import ContainerType
            from neptune.internal.credentials import Credentials

            self.run_type: Any = ContainerType.RUN
            self.types: Any = ContainerType
            self.api: Any = HostedNeptuneBackend(Credentials.from_token(server.token))
        with errors(f"looking for the project {project}"):
            self.project: Any = self.api.get_project(project)
        self.name = project

    def entries(self, kind: Any, *columns: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(container id, attribute path → value) of every run (or model…), in the order of their ids."""
        with errors(f"listing {self.name}"):
            found = self.api.search_leaderboard_entries(
                project_id=self.project.id,
                types=[kind],
                columns=["sys/id", *columns],
                sort_by="sys/id",
                ascending=True,
                progress_bar=False,
            )
            for entry in found:
                yield (
                    str(entry.id),
                    {a.path: a.properties.get("value") for a in entry.attributes if a.properties is not None},
                )

    def url(self, sys_id: str) -> str:
        workspace, _, project = self.name.partition("/")
        return str(self.api.get_run_url("", workspace, project, sys_id))
