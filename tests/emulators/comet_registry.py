"""The Comet emulator's model registry."""

from __future__ import annotations

import math
import uuid
from typing import Any

from .comet import Refused, Request, State, now, route

_API = "api/rest/v2/"


@route("POST", "api/rest/v2/write/registry-model/item/create")
def register(state: State, request: Request) -> Any:
    data = request.json
    experiment = state.experiment(data["experimentKey"])
    name = data["experimentModelName"]
    if not any(a["groupingName"] == name and a["type"] == "model-element" for a in experiment.assets):
        raise Refused(400, f"the experiment has no model {name}")
    slot = (experiment.workspace, data["registryModelName"])
    model = state.models.setdefault(
        slot,
        {
            "registryModelId": uuid.uuid4().hex,
            "modelName": slot[1],
            "description": data.get("registryModelDescription"),
            "isPublic": bool(data.get("publicModel")),
            "createdAt": now(),
            "lastUpdated": now(),
            "userName": "emulator",
            "notes": "",
            "versions": [],
        },
    )
    if any(held["version"] == data["version"] for held in model["versions"]):
        raise Refused(400, f"version {data['version']} exists", 90406)
    item = {
        "registryModelItemId": uuid.uuid4().hex,
        "experimentModel": {
            "experimentModelId": f"{experiment.key}-{name}",
            "experimentModelName": name,
            "experimentKey": experiment.key,
        },
        "version": data["version"],
        "comment": data.get("versionComment"),
        "stages": list(data.get("tags") or ()),
        "tags": list(data.get("tags") or ()),
        "status": data.get("status"),
        "userName": "emulator",
        "createdAt": now(),
        "lastUpdated": now(),
        "metadata": [],
    }
    model["versions"].append(item)
    return {"registryModelId": model["registryModelId"], "registryModelItemId": item["registryModelItemId"]}


def item_by_id(state: State, identifier: str) -> dict[str, Any]:
    for model in state.models.values():
        for item in model["versions"]:
            if item["registryModelItemId"] == identifier:
                return item
    raise Refused(400, f"no model version {identifier}")


@route("POST", "api/rest/v2/write/registry-model/item/[^/]+/metadata")
def model_metadata(state: State, request: Request) -> Any:
    item = item_by_id(state, request.path.split("/")[-2])
    given = {entry["key"]: entry["value"] for entry in request.json["metadata"]}
    held = {entry["key"]: entry["value"] for entry in item["metadata"]} | given
    if any(isinstance(v, float) and not math.isfinite(v) for v in held.values()):
        raise Refused(400, "metadata must be finite")
    item["metadata"] = [{"key": k, "value": v} for k, v in held.items()]
    return {}


@route("GET", "api/rest/v2/write/registry-model/item/stage")
def model_stage(state: State, request: Request) -> Any:
    item = item_by_id(state, request["modelItemId"])
    for name in ("stages", "tags"):
        item[name] = list(dict.fromkeys([*item[name], request["stage"]]))
    return {}


@route("POST", "api/rest/v2/write/registry-model/item/status")
def model_status(state: State, request: Request) -> Any:
    item_by_id(state, request["modelItemId"])["status"] = request["status"]
    return {}


@route("POST", "api/rest/v2/write/registry-model/notes")
def model_notes(state: State, request: Request) -> Any:
    state.models[request["workspaceName"], request["registryModelName"]]["notes"] = request["notes"]
    return {}


# --- reading ---


def _model(state: State, request: Request) -> dict[str, Any]:
    try:
        return state.models[request["workspaceName"], request["modelName"]]
    except KeyError:
        raise Refused(400, f"no model {request['modelName']}") from None


@route("GET", _API + "registry-model")
def registry(state: State, request: Request) -> Any:
    workspace = request["workspaceName"]
    return {"registryModels": [m for (w, _), m in state.models.items() if w == workspace]}


@route("GET", _API + "registry-model/details")
@route("GET", _API + "registry-model/compact-details")
def model(state: State, request: Request) -> Any:
    found = _model(state, request)
    versions = [
        item
        | {
            "assets": [
                a
                for a in state.experiment(item["experimentModel"]["experimentKey"]).assets
                if a["groupingName"] == item["experimentModel"]["experimentModelName"]
            ]
        }
        for item in reversed(found["versions"])
    ]
    return found | {"versions": versions}


@route("GET", _API + "registry-model/notes")
def read_model_notes(state: State, request: Request) -> Any:
    return {"notes": _model(state, request)["notes"]}


@route("GET", _API + "registry-model/count")
def model_count(state: State, request: Request) -> Any:
    return {"registryModelCount": len(registry(state, request)["registryModels"])}


@route("GET", _API + "registry-model/item/details")
def model_item(state: State, request: Request) -> Any:
    for item in _model(state, request)["versions"]:
        if item["version"] == request["version"]:
            return item | {"experimentKey": item["experimentModel"]["experimentKey"]}
    raise Refused(400, f"no version {request['version']}")


@route("GET", _API + "registry-model/item/[^/]+/metadata")
def model_item_metadata(state: State, request: Request) -> Any:
    return {"metadata": item_by_id(state, request.path.split("/")[-2])["metadata"]}
