"""A reading of the test split by `tuner verify`, recorded with the version of the bundle."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.results.new_versions import new_version
from tests.studies import by_hand
from tuner.protocol import errands
from tuner.results.verify import verification
from tuner.results.verify.verification import Check, Outcome
from tuner.results.versions import versions
from tuner.results.versions.versions import NewReading
from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.studies import data_check
from tuner.studies import study as studies

SCORE = errands.TestScore(accuracy=0.9, num_images=200, fingerprint="f" * 64, splits="5" * 64)
LOOK = NewReading(splits="5" * 64, by="ada", purpose="retrain", accuracy=0.9, num_images=200)
NEW = new_version()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/tuner.db"


@pytest.fixture
def storage(url: str) -> Iterator[Storage]:
    found = storages.open(url)
    yield found
    found.close()


def record(url: str, score: errands.TestScore = SCORE, named: tuple[str, int] = ("flowers", 1)) -> Check:
    return verification.record(url, named, score, tolerance=0.005, by="bob")


def test_each_further_reading_is_recorded_with_a_warning(url: str, storage: Storage) -> None:
    versions.add(storage, NEW, reading=LOOK)
    second, third = record(url), record(url)
    assert [check.outcome for check in (second, third)] == [Outcome.OK, Outcome.OK]
    assert [check.found[0] for check in (second, third)] == [f"recorded; flowers 1 has {num} readings of its test split" for num in (2, 3)]
    assert "not been tested on unseen images" in second.found[1]
    looks = [reading.content for reading in versions.readings(storage, "flowers", 1)]
    assert [(look.purpose, look.by, look.accuracy) for look in looks] == [
        ("retrain", "ada", 0.9),
        ("verify", "bob", 0.9),
        ("verify", "bob", 0.9),
    ]


def test_a_bundle_of_a_study_that_was_renamed_is_recorded_under_its_new_name(url: str, storage: Storage) -> None:
    study = studies.join(by_hand.spec(name="flowers"), storage)
    data_check.admit(study, by_hand.PREPARED)
    versions.add(storage, NEW)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE studies SET study_name = 'tulips'")
    assert record(url).found == ("recorded; tulips 1 has 1 reading of its test split",)
    assert [reading.name for reading in versions.readings(storage)] == ["tulips"]


def test_the_first_reading_gives_no_warning(url: str, storage: Storage) -> None:
    versions.add(storage, new_version(metrics={"test_accuracy": None}))
    assert record(url).found == ("recorded; flowers 1 has 1 reading of its test split",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fingerprint": "0" * 64}, "the images here are not the test split of flowers 1"),
        ({"splits": "0" * 64}, "the images here are not the test split of flowers 1"),
        ({"accuracy": 0.8}, "this is not the model of flowers 1 in"),
    ],
)
def test_a_reading_of_another_version_is_not_recorded(url: str, storage: Storage, change: dict[str, Any], said: str) -> None:
    versions.add(storage, NEW, reading=LOOK)
    assert_unrecorded(record(url, SCORE.model_copy(update=change)), said)
    assert len(versions.readings(storage)) == 1


def test_a_missing_version_is_reported(url: str, storage: Storage) -> None:
    versions.add(storage, NEW)
    assert_unrecorded(record(url, named=("flowers", 2)), "there is no version 2 of flowers; its versions: 1")
    assert_unrecorded(record(url, named=("roses", 1)), "there is no version of roses.")
    versions.delete(storage, "flowers", 1, by="ada")
    assert_unrecorded(record(url), "flowers 1 was deleted by ada")


def test_a_database_of_another_program_is_not_changed(url: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "tuner.db") as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    before = (tmp_path / "tuner.db").read_bytes()
    assert_unrecorded(record(url), f"{url} holds no versions; name the database of flowers 1 with --storage")
    assert (tmp_path / "tuner.db").read_bytes() == before


def test_an_invalid_database_and_an_unreachable_server_are_reported(url: str, tmp_path: Path) -> None:
    (tmp_path / "tuner.db").write_text("songs\n" * 1000)
    assert_unrecorded(record(url), "tuner.db")
    assert_unrecorded(record("postgresql://ada:secret@127.0.0.1:9/tuner"), "127.0.0.1:9")
    assert "secret" not in record("postgresql://ada:secret@127.0.0.1:9/tuner").found[0]


def assert_unrecorded(found: Check, said: str) -> None:
    assert found.outcome is Outcome.NOT_CHECKED
    assert found.found[0].startswith("not recorded: ") and said in found.found[0]


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"name": "flowers", "version": 2}, ("flowers", 2)),
        ({"name": None, "version": None}, None),
        ({"version": 2}, None),
        ({"name": "flowers", "version": True}, None),
        ({"name": "flowers", "version": -1}, None),
        ({"name": "flowers", "version": 10**30}, None),
        ({"name": ["flowers"], "version": 2}, None),
        ({"name": "flowers\nok           signature", "version": 2}, None),
        ({"name": "flowers\n", "version": 2}, None),
        ({"name": "\ud800", "version": 2}, None),
        ({"name": "f" * 10_000, "version": 2}, None),
        ({}, None),
    ],
)
def test_a_bundle_names_its_version(metrics: dict[str, Any], expected: tuple[str, int] | None) -> None:
    assert verification.version_of(metrics) == expected
