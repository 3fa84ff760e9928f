"""A CycloneDX 1.6 ML-BOM of a model: what it is made of, from the same facts as its card.

Source of the shape: cyclonedx.org/docs/1.6/json, component type `machine-learning-model`.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from .. import __version__
from .card import Card
from .facts import ModelFacts, is_evaluation

_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 9562, the URL name space


def bill_of_materials(facts: ModelFacts, card: Card) -> bytes:
    """JSON bytes. The serial number is derived from the run and version, so that it is stable."""
    version = facts.version.version if facts.version else facts.run.id
    serial = uuid.uuid5(_NAMESPACE, f"{facts.name}/{version}/{facts.run.id}")
    packages = facts.run.environment.packages if facts.run.environment else {}
    model_ref, data = f"model:{facts.name}@{version}", facts.run.datasets
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": model_ref,
        "name": card.title,
        "version": version,
        "modelCard": {
            "modelParameters": {
                **({"task": card.front["pipeline_tag"]} if "pipeline_tag" in card.front else {}),
                "datasets": [{"ref": f"data:{u.name}@{u.digest}"} for u in data],
            },
            "quantitativeAnalysis": {
                "performanceMetrics": [
                    {"type": r.metric, "value": repr(r.value)}
                    for r in facts.results
                    if is_evaluation(r.metric)
                ]
            },
        },
    }
    if isinstance(card.front.get("license"), str):
        component["licenses"] = [{"license": {"name": card.front["license"]}}]
    hashed = [f for f in facts.files if f.sha256]
    if hashed:
        component["components"] = [
            {
                "type": "file",
                "bom-ref": f"file:{f.path}",
                "name": f.path,
                "hashes": [{"alg": "SHA-256", "content": f.sha256}],
            }
            for f in hashed
        ]
    seen = {f"data:{u.name}@{u.digest}": u for u in data}
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": component,
            "tools": {"components": [{"type": "application", "name": "outgrow", "version": __version__}]},
        },
        "components": [
            *({"type": "data", "bom-ref": ref, "name": u.name, "version": u.digest or u.version or "",
               "data": [{"type": "dataset", "name": u.name}]} for ref, u in seen.items()),
            *({"type": "library", "bom-ref": f"pkg:pypi/{n}@{v}", "name": n, "version": v, "purl": f"pkg:pypi/{n}@{v}"}
              for n, v in sorted(packages.items())),
        ],
        "dependencies": [{"ref": model_ref, "dependsOn": [*seen, *(f"pkg:pypi/{n}@{v}" for n, v in sorted(packages.items()))]}],
    }  # fmt: skip
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()
