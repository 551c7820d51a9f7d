"""Tools of Optuna on the database of a study, on every kind of database: enqueued trials and copied studies."""

import optuna
from optuna.trial import TrialState

from tests.integration.conftest import Begin
from tests.studies import by_hand
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.views import status
from tuner.views import trial as views_trial


def test_a_trial_enqueued_with_unsearched_values_fails_alone(begin: Begin) -> None:
    study = begin()
    by_hand.finish(study, by_hand.must_claim(study), 0.5)
    for given in ({"optimizer": "adam"}, {"dropout": 0.25}):
        study.optuna.enqueue_trial(given)
    claimed = by_hand.must_claim(study)
    assert (claimed.number, claimed.of_images.dropout) == (2, 0.25)
    assert [trial.state for trial in study.optuna.get_trials()] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]


def test_a_copy_has_the_attempts_and_epochs_of_the_original_and_continues(begin: Begin) -> None:
    study = begin(budget={"trials": 2})
    for values in ([0.3, 0.4], [0.2]):
        claimed = by_hand.must_claim(study)
        trials.report(study, claimed, by_hand.epochs(claimed, values))
        if claimed.number == 0:
            by_hand.finish(study, claimed, 0.5)
    name = f"{study.name}-copy"
    optuna.copy_study(from_study_name=study.name, from_storage=study.storage.rdb, to_storage=study.storage.rdb, to_study_name=name)
    copy = studies.load(name, study.storage)
    assert copy.spec.name == name
    assert views_trial.load(copy, 0).epochs == views_trial.load(study, 0).epochs != ()
    assert views_trial.load(copy, 0).attempts == views_trial.load(study, 0).attempts != ()
    assert (status.snapshot(copy).num_waiting, status.snapshot(study).num_waiting) == (1, 0)
    resumed = by_hand.must_claim(copy)
    assert (resumed.number, resumed.attempt) == (1, 2)
    by_hand.finish(copy, resumed, 0.6)
    assert by_hand.claim(copy) is None
