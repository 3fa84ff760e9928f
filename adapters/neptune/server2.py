"""Reading a server of the 2.x API (an installation of one's own, Minfx) through the 2.x client."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from ...errors import Corrupt, Vanished
from ...filters import Filter
from ...locations import Location
from ...model import Artifact, ArtifactUse, Experiment, File, ModelVersion, RegisteredModel, Run, Value
from .. import batches
from ..base import RunStats, Source, Throughput
from .places import Place, Server
from .records import (
    EXPERIMENT_PATH,
    KIND_PATHS,
    Attribute,
    Attributes,
    Kind,
    key_of,
    references,
    run_of,
)
from .registry import model_of, version_of
from .vendor2 import Backend, errors

PAGE = 1_000
"""Values of a series that one call gives (`neptune/attributes/series/fetchable_series.py`)."""

_SCALARS = {
    "float": "float", "int": "int", "bool": "bool", "string": "string", "datetime": "datetime",
    "stringSet": "string_set", "experimentState": "string",
}  # fmt: skip
_STATES = {"running": "Active", "idle": "Inactive"}


@dataclass(frozen=True, slots=True)
class _Held:
    """What is known of one container without its bulk."""

    container: str
    kind: Any
    attributes: Attributes
    types: dict[str, str]
    last: dict[str, Any]


class ServerSource2(Source):
    throughput = Throughput(path="Neptune 2.x API", points_per_second=20_000, runs_per_second=10)

    def __init__(self, location: Location, place: Place, server: Server) -> None:
        assert place.project is not None
        self.location = location
        self.project = place.project
        self.backend = Backend(location, server, place.project)
        self._held: dict[str, _Held] = {}
        self._scratch = Path(tempfile.mkdtemp(prefix="outgrow-neptune-"))
        self._problems: list[str] = []

    def close(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)

    def experiments(self) -> Iterator[Experiment]:
        """The project, and the experiments that copies in it were made from."""
        names = {self.project: None}
        for _, columns in self.backend.entries(self.backend.run_type, EXPERIMENT_PATH):
            names[str(columns.get(EXPERIMENT_PATH) or self.project)] = None
        for name in names:
            yield Experiment(id=name, name=name)

    def runs(self, experiment: Experiment, where: Filter | None = None) -> Iterator[Run]:
        kinds = self.backend.types
        for kind in (kinds.RUN, kinds.MODEL, kinds.MODEL_VERSION):
            for container, columns in self.backend.entries(kind, EXPERIMENT_PATH):
                if str(columns.get(EXPERIMENT_PATH) or self.project) != experiment.id:
                    continue
                run = self._run(kind, container, str(columns.get("sys/id") or container))
                if run is not None:
                    yield run

    def _run(self, kind: Any, container: str, sys_id: str) -> Run | None:
        held = self._load(kind, container)
        id = f"{self.project}/{sys_id}"
        self._held[id] = held
        told = held.attributes.get(EXPERIMENT_PATH)
        experiment = self.project if told is None else str(told.value)
        run = run_of(held.attributes, id=id, experiment=experiment, native_id=sys_id)
        summary = {
            key_of("metrics", path): value
            for path, value in held.last.items()
            if held.types[path] == "floatSeries" and value is not None
        }
        run = replace(run, summary=summary)
        if kind != self.backend.types.RUN:
            files = any(
                kind in ("file", "fileSet", "imageSeries", "artifact") for kind in held.types.values()
            )
            if kind == self.backend.types.MODEL and not (run.params or summary or files):
                return None
            run = replace(run, job_type=kind.value)
            if files:
                run = replace(run, artifacts=[ArtifactUse(artifact=f"{id}:files", role="output")])
        return replace(run, url=self.backend.url(sys_id))

    def _load(self, kind: Any, container: str) -> _Held:
        with errors(f"reading the attributes of {container}"):
            found = self.backend.api.fetch_atom_attribute_values(container, kind, [])
        held = _Held(container, kind, {}, {}, {})
        for path, type_, value in found:
            held.types[path] = str(type_)
            if (scalar := _SCALARS.get(type_)) is None:
                held.last[path] = value
            elif value is not None:
                held.attributes[path] = Attribute(scalar, _value(scalar, type_, value))
        return held

    def _of(self, run: Run) -> _Held:
        if run.id not in self._held:
            kinds = self.backend.types
            for kind in (kinds.RUN, kinds.MODEL, kinds.MODEL_VERSION):
                for container, columns in self.backend.entries(kind):
                    if f"{self.project}/{columns.get('sys/id')}" == run.id:
                        self._held[run.id] = self._load(kind, container)
        if run.id not in self._held:
            raise Vanished(f"the run {run.id} is not in {self.location}", hint="run the command again")
        return self._held[run.id]

    def _series(self, run: Run, type_: str, kind: Kind) -> Iterator[tuple[str, list[Any]]]:
        held = self._of(run)
        read = getattr(
            self.backend.api,
            "get_float_series_values" if type_ == "floatSeries" else "get_string_series_values",
        )
        for path in [path for path, found in held.types.items() if found == type_]:
            offset = 0
            while True:
                with errors(f"reading {path} of {run.id}"):
                    page = read(held.container, held.kind, path.split("/"), offset, PAGE)
                if page.values:
                    yield key_of(kind, path), page.values
                offset += len(page.values)
                if not page.values or offset >= page.totalItemCount:
                    break

    def points(self, run: Run) -> Iterator[pa.RecordBatch]:
        for key, values in self._series(run, "floatSeries", "metrics"):
            floats = pa.array([float(v.value) for v in values], pa.float64())
            yield pa.record_batch([*_head(key, values), floats], schema=batches.POINTS_FLOAT_STEPS)

    def texts(self, run: Run) -> Iterator[pa.RecordBatch]:
        for key, values in self._series(run, "stringSeries", "texts"):
            texts = pa.array([v.value for v in values], pa.large_string())
            yield pa.record_batch([*_head(key, values), texts], schema=batches.TEXTS)

    def files(self, run: Run) -> Iterator[File]:
        held = self._of(run)
        if held.kind == self.backend.types.RUN:
            yield from self._files(held, run.id)
        yield from references(held.attributes)

    def _files(self, held: _Held, id: str) -> Iterator[File]:
        api, container = self.backend.api, held.container
        for path, type_ in held.types.items():
            key, parts = key_of("files", path), path.split("/")
            told: dict[str, Value] = {"attribute": path, "type": type_}
            if type_ == "file":
                with errors(f"reading {path} of {id}"):
                    known = api.get_file_attribute(container, held.kind, parts)
                ext = f".{known.ext}" if known.ext else ""
                name = key if key.endswith(ext) else key + ext
                yield File(path=name, size=int(known.size), metadata=dict(told))
            elif type_ == "imageSeries":
                with errors(f"reading {path} of {id}"):
                    count = api.get_image_series_values(container, held.kind, parts, 0, 1).totalItemCount
                for index in range(count):
                    yield File(
                        path=f"{key}/{index}.png",
                        key=key,
                        step=float(index),
                        metadata=told | {"index": index},
                    )
            elif type_ == "fileSet":
                with self._zip(held, path) as archive:
                    for info in archive.infolist():
                        if not info.is_dir():
                            yield File(
                                path=f"{key}/{info.filename}",
                                size=info.file_size,
                                metadata=told | {"member": info.filename},
                            )
            elif type_ == "artifact":
                with errors(f"reading {path} of {id}"):
                    digest = api.get_artifact_attribute(container, held.kind, parts).hash
                    tracked = api.list_artifact_files(self.backend.project.id, digest)
                for entry in tracked:
                    place = (
                        entry.metadata.get("location") or entry.metadata.get("file_path") or entry.file_path
                    )
                    yield File(
                        path=f"{key}/{entry.file_path}",
                        size=entry.size,
                        reference=str(place),
                        metadata=told | {"sha1": entry.file_hash, "storage": entry.type},
                    )

    def _zip(self, held: _Held, path: str) -> zipfile.ZipFile:
        """A file set's zip, downloaded once."""
        target = self._scratch / f"{held.container}-{abs(hash(path))}.zip"
        if not target.exists():
            with errors(f"downloading {path}"):
                self.backend.api.download_file_set(
                    held.container, held.kind, path.split("/"), destination=str(target), progress_bar=False
                )
        try:
            return zipfile.ZipFile(target)
        except zipfile.BadZipFile as error:
            raise Corrupt(f"the server sent no zip for the file set {path}") from error

    def open(self, run: Run, file: File) -> BinaryIO:
        if file.artifact is not None:
            run = Run(id=file.artifact.removesuffix(":files"), experiment="")
        held = self._of(run)
        if "attribute" not in file.metadata:
            file = self._named(held, run.id, file)
        path = str(file.metadata["attribute"])
        if path not in held.types or file.reference is not None:
            raise Vanished(f"{file.path} of {run.id} is not on the server")
        if (member := file.metadata.get("member")) is not None:
            archive = self._zip(held, path)
            try:
                return cast(BinaryIO, archive.open(str(member)))
            finally:
                archive.close()
        with tempfile.TemporaryDirectory(dir=self._scratch) as scratch:
            with errors(f"downloading {path} of {run.id}"):
                if "index" in file.metadata:
                    index = int(cast(int, file.metadata["index"]))
                    self.backend.api.download_file_series_by_index(
                        held.container, held.kind, path.split("/"), index, scratch, progress_bar=False
                    )
                else:
                    self.backend.api.download_file(
                        held.container, held.kind, path.split("/"), f"{scratch}/file", progress_bar=False
                    )
            found = next(Path(scratch).iterdir(), None)
            if found is None:
                raise Vanished(f"the server sent nothing for {file.path} of {run.id}")
            return found.open("rb")  # stays readable when its folder goes

    def _named(self, held: _Held, id: str, file: File) -> File:
        """The file of that path as `files` gives it; a file attribute is found without a listing."""
        for path in (file.path, KIND_PATHS["files"] + file.path):
            if held.types.get(path) == "file":
                return replace(file, metadata={"attribute": path})
        for known in self._files(held, id):
            if known.path == file.path:
                return known
        raise Vanished(f"{file.path} of {id} is not on the server")

    def artifacts(self, run: Run) -> Iterator[Artifact]:
        for use in run.artifacts:
            yield Artifact(
                id=use.artifact,
                name=run.id.rpartition("/")[2],
                type="model",
                created_by=run.id,
                created_at=run.started_at,
            )

    def artifact_files(self, artifact: Artifact) -> Iterator[File]:
        id = artifact.id.removesuffix(":files")
        for file in self._files(self._of(Run(id=id, experiment="")), id):
            yield replace(file, artifact=artifact.id)

    def registry(self) -> Iterator[RegisteredModel]:
        kinds = self.backend.types
        versions: dict[str, list[ModelVersion]] = {}
        for container, columns in self.backend.entries(kinds.MODEL_VERSION):
            sys_id = str(columns["sys/id"])
            run = self._run(kinds.MODEL_VERSION, container, sys_id)
            assert run is not None
            version = version_of(run, run.artifacts[0].artifact if run.artifacts else None)
            versions.setdefault(version.model, []).append(version)
        for container, columns in self.backend.entries(kinds.MODEL):
            sys_id = str(columns["sys/id"])
            attributes = self._load(kinds.MODEL, container).attributes
            run = run_of(attributes, id=f"{self.project}/{sys_id}", experiment=self.project, native_id=sys_id)
            yield model_of(run, attributes, versions.get(sys_id, []))

    def stats(self, run: Run) -> RunStats:
        held = self._of(run)
        kinds = list(held.types.values())
        return RunStats(
            series=kinds.count("floatSeries"),
            histograms=0,
            texts=None if "stringSeries" in kinds else 0,
            points=None if "floatSeries" in kinds else 0,
        )


def _value(scalar: str, type_: str, value: Any) -> Any:
    if scalar == "datetime" and not isinstance(value, datetime):
        return datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    if type_ == "experimentState":
        return _STATES.get(str(value), str(value))
    if scalar == "string_set":
        return list(value)
    if scalar == "int":
        return int(value)
    return value if scalar != "float" else float(value)


def _head(key: str, values: list[Any]) -> list[pa.Array]:
    count = len(values)
    return [
        pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([key], pa.string())),
        pa.array([None if v.step is None else float(v.step) for v in values], pa.float64()),
        pa.array([datetime.fromtimestamp(v.timestampMillis / 1000, UTC) for v in values], batches.TIME),
    ]
