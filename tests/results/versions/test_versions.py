"""Versions, on each kind of database."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import databases
from tests.mariadb import Server
from tests.results.new_versions import new_version
from tuner.errors import VersionError
from tuner.results.versions import stages, versions
from tuner.results.versions.versions import NewReading, NewVersion, VersionStage, WeightsSource
from tuner.storage import engine as storages
from tuner.storage.engine import Storage

LOOK = NewReading(splits="5" * 64, by="ada", purpose="retrain", accuracy=0.9, num_images=200)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, postgresql_server: Any, mariadb_server: Server) -> Iterator[dict[str, Storage]]:
    mariadb_server.execute("CREATE DATABASE IF NOT EXISTS versions")
    urls = {
        "sqlite": databases.sqlite(tmp_path_factory.mktemp("versions")),
        "postgresql": postgresql_server.get_uri(),
        "mariadb": mariadb_server.get_uri("versions"),
    }
    found = {name: storages.open(url) for name, url in urls.items()}
    yield found
    for storage in found.values():
        storage.close()


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def storage(request: pytest.FixtureRequest, opened: dict[str, Storage]) -> Storage:
    return opened[request.param]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Return a name that no other test uses."""
    return str(request.node.name)[:100]


@pytest.fixture
def new(name: str) -> Callable[..., NewVersion]:
    def make(**changes: Any) -> NewVersion:
        usual: dict[str, Any] = {
            "name": name,
            "config": {"name": "flowers-trial-17", "search": {"dropout": 0.3}},
            "metrics": {"validation_accuracy": 0.95, "test": {"interval": [0.9, 0.97]}},
            "artifact": "/weights.h5",
        }
        return new_version(**usual | changes)

    return make


def test_versions_are_numbered_and_read_unchanged(storage: Storage, name: str, new: Callable[..., NewVersion]) -> None:
    first = versions.add(storage, new())
    second = versions.add(storage, new(origin=WeightsSource.TRIAL, trial=None))
    assert (first.number, second.number) == (1, 2)
    assert first.model == new()
    assert versions.find(storage, name, 2) == second
    assert versions.all(storage, name) == [first, second]
    assert first.created_at > 1.7e9
    assert first in versions.all(storage)


def test_the_number_of_a_deleted_version_is_not_used_again(storage: Storage, name: str, new: Callable[..., NewVersion]) -> None:
    versions.add(storage, new())
    assert versions.delete(storage, name, 1, by="ada").number == 1
    assert versions.add(storage, new()).number == 2
    assert [version.number for version in versions.all(storage, name)] == [2]
    gone, _ = versions.all(storage, name, deleted=True)
    assert gone.is_deleted and gone.deleted_by == "ada"
    with pytest.raises(VersionError, match=rf"{name.replace('[', '.').replace(']', '.')} 1 was deleted by ada on 20"):
        versions.find(storage, name, 1)


