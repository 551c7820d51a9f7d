"""Downloads with a short timeout, which raise MissingDownload if they fail."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tuner import errors

#: timeout of a server that does not answer; Keras itself would wait forever
_TIMEOUT_SECONDS = 20.0


@contextmanager
def downloading(what: str, *, cure: str) -> Iterator[None]:
    """Run a `with` block that may download `what`; `cure` tells the user what to do if it fails.

    Raises:
        MissingDownload: the download failed.
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
    return errors.MissingDownload(f"{what} cannot be downloaded ({reason}). {cure}.")
