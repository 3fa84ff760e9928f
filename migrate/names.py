"""Where files and models go in the target; the same for copy, plan and check."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import replace

from ..adapters.base import ORIGIN_FOLDER, Capabilities, Concept
from ..adapters.fit import KeyMap, Loss, fit_model
from ..adapters.origin import is_origin_file
from ..adapters.paths import checked
from ..errors import Corrupt
from ..model import Artifact, File, RegisteredModel


class FileNames:
    """Where the loose files of a run go: fitted, distinct, and clear of the origin folder."""

    def __init__(self, files: Iterable[File], caps: Capabilities) -> None:
        self.files = list(files)
        self.refused: dict[str, str] = {}
        """Hostile path → why it is refused."""
        wanted: dict[str, str] = {}
        for file in self.files:
            try:
                wanted[file.path] = _clear_of_origin(checked(file.path))
            except Corrupt as error:
                self.refused[file.path] = error.message
        names = KeyMap(caps.file_path, wanted.values())
        self.target = {path: names(want) for path, want in wanted.items()}

    @property
    def losses(self) -> list[Loss]:
        changed = {path: name for path, name in self.target.items() if path != name}
        if not changed:
            return []
        example = "{} → {}".format(*next(iter(changed.items())))
        return [Loss("renamed", "files", "file names are limited", len(changed), example[:160])]


def _clear_of_origin(path: str) -> str:
    return f"{ORIGIN_FOLDER}_{path[len(ORIGIN_FOLDER) :]}" if is_origin_file(path) else path


def loose_folder(artifact: Artifact) -> str:
    """Where an artifact version's files go on a platform without artifact versions."""
    name = "/".join(_part(part) for part in artifact.name.split("/"))
    return f"artifacts/{name}/{_part(artifact.version or artifact.id)}"


def _part(text: str) -> str:
    clean = text.replace("\\", "_").replace("/", "_").replace("\x00", "_").replace(":", "_")
    return clean if clean not in ("", ".", "..") else "_"


def artifact_moved(artifact: Artifact) -> Loss:
    detail = "artifact versions become files under artifacts/"
    return Loss("moved", "artifacts", detail, example=loose_folder(artifact))


def artifact_aspects(artifact: Artifact, caps: Capabilities) -> Iterator[Loss]:
    """What of an artifact version a platform with artifact versions may still not hold."""
    aspects: list[tuple[Concept, Sized]] = [
        ("aliases", artifact.aliases),
        ("linked_metrics", artifact.metrics),
    ]
    for aspect, held in aspects:
        if held and not caps.native(aspect):
            yield Loss("moved", aspect, f"{aspect} of artifacts: only in the origin record", len(held))


def references_moved(count: int = 1, example: str | None = None) -> Loss:
    detail = "files that are only pointed at: only in the origin record"
    return Loss("moved", "references", detail, count, example)


def concept_of(model: RegisteredModel) -> Concept:
    return "prompts" if model.kind == "prompt" else "registry"


def model_name(model: RegisteredModel, caps: Capabilities) -> str:
    """The model's name in the target."""
    return fit_model(replace(model, versions=[]), caps)[0].name
