"""Starting a study with the best configs of an earlier one, on each kind of database."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.studies import by_hand
from tuner.errors import StudyError
from tuner.protocol.messages import Ending
from tuner.results import export
from tuner.spec.hyperparameters import Augmentation, Hyperparameters
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.studies import warm_start
from tuner.studies.study import Study
from tuner.studies.trials import WorkerId
from tuner.studies.warm_start import Earlier


@pytest.fixture
def both(storage_url: str) -> Iterator[Storage]:
    opened = storages.open(storage_url)
    yield opened
    opened.close()


@pytest.fixture
def begin(both: Storage) -> Callable[..., Study]:
    return lambda **sections: studies.join(by_hand.spec(sampler="random", **sections), both)


@pytest.fixture
def old(begin: Callable[..., Study]) -> Study:
    """Return a study of five completed trials, the last one the best, and a pruned trial with a higher value."""
    study = begin(name="old")
    for value in (0.5, 0.6, 0.7, 0.8, 0.9):
        by_hand.finish(study, by_hand.must_claim(study), value)
    by_hand.finish(study, by_hand.must_claim(study), 0.95, ending=Ending.STOPPED)
    return study


def test_a_warm_start_takes_the_best_distinct_configs_the_best_first(old: Study) -> None:
    found = warm_start.best_of(old)
    assert [earlier.origin for earlier in found] == ["trial 4 of old (0.9000)", "trial 3 of old (0.8000)", "trial 2 of old (0.7000)"]
    assert len({earlier.hyperparameters for earlier in found}) == 3


def test_configs_that_fit_are_trained_right_after_the_rule(old: Study, begin: Callable[..., Study]) -> None:
    new = begin(name="new", search={"dropout": [0, 0.6]})
    found = warm_start.best_of(old)
    taken = warm_start.begin(new, found, by="ada")
    assert [one.trial for one in taken] == [1, 2, 3]
    assert not any(one.reason for one in taken)
    claimed = [by_hand.must_claim(new, WorkerId.here(f"w{number}")) for number in range(5)]
    assert [one.hyperparameters for one in claimed[1:4]] == [earlier.hyperparameters for earlier in found]
    assert claimed[0].hyperparameters not in [earlier.hyperparameters for earlier in found]
    known = new.storage.read(lambda connection: tables.all_of(connection, tables.TRIAL_USER, claimed[1].trial_id))
    assert known["taken_from"] == "trial 4 of old (0.9000)"
    assert known["enqueued_by"] == "ada"


def test_a_config_that_was_tried_already_is_not_enqueued(old: Study, begin: Callable[..., Study]) -> None:
    new, found = begin(name="new"), warm_start.best_of(old)
    first = warm_start.begin(new, found, by="ada")
    again = warm_start.begin(new, found, by="ada")
    assert [one.trial for one in again] == [one.trial for one in first] == [1, 2, 3]
    assert {one.reason for one in again} == {"was tried already"}
    for number in range(3):
        by_hand.finish(new, by_hand.must_claim(new), 0.1 * number)
    assert [one.trial for one in warm_start.begin(new, found, by="ada")] == [1, 2, 3]
    assert len(new.storage.cached.get_all_trials(new.id)) == 4


def test_a_config_that_does_not_fit_is_reported_with_a_reason(old: Study, begin: Callable[..., Study]) -> None:
    new = begin(name="new", search={"batch_size": 64})
    taken = warm_start.begin(new, warm_start.best_of(old), by="ada")
    assert {one.reason for one in taken} == {"does not fit: batch_size is 32; expected 64, which is fixed in that study"}
    assert new.storage.cached.get_all_trials(new.id) == []


def test_no_more_configs_are_enqueued_than_the_budget_allows(old: Study, begin: Callable[..., Study]) -> None:
    new = begin(name="new", budget={"trials": 3})
    taken = warm_start.begin(new, warm_start.best_of(old), by="ada")
    assert [one.trial for one in taken] == [1, 2, None]
    assert taken[2].reason == "exceeds the budget: its budget is 3 trials"


def test_a_study_that_tries_all_combinations_refuses_a_warm_start(old: Study, both: Storage) -> None:
    fixed: dict[str, Any] = export.fixed(Hyperparameters()).model_dump(mode="json")
    spec = by_hand.spec(name="grid", sampler="grid", search=fixed | {"dropout": {"choices": [0.1, 0.2]}})
    with pytest.raises(StudyError, match="tries all combinations"):
        warm_start.begin(studies.join(spec, both), warm_start.best_of(old), by="ada")


def test_a_study_without_a_completed_trial_gives_no_warm_start(begin: Callable[..., Study]) -> None:
    with pytest.raises(StudyError, match="no completed trial yet"):
        warm_start.best_of(begin(name="empty"))


def test_an_export_gives_one_earlier_config(begin: Callable[..., Study]) -> None:
    augmentation = Augmentation(flip="horizontal", translation=0.1)
    known = Hyperparameters(dropout=0.25, features="several", ema=0.99, layer_decay=0.9, augmentation=augmentation)
    spec = by_hand.spec(search=export.fixed(known).model_dump(mode="json"))
    earlier = warm_start.of_file(spec, "best.yaml")
    assert earlier == Earlier(hyperparameters=known, origin="best.yaml")
    assert [one.trial for one in warm_start.begin(begin(name="new"), [earlier], by="ada")] == [1]
    with pytest.raises(StudyError, match="expected fixed values, as in an export"):
        warm_start.of_file(by_hand.spec(), "search.yaml")
