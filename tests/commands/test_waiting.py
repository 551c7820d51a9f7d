"""Why workers left a study before its end."""

from pathlib import Path

import pytest

from tests import databases
from tests.workers.conftest import WorkerRunner
from tuner.commands import waiting
from tuner.errors import RequestError, TunerError
from tuner.spec.study import StudySpec
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.workers.worker.events import Event, EventKind

REFUSED = Event(what=EventKind.REFUSED, study="study", worker="w1", message="no images of cats")
GAVE_UP = Event(what=EventKind.GAVE_UP, study="study", worker="w2", message="the worker crashed")


@pytest.fixture
def runner(tmp_path: Path) -> WorkerRunner:
    given = {"name": "study", "data": {"source": "digits"}, "budget": {"trials": 2}, "sampler": "random", "pruner": "none"}
    study = studies.join(StudySpec.model_validate(given), storages.open(databases.sqlite(tmp_path)))
    return WorkerRunner(study=study, folder=tmp_path)


@pytest.mark.parametrize(
    ("complaints", "codes", "kind", "said"),
    [
        ([GAVE_UP], [1], TunerError, "The workers gave up before the study ended: the worker crashed"),
        ([GAVE_UP, REFUSED], [1, 2], RequestError, "no images of cats"),
        # one that said nothing
        ([], [0, 3], TunerError, "The workers gave up before the study ended: a worker ended with exit code 3"),
    ],
)
def test_a_study_that_its_workers_left_has_failed(
    runner: WorkerRunner, complaints: list[Event], codes: list[int], kind: type[TunerError], said: str
) -> None:
    failure = waiting.find_failure(runner.study, complaints, codes)
    assert type(failure) is kind
    assert str(failure) == said


def test_workers_that_end_without_a_fatal_event_did_not_fail(runner: WorkerRunner) -> None:
    assert waiting.find_failure(runner.study, [], [0, 0]) is None


def test_a_worker_that_gave_up_is_no_failure_if_another_finished_the_study(runner: WorkerRunner) -> None:
    runner.work()
    assert waiting.find_failure(runner.study, [REFUSED, GAVE_UP], [2, 1]) is None


def test_a_spent_budget_is_not_the_end_while_a_trial_is_unfinished(runner: WorkerRunner) -> None:
    for name in ("w1", "w2"):
        trials.claim(runner.study, trials.WorkerId.here(name), num_train=80, num_classes=2, epochs=3)
    assert trials.stop_reason(runner.study) is not None
    assert waiting.find_failure(runner.study, [GAVE_UP], [1]) is not None
