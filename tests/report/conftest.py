"""A storage with a new study and a study with trials in every state."""

from collections.abc import Iterator

import pytest

from tests import databases
from tests.studies import by_hand
from tuner.protocol import messages
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.storage.attributes import PREPARED
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.studies.study import Study

HOSTILE = "<script>document.title='owned'</script>\"><img src=x onerror=alert(1)> | `` ``` {{ 7 * 7 }} \u202e [a](javascript:x)\n## y"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    opened = storages.open(databases.sqlite(tmp_path_factory.mktemp("report")))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def fresh(storage: Storage) -> Study:
    """A study without trials."""
    return studies.join(by_hand.spec(name="fresh"), storage)


@pytest.fixture(scope="module")
def worked(storage: Storage) -> Study:
    """A study of 25 trials: completed, pruned, failed and one running; its classes and messages are hostile."""
    fresh = studies.join(by_hand.spec(name="worked", budget={"trials": 60}, sampler="random"), storage)
    prepared = by_hand.PREPARED.model_copy(update={"classes": (HOSTILE, "dog")}).model_dump(mode="json")
    fresh.storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, fresh.id, {PREPARED: prepared}))
    for number in range(24):
        claimed = by_hand.must_claim(fresh)
        if number == 7:
            trials.fail(fresh, claimed, messages.Failed(trial=number, error=HOSTILE, message=HOSTILE, log=HOSTILE))
            continue
        value = 0.5 + 0.4 * ((number * 7) % 24) / 24
        trials.report(fresh, claimed, by_hand.epochs(claimed, [value / 2, value - 0.1, value]))
        by_hand.finish(fresh, claimed, value, ending=messages.Ending.STOPPED if number % 3 else messages.Ending.COMPLETED)
    running = by_hand.must_claim(fresh)
    trials.report(fresh, running, by_hand.epochs(running, [0.55, 0.65]))
    return fresh
