"""MLflow's REST API without its entities, for what travels in bulk: points and artifacts.

Every call is MLflow's own `http_request`, with its authentication (environment variables,
`~/.mlflow/credentials`, workspace header), and is one request: retries are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .errors import clean, status_error, translated

API = "/api/2.0/mlflow"
AJAX = "/ajax-api/2.0/mlflow"


class Http:
    """A tracking server. `host_creds` is asked before each request, so that they may change."""

    def __init__(self, url: str, host_creds: Callable[[], Any]) -> None:
        self.url = url
        self.host_creds = host_creds
        self.public = clean(url)

    def request(self, method: str, endpoint: str, doing: str, **kwargs: Any) -> Any:
        """The response, its status checked. Raises the typed errors."""
        from mlflow.utils.rest_utils import http_request

        with translated(f"{doing} ({self.public})"):
            response = http_request(
                self.host_creds(), endpoint, method, max_retries=0, raise_on_status=False, **kwargs
            )
        if response.status_code not in (200, 204):
            raise status_error(
                response.status_code,
                response.text,
                f"{doing} ({self.public})",
                response.headers.get("Retry-After"),
            )
        return response

    def get(self, endpoint: str, params: Mapping[str, Any], doing: str, **kwargs: Any) -> bytes:
        content: bytes = self.request("GET", endpoint, doing, params=params, **kwargs).content
        return content

    def post(self, endpoint: str, body: bytes, doing: str, **kwargs: Any) -> bytes:
        """`body` is JSON."""
        headers = {"Content-Type": "application/json"}
        response = self.request("POST", endpoint, doing, data=body, extra_headers=headers, **kwargs)
        content: bytes = response.content
        return content
