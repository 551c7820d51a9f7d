"""An S3 service on loopback, whose buckets are in memory, and that can be away."""

import os
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

#: what a worker finds in its environment
KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_DEFAULT_REGION": "us-east-1"}


class Service:
    """The service, at an address that stays the same when it is stopped and started."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self._host, self._port = self._server.get_host_and_port()
        # all services of a process have the same buckets: those of earlier tests
        request = urllib.request.Request(f"http://{self._host}:{self._port}/moto-api/reset", method="POST")
        urllib.request.urlopen(request, timeout=30).close()

    @property
    def environment(self) -> dict[str, str]:
        """By which boto3 finds it."""
        return KEYS | {"AWS_ENDPOINT_URL_S3": f"http://{self._host}:{self._port}"}

    @property
    def client(self) -> Any:
        """Of the test's own."""
        return boto3.client(
            "s3", endpoint_url=self.environment["AWS_ENDPOINT_URL_S3"], region_name="us-east-1",
            aws_access_key_id="tester", aws_secret_access_key="not-a-secret",
        )  # fmt: skip

    def make(self, bucket: str) -> str:
        """An empty bucket; its URL with a prefix."""
        self.client.create_bucket(Bucket=bucket)
        return f"s3://{bucket}/models/team"

    def keys(self, bucket: str) -> list[str]:
        """What is in a bucket."""
        return [found["Key"] for found in self.client.list_objects_v2(Bucket=bucket).get("Contents", ())]

    def stop(self) -> None:
        """Be away; the buckets stay as they are."""
        self._server.stop()

    def start(self) -> None:
        """Be back."""
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()


@contextmanager
def service() -> Iterator[Service]:
    """A service of the caller's own; nothing that the user of this machine has set for boto3 is seen."""
    made = Service()
    try:
        yield made
    finally:
        made.stop()


def only(environment: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with these variables of AWS and no others, nor its files."""
    rest = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return (
        rest
        | {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true"}
        | dict(environment)
    )
