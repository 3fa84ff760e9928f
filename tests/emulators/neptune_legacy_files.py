"""Operations of the 2.x server on files, sets of files and artifacts."""

from __future__ import annotations

import io
import json
import tarfile
import uuid
import zipfile
from typing import Any

from emulators.neptune_serving import JSON, Handler


class FileOperations(Handler):
    query: dict[str, str]

    @property
    def run(self) -> JSON:
        raise NotImplementedError

    @property
    def attribute(self) -> JSON:
        raise NotImplementedError

    def op_fileAtomUpload(self) -> tuple[int, Any]:
        path, ext = self.query["attribute"], self.query.get("ext") or ""
        name = path.rsplit("/", 1)[-1]
        self.run["attributes"][path] = {"type": "file", "ext": ext, "content": self.body, "name": name}
        return 200, {"errors": []}

    def _file_set(self) -> dict[str, bytes]:
        empty: JSON = {"type": "fileSet", "files": {}}
        files: dict[str, bytes] = self.run["attributes"].setdefault(self.query["attribute"], empty)["files"]
        return files

    def op_fileSetFileUpload(self) -> tuple[int, Any]:
        self._file_set()[self.query["subPath"]] = self.body
        return 200, {"errors": []}

    def op_uploadFileSetAttributeTar(self) -> tuple[int, Any]:
        files = self._file_set()
        if self.query.get("reset") == "True":
            files.clear()
        with tarfile.open(fileobj=io.BytesIO(self.body)) as archive:
            for member in archive.getmembers():
                if (stream := archive.extractfile(member)) is not None:
                    files[member.name] = stream.read()
        return 200, {"errors": []}

    def op_downloadAttribute(self) -> tuple[int, Any]:
        return 200, self.attribute["content"]

    def op_prepareForDownloadFileSetAttributeZip(self) -> tuple[int, Any]:
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            for name, content in self.attribute["files"].items():
                archive.writestr(name, content)
        id = str(uuid.uuid4())
        self.state.artifacts[id] = [{"zip": data.getvalue()}]
        return 200, {"id": id}

    def op_getDownloadPrepareRequest(self) -> tuple[int, Any]:
        return 200, {
            "id": self.query["id"],
            "downloadUrl": f"{self.state.url}/api/leaderboard/zip?id={self.query['id']}",
        }

    def op_zip(self) -> tuple[int, Any]:
        return 200, self.state.artifacts[self.query["id"]][0]["zip"]

    def op_createNewArtifact(self) -> tuple[int, Any]:
        digest = self.query.get("hash") or ""
        new = digest not in self.state.artifacts
        self.state.artifacts.setdefault(digest, [])
        return 200, {"artifactHash": digest, "hash": digest, "receivedMetadata": not new, "size": 0}

    def op_uploadArtifactFilesMetadata(self) -> tuple[int, Any]:
        digest = self.query["hash"]
        self.state.artifacts[digest] = json.loads(self.body)["files"]
        return 200, {"artifactHash": digest, "hash": digest, "receivedMetadata": True, "size": 0}

    op_createArtifactVersion = op_uploadArtifactFilesMetadata

    def op_listArtifactFiles(self) -> tuple[int, Any]:
        return 200, {"files": self.state.artifacts[self.query["hash"]]}
