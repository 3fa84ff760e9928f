"""What the Comet emulator takes: the SDK's `clientlib` calls and the writing REST API."""

from __future__ import annotations

import json
import uuid
from typing import Any

from .comet import VERSION, Experiment, Refused, Request, State, now, route

EXISTS = 90999


def handshake(experiment: Experiment) -> dict[str, Any]:
    return {
        "runId": experiment.key,
        "project_id": f"{experiment.workspace}/{experiment.project}",
        "focusUrl": "http://emulator/",
        "lastOffset": 0,
        "featureToggles": [],
        "upload_file_size_limit_in_mb": 500,
        "asset_upload_file_size_limit_in_mb": 500,
        "artifactNameMaxLength": 100,
        "assetNameMaxLength": 500,
        "imageNameMaxLength": 500,
        "name": experiment.others.get("Name"),
    }


@route("GET", "clientlib/(clientlib/)?isAlive/ver")
@route("GET", "isAlive/ver")
def version(state: State, request: Request) -> Any:
    return {"msg": "Healthy Server", "code": 200, "version": VERSION}


@route("GET", "clientlib/health/ping")
def ping(state: State, request: Request) -> Any:
    return {}


@route("POST", "clientlib/logger/add/run")
def add_run(state: State, request: Request) -> Any:
    data = request.json
    key = data["experimentKey"]
    if key in state.experiments:
        if data.get("getOrCreateEnabled"):
            return handshake(state.experiments[key])
        raise Refused(400, "experiment already exists", EXISTS)
    workspace, project = data.get("teamName") or "default", data.get("projectName") or "general"
    state.projects.setdefault((workspace, project), str(uuid.uuid4()))
    experiment = Experiment(key, workspace, project, start=now())
    state.experiments[key] = experiment
    return handshake(experiment)


@route("POST", "clientlib/logger/get/run")
def get_run(state: State, request: Request) -> Any:
    return handshake(state.experiment(request.json["previousExperiment"]))


@route("POST", "clientlib/tags/add-tags-to-experiment")
def add_tags(state: State, request: Request) -> Any:
    experiment = state.experiment(request.json["experimentKey"])
    experiment.tags = list(dict.fromkeys([*experiment.tags, *request.json["addedTags"]]))
    return {}


@route("POST", "clientlib/status-report/update")
def status(state: State, request: Request) -> Any:
    experiment = state.experiment(request.json["experimentKey"])
    experiment.running = bool(request.json["is_alive"])
    if not experiment.running:
        experiment.end = now()
    return {"is_alive_beat_duration_millis": 10_000, "gpu_monitor_interval_millis": 60_000}


@route("POST", "clientlib/status-report/offline-metadata")
def offline_times(state: State, request: Request) -> Any:
    data = request.json
    experiment = state.experiment(data["experimentKey"])
    experiment.start = data["startTimestamp"] or experiment.start
    experiment.end = data["endTimestamp"] or experiment.end
    return {}


@route("POST", "clientlib/batch/logger/experiment/metric")
def metrics(state: State, request: Request) -> Any:
    experiment = state.experiment(request.json["experimentKey"])
    for value in request.json["values"]:
        kept = experiment.metrics.setdefault(value["metricName"], [])
        if value["step"] is not None and not float(value["step"]).is_integer():
            raise Refused(400, "step must be an integer")
        if len(kept) < state.limit:
            kept.append(
                {
                    "metricName": value["metricName"],
                    "metricValue": str(value["metricValue"]),
                    "timestamp": value["timestamp"],
                    "step": None if value["step"] is None else int(value["step"]),
                    "epoch": value.get("epoch"),
                    "runContext": value.get("context"),
                    "offset": len(kept),
                }
            )
    return {}


@route("POST", "clientlib/batch/logger/experiment/parameter")
def parameters(state: State, request: Request) -> Any:
    experiment = state.experiment(request.json["experimentKey"])
    for value in request.json["values"]:
        given = value["parameterValue"]
        if given is not None:
            experiment.params[value["parameterName"]] = given if isinstance(given, str) else json.dumps(given)
    return {}


@route("POST", "clientlib/(asset|visualizations|git-patch)/upload")
@route("POST", "clientlib/asset/asset-item")
@route("POST", "api/rest/v2/write/experiment/upload-asset")
def upload(state: State, request: Request) -> Any:
    query = request.query
    key = query.get("experimentId") or query["experimentKey"]
    version = query.get("artifactVersionId")
    asset_id = query.get("assetId") or uuid.uuid4().hex
    metadata = request.fields.get("metadata")
    link = request.fields.get("link")
    data = request.fields.get("file", b"")
    step = query.get("step")
    asset = {
        "assetId": asset_id,
        "fileName": query.get("fileName") or query.get("figName") or "file",
        "fileSize": 0 if link else len(data),
        "step": int(step) if step not in (None, "", "None") else None,
        "type": query.get("type") or "asset",
        "groupingName": query.get("groupingName"),
        "metadata": metadata.decode() if metadata else None,
        "remote": link is not None,
        "link": link.decode() if link else f"http://emulator/asset?assetId={asset_id}",
        "createdAt": now(),
        "dir": "others",
        "runContext": query.get("context"),
        "artifactVersionId": version,
        "experimentKey": key,
    }
    if not link:
        state.bytes[asset_id] = data
    if version:
        files = version_by_id(state, version)["files"]
        files[:] = [f for f in files if f["fileName"] != asset["fileName"]] + [asset]
    else:
        assets = state.experiment(key).assets
        assets[:] = [a for a in assets if a["assetId"] != asset_id] + [asset]
    return {"assetId": asset_id, "webUrl": "", "apiUrl": "", "link": ""}


