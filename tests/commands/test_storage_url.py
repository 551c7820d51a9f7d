"""The URL of the database: option, environment, files and default."""

from pathlib import Path

import pytest

from tuner.commands import storage_url
from tuner.errors import RequestError

URL = "postgresql://tuner@db.example/tuner"


@pytest.fixture(autouse=True)
def _nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (storage_url.URL, storage_url.URL_FILE, storage_url.PASSWORD_FILE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Give a mounted secret: a file with a password that a URL must quote."""
    path = tmp_path / "secret"
    path.write_text("p@ss/word\n")
    return path


def test_the_default_is_a_file_in_the_current_folder() -> None:
    assert storage_url.url(None) == "sqlite:///tuner.db"


def test_the_option_wins_over_the_environment_and_the_environment_over_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text(f"{URL}\n")
    monkeypatch.setenv(storage_url.URL_FILE, str(tmp_path / "url"))
    assert storage_url.url(None) == URL
    monkeypatch.setenv(storage_url.URL, "sqlite:///environment.db")
    assert storage_url.url(None) == "sqlite:///environment.db"
    assert storage_url.url("sqlite:///given.db") == "sqlite:///given.db"


def test_a_url_without_a_password_gets_the_one_of_the_password_file(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(storage_url.PASSWORD_FILE, str(secret))
    assert storage_url.url(URL) == "postgresql://tuner:p%40ss%2Fword@db.example/tuner"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://tuner:own@db.example/tuner",
        "postgresql://db.example/tuner",  # no user, so no password
        "sqlite:///tuner.db",
        "nonsense",  # what is wrong with it is said where it is opened
    ],
)
def test_any_other_url_is_unchanged(url: str, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(storage_url.PASSWORD_FILE, str(secret))
    assert storage_url.url(url) == url


@pytest.mark.parametrize(("content", "said"), [(None, "No such file"), (b" \n", "is empty"), (b"\xff\xfe", "it is not a text file")])
@pytest.mark.parametrize("variable", [storage_url.URL_FILE, storage_url.PASSWORD_FILE])
def test_an_unusable_file_is_refused_with_the_name_of_its_variable(
    variable: str, content: bytes | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv(variable, str(path))
    with pytest.raises(RequestError, match=f"{variable} is .*{said}"):
        storage_url.url(None if variable == storage_url.URL_FILE else URL)
