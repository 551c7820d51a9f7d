"""Downloads that fail at different layers."""

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
def test_a_failed_download_is_reported_in_one_line_with_a_remedy(error: Exception, reason: str) -> None:
    with pytest.raises(errors.MissingDownload) as caught, downloads.downloading("The thing", cure="Fetch it elsewhere"):
        raise error
    message = str(caught.value)
    assert message.startswith("The thing cannot be downloaded (")
    assert reason in message
    assert message.endswith("). Fetch it elsewhere.")
    assert "\n" not in message
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [ValueError("bad size"), RuntimeError("anything")])
def test_other_errors_are_passed_on(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), downloads.downloading("The thing", cure="None"):
        raise error


def test_a_silent_server_times_out_and_later_connections_have_no_timeout() -> None:
    before = socket.getdefaulttimeout()
    with downloads.downloading("The thing", cure="None"):
        assert 1 <= (socket.getdefaulttimeout() or 0) <= 60
    assert socket.getdefaulttimeout() == before
