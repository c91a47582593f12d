"""An S3 server for tests: moto's, on a port of this machine."""

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer


class Server:
    """Can be stopped and started again at the same port; what it holds stays."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()


@pytest.fixture(scope="module")
def server():
    """S3 as a job's environment names it."""
    server = Server()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "something",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        kind = fsspec.get_filesystem_class("s3")
        kind.clear_instance_cache()
        yield server
        kind.clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module")
def other(server):
    """Another program that looks at the same store, without a cache."""
    client = boto3.client("s3", endpoint_url=server.url)
    client.create_bucket(Bucket="runs")
    return client
