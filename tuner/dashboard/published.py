"""What the environment says of this container's port, into the address at which the machine's own browsers find it."""

import os
import sys
from pathlib import Path

from tuner.errors import RequestError

#: where the port of the dashboard's container is published, for example 127.0.0.1:8080
PUBLISHED_AT = "TUNER_DASHBOARD_PUBLISHED_AT"
#: a published port leads to the container's outer address, never to its loopback
HOST = "0.0.0.0"
#: the Dockerfile makes it
MARK = Path(sys.prefix) / "is-image"
_LOOPBACK = ("127.0.0.1", "[::1]", "localhost")


def address() -> str | None:
    """Where a browser of the machine reaches this container; None where nothing is said of it, or this is not tuner's image.

    What is said cannot be checked from inside. It is asked for so that no one opens a dashboard without users by `--host` alone.
    Outside of the image it counts for nothing, since there every address of the machine would be served.

    Raises:
        RequestError: the port is published to other machines.
    """
    said = os.environ.get(PUBLISHED_AT)
    if not said or not MARK.exists():
        return None
    host, _, port = said.rpartition(":")
    if host not in _LOOPBACK or not port.isdecimal():
        raise RequestError(
            f"{PUBLISHED_AT} is {said}; it is for a port that is published to this machine only: 127.0.0.1:8080:8080 and "
            f"{PUBLISHED_AT}=127.0.0.1:8080. For others, leave it out, and give the dashboard users and --allowed-host"
        )
    return said
