"""Copying the files and the artifact versions of one run."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import BinaryIO, cast

from ..adapters.base import RunWriter
from ..adapters.fit import Loss
from ..adapters.origin import StoredArtifact, StoredFile
from ..errors import Corrupt, Rejected, Vanished
from ..model import Artifact, ArtifactUse, File, Run
from .context import Context, Written
from .names import FileNames, artifact_aspects, artifact_moved, loose_folder, references_moved


class FileCopy:
    """Afterwards `stored` and `stored_artifacts` tell what is where, for the origin record."""

    def __init__(self, run: Run, context: Context, written: Written, event: Callable[..., None]) -> None:
        self.run, self.context, self.written, self._event = run, context, written, event
        self.source, self.caps, self.ids = context.source, context.caps, context.ids
        self.stored: list[StoredFile] = []
        self.stored_artifacts: list[StoredArtifact] = []
        self.retry_later = False
        """Something could not be read now, but perhaps later: the run is not marked complete."""

    def loose(self, writer: RunWriter) -> FileNames:
        names = FileNames(self.source.files(self.run), self.caps)
        self.written.losses.add(names.losses)
        self.written.refused += names.refused.values()
        for file in names.files:
            self.stored.append(self._file(writer, file, names.target.get(file.path)))
        return names

    def _file(self, writer: RunWriter, file: File, path: str | None) -> StoredFile:
        """Copy one loose file. One that cannot be read or is refused does not stop the others."""
        self.context.check_stop()
        if path is None:
            return StoredFile(file=file, path=None)
        if file.reference is not None:
            return self._reference(writer, file, path)
        if not self.caps.native("files"):
            self.written.losses.add([Loss("dropped", "files", "files: the target has none")])
            return StoredFile(file=file, path=None)
        try:
            with closing(self.source.open(self.run, file)) as stream:
                hashing = _Hashing(stream)
                writer.file(replace(file, path=path, artifact=None), hashing.stream)
        except (Vanished, Corrupt, Rejected) as error:
            self._refuse(f"{file.path}: {error.message}")
            return StoredFile(file=file, path=None)
        self._wrote(hashing.size)
        return StoredFile(file=hashing.known(file), path=path)

    def _reference(self, writer: RunWriter, file: File, path: str) -> StoredFile:
        if not self.caps.native("references"):
            self.written.losses.add([references_moved(example=file.reference)])
            return StoredFile(file=file, path=None)
        writer.file(replace(file, path=path, artifact=None), None)
        return StoredFile(file=file, path=path)

    def _refuse(self, reason: str) -> None:
        self.written.refused.append(reason)
        self.retry_later = True  # unlike a hostile path, this may be different next time

    def _wrote(self, size: int) -> None:
        self.written.files += 1
        self.written.bytes += size
        self._event("file", bytes=size)

    # --- artifact versions -----------------------------------------------------------------

    def artifacts(self, writer: RunWriter) -> list[ArtifactUse]:
        """The run's artifact versions; the uses with the target's ids."""
        uses: list[ArtifactUse] = []
        by_id = {artifact.id: artifact for artifact in self.source.artifacts(self.run)}
        for use in self.run.artifacts:
            artifact = by_id.get(use.artifact)
            if artifact is None:
                self._refuse(f"artifact {use.artifact}: it is no longer in the source")
                continue
            stored = self._artifact(writer, artifact, use)
            self.stored_artifacts.append(stored)
            if stored.id is not None:
                uses.append(replace(use, artifact=stored.id))
        return uses

    def _artifact(self, writer: RunWriter, artifact: Artifact, use: ArtifactUse) -> StoredArtifact:
        self.context.check_stop()
        if use.role == "input" and not self.caps.native("artifact_inputs"):
            detail = "which run used which artifact version: only in the origin record"
            self.written.losses.add([Loss("moved", "artifact_inputs", detail)])
            return StoredArtifact(artifact=artifact, use=use, id=self.ids.artifact(artifact.id))
        if not self.caps.native("artifacts"):
            return self._loose(writer, artifact, use)
        with self.ids.artifact_lock(artifact.id):
            here = self.ids.artifact(artifact.id)
            stored: list[StoredFile] = []
            target = replace(
                artifact,
                created_by=self.ids.run(artifact.created_by),
                metrics=[replace(metric, run=self.ids.run(metric.run)) for metric in artifact.metrics],
            )
            link = replace(use, artifact=here or use.artifact)
            with ExitStack() as opened:
                made = writer.artifact(target, link, self._artifact_files(artifact, stored, opened))
            self.ids.made("artifact", artifact.id, made)
        self.written.losses.add(artifact_aspects(artifact, self.caps))
        return StoredArtifact(artifact=artifact, use=use, id=made, files=stored)

    def _artifact_files(
        self, artifact: Artifact, stored: list[StoredFile], opened: ExitStack
    ) -> Iterator[tuple[File, BinaryIO | None]]:
        """The version's files, each open until the next one is asked for."""
        names = FileNames(self.source.artifact_files(artifact), self.caps)
        self.written.refused += names.refused.values()
        for file in names.files:
            self.context.check_stop()
            path = names.target.get(file.path)
            if path is None:
                continue
            if file.reference is not None:
                stored.append(StoredFile(file=file, path=path if self.caps.native("references") else None))
                if self.caps.native("references"):
                    yield replace(file, path=path), None
                else:
                    self.written.losses.add([references_moved(example=file.reference)])
                continue
            stream = opened.enter_context(closing(self.source.open(self.run, file)))
            hashing = _Hashing(stream)
            yield replace(file, path=path), hashing.stream
            stored.append(StoredFile(file=hashing.known(file), path=path))
            self._wrote(hashing.size)
            opened.close()

    def _loose(self, writer: RunWriter, artifact: Artifact, use: ArtifactUse) -> StoredArtifact:
        """A target without artifact versions: their files become loose files of the run."""
        folder = loose_folder(artifact)
        self.ids.made("loose", artifact.id, folder)
        self.written.losses.add([artifact_moved(artifact)])
        names = FileNames(self.source.artifact_files(artifact), self.caps)
        self.written.refused += names.refused.values()
        stored = []
        for file in names.files:
            path = names.target.get(file.path)
            stored.append(self._file(writer, file, path and f"{folder}/{path}"))
        return StoredArtifact(artifact=artifact, use=use, id=None, files=stored)


class _Hashing(io.RawIOBase):
    """Reads through, counting and hashing."""

    def __init__(self, stream: BinaryIO) -> None:
        self._inner, self._hash, self.size, self._ended = stream, hashlib.sha256(), 0, False

    @property
    def stream(self) -> BinaryIO:
        return cast(BinaryIO, self)

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        data = self._inner.read(-1 if size is None else size)
        self._hash.update(data)
        self.size += len(data)
        self._ended = self._ended or not data or size is None or size < 0
        return data

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def known(self, file: File) -> File:
        """The file with size and hash, where the sink read it to its end."""
        if not self._ended and (file.size is None or self.size != file.size):
            return file
        return replace(file, size=self.size, sha256=self._hash.hexdigest())
