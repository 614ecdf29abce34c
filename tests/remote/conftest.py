from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from fault_server import FaultServer
from moto.server import ThreadedMotoServer


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VOCDIST_RETRY_SECONDS", "8")
    monkeypatch.setenv("VOCDIST_CACHE", str(tmp_path / "default-cache"))


@pytest.fixture
def web(demo_shards: Path) -> Iterator[FaultServer]:
    """The demo shards behind http, on this machine."""
    with FaultServer(demo_shards) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a real S3 server on this machine (moto's), to which s3:// leads now."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, request: pytest.FixtureRequest) -> str:
    """The URL of a bucket of the test's own."""
    name = f"test-{abs(hash(request.node.nodeid)) % 10**12}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"
