"""The archive in S3, through pyarrow's own S3 client, against moto's server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from outgrow.errors import LocationError
from outgrow.locations import open_sink, open_source
from outgrow.testing import hostile
from outgrow.testing.compare import compare
from outgrow.testing.drive import write


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1",
        aws_access_key_id="test", aws_secret_access_key="test",
    )  # fmt: skip
    client.create_bucket(Bucket="history")
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("case", ["files", "artifacts", "steps"])
def test_round_trip(case: str, s3: None) -> None:
    location = f"archive:s3://history/{case}/a"
    source = hostile.load(case)
    with open_sink(location) as sink:
        first = write(source, sink)
        again = write(source, sink)
    assert list(first.runs) == list(again.runs)
    with open_source(location) as back:
        assert compare(again, back, sink) == []
        assert list(back.verify()) == []  # type: ignore[attr-defined]


def test_nothing_there(s3: None) -> None:
    with pytest.raises(LocationError, match="not an archive"):
        open_source("archive:s3://history/none")


def test_no_such_bucket(s3: None) -> None:
    with pytest.raises(LocationError, match="no such bucket"):
        open_sink("archive:s3://no-such-bucket/x")
