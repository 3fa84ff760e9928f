"""MLflow's REST stores with few retries: a server that is down is told at once, not after minutes.

MLflow repeats a call seven times, ever more slowly (`MLFLOW_HTTP_REQUEST_MAX_RETRIES`). Here the
caller repeats, who knows what else there is to do meanwhile.
"""

from __future__ import annotations

import json
from typing import Any

from mlflow.store.model_registry.rest_store import RestStore as _Registry
from mlflow.store.tracking.rest_store import RestStore as _Tracking
from mlflow.utils.proto_json_utils import parse_dict
from mlflow.utils.rest_utils import http_request, verify_rest_response

RETRIES = 1
"""Of a call that only reads: a connection that the server closed while it was idle is opened again.

A call that writes is never repeated here: its answer may have been lost after it was carried out,
and only who looks first what is there (`Sink.find`…) does not make a run or a model twice.
"""


def _call(creds: Any, endpoint: str, method: str, body: str | None, answer: Any, headers: Any = None) -> Any:
    """`mlflow.utils.rest_utils.call_endpoint`, but for the retries."""
    data = None if body is None else json.loads(body)
    sent = {"params" if method == "GET" else "json": data}
    retries = RETRIES if method == "GET" else 0
    response = http_request(creds, endpoint, method, max_retries=retries, extra_headers=headers, **sent)
    response = verify_rest_response(response, endpoint)
    if response.status_code != 204:
        parse_dict(js_dict=json.loads(response.text), message=answer)
    return answer


class TrackingStore(_Tracking):  # type: ignore[misc]
    def _call_endpoint(
        self,
        api: Any,
        json_body: str | None = None,
        endpoint: str | None = None,
        retry_timeout_seconds: float | None = None,
        response_proto: Any = None,
    ) -> Any:
        infos = self._V3_METHOD_TO_INFO if api in self._V3_APIS else self._METHOD_TO_INFO
        self._validate_workspace_support_if_specified()
        place, method = infos[api]
        answer = response_proto or api.Response()
        return _call(self.get_host_creds(), endpoint or place, method, json_body, answer)


class RegistryStore(_Registry):  # type: ignore[misc]
    def _call_endpoint(
        self, api: Any, json_body: str, call_all_endpoints: bool = False, extra_headers: Any = None
    ) -> Any:
        if call_all_endpoints:  # tries one after the other, by the server's age
            return super()._call_endpoint(api, json_body, call_all_endpoints, extra_headers)
        self._validate_workspace_support_if_specified()
        endpoint, method = self._get_endpoint_from_method(api)
        answer = self._get_response_from_method(api)
        return _call(self.get_host_creds(), endpoint, method, json_body, answer, extra_headers)
