"""Artifacts in an object store, and in places that only a server reaches."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from outgrow.adapters.mlflow.artifacts import DirectoryFiles, RepositoryFiles, files_at
from outgrow.errors import Corrupt, LocationError, OutgrowError, Rejected, Vanished
from outgrow.locations import parse

NAMES = {
    "plain.txt": b"x",
    "empty": b"",
    "a/b/c/deep.bin": bytes(range(256)),
    "hash#tag": b"#",
    "what?": b"?",
    "pct%20x": b"%",
    "größe.txt": "ß".encode(),
    "big": b"0123456789" * 200_000,
}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://{host}:{port}")
    patch.setenv("AWS_ACCESS_KEY_ID", "testing")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="artifacts")
        yield "s3://artifacts"
    finally:
        patch.undo()
        server.stop()


def test_an_object_store(bucket: str) -> None:
    files = files_at(f"{bucket}/1/run/artifacts", parse("mlflow:http://127.0.0.1:5000"))
    assert isinstance(files, RepositoryFiles)
    assert list(files.walk()) == []
    for path, data in NAMES.items():
        files.put(path, io.BytesIO(data))
    assert {file.path: file.size for file in files.walk()} == {
        path: len(data) for path, data in NAMES.items()
    }
    for path, data in NAMES.items():
        with files.open(path) as stream:
            assert stream.read() == data
    with pytest.raises(OutgrowError):
        files.open("not there")
    with pytest.raises(Corrupt):
        files.open("../../other")


def test_a_directory(tmp_path: Path) -> None:
    files = files_at(tmp_path.as_uri(), parse("mlflow:sqlite:///x.db"))
    assert isinstance(files, DirectoryFiles)
    for path, data in NAMES.items():
        files.put(path, io.BytesIO(data))
    assert {file.path: file.size for file in files.walk()} == {
        path: len(data) for path, data in NAMES.items()
    }
    with pytest.raises(Rejected, match="both a file and a folder"):
        files.put("plain.txt/below", io.BytesIO(b""))
    with pytest.raises(Rejected, match="not possible"):
        files.put("n" * 300, io.BytesIO(b""))
    with pytest.raises(Vanished):
        files.open("not there")
    (tmp_path / "out").symlink_to("/etc")
    for path in ("../x", "/etc/passwd", "a/../../x", "x\x00", "out/passwd"):
        with pytest.raises(Corrupt):
            files.put(path, io.BytesIO(b""))


def test_what_a_server_serves_is_found_beside_its_database(tmp_path: Path) -> None:
    location = parse(f"mlflow:sqlite:///{tmp_path}/mlflow.db")
    files = files_at("mlflow-artifacts:/1/run/artifacts", location)
    files.put("x", io.BytesIO(b"x"))
    assert (tmp_path / "mlartifacts" / "1" / "run" / "artifacts" / "x").read_bytes() == b"x"
    elsewhere = parse(f"mlflow:sqlite:///{tmp_path}/mlflow.db?outgrow.artifacts={tmp_path}/other")
    files_at("mlflow-artifacts:/1", elsewhere).put("y", io.BytesIO(b"y"))
    assert (tmp_path / "other" / "1" / "y").read_bytes() == b"y"
    with pytest.raises(LocationError, match="where artifacts go"):
        files_at("mlflow-artifacts:/1", parse("mlflow:postgresql://host/db"))
