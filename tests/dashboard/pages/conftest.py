"""Storages with a study in every state, and a client for their pages."""

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from tests.dashboard.pages import serving
from tests.studies import by_hand
from tuner.protocol import messages
from tuner.storage import tables
from tuner.storage.attributes import PREPARED
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.studies.study import Study


@pytest.fixture
def storage(shared_storage: Storage) -> Storage:
    """A storage of each kind, without studies when the test begins."""
    for study in shared_storage.rdb.get_all_studies():
        shared_storage.rdb.delete_study(study._study_id)
    return shared_storage


@pytest.fixture
def client(storage: Storage) -> TestClient:
    return TestClient(serving.build(storage))


@pytest.fixture
def begin(storage: Storage) -> Callable[..., Study]:
    """Create a study whose first trainer has prepared."""

    def make(**sections: object) -> Study:
        study = studies.join(by_hand.spec(**sections), storage)
        prepared = {PREPARED: by_hand.PREPARED.model_dump(mode="json")}
        storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, prepared))
        return study

    return make


@pytest.fixture
def worked(begin: Callable[..., Study]) -> Study:
    """A study with two completed trials, the second better, and a pruned, a failed and a running one."""
    study = begin(budget={"trials": 20})
    for value in (0.7, 0.9):
        claimed = by_hand.must_claim(study)
        trials.report(study, claimed, by_hand.epochs(claimed, [0.5, 0.6, value]))
        by_hand.finish(study, claimed, value)
    by_hand.finish(study, by_hand.must_claim(study), 0.4, ending=messages.Ending.STOPPED, reason="others did better")
    claimed = by_hand.must_claim(study)
    trials.fail(study, claimed, by_hand.failed(claimed, "MemoryError"))
    running = by_hand.must_claim(study)
    trials.report(study, running, by_hand.epochs(running, [0.55, 0.65]))
    return study
