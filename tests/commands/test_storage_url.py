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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, in which there is an SQLite file without an ending, below the home folder."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "studies").write_bytes(b"SQLite format 3\0 and pages")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("sqlite:///tuner.db", "sqlite:///tuner.db"),
        ("sqlite:////data/tuner.db", "sqlite:////data/tuner.db"),
        ("sqlite:///data/tuner.db?timeout=5", "sqlite:///data/tuner.db?timeout=5"),
        ("sqlite://tuner.db", "sqlite:///tuner.db"),
        ("sqlite:tuner.db", "sqlite:///tuner.db"),
        ("sqlite:data/tuner.db", "sqlite:///data/tuner.db"),
        ("sqlite://../tuner.db", "sqlite:///../tuner.db"),
        ("SQLite:///tuner.db", "sqlite:///tuner.db"),
        ("sqlite3:///tuner.db", "sqlite:///tuner.db"),
        ("jdbc:sqlite:tuner.db", "sqlite:///tuner.db"),
        ("sqlite:///~/tuner.db", "sqlite:///HOME/tuner.db"),
        ("sqlite://~/tuner.db", "sqlite:///HOME/tuner.db"),
        ("sqlite:///$HOME/tuner.db", "sqlite:///HOME/tuner.db"),
        ("sqlite:///${HOME}/tuner.db", "sqlite:///HOME/tuner.db"),
        ("tuner.db", "sqlite:///tuner.db"),
        ("./data/tuner.sqlite3", "sqlite:///data/tuner.sqlite3"),
        ("/data/tuner.sqlite", "sqlite:////data/tuner.sqlite"),
        ("~/tuner.db", "sqlite:///HOME/tuner.db"),
        ("studies", "sqlite:///studies"),  # its content is an SQLite file
        ("file:///data/tuner.db", "sqlite:////data/tuner.db"),
        ("file:/data/tuner.db", "sqlite:////data/tuner.db"),
        ("file:tuner.db", "sqlite:///tuner.db"),
        ("file:tuner.db?mode=ro", "sqlite:///file:tuner.db?mode=ro&uri=true"),
        ("sqlite:///file:tuner.db?mode=ro&uri=true", "sqlite:///file:tuner.db?mode=ro&uri=true"),
        ("  sqlite:///tuner.db\n", "sqlite:///tuner.db"),
        ('"sqlite:///tuner.db"', "sqlite:///tuner.db"),
        ("postgres://me:s3cr%40t@host/db", "postgresql://me:s3cr%40t@host/db"),
        ("postgres+psycopg://host/db", "postgresql+psycopg://host/db"),
        ("PostgreSQL://host/db", "postgresql://host/db"),
        ("jdbc:postgresql://host:5432/db", "postgresql://host:5432/db"),
        ("mysql2://me@host/db", "mysql://me@host/db"),
        # no reading: what is wrong is said where the storage is opened
        ("nonsense", "nonsense"),
        ("me@host/tuner.db", "me@host/tuner.db"),
        ("host=db.example dbname=tuner.db", "host=db.example dbname=tuner.db"),
        ("sqlite://", "sqlite://"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        (":memory:", "sqlite:///:memory:"),
        ("file::memory:", "sqlite:///:memory:"),
        ("file::memory:?cache=shared", "sqlite:///:memory:"),
        ("", ""),
    ],
)
def test_a_place_is_understood_as_people_write_it(given: str, url: str, home: Path) -> None:
    assert storage_url.understood(given) == url.replace("HOME", str(home))


@pytest.mark.parametrize(
    ("given", "spellings"),
    [
        ("sqlite:/tuner.db", ["sqlite:////tuner.db for the file /tuner.db", "sqlite:///tuner.db for tuner.db in the current folder"]),
        ("sqlite://home/me/tuner.db", ["sqlite:////home/me/tuner.db", "sqlite:///home/me/tuner.db"]),
        ("sqlite+pysqlite://data/tuner.db", ["sqlite+pysqlite:////data/tuner.db", "sqlite+pysqlite:///data/tuner.db"]),
        (r"C:\Users\me\tuner.db", ["a path of Windows", "sqlite:////mnt/c/Users/me/tuner.db"]),
        ("D:/tuner.db", ["sqlite:////mnt/d/tuner.db"]),
        (r"sqlite:///C:\Users\me\tuner.db", ["sqlite:////mnt/c/Users/me/tuner.db"]),
        ("sqlite:///C:/Users/me/tuner.db", ["sqlite:////mnt/c/Users/me/tuner.db"]),
        (r"sqlite:///data\tuner.db", ["sqlite:///data/tuner.db"]),
        (r"data\tuner.db", ["sqlite:///data/tuner.db"]),
        (r"\\server\share\tuner.db", ["sqlite:////mnt/server/share/tuner.db"]),
        ("s3:bucket", ["an address of s3, which is no database", "--artifacts s3://BUCKET/PREFIX"]),
        ("https://me:secret@host/db", ["an address of https, which is no database"]),
        (".", ["is a folder", "sqlite:///tuner.db"]),
        ("~no-such-user-here/tuner.db", ["names no user of this machine"]),
    ],
)
def test_a_place_with_several_readings_is_refused_with_the_right_spelling(given: str, spellings: list[str], home: Path) -> None:
    with pytest.raises(RequestError) as raised:
        storage_url.understood(given)
    for spelling in spellings:
        assert spelling in str(raised.value)


def test_a_text_longer_than_a_path_is_no_place() -> None:
    given = "Server=db;Password=secret;" + "x" * 300
    assert storage_url.understood(given) == given


def test_a_new_database_is_announced_with_its_place_and_one_of_that_name_above_it(home: Path) -> None:
    assert storage_url.announcement("sqlite:///new.db") == f"new database: {home}/project/new.db"
    (home / "new.db").touch()
    assert storage_url.announcement("sqlite:///new.db") == (
        f"new database: {home}/project/new.db. There is one in a folder above; to use it: --storage sqlite:///{home}/new.db"
    )
    (home / "project" / "new.db").touch()
    assert storage_url.announcement("sqlite:///new.db") == ""
    assert storage_url.announcement("postgresql://host/db") == ""


def test_a_missing_file_is_named_with_the_current_folder_and_one_of_that_name_above_it(home: Path) -> None:
    assert storage_url.missing("sqlite:////data/none.db") == "sqlite:////data/none.db does not exist."
    assert storage_url.missing("sqlite:///none.db") == f"sqlite:///none.db does not exist in the current folder {home}/project."
    (home / "none.db").touch()
    assert storage_url.missing("sqlite:///none.db").endswith(f" There is one in a folder above: --storage sqlite:///{home}/none.db.")


def test_a_journal_of_optuna_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.log").write_text('{"op_code":0,"worker_id":"b34d","study_name":"a","directions":[1]}\n')
    with pytest.raises(RequestError, match="journal.log is a journal file of Optuna, but tuner stores studies in an SQL database"):
        storage_url.url(tmp_path / "journal.log")
