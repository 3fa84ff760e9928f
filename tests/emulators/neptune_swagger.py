"""The Swagger documents that the 2.x client builds its calls from: names, places of parameters, models.

Each operation lives at `/api/<part>/<operationId>`; the true paths are the server's own business.
"""

from __future__ import annotations

from typing import Any

JSON = dict[str, Any]
TEXT, NUMBER, FLAG = {"type": "string"}, {"type": "number"}, {"type": "boolean"}
ANY: JSON = {}


def ref(name: str) -> JSON:
    return {"$ref": f"#/definitions/{name}"}


def many(item: JSON) -> JSON:
    return {"type": "array", "items": item}


MODELS: dict[str, JSON] = {
    "Versions": {"minRecommendedVersion": TEXT, "minCompatibleVersion": TEXT, "maxCompatibleVersion": TEXT},
    "ArtifactsConfig": {"enabled": FLAG, "apiVersion": NUMBER},
    "MultiPart": {"enabled": FLAG},
    "Config": {
        "apiUrl": TEXT,
        "applicationUrl": TEXT,
        "pyLibVersions": ref("Versions"),
        "artifacts": ref("ArtifactsConfig"),
        "multiPartUpload": ref("MultiPart"),
    },
    "Tokens": {"accessToken": TEXT, "refreshToken": TEXT},
    "Project": {"id": TEXT, "name": TEXT, "organizationName": TEXT, "version": NUMBER, "projectKey": TEXT},
    "Projects": {"entries": many(ref("Project"))},
    "Organization": {"id": TEXT, "name": TEXT},
    "Experiment": {
        "id": TEXT,
        "type": TEXT,
        "shortId": TEXT,
        "organizationName": TEXT,
        "projectName": TEXT,
        "trashed": FLAG,
    },
    "Error": {"errorDescription": TEXT},
    "Properties": {
        "value": ANY,
        "values": ANY,
        "last": ANY,
        "lastStep": ANY,
        "name": TEXT,
        "ext": TEXT,
        "size": NUMBER,
        "hash": TEXT,
        "config": ANY,
    },
    "Attribute": {"name": TEXT, "type": TEXT}
    | {
        f"{kind}Properties": ref("Properties")
        for kind in (
            "float",
            "int",
            "bool",
            "string",
            "datetime",
            "stringSet",
            "floatSeries",
            "stringSeries",
            "imageSeries",
            "file",
            "fileSet",
            "artifact",
            "experimentState",
        )
    },
    "Attributes": {"attributes": many(ref("Attribute"))},
    "Point": {"step": NUMBER, "timestampMillis": NUMBER, "value": ANY},
    "Points": {"totalItemCount": NUMBER, "values": many(ref("Point"))},
    "Column": {"name": TEXT, "type": TEXT},
    "Columns": {"entries": many(ref("Column"))},
    "Prepared": {"id": TEXT, "downloadUrl": TEXT},
    "Artifact": {"artifactHash": TEXT, "hash": TEXT, "receivedMetadata": FLAG, "size": NUMBER},
    "ArtifactFile": {"filePath": TEXT, "fileHash": TEXT, "type": TEXT, "size": NUMBER, "metadata": ANY},
    "ArtifactFiles": {"files": many(ref("ArtifactFile"))},
    "Nothing": {},
}

EXPERIMENT = ("experimentId",)
ATTRIBUTE = ("experimentId", "attribute")
PAGE = ("experimentId", "attribute", "limit", "offset")

