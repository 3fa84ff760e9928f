"""What the Comet emulator answers: the reading REST API, version 2."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from .comet import Experiment, Refused, Request, State, now, route

_API = "api/rest/v2/"


def _metadata(experiment: Experiment) -> dict[str, Any]:
    end = experiment.end
    return {
        "archived": experiment.archived,
        "durationMillis": (end or now()) - experiment.start,
        "endTimeMillis": end,
        "experimentKey": experiment.key,
        "experimentName": experiment.others.get("Name"),
        "fileName": experiment.extra.get("file-path", {}).get("filePath"),
        "filePath": experiment.extra.get("file-path", {}).get("filePath"),
        "optimizationId": None,
        "projectId": f"{experiment.workspace}/{experiment.project}",
        "projectName": experiment.project,
        "running": experiment.running,
        "hasCrashed": experiment.crashed,
        "startTimeMillis": experiment.start,
        "throttle": False,
        "workspaceName": experiment.workspace,
        "userName": experiment.system.get("user"),
    }


@route("GET", _API + "account-details")
def account(state: State, request: Request) -> Any:
    return {"userName": "emulator", "defaultWorkspaceName": "default"}


@route("GET", _API + "workspaces")
def workspaces(state: State, request: Request) -> Any:
    return {"workspaceNames": sorted({w for w, _ in state.projects} | {"default"})}


@route("GET", _API + "projects")
def projects(state: State, request: Request) -> Any:
    found = [
        {"projectId": identifier, "projectName": name, "workspaceName": workspace, "projectDescription": None}
        for (workspace, name), identifier in state.projects.items()
        if workspace == request["workspaceName"]
    ]
    return {"projects": found}


@route("GET", _API + "experiments")
def experiments(state: State, request: Request) -> Any:
    query = request.query
    archived = query.get("archived", "false").lower() == "true"
    found = [
        _metadata(e)
        for e in state.experiments.values()
        if (e.workspace, e.project) == (query["workspaceName"], query["projectName"])
        and e.archived == archived
    ]
    if "page" in query:
        size = int(query["size"])
        start = (int(query["page"]) - 1) * size
        found = found[start : start + size]
    return {"experiments": found}


@route("GET", _API + "experiment/metadata")
def metadata(state: State, request: Request) -> Any:
    return _metadata(state.experiment(request["experimentKey"]))


@route("GET", _API + "experiment/tags")
def tags(state: State, request: Request) -> Any:
    return {"tags": state.experiment(request["experimentKey"]).tags}


def _summaries(values: dict[str, Any]) -> dict[str, Any]:
    return {
        "values": [
            {"name": k, "valueCurrent": v, "valueMin": v, "valueMax": v, "timestampCurrent": now()}
            for k, v in values.items()
        ]
    }


@route("GET", _API + "experiment/parameters")
def parameters(state: State, request: Request) -> Any:
    return _summaries(state.experiment(request["experimentKey"]).params)


@route("GET", _API + "experiment/log-other")
def others(state: State, request: Request) -> Any:
    return _summaries(state.experiment(request["experimentKey"]).others)


@route("GET", _API + "experiment/metrics/summary")
def metric_summary(state: State, request: Request) -> Any:
    found = state.experiment(request["experimentKey"]).metrics
    return _summaries({name: values[-1]["metricValue"] for name, values in found.items() if values})


@route("GET", _API + "experiment/metrics/get-metric")
def metric(state: State, request: Request) -> Any:
    experiment = state.experiment(request["experimentKey"])
    return {"metrics": experiment.metrics.get(request["metricName"], [])}


@route("GET", _API + "experiment/metrics/get-all")
def all_metrics(state: State, request: Request) -> Any:
    experiment = state.experiment(request["experimentKey"])
    return {"metrics": [value for values in experiment.metrics.values() for value in values]}


@route("GET", _API + "experiment/output")
def output(state: State, request: Request) -> Any:
    return {"output": "".join(state.experiment(request["experimentKey"]).output)}


@route("GET", _API + "experiment/system-details")
def system_details(state: State, request: Request) -> Any:
    experiment = state.experiment(request["experimentKey"])
    return experiment.system | {"installedPackages": experiment.packages}


@route("GET", _API + "experiment/git/metadata")
def git(state: State, request: Request) -> Any:
    return state.experiment(request["experimentKey"]).git


@route("GET", _API + "experiment/(html|graph)")
def facts(state: State, request: Request) -> Any:
    kind = request.path.rpartition("/")[2]
    return state.experiment(request["experimentKey"]).extra.get(kind) or {kind: None}


@route("GET", _API + "experiment/asset/list")
def assets(state: State, request: Request) -> Any:
    found = state.experiment(request["experimentKey"]).assets
    kind = request.query.get("type", "all")
    return {"assets": [a for a in found if kind in ("all", a["type"])]}


@route("GET", _API + "experiment/asset/get-asset")
def asset(state: State, request: Request) -> Any:
    data = state.bytes.get(request["assetId"])
    if data is None:
        raise Refused(404, f"no asset {request['assetId']}")
    return data


@route("GET", _API + "experiment/model")
def models(state: State, request: Request) -> Any:
    experiment = state.experiment(request["experimentKey"])
    names = {a["groupingName"] for a in experiment.assets if a["type"] == "model-element"}
    return {
        "models": [
            {
                "experimentModelId": f"{experiment.key}-{name}",
                "experimentKey": experiment.key,
                "modelName": name,
            }
            for name in sorted(names)
        ]
    }


@route("GET", _API + "experiment/model/asset/list")
def model_assets(state: State, request: Request) -> Any:
    found = state.experiment(request["experimentKey"]).assets
    return {"assets": [a for a in found if a["groupingName"] == request["modelName"]]}


# --- artifacts ---------------------------------------------------------------------------------------


def _version(state: State, request: Request) -> tuple[str, dict[str, Any], dict[str, Any]]:
    query = request.query
    for (workspace, name), artifact in state.artifacts.items():
        wanted = unquote(query.get("artifactName") or "")
        if query.get("workspace") not in (None, workspace) or (wanted and wanted != name):
            continue
        if (query.get("artifactId") or query.get("artifact_id")) not in (None, artifact["artifactId"]):
            continue
        for held in reversed(artifact["versions"]):
            either = query.get("versionOrAlias")
            if (
                query.get("versionId") in (None, held["artifactVersionId"])
                and query.get("version") in (None, held["version"])
                and (query.get("alias") is None or query["alias"] in held["alias"])
                and (either is None or either == held["version"] or either in held["alias"])
            ):
                return workspace, artifact, held
    raise Refused(400, "no such artifact version", 624523)


@route("GET", _API + "artifacts/get-all")
def artifacts(state: State, request: Request) -> Any:
    found = [
        {"artifactId": a["artifactId"], "name": a["name"], "type": a["type"]}
        for (workspace, _), a in state.artifacts.items()
        if workspace == request["workspace"]
    ]
    return {"artifacts": found}


@route("GET", _API + "artifacts/get")
def artifact(state: State, request: Request) -> Any:
    name = unquote(request["artifactName"])
    found = state.artifacts.get((request["workspace"], name))
    if found is None:
        raise Refused(400, f"no artifact {name}", 624523)
    hidden = ("files", "experimentKey")
    versions = [{k: v for k, v in held.items() if k not in hidden} for held in found["versions"]]
    return found | {"versions": versions, "tags": [], "description": None}


@route("GET", _API + "artifacts/version")
def artifact_version(state: State, request: Request) -> Any:
    workspace, found, held = _version(state, request)
    if held["state"] != "CLOSED" and "versionId" not in request.query:
        raise Refused(400, "the artifact version is not final", 90403)
    consumer = request.query.get("consumerExperimentKey")
    if consumer and held["artifactVersionId"] not in state.experiment(consumer).inputs:
        state.experiment(consumer).inputs.append(held["artifactVersionId"])
    return {
        "alias": held["alias"],
        "artifact": {
            "artifactId": found["artifactId"],
            "artifactName": found["name"],
            "artifactType": found["type"],
            "tags": [],
            "workspaceName": workspace,
        },
        "artifactVersion": held["version"],
        "artifactVersionId": held["artifactVersionId"],
        "experimentKey": held["experimentKey"],
        "metadata": held["metadata"],
        "sizeInBytes": sum(f["fileSize"] for f in held["files"]),
        "tags": held["tags"],
        "state": held["state"],
        "added": held["added"],
    }


@route("GET", _API + "artifacts/version/files")
def artifact_files(state: State, request: Request) -> Any:
    return {"files": _version(state, request)[2]["files"]}


@route("GET", _API + "get/artifacts")
def lineage(state: State, request: Request) -> Any:
    experiment = state.experiment(request["experimentKey"])
    wanted = request.query.get("filter", "all")
    found = []
    for (workspace, name), held_artifact in state.artifacts.items():
        for held in held_artifact["versions"]:
            directions = []
            if held["experimentKey"] == experiment.key:
                directions.append("output")
            if held["artifactVersionId"] in experiment.inputs:
                directions.append("input")
            found += [
                {
                    "artifactVersionId": held["artifactVersionId"],
                    "artifactName": name,
                    "workspaceName": workspace,
                    "version": held["version"],
                    "direction": direction,
                }
                for direction in directions
                if wanted in ("all", direction)
            ]
    return {"artifacts": found}
