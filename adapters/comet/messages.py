"""The messages of an offline archive ↔ an experiment, but for its points."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import Corrupt
from ...model import CONSOLE_PREFIX, CodeVersion, Environment, Value
from .archives import Archive, Meta, Payload
from .assets import Asset, asset_in
from .environment import git_metadata, system_details
from .points import Shape
from .records import Native, native_param

UNCATEGORIZED = "uncategorized"
"""Comet's word for experiments without a project."""

Line = tuple[str, str, int | None]
"""A line of console output: series key, text, milliseconds since 1970 UTC."""


@dataclass(slots=True)
class Contents:
    """An archive but for its points."""

    meta: Meta
    native: Native
    shape: Shape
    assets: list[Asset] = field(default_factory=list)
    output: list[Line] = field(default_factory=list)
    models: list[Payload] = field(default_factory=list)
    """`register_model` payloads."""


def contents(archive: Archive) -> Contents:
    """Raises `Corrupt` where a message is not what the SDK writes."""
    meta = archive.meta()
    shape, messages = archive.scan()
    native = Native(
        key=meta.key,
        experiment=project_id(meta),
        labels=list(dict.fromkeys(meta.tags)),
        start=meta.start,
        end=meta.stop,
        crashed=meta.crashed,
        summary=dict(shape.last),
    )
    found = Contents(meta, native, shape)
    for kind, payload in messages:
        try:
            _take(found, kind, payload)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Corrupt(
                f"refused the Comet archive {archive.path.name}: a {kind} message is wrong ({error!r})",
                hint="fetch it again from the machine that wrote it",
            ) from error
    for asset in found.assets:
        if asset.member is not None:
            asset.size = archive.size(asset.member)
    return found


def project_id(meta: Meta) -> str:
    """Canonical id of an archive's project."""
    project = meta.project or UNCATEGORIZED
    return f"{meta.workspace}/{project}" if meta.workspace else project


def _take(found: Contents, kind: str, payload: Payload) -> None:
    native = found.native
    if kind == "ws_msg":  # SDKs of 2023 and older: one message type for everything
        for inner, data in _from_websocket(payload):
            _take(found, inner, data)
    elif kind == "parameter_msg":
        param = payload.get("param") or payload["params"]
        native.params[str(param["paramName"])] = param["paramValue"]
    elif kind == "log_other":
        native.others[str(payload["key"])] = payload["value"]
    elif kind in ("file_upload", "remote_file"):
        found.assets.append(asset_in(kind, payload))
    elif kind == "standard_output":
        stream = "stderr" if payload.get("stderr") else "stdout"
        found.output.append(
            (f"{CONSOLE_PREFIX}{stream}", payload.get("output") or "", payload.get("local_timestamp"))
        )
    elif kind == "system_details":
        native.system = dict(payload)
    elif kind == "installed_packages":
        native.packages = [str(line) for line in payload["installed_packages"]]
    elif kind == "git_metadata":
        native.git = dict(payload["git_metadata"])
    elif kind == "file_name":
        native.file_name = payload["file_name"]
    elif kind == "register_model":
        found.models.append(payload)
    elif kind == "remote_model":
        found.assets += _remote_model(payload)
    elif kind in ("graph", "html", "htmlOverride", "os_packages", "gpu_static_info", "cloud_details"):
        data = {k: v for k, v in payload.items() if k not in ("message_id", "local_timestamp")}
        native.extra[kind] = data.get(kind, data)
    elif kind == "system_info":
        info = payload["system_info"]
        kept = native.extra.setdefault(kind, {})
        if isinstance(kept, dict):
            kept[str(info["key"])] = info["value"]
    elif kind == "log_dependency":
        native.packages.append(f"{payload['name']}=={payload['version']}")


def _from_websocket(payload: Payload) -> Iterator[tuple[str, Payload]]:
    if payload.get("param") or payload.get("params"):
        yield "parameter_msg", payload
    if other := payload.get("log_other"):
        yield "log_other", {"key": other["key"], "value": other["val"]}
    if payload.get("stdout") is not None:
        yield "standard_output", payload | {"output": payload["stdout"]}
    if payload.get("env_details"):
        yield "system_details", payload["env_details"]
    if payload.get("installed_packages"):
        yield "installed_packages", payload
    if payload.get("git_meta"):
        yield "git_metadata", {"git_metadata": payload["git_meta"]}
    if payload.get("fileName"):
        yield "file_name", {"file_name": payload["fileName"]}
    for kind in ("graph", "html", "htmlOverride"):
        if payload.get(kind) is not None:
            yield kind, {kind: payload[kind]}


def _remote_model(payload: Payload) -> Iterator[Asset]:
    for number, item in enumerate(payload["remote_assets"]):
        uri = str(item.get("uri") or item["remote_uri"])
        name = str(item.get("fileName") or item.get("file_name") or uri.rpartition("/")[2])
        yield Asset(
            id=str(item.get("assetId") or f"remote{number}"),
            name=name,
            type="model-element",
            group=str(payload["model_name"]),
            link=uri,
        )


def lines(pieces: Iterable[Line]) -> Iterator[Line]:
    """Console output as whole lines: the SDK writes what each call to `write` got."""
    held: dict[str, tuple[str, int | None]] = {}
    for key, text, time in pieces:
        before, first = held.pop(key, ("", time))
        *whole, rest = (before + text).split("\n")
        for line in whole:
            yield key, f"{line}\n", first
            first = time
        if rest:
            held[key] = rest, first
    for key, (text, time) in held.items():
        yield key, text, time


# --- writing -------------------------------------------------------------------------------------

Message = tuple[str, Mapping[str, Any]]


def param_messages(params: Mapping[str, Value], timestamp: int) -> Iterator[Message]:
    for key, value in params.items():
        param = {"paramName": key, "paramValue": native_param(value), "step": None, "source": "manual"}
        yield "parameter_msg", {"local_timestamp": timestamp, "param": param}


def other_messages(others: Mapping[str, Any]) -> Iterator[Message]:
    for key, value in others.items():
        yield "log_other", {"key": key, "value": value}


def environment_messages(
    environment: Environment | None, code: CodeVersion | None, user: str | None
) -> Iterator[Message]:
    """What Comet itself shows of the environment and the code; exact copies are in the others."""
    if environment is not None or user:
        environment = environment or Environment()
        yield "system_details", system_details(environment, user)
        if environment.packages:
            listed = [f"{name}=={version}" for name, version in sorted(environment.packages.items())]
            yield "installed_packages", {"installed_packages": listed}
    if code is not None:
        yield "git_metadata", {"git_metadata": git_metadata(code)}
        if code.entry_point:
            yield "file_name", {"file_name": code.entry_point}


def output_messages(pieces: Sequence[Line]) -> Iterator[Message]:
    for key, text, time in pieces:
        payload = {"output": text, "stderr": key.endswith("/stderr"), "local_timestamp": time or 0}
        yield "standard_output", payload
