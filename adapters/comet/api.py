"""Comet's public REST API, version 2, and the few `clientlib` calls that it lacks.

Plain HTTP rather than the SDK's client: importing `comet_ml` patches the frameworks that the
process has loaded, and its client repeats refused credentials. Repeats on 429, 5xx and dropped
connections only; a 429 holds back every thread until the server takes requests again.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import Any, BinaryIO, cast

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from ...errors import CredentialsError, OutgrowError, Rejected, Unavailable, Vanished
from . import credentials

_ATTEMPTS = 6
_LONGEST_WAIT = 60.0
_IN_MEMORY = 16 << 20
_TIMEOUT = httpx.Timeout(60, connect=10)

EXISTS = 90999
"""`sdk_error_code` of an experiment key that is taken (`comet_ml.connection`)."""


class Refused(Rejected):
    """The server's own no, with its code."""

    def __init__(self, message: str, code: int | None, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class Api:
    """One server. Its methods may be called from several threads.

    Raise `CredentialsError` (401, 403), `Vanished` (404), `Refused` (other 4xx), `Unavailable`.
    """

    def __init__(self) -> None:
        self.server = credentials.server()
        self._key = credentials.api_key()
        self._http = httpx.Client(
            base_url=self.server,
            headers={"Authorization": self._key},
            timeout=_TIMEOUT,
            follow_redirects=True,
        )
        self._lock = threading.Lock()
        self._not_before = 0.0

    def close(self) -> None:
        self._http.close()

    # --- calls --------------------------------------------------------------------------------

    def get(self, endpoint: str, **params: Any) -> dict[str, Any]:
        """The JSON object that an endpoint of `/api/rest/v2/` answers; parameters of None are left out."""
        return self._object(self._call("GET", f"/api/rest/v2/{endpoint}", params=params))

    def post(self, endpoint: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        return self._object(self._call("POST", f"/api/rest/v2/{endpoint}", body=payload))

    def clientlib(self, endpoint: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        return self._object(
            self._call("POST", f"/clientlib/{endpoint}", body={**payload, "apiKey": self._key})
        )

    def upload(self, params: Mapping[str, Any], metadata: str | None, data: BinaryIO | str) -> None:
        """An asset, as the SDK sends one: bytes, or the link of a remote one."""

        def files() -> dict[str, Any]:
            fields: dict[str, Any] = {"metadata": (None, metadata)} if metadata else {}
            if isinstance(data, str):
                return fields | {"link": ("link", data)}
            data.seek(0)
            return fields | {"file": ("file", data)}

        self._call("POST", "/clientlib/asset/upload", params=params, files=files)

    def download(self, params: Mapping[str, Any]) -> BinaryIO:
        """An asset's bytes, whole, in memory or in a temporary file."""

        def attempt() -> BinaryIO:
            target = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 (the caller closes it)
            try:
                with self._http.stream(
                    "GET", "/api/rest/v2/experiment/asset/get-asset", params=_told(params)
                ) as answer:
                    if answer.is_error:
                        answer.read()
                    self._check(answer)
                    for part in answer.iter_bytes(1 << 20):
                        target.write(part)
            except BaseException:
                target.close()
                raise
            target.seek(0)
            return cast(BinaryIO, target)

        return cast(BinaryIO, self._repeated(attempt))

    # --- below --------------------------------------------------------------------------------

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        files: Any = None,
    ) -> httpx.Response:
        def attempt() -> httpx.Response:
            answer = self._http.request(
                method,
                path,
                params=_told(params or {}),
                json=None if body is None else dict(body),
                files=files() if files else None,
            )
            self._check(answer)
            return answer

        return cast(httpx.Response, self._repeated(attempt))

    def _repeated(self, attempt: Any) -> Any:
        def patient() -> Any:
            with self._lock:
                wait = self._not_before - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            try:
                return attempt()
            except httpx.TransportError as error:
                raise Unavailable(
                    f"the Comet server {self.server} did not answer ({type(error).__name__})",
                    hint="check the address in COMET_URL_OVERRIDE and the network, and copy again",
                ) from error

        return Retrying(
            retry=retry_if_exception_type(Unavailable),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=_wait,
            reraise=True,
        )(patient)

    def _check(self, answer: httpx.Response) -> None:
        status = answer.status_code
        if not answer.is_error:
            return
        message, code = _said(answer)
        where = f"{answer.request.method} {answer.request.url.path}"
        if status in (401, 403):
            raise CredentialsError(
                f"Comet refused the API key for {where}: {message}",
                hint="set COMET_API_KEY to a key that may use this workspace",
            )
        if status == 404:
            raise Vanished(f"Comet has no such thing: {where}: {message}")
        if status == 429 or status >= 500:
            after = _seconds(answer.headers.get("Retry-After"))
            if status == 429:
                with self._lock:
                    self._not_before = max(self._not_before, time.monotonic() + (after or 1.0))
            raise Unavailable(f"Comet answered {status} to {where}: {message}", retry_after=after)
        raise Refused(f"Comet refused {where}: {message}", code)

    @staticmethod
    def _object(answer: httpx.Response) -> dict[str, Any]:
        if not answer.content:
            return {}
        try:
            data = answer.json()
        except ValueError as error:
            raise OutgrowError(
                f"Comet answered {answer.request.url.path} with something that is not JSON"
            ) from error
        return data if isinstance(data, dict) else {"value": data}


def _told(params: Mapping[str, Any]) -> dict[str, Any]:
    return {
        k: str(v).lower() if isinstance(v, bool) else v if isinstance(v, str) else str(v)
        for k, v in params.items()
        if v is not None
    }


def _said(answer: httpx.Response) -> tuple[str, int | None]:
    try:
        data = json.loads(answer.content)
        return str(data.get("msg") or data)[:300], data.get("sdk_error_code")
    except (ValueError, AttributeError):
        return answer.reason_phrase, None


def _seconds(header: str | None) -> float | None:
    try:
        return None if header is None else max(0.0, float(header))
    except ValueError:
        return None


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, Unavailable) else None
    return min(_LONGEST_WAIT, asked if asked is not None else 0.2 * 2**state.attempt_number)
