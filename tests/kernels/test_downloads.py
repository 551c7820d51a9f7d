"""A download that fails, at whatever layer."""

import socket
from urllib.error import URLError

import pytest

from tuner import errors
from tuner.kernels import downloads


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Exception("URL fetch failure on https://a: None -- refused"), "URL fetch failure on https://a: None -- refused"),  # Keras
        (URLError("unreachable"), "unreachable"),
        (TimeoutError("timed out"), "timed out"),
        (ConnectionResetError(), "ConnectionResetError"),
    ],
)
def test_a_failed_download_becomes_one_line_with_its_cure(error: Exception, reason: str) -> None:
    with pytest.raises(errors.MissingDownload) as caught, downloads.downloading("The thing", cure="Fetch it elsewhere"):
        raise error
    message = str(caught.value)
    assert message.startswith("The thing cannot be downloaded (")
    assert reason in message
    assert message.endswith("). Fetch it elsewhere.")
    assert "\n" not in message
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [ValueError("bad size"), RuntimeError("anything")])
def test_any_other_error_passes_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), downloads.downloading("The thing", cure="None"):
        raise error


def test_a_silent_server_is_given_up_and_later_connections_are_not_bound_to_that() -> None:
    before = socket.getdefaulttimeout()
    with downloads.downloading("The thing", cure="None"):
        assert 1 <= (socket.getdefaulttimeout() or 0) <= 60
    assert socket.getdefaulttimeout() == before
