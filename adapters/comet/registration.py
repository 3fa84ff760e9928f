"""Writing Comet's model registry."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, BinaryIO

from ...model import File, ModelVersion, RegisteredModel, to_json
from ..merge import losing_aliases
from .api import Refused
from .artifacts import Artifacts, send_asset, spooled
from .assets import REGISTERED, Asset, asset_of, files_of, own
from .keys import experiment_key
from .location import Project
from .records import KEEPER, NAME
from .registry import (
    NO_VERSION,
    SOURCE_VERSION,
    experiment_model,
    metadata_for,
    metadata_of,
    ordered,
    own_version,
    payload_of,
    semantic,
)
from .remote import Remote

_PREFIX = "models/"


EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Here:
    """A version that is registered: its number here, and what its metadata keeps."""

    number: str
    item: str
    metadata: dict[str, Any]

    @property
    def version(self) -> ModelVersion | None:
        """As it was registered by us."""
        return own_version(self.metadata)


class Registration:
    """A version registers a *model of an experiment*: assets under one name.

    Where its files are an artifact version or a folder of the run, they become such a model,
    beside what they are.
    """

    def __init__(self, remote: Remote, artifacts: Artifacts, project: Project) -> None:
        self.remote, self.api, self.artifacts, self.project = remote, remote.api, artifacts, project

    def register(self, model: RegisteredModel) -> Mapping[str, str]:
        numbers: dict[str, str] = {}
        there = self._there(model.name)
        taken = {here.number for here in there.values()}
        for version in model.versions:
            source = version.origin_version
            if (here := there.get(source)) is not None:
                numbers[source] = here.number
                self._write(here.item, metadata_for(model, version, source), here.metadata)
                continue
            number = self._number(version.version, taken)
            self._create(model, version, number, source)
            taken.add(number)
            numbers[source] = number
        for source, here in there.items():
            staying = [here.version] if source not in numbers and here.version else []
            for left in losing_aliases(staying, model.versions):
                self._write(here.item, metadata_for(model, left, source), here.metadata)
        if not model.versions and not there:
            # Comet knows no model without a version: a hidden one stands in.
            self._create(model, ModelVersion(model=model.name, version="0.0.0"), "0.0.0", NO_VERSION)
        return numbers

    def _there(self, name: str) -> dict[str, _Here]:
        """Source version → what is registered here already."""
        try:
            details = self.api.get(
                "registry-model/details", workspaceName=self.project.workspace, modelName=name
            )
        except Refused:
            return {}
        found: dict[str, _Here] = {}
        for item in details.get("versions") or ():
            here = _Here(
                str(item["version"]), str(item["registryModelItemId"]), metadata_of(self.remote, item)
            )
            found[str(here.metadata.get(SOURCE_VERSION, here.number))] = here
        return found

    @staticmethod
    def _number(version: str, taken: set[str]) -> str:
        try:
            wanted = semantic(version)
        except ValueError:
            wanted = ""
        if wanted and wanted not in taken:
            return wanted
        newest = max((ordered(number)[0] for number in taken), default=0)
        return f"{newest + 1}.0.0"

    def _create(self, model: RegisteredModel, version: ModelVersion, number: str, source: str) -> None:
        key = version.run or self._keeper(model)
        name = experiment_model(version, model.name)
        self._make_model(key, version, name)
        made = self.api.post(
            "write/registry-model/item/create", payload_of(model, version, key, name, number)
        )
        self._write(str(made["registryModelItemId"]), metadata_for(model, version, source))

    def _write(self, item: str, entries: list[dict[str, Any]], present: Mapping[str, Any] = EMPTY) -> None:
        """Metadata of a version, where it differs from what is present."""
        if any(present.get(entry["key"]) != entry["value"] for entry in entries):
            self.api.post(f"write/registry-model/item/{item}/metadata", {"metadata": entries})

    def _keeper(self, model: RegisteredModel) -> str:
        """An experiment for versions that belong to no run, which Comet does not know; sources hide it."""
        key = experiment_key(f"registry:{model.name}", self.project.id)
        if self.remote.metadata(key) is None:
            self.remote.create(key, self.project)
            others = {KEEPER: model.name, NAME: f"registered model {model.name}"}
            for name, value in others.items():
                self.api.post(
                    "write/experiment/log-other", {"experimentKey": key, "key": name, "value": value}
                )
        return key

    def _make_model(self, key: str, version: ModelVersion, name: str) -> None:
        """Copy the version's files to the experiment's model of that name, but for those that are there."""
        assets = self.remote.assets(key)
        there = {asset.name for asset in assets if asset.group == name}
        if there and version.artifact is None and version.path == f"{_PREFIX}{name}":
            return
        for path, stream in self._files(key, assets, version):
            if path in there:
                stream.close()
                continue
            with stream, spooled(stream) as (data, _, sha256):
                copied = File(path=f"{_PREFIX}{name}/{path}", metadata={REGISTERED: True})
                asset = asset_of(copied, key, sha256)
                send_asset(self.remote, key, asset, data)
            there.add(path)
        if not there:
            # Comet registers nothing without a file: the record of the version stands in for it.
            text = io.BytesIO(to_json(version).encode())
            asset = asset_of(File(path=f"{_PREFIX}{name}/version.json", metadata={REGISTERED: True}), key)
            send_asset(self.remote, key, asset, text)

    def _files(self, key: str, assets: list[Asset], version: ModelVersion) -> Iterator[tuple[str, BinaryIO]]:
        folder = f"{version.path.rstrip('/')}/" if version.path else ""
        if version.artifact is not None:
            for file in self.artifacts.files(version.artifact):
                if file.reference is None and file.path.startswith(folder):
                    yield file.path.removeprefix(folder), self.artifacts.open(file)
            return
        for file, asset in files_of(a for a in assets if not own(a)):
            if file.reference is None and (file.path.startswith(folder) or file.path == version.path):
                name = file.path.removeprefix(folder) if folder else file.path
                yield (
                    name if file.path != version.path else file.path.rpartition("/")[2],
                    self.remote.bytes(key, asset.id),
                )