def test_concurrent_writers_get_different_numbers(storage: Storage, name: str, new: Callable[..., NewVersion]) -> None:
    numbers: list[int] = []
    barrier = threading.Barrier(6, timeout=120)

    def work() -> None:
        barrier.wait()
        numbers.extend(versions.add(storage, new()).number for _ in range(3))

    hands = [threading.Thread(target=work) for _ in range(6)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    assert sorted(numbers) == list(range(1, 19))


def test_figures_that_json_does_not_allow_are_refused(storage: Storage, name: str, new: Callable[..., NewVersion]) -> None:
    with pytest.raises(ValueError, match="JSON"):
        versions.add(storage, new(metrics={"validation_accuracy": float("nan")}))
    assert versions.all(storage, name) == []


def test_without_a_number_the_version_in_production_or_the_latest_is_found(
    storage: Storage, name: str, new: Callable[..., NewVersion]
) -> None:
    for _ in range(3):
        versions.add(storage, new())
    assert versions.find(storage, name).number == 3
    stages.promote(storage, name, 2, by="ada")
    assert versions.find(storage, name).number == 2
    assert versions.find(storage, name).stages == (VersionStage.PRODUCTION,)


def test_a_missing_version_is_named_with_the_existing_ones(storage: Storage, name: str, new: Callable[..., NewVersion]) -> None:
    versions.add(storage, new())
    with pytest.raises(VersionError, match="there is no version 7 of .*; its versions: 1"):
        versions.find(storage, name, 7)
    with pytest.raises(VersionError, match="there is no version of nothing.*tuner retrain nothing"):
        versions.find(storage, "nothing")


def test_readings_of_the_test_split_are_counted(storage: Storage, name: str, new: Callable[..., NewVersion]) -> None:
    versions.add(storage, new(), reading=LOOK)
    versions.add(storage, new())
    assert versions.record_reading(storage, name, 2, LOOK).ordinal == 1
    assert versions.record_reading(storage, name, 1, LOOK).ordinal == 2
    assert [(reading.version, reading.ordinal) for reading in versions.readings(storage, name)] == [(1, 1), (2, 1), (1, 2)]
    (first, second) = versions.readings(storage, name, 1)
    assert first.content == second.content == LOOK
    with pytest.raises(VersionError, match="there is no version 3"):
        versions.record_reading(storage, name, 3, LOOK)


def test_a_version_in_a_stage_is_not_deleted(storage: Storage, name: str, new: Callable[..., NewVersion]) -> None:
    versions.add(storage, new())
    stages.promote(storage, name, 1, by="ada")
    with pytest.raises(VersionError, match="is in production, so it is not deleted; promote another version first"):
        versions.delete(storage, name, 1, by="ada")
    stages.withdraw(storage, name, by="ada")
    versions.delete(storage, name, 1, by="ada")
    with pytest.raises(VersionError, match="was deleted"):
        stages.promote(storage, name, 1, by="ada")


def test_a_version_is_never_deleted_while_it_is_promoted(storage: Storage, name: str, new: Callable[..., NewVersion]) -> None:
    """Only one of two concurrent changes succeeds."""
    for number in range(1, 9):
        versions.add(storage, new())
        done: list[Any] = []
        barrier = threading.Barrier(2, timeout=120)

        def attempt(work: Callable[..., object], number: int = number, barrier: threading.Barrier = barrier, done: Any = done) -> None:
            barrier.wait()
            try:
                work(storage, name, number, by="ada")
            except VersionError:
                return
            done.append(work)

        hands = [threading.Thread(target=attempt, args=(work,)) for work in (versions.delete, stages.promote)]
        for hand in hands:
            hand.start()
        for hand in hands:
            hand.join()
        assert len(done) == 1
        if done == [stages.promote]:
            stages.withdraw(storage, name, by="ada")


def test_a_stage_can_be_rolled_back_to_every_earlier_version(storage: Storage, name: str, new: Callable[..., NewVersion]) -> None:
    for _ in range(4):
        versions.add(storage, new())
    for number in (1, 2, 3, 3, 4):
        stages.promote(storage, name, number, by="ada")
    stages.promote(storage, name, 2, stage=VersionStage.STAGING, by="ada")
    versions.delete(storage, name, 3, by="ada")
    assert stages.rollback(storage, name, by="bob").version == 2
    assert stages.rollback(storage, name, by="bob").version == 1
    with pytest.raises(VersionError, match="production of .* has no previous version that still exists"):
        stages.rollback(storage, name, by="bob")
    stages.promote(storage, name, 4, by="ada")
    stages.withdraw(storage, name, by="ada")
    assert stages.rollback(storage, name, by="bob").version == 4
    assert stages.rollback(storage, name, by="bob").version == 1
    told = [
        (event.change.value, event.version, event.by) for event in stages.history(storage, name) if event.stage is VersionStage.PRODUCTION
    ]
    assert told[:5] == [*(("promoted", number, "ada") for number in (1, 2, 3, 4)), ("rolled back", 2, "bob")]
    assert versions.find(storage, name, 2).stages == (VersionStage.STAGING,)


def test_an_empty_stage_cannot_be_withdrawn(storage: Storage, name: str) -> None:
    with pytest.raises(VersionError, match="was ever in production"):
        stages.rollback(storage, name, by="ada")
    with pytest.raises(VersionError, match="there is no version of .* in production"):
        stages.withdraw(storage, name, by="ada")
