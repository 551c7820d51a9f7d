"""A download that fails into MissingDownload, quickly."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tuner import errors

#: silence of a server after which it is taken for unreachable; Keras itself would wait for ever
_TIMEOUT_SECONDS = 20.0


@contextmanager
def expected(what: str, *, cure: str) -> Iterator[None]:
    """Around whatever may download `what`.

    Raises:
        MissingDownload: it cannot be had from here.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise _missing(what, cure, error) from error
    except Exception as error:  # keras.utils.get_file raises a bare Exception when a download fails
        if "URL fetch failure" not in str(error):
            raise
        raise _missing(what, cure, error) from error
    finally:
        socket.setdefaulttimeout(before)


def _missing(what: str, cure: str, error: Exception) -> errors.MissingDownload:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return errors.MissingDownload(f"{what} would have to be downloaded, and cannot be from here ({reason}). {cure}.")
