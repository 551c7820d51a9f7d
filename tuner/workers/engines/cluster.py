"""Cluster: join a Ray cluster, or start Ray on this machine for as long as it is needed.

This module imports Ray in its functions only, because Ray reads some environment variables when it is imported.
"""

import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tuner import machine
from tuner.errors import RequestError

#: the smallest object store that Ray accepts; workers store nothing in it
_OBJECT_STORE_BYTES = 80 * 2**20
_CONNECT_SECONDS = 10.0
#: environment variables that Ray reads when it is imported
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # a worker that asks for no GPU hides them itself; without this variable, Ray warns that it will stop to do so
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Join the cluster at `address` (`auto` or HOST:PORT) while a `with` block runs; without an address, start Ray on this machine.

    Raises:
        RequestError: there is no cluster, or this machine is not a node of it.
    """
    os.environ.update(_ENVIRONMENT)
    if address is None:
        with _started():
            yield
        return
    if address != "auto":
        _require(address)
    with _driver(address=address):
        yield


def nodes() -> list[Mapping[str, Any]]:
    """Return Ray's descriptions of the nodes that are alive."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _require(address: str) -> None:
    """Refuse an address where nothing listens, because Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise RequestError(
            f"--address is {address}; expected auto, or HOST:PORT of the cluster's head. Run tuner on a node of the cluster."
        )
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RequestError(
            f"--address is {address}, but nothing answers there: {error}. Check that the head of the cluster runs."
        ) from error


@contextmanager
def _started() -> Iterator[None]:
    """Start Ray on this machine, on the loopback interface, with a random token."""
    # Ray then listens on the loopback interface only, as it does on Windows and macOS
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # not in TMPDIR: the path of a socket may have at most 107 characters
    with tempfile.TemporaryDirectory(prefix="tuner-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        own = {"num_cpus": machine.num_cores(), "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
        with _driver(address="local", _temp_dir=folder, **own):
            yield


@contextmanager
def _driver(**options: Any) -> Iterator[None]:
    import ray
    from ray.exceptions import RayError

    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError, RayError) as error:  # ConnectionError and TimeoutError are OSErrors
        where = (
            "Ray cannot be started on this machine" if options["address"] == "local" else f"there is no Ray cluster at {options['address']}"
        )
        message = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RequestError(f"{where}: {message}") from error
    try:
        yield
    finally:
        ray.shutdown()
