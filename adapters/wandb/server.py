"""Talking to a W&B server through the SDK's own transport: GraphQL, downloads, typed errors.

The SDK's transport (wandb-core) brings authentication of every kind, proxies, and retries that
honour `Retry-After`. Queries are our own, so that one request brings a page of whole runs.
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from ...errors import CredentialsError, OutgrowError, Rejected, Unavailable, Vanished
from .place import base_url, credentials

_TIMEOUT = 60
"""Seconds for one GraphQL request, the transport's retries included."""
_IN_MEMORY = 8 << 20

_CREDENTIALS = re.compile(r"\b(401|403)\b|unauthor|forbidden|permission|relogin|api key", re.IGNORECASE)
_GONE = re.compile(r"\b404\b|not found|could not find", re.IGNORECASE)
_LATER = re.compile(
    r"\b(408|429|5\d\d)\b|timed? ?out|in time|connection|refused|reset|eof|not running|rate limit",
    re.IGNORECASE,
)


def typed(message: str, what: str) -> OutgrowError:
    """The error that a message of the SDK or the server stands for."""
    short = " ".join(message.split())[:300]
    if re.search("previously created and deleted", message):
        return Rejected(
            f"{what}: the server refuses an id that was deleted once ({short})",
            hint="copy into another project, or leave that run out with --where",
        )
    if _CREDENTIALS.search(message):
        return CredentialsError(f"{what}: {short}", hint="run `wandb login`, or set WANDB_API_KEY")
    if _LATER.search(message):
        return Unavailable(f"{what}: {short}", hint="check WANDB_BASE_URL, or try again later")
    if _GONE.search(message):
        return Vanished(f"{what}: {short}")
    return Rejected(f"{what}: {short}")


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Errors of the SDK and of HTTP as those of `outgrow.errors`."""
    import requests
    from wandb.errors import Error
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    try:
        yield
    except OutgrowError:
        raise
    except requests.HTTPError as error:
        status = "error" if error.response is None else error.response.status_code
        raise typed(f"HTTP {status}", what) from error
    except (requests.RequestException, TimeoutError) as error:
        raise Unavailable(f"{what}: {error}", hint="try again later") from error
    except (Error, WandbApiFailedError) as error:
        raise typed(str(error), what) from error


class Server:
    """One server and one login. Thread-safe; connects at the first request."""

    def __init__(self) -> None:
        self.url = base_url()
        self._lock = threading.Lock()
        self._api: Any = None

    @property
    def api(self) -> Any:
        """The vendor's `wandb.Api`."""
        with self._lock:
            if self._api is None:
                if credentials() is None:
                    raise CredentialsError(
                        f"no API key for {self.url}", hint="run `wandb login`, or set WANDB_API_KEY"
                    )
                import wandb

                with translated(f"logging in at {self.url}"):
                    self._api = wandb.Api(overrides={"base_url": self.url}, timeout=_TIMEOUT)
            return self._api

    @property
    def app_url(self) -> str:
        return str(self.api._service_api.app_url).rstrip("/")

    def graphql(self, query: str, what: str, **variables: Any) -> dict[str, Any]:
        """The `data` of the answer. Raises the typed errors."""
        api = self.api
        with translated(what):
            return cast(dict[str, Any], api._service_api.execute_graphql(query, variables))

    def download(self, url: str, what: str, size: int | None = None) -> BinaryIO:
        """The bytes behind a URL, whole, as a file. The key goes to the server itself only."""
        import requests

        api = self.api
        own = urlsplit(url).netloc == urlsplit(self.url).netloc
        auth = ("api", api.api_key or "") if own and api.api_key else None
        held = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - the caller closes it
        try:
            with (
                translated(what),
                requests.get(url, auth=auth, stream=True, timeout=_TIMEOUT) as response,
            ):
                response.raise_for_status()
                for part in response.iter_content(1 << 20):
                    held.write(part)
            if size is not None and held.tell() != size:
                raise Unavailable(f"{what}: {held.tell()} of {size} bytes arrived", hint="try again later")
        except BaseException:
            held.close()
            raise
        held.seek(0)
        return cast(BinaryIO, held)

    def upload(self, url: str, data: bytes, headers: Iterable[str], what: str) -> None:
        """PUT to a URL that the server gave, with the headers (`Name:value`) that it asked for."""
        import requests

        told = dict(header.split(":", 1) for header in headers)
        with translated(what):
            requests.put(url, data=data, headers=told, timeout=_TIMEOUT).raise_for_status()

    def json(self, url: str, what: str) -> Any:
        with self.download(url, what) as stream:
            return json.load(stream)


def pages(
    server: Server, query: str, what: str, path: tuple[str, ...], **variables: Any
) -> Iterator[Mapping[str, Any]]:
    """The nodes of a connection, page by page; `path` leads to it in the answer."""
    cursor: str | None = None
    while True:
        found: Any = server.graphql(query, what, cursor=cursor, **variables)
        for part in path:
            found = (found or {}).get(part)
        if found is None:
            return
        for edge in found["edges"]:
            yield edge["node"]
        page = found["pageInfo"]
        cursor = page.get("endCursor")
        if not page.get("hasNextPage") or not cursor:
            return
