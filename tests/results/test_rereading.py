"""A reading of the test split by `tuner verify`, recorded with the version of the bundle."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tuner import errands
from tuner.errors import StorageError
from tuner.results import rereading, versions
from tuner.results.verification import Outcome
from tuner.results.versions import NewReading, NewVersion, Origin, Version
from tuner.search import storage as storages
from tuner.search.storage import Storage

SCORE = errands.TestScore(accuracy=0.9, num_images=200, fingerprint="f" * 64, splits="5" * 64)
NEW = NewVersion(
    name="flowers",
    study="flowers-retrained",
    origin=Origin.RETRAINING,
    trial=3,
    config={},
    metrics={"test_accuracy": 0.9},
    fingerprint="f" * 64,
    splits="5" * 64,
    artifact="/weights.npz",
    sha256="a" * 64,
    created_by="ada",
)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    found = storages.open(f"sqlite:///{tmp_path}/tuner.db")
    yield found
    found.close()


@pytest.fixture
def version(storage: Storage) -> Version:
    look = NewReading(splits="5" * 64, by="ada", purpose="retrain", accuracy=0.9, num_images=200)
    return versions.add(storage, NEW, reading=look)


def test_each_reading_is_recorded_and_said_to_be_one_too_many(storage: Storage, version: Version) -> None:
    second = rereading.record(storage, version, SCORE, by="bob")
    third = rereading.record(storage, version, SCORE, by="bob")
    assert [check.outcome for check in (second, third)] == [Outcome.OK, Outcome.OK]
    assert [check.found[0] for check in (second, third)] == [
        f"recorded; flowers 1 has had {num} readings of its test split" for num in (2, 3)
    ]
    assert "not been tested on unseen images" in second.found[1]
    looks = [reading.look for reading in versions.readings(storage, "flowers", 1)]
    assert [(look.purpose, look.by, look.accuracy) for look in looks] == [
        ("retrain", "ada", 0.9),
        ("verify", "bob", 0.9),
        ("verify", "bob", 0.9),
    ]


def test_a_first_reading_is_no_warning(storage: Storage) -> None:
    unread = versions.add(storage, NEW)
    found = rereading.record(storage, unread, SCORE, by="bob")
    assert (found.outcome, found.found) == (Outcome.OK, ("recorded; flowers 1 has had 1 reading of its test split",))


@pytest.mark.parametrize("other", ["fingerprint", "splits"])
def test_other_images_are_no_reading_of_the_test_split(storage: Storage, version: Version, other: str) -> None:
    found = rereading.record(storage, version, SCORE.model_copy(update={other: "0" * 64}), by="bob")
    assert (found.outcome, found.found[0]) == (
        Outcome.NOT_CHECKED,
        "it is not recorded: the images read here are not the test split of flowers 1",
    )
    assert len(versions.readings(storage)) == 1


def test_a_reading_that_cannot_be_recorded_is_no_success(storage: Storage, version: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise StorageError("the database is away")

    monkeypatch.setattr(versions, "record_reading", away)
    found = rereading.record(storage, version, SCORE, by="bob")
    assert (found.outcome, found.found) == (Outcome.FAILED, ("it could not be recorded: the database is away",))


def test_a_version_that_is_not_there_is_told(storage: Storage, version: Version) -> None:
    assert rereading.find(storage, ("flowers", 1)) == version
    assert rereading.find(storage, ("flowers", 2)) == "there is no version 2 of flowers; there are 1"
    assert str(rereading.find(storage, ("roses", 1))).startswith("there is no version of roses.")


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"name": "flowers", "version": 2}, ("flowers", 2)),
        ({"name": None, "version": None}, None),
        ({"version": 2}, None),
        ({"name": "flowers", "version": True}, None),
        ({"name": ["flowers"], "version": 2}, None),
        ({}, None),
    ],
)
def test_a_bundle_says_which_version_it_is_of(metrics: dict[str, Any], expected: tuple[str, int] | None) -> None:
    assert rereading.version_of(metrics) == expected
