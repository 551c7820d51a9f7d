"""An address into a Ray cluster that this process has joined; without one, a Ray of this machine alone, for as long as it is needed."""

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

#: what starts a worker on a node; None: what starts it there anyway
COMMAND: tuple[str, ...] | None = None
#: the smallest object store that Ray takes; workers put nothing into it
_OBJECT_STORE_BYTES = 80 * 2**20
_CONNECT_SECONDS = 10.0
#: Ray reads these when it is imported
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # a process that asked for no GPU hides them by itself; without this, Ray warns that it will not do so forever
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Be a driver of the cluster while a `with` block runs: of the one at `address` (`auto` or HOST:PORT), else of one that is ended then.

    Raises:
        RequestError: there is no cluster, or this machine is no part of it.
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
    """What Ray says of the nodes that are alive."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _require(address: str) -> None:
    """Refuse an address where nothing listens: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise RequestError(
            f"--address is {address}; expected auto, or HOST:PORT of the cluster's head. Run tuner on a node of the cluster."
        )
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RequestError(f"--address is {address}, but nothing answers there: {error}") from error


@contextmanager
def _started() -> Iterator[None]:
    """A Ray of this machine, on loopback, behind a token of its own."""
    # without this, Ray listens to other machines, too: it is what keeps it on loopback on Windows and macOS
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # not where TMPDIR says: the path of a socket has at most 107 characters
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
        where = "no Ray could be started here" if options["address"] == "local" else f"there is no Ray cluster at {options['address']}"
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RequestError(f"{where}: {said}") from error
    try:
        yield
    finally:
        ray.shutdown()
