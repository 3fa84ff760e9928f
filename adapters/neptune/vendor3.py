"""The 3.x clients' own connections to a server, with their errors in ours.

Reading is `neptune_query.internal.retrieval` (requests, retries, messages), page by page where the
client would hold a whole series; sending is the threads' work of `neptune_scale.sync.sync_process`.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ...errors import CredentialsError, LocationError, Rejected, Unavailable, Vanished
from .places import TOKEN, Server

PAGE = 100_000
"""Points of one answer, all its series together."""
SERIES = 100
"""Series of one request (`NEPTUNE_QUERY_MAX_REQUEST_SIZE` is 220 kB, a path 1 kB)."""


@contextlib.contextmanager
def errors(what: str) -> Iterator[None]:
    """The clients' errors as typed ones; `what` is being done."""
    import httpx
    from neptune_api.errors import ApiKeyRejectedError as ScaleRejected
    from neptune_query import exceptions as query
    from neptune_query.generated.neptune_api.errors import ApiKeyRejectedError
    from neptune_scale import exceptions as scale

    down = "is it up? run the command again"
    try:
        yield
    except (
        query.NeptuneInvalidCredentialsError,
        scale.NeptuneInvalidCredentialsError,
        scale.NeptuneUnauthorizedError,
        ApiKeyRejectedError,
        ScaleRejected,
    ) as error:
        raise CredentialsError(
            f"the server refused the token of {TOKEN}: {what}", hint="make a new token"
        ) from error
    except (query.NeptuneProjectInaccessible, scale.NeptuneProjectNotFound) as error:
        raise LocationError(
            f"there is no such project, or the token does not open it: {what}",
            hint="is it WORKSPACE/PROJECT?",
        ) from error
    except (
        query.NeptuneRetryError,
        query.NeptuneFileDownloadError,
        scale.NeptuneRetryableError,
        httpx.HTTPError,
        ConnectionError,
        TimeoutError,
    ) as error:
        raise Unavailable(f"the server did not answer: {what}", hint=down) from error
    except (query.NeptuneError, scale.NeptuneScaleError) as error:
        raise Rejected(f"{what}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = (line.strip() for line in re.sub(r"\x1b\[[0-9;]*m|\{\w+\}", "", str(error)).splitlines())
    return next((line.lstrip("-") for line in lines if line.strip("-")), type(error).__name__)


class Reader:
    """A connection to one project. A run is named by its short id (`sys/id`)."""

    def __init__(self, server: Server, project: str) -> None:
        for name in ("neptune_query", "httpx"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self.name: Any = project
        with errors(f"connecting to {server.url}"):
            from neptune_query.generated.neptune_api.credentials import Credentials
            from neptune_query.internal.api_utils import create_auth_api_client
            from neptune_query.internal.retrieval import attribute_values, files, metrics, search, series

            self._search, self._values, self._files = search, attribute_values, files
            self._metrics, self._series = metrics, series
            _reach(server.url)
            self.client: Any = create_auth_api_client(credentials=Credentials.from_api_key(server.token))

    def close(self) -> None:
        self.client.get_httpx_client().close()

    def entries(self, *paths: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """(run id, short id, attribute path → value) of every run, oldest first."""
        from neptune_query.internal.filters import _Attribute

        with errors(f"listing {self.name}"):
            for page in self._search.fetch_table_rows_exact_attributes(
                client=self.client,
                project_identifier=self.name,
                filter_=None,
                requested_attribute_names=set(paths),
                sort_by=_Attribute("sys/creation_time", type="datetime"),
                sort_direction="asc",
                limit=None,
                container_type=self._search.ContainerType.RUN,
            ):
                for entry in page.items:
                    found = {v.attribute_definition.name: v.value for v in entry.values}
                    yield str(entry.label), str(entry.sys_id), found

    def attributes(self, sys_id: str) -> Iterator[tuple[str, str, Any]]:
        """(path, type in the exporter's words, value; of a series its aggregations)."""
        from neptune_query.internal.filters import _AttributeFilter
        from neptune_query.internal.identifiers import RunIdentifier, SysId
        from neptune_query.internal.retrieval.attribute_types import ALL_TYPES

        with errors(f"reading the attributes of {self.name}/{sys_id}"):
            for page in self._values.fetch_attribute_values(
                self.client,
                self.name,
                [RunIdentifier(self.name, SysId(sys_id))],
                _AttributeFilter(type_in=list(ALL_TYPES)),
            ):
                for found in page.items:
                    yield found.attribute_definition.name, found.attribute_definition.type, found.value

    def _request(self, sys_id: str, paths: Sequence[str], inherited: bool, **more: Any) -> dict[str, Any]:
        series = {
            "holder": {"identifier": f"{self.name}/{sys_id}", "type": "experiment"},
            "lineage": "FULL" if inherited else "NONE",
            "lineageEntityType": "RUN",
            **more,
        }
        return {
            "requests": [
                {"requestId": str(n), "series": series | {"attribute": path}} for n, path in enumerate(paths)
            ],
            "stepRange": {"from": None, "to": None},
            "order": "ascending",
            "perSeriesPointsLimit": max(1, PAGE // len(paths)),
        }

    def floats(self, sys_id: str, paths: Sequence[str], inherited: bool) -> Iterator[tuple[str, Any]]:
        """(path, its next points), each with `step`, `value`, `timestamp_millis`."""
        for start in range(0, len(paths), SERIES):
            some = paths[start : start + SERIES]
            params = self._request(sys_id, some, inherited, includePreview=False)
            while params["requests"]:
                with errors(f"reading points of {self.name}/{sys_id}"):
                    page = self._metrics._fetch_metrics_page(self.client, params)
                after: dict[str, float] = {}
                for found in page.series:
                    points = found.series.values
                    if points:
                        yield some[int(found.requestId)], points
                    if len(points) >= params["perSeriesPointsLimit"]:
                        after[found.requestId] = points[-1].step
                params["requests"] = [
                    request | {"afterStep": after[request["requestId"]]}
                    for request in params["requests"]
                    if request["requestId"] in after
                ]

    def objects(self, sys_id: str, paths: Sequence[str], inherited: bool) -> Iterator[tuple[str, Any]]:
        """(path, the next values of its texts, histograms or files), each with `step`, `object`, `timestamp_millis`."""
        for start in range(0, len(paths), SERIES):
            some = paths[start : start + SERIES]
            params: Any = self._request(sys_id, some, inherited)
            params["perSeriesPointsLimit"] = max(1, PAGE // 10 // len(some))
            while params is not None:
                with errors(f"reading series of {self.name}/{sys_id}"):
                    page = self._series._fetch_series_page(self.client, params)
                for found in page.series:
                    if found.seriesValues.values:
                        yield some[int(found.requestId)], found.seriesValues.values
                params = self._series._make_new_series_page_params(params, page)

    def download(self, stored: str, target: Path) -> None:
        """The bytes at a path of the file store. Raises `Vanished` where they are gone."""
        with errors(f"downloading {stored}"):
            wanted = self._files.SignedFile("", stored, "aws", self.name, "read")
            signed = self._files.fetch_signed_urls(self.client, [wanted])
            found = self._files.download_file_complete(self.client, signed[0], target)
        if found is None:
            raise Vanished(f"the server lists {stored} and does not have it")


def _reach(url: str) -> None:
    """One request without the client's half an hour of retries."""
    import httpx
    from neptune_query.internal.env import NEPTUNE_VERIFY_SSL

    answer = httpx.get(f"{url}/api/backend/v1/clients/config", verify=NEPTUNE_VERIFY_SSL.get(), timeout=30)
    answer.raise_for_status()


class Sender:
    """Sends run logs. One connection for all: the client would log in several times for each log."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._client: Any = None
        self._lock = threading.Lock()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def _connected(self) -> Any:
        from neptune_scale.net.api_client import ApiClient, with_api_errors_handling

        with self._lock:
            if self._client is None:
                with errors(f"connecting to {self._server.url}"):
                    self._client = with_api_errors_handling(ApiClient)(api_token=self._server.token)
            return self._client

    def send(self, log: Path) -> None:
        """Send a run log, as `neptune sync` does, and look at every answer.

        Raises `Rejected` with the server's first complaint, `Unavailable` where the client gave up.
        """
        from neptune_scale import exceptions as scale
        from neptune_scale.sync import sync_process as sync
        from neptune_scale.sync.operations_repository import OperationsRepository

        logging.getLogger("neptune").setLevel(logging.CRITICAL)  # what it logs is raised here
        store = OperationsRepository(db_path=log.resolve())
        told = store.get_metadata()
        assert told is not None
        project, native, token = told.project, told.run_id, self._server.token

        def complaint() -> None:
            found = [e.deserialize_error() for e in store.get_errors(limit=100)]
            real = [e for e in found if not isinstance(e, scale.NeptuneRunDuplicate)]
            if real:
                with errors(f"writing {native} to {project}"):
                    raise real[0]

        try:
            sender = sync.SenderThread(token, native, store)
            status = sync.StatusTrackingThread(token, project, store)
            sender._backend = status._backend = self._connected()
            with contextlib.suppress(scale.NeptuneSynchronizationStopped):  # the reason is in the log
                sender.work()
                complaint()
                while store.get_operation_submission_count(limit=1):
                    status.work()
                    complaint()
                    if store.get_operation_submission_count(limit=1):
                        time.sleep(0.2)
                if store.get_file_upload_requests_count(limit=1):
                    uploader = sync.FileUploaderThread(project, token, store)
                    with contextlib.closing(uploader), ThreadPoolExecutor(1) as pool:
                        pool.submit(uploader.work).result()  # it sets its thread's event loop
            complaint()
            if store.get_operation_count(limit=1) or store.get_file_upload_requests_count(limit=1):
                raise Unavailable(f"the server did not take all of {native}", hint="run the command again")
        finally:
            store.close(cleanup_files=False)