@route("POST", "clientlib/rest/v2/write/experiment/output")
def output(state: State, request: Request) -> Any:
    experiment = state.experiment(request["experimentKey"])
    experiment.output += [line["output"] for line in request.json["outputLines"]]
    return {}


@route("POST", "clientlib/rest/v2/write/experiment/system-details")
def system_details(state: State, request: Request) -> Any:
    data = request.json
    experiment = state.experiment(data.pop("experimentKey"))
    experiment.packages = data.pop("installedPackages", experiment.packages)
    experiment.system |= data
    return {}


@route("POST", "api/rest/v2/write/experiment/git/metadata")
@route("POST", "clientlib/rest/v2/write/experiment/git/metadata")
def git(state: State, request: Request) -> Any:
    data = request.json
    state.experiment(data.pop("experimentKey")).git = data
    return {}


@route("POST", "(api|clientlib)/rest/v2/write/experiment/(file-path|html|graph|cloud-details|dependencies)")
def facts(state: State, request: Request) -> Any:
    data = request.json
    experiment = state.experiment(data.pop("experimentKey"))
    experiment.extra[request.path.rpartition("/")[2]] = data
    return {}


@route("POST", "(api|clientlib)/rest/v2/write/experiment/log-other")
def log_other(state: State, request: Request) -> Any:
    value = request["value"]
    text = value if isinstance(value, str) else json.dumps(value)
    state.experiment(request["experimentKey"]).others[str(request["key"])] = text
    return {}


@route("POST", "api/rest/v2/write/experiment/tags")
def rest_tags(state: State, request: Request) -> Any:
    return add_tags(state, request)


@route("POST", "api/rest/v2/write/experiment/set-start-end-time")
def set_times(state: State, request: Request) -> Any:
    experiment = state.experiment(request["experimentKey"])
    experiment.start = request["startTimeMillis"] or experiment.start
    experiment.end = request["endTimeMillis"] or experiment.end
    return {}


@route("POST", "api/rest/v2/write/experiment/update-status")
def update_status(state: State, request: Request) -> Any:
    experiment = state.experiment(request["experimentKey"])
    experiment.running, experiment.crashed = request["isAlive"], request["hasCrashed"]
    experiment.error = request["error"] or experiment.error
    return {}


@route("GET", "api/rest/v2/write/experiment/archive")
def archive(state: State, request: Request) -> Any:
    state.experiment(request["experimentKey"]).archived = True
    return {}


@route("POST", "clientlib/(asset/3d-limits|notify/event|rpc/.*|log/add)")
@route("POST", "(clientlib/)?notification/experiment")
@route("GET", "clientlib/rpc/get-pending-rpcs")
def ignored(state: State, request: Request) -> Any:
    return {"maxPoints": 1_000_000, "remoteProcedureCalls": []}


# --- artifacts -------------------------------------------------------------------------------------


def version_by_id(state: State, identifier: str) -> dict[str, Any]:
    for artifact in state.artifacts.values():
        for held in artifact["versions"]:
            if held["artifactVersionId"] == identifier:
                return held
    raise Refused(400, f"no artifact version {identifier}", 624523)


@route("POST", "api/rest/v2/write/artifacts/upsert")
def upsert(state: State, request: Request) -> Any:
    data = request.json
    experiment = state.experiment(data["experimentKey"])
    slot = (experiment.workspace, data["artifactName"])
    artifact = state.artifacts.setdefault(
        slot,
        {
            "artifactId": str(uuid.uuid4()),
            "type": data["artifactType"],
            "name": slot[1],
            "project": experiment.project,
            "versions": [],
        },
    )
    previous = artifact["versions"][-1]["version"] if artifact["versions"] else None
    number = data.get("version") or (f"{int(previous.split('.')[0]) + 1}.0.0" if previous else "1.0.0")
    if any(held["version"] == number for held in artifact["versions"]):
        raise Refused(400, f"version {number} exists", 90405)
    for held in artifact["versions"]:
        held["alias"] = [alias for alias in held["alias"] if alias not in (data.get("alias") or ())]
    held = {
        "artifactVersionId": str(uuid.uuid4()),
        "version": number,
        "alias": list(data.get("alias") or ()),
        "tags": list(data.get("versionTags") or ()),
        "metadata": data.get("versionMetadata"),
        "experimentKey": experiment.key,
        "state": "OPEN",
        "added": now(),
        "owner": "emulator",
        "files": [],
    }
    artifact["versions"].append(held)
    return {
        "artifactId": artifact["artifactId"],
        "artifactVersionId": held["artifactVersionId"],
        "currentVersion": number,
        "previousVersion": previous,
    }


@route("POST", "api/rest/v2/write/artifacts/state")
def artifact_state(state: State, request: Request) -> Any:
    version_by_id(state, request["artifactVersionId"])["state"] = request["state"]
    return {}


@route("POST", "api/rest/v2/write/artifacts/version/labels")
def artifact_labels(state: State, request: Request) -> Any:
    held, data = version_by_id(state, request["artifactVersionId"]), request.json
    for name, target in (("alias", "alias"), ("versionTags", "tags"), ("versionMetadata", "metadata")):
        if data.get(name) is not None:
            held[target] = data[name]
    return {}


@route("POST", "clientlib/rest/v2/write/artifact/assets/remote/batch")
def remote_assets(state: State, request: Request) -> Any:
    for item in request.json["remoteArtifactAssetRequests"]:
        files = version_by_id(state, item["artifactVersionId"])["files"]
        files.append(
            {
                "assetId": item["assetId"],
                "fileName": item["fileName"],
                "fileSize": 0,
                "type": item.get("type", "asset"),
                "metadata": item.get("metadata"),
                "remote": True,
                "link": item["link"],
                "artifactVersionId": item["artifactVersionId"],
            }
        )
    return {}
