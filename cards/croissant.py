"""Croissant 1.1 metadata of a data set, where the hashes of real files are known.

Source of the shape: the specification at mlcommons.org/croissant/1.1, checked with mlcroissant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from .dataset_facts import ColumnFacts, DataFile, DatasetFacts

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_ENCODINGS = {
    ".parquet": "application/x-parquet", ".csv": "text/csv", ".tsv": "text/tab-separated-values",
    ".json": "application/json", ".jsonl": "application/jsonlines",
}  # fmt: skip


def metadata(facts: DatasetFacts, *, license_: Any, describe: Callable[[Any], str]) -> dict[str, Any] | None:
    """The JSON-LD, or None where no file's hash is known. `describe` redacts what is shown."""
    if not facts.files:
        return None
    result: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": describe(facts.name),
        "description": f"{describe(facts.name)}, read by {len(facts.uses)} tracked runs.",
        "distribution": [_file(file) for file in facts.files],
    }
    if license_:
        result["license"] = license_
    dates = [u.run.started_at for u in facts.uses if u.run.started_at]
    if dates:
        result["datePublished"] = min(dates).date().isoformat()
    splits = sorted({file.split for file in facts.files if file.split})
    sets = []
    if splits:
        sets.append(_splits(splits))
    tabular = [
        f
        for f in facts.files
        if _suffix(f.path) in _ENCODINGS and f.rows is not None and _suffix(f.path) != ".json"
    ]
    if facts.columns and tabular:
        sets.append(_records(facts.columns, tabular[0]))
    if sets:
        result["recordSet"] = sets
    return result


def to_bytes(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()


def _suffix(path: str) -> str:
    return "." + path.rpartition(".")[2].lower()


def _id(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)


def _file(file: DataFile) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": _id(file.path),
        "name": _id(file.path),
        "contentUrl": file.path,
        "contentSize": f"{file.bytes} B",
        "encodingFormat": _ENCODINGS.get(_suffix(file.path), "application/octet-stream"),
        "sha256": file.sha256,
    }


def _splits(names: list[str]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [{"@type": "cr:Field", "@id": "splits/name", "name": "name", "dataType": "sc:Text"}],
        "data": [{"splits/name": name} for name in names],
    }


def _records(columns: list[ColumnFacts], file: DataFile) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "records",
        "name": "records",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"records/{_id(column.name)}",
                "name": _id(column.name),
                "dataType": _data_type(column.type),
                "source": {"fileObject": {"@id": _id(file.path)}, "extract": {"column": column.name}},
            }
            for column in columns
        ],
    }


def _data_type(arrow: str) -> str:
    if arrow.startswith("bool"):
        return "sc:Boolean"
    if arrow.startswith(("int", "uint")):
        return "sc:Integer"
    if arrow.startswith(("float", "double", "half", "decimal")):
        return "sc:Float"
    if arrow.startswith(("timestamp", "date")):
        return "sc:Date"
    return "sc:Text"