# operation → (method, query parameters, name of the body parameter, model of the answer)
Operation = tuple[str, tuple[str, ...], str | None, JSON]
OPERATIONS: dict[str, dict[str, Operation]] = {
    "backend": {
        "getClientConfig": ("get", ("alpha",), None, ref("Config")),
        "exchangeApiToken": ("get", (), None, ref("Tokens")),
        "getProject": ("get", ("projectIdentifier",), None, ref("Project")),
        "listProjects": (
            "get",
            (
                "limit",
                "organizationIdentifier",
                "searchTerm",
                "sortBy",
                "sortDirection",
                "userRelation",
                "offset",
            ),
            None,
            ref("Projects"),
        ),
        "listOrganizations": ("get", (), None, many(ref("Organization"))),
    },
    "leaderboard": {
        "createExperiment": ("post", (), "experimentCreationParams", ref("Experiment")),
        "getExperiment": ("get", EXPERIMENT, None, ref("Experiment")),
        "ping": ("post", EXPERIMENT, None, ref("Nothing")),
        # Minfx's client names the project, too.
        "executeOperations": (
            "post",
            (*EXPERIMENT, "organizationName", "projectName"),
            "operations",
            many(ref("Error")),
        ),
        "getExperimentAttributes": ("get", EXPERIMENT, None, ref("Attributes")),
        **{
            f"get{kind}Attribute": ("get", ATTRIBUTE, None, ref("Properties"))
            for kind in (
                "Float",
                "Int",
                "Bool",
                "String",
                "Datetime",
                "File",
                "StringSet",
                "FloatSeries",
                "StringSeries",
                "Artifact",
            )
        },
        **{
            f"get{kind}SeriesValues": ("get", PAGE, None, ref("Points"))
            for kind in ("Float", "String", "Image")
        },
        "getImageSeriesValue": ("get", ("experimentId", "attribute", "index"), None, ANY),
        "lsFileSetAttribute": ("get", ("experimentId", "attribute", "path"), None, many(ANY)),
        "searchLeaderboardEntries": ("post", ("projectIdentifier", "type"), "params", ref("Nothing")),
        "searchLeaderboardAttributes": (
            "get",
            ("projectIdentifier", "search", "type"),
            "params",
            ref("Columns"),
        ),
        "fileAtomUpload": ("post", ("experimentIdentifier", "attribute", "ext"), None, ANY),
        "fileAtomMultipartUploadStart": ("post", ("experimentIdentifier", "attribute", "ext"), None, ANY),
        "fileAtomMultipartUploadPart": ("post", ("experimentIdentifier", "attribute"), None, ANY),
        "fileAtomMultipartUploadFinish": ("post", ("experimentIdentifier", "attribute"), None, ANY),
        "fileSetFileUpload": ("post", ("experimentIdentifier", "attribute", "subPath"), None, ANY),
        "fileSetFileMultipartUploadStart": ("post", ("experimentIdentifier", "attribute"), None, ANY),
        "fileSetFileMultipartUploadPart": ("post", ("experimentIdentifier", "attribute"), None, ANY),
        "fileSetFileMultipartUploadFinish": ("post", ("experimentIdentifier", "attribute"), None, ANY),
        "uploadFileSetAttributeTar": ("post", ("experimentId", "attribute", "reset"), None, ANY),
        "downloadAttribute": ("get", ATTRIBUTE, None, ANY),
        "prepareForDownloadFileSetAttributeZip": ("post", ATTRIBUTE, None, ref("Prepared")),
        "getDownloadPrepareRequest": ("get", ("id",), None, ref("Prepared")),
    },
    "artifacts": {
        "createNewArtifact": (
            "post",
            ("projectIdentifier", "hash", "size", "parentIdentifier"),
            None,
            ref("Artifact"),
        ),
        "uploadArtifactFilesMetadata": (
            "post",
            ("projectIdentifier", "hash"),
            "artifactFilesDTO",
            ref("Artifact"),
        ),
        "createArtifactVersion": (
            "post",
            ("projectIdentifier", "hash", "parentIdentifier"),
            "artifactFilesDTO",
            ref("Artifact"),
        ),
        "listArtifactFiles": ("get", ("projectIdentifier", "hash"), None, ref("ArtifactFiles")),
    },
}
HEADERS = {
    "getClientConfig": "X-Neptune-Api-Token",
    "exchangeApiToken": "X-Neptune-Api-Token",
    "createExperiment": "X-Neptune-CliVersion",
}
LISTS = {"sortBy", "sortDirection", "type"}


def _operation(name: str, operation: Operation) -> JSON:
    method, query, body, answer = operation
    parameters: list[JSON] = [
        {"name": q, "in": "query", "required": False}
        | ({"type": "array", "items": TEXT, "collectionFormat": "multi"} if q in LISTS else TEXT)
        for q in query
    ]
    if header := HEADERS.get(name):
        parameters.append({"name": header, "in": "header", "required": False} | TEXT)
    if body is not None:
        parameters.append({"name": body, "in": "body", "required": True, "schema": ANY})
    return {
        method: {
            "operationId": name,
            "tags": ["api"],
            "consumes": ["application/json"],
            "produces": ["application/json"],
            "parameters": parameters,
            "responses": {"200": {"description": "", "schema": answer}},
        }
    }


def _spec(part: str, url: str) -> JSON:
    return {
        "swagger": "2.0",
        "info": {"title": part, "version": "1"},
        "host": url.partition("://")[2],
        "schemes": ["http"],
        "basePath": "/",
        "paths": {f"/api/{part}/{name}": _operation(name, op) for name, op in OPERATIONS[part].items()},
        "definitions": {
            name: {"type": "object", "properties": fields, "x-model": name} for name, fields in MODELS.items()
        },
    }


SPECS = {part: (lambda url, part=part: _spec(part, url)) for part in OPERATIONS}
