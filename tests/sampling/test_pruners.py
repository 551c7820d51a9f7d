"""Pruners: each pruner, and the epochs in which it may prune."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.studies import by_hand, of_code
from tuner.protocol import messages
from tuner.protocol.messages import Ending
from tuner.sampling import pruners
from tuner.spec import file as study_file
from tuner.storage.engine import Storage
from tuner.studies import data_check, trials
from tuner.studies import study as studies
from tuner.studies.study import Study

Begin = Callable[..., Study]

#: steps 1 and 2 are the probe, steps 3 to 10 the fine-tuning
TRAINING = {"probe_epochs": 2, "epochs": 8}
GOOD = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
FLAT = [0.1] * 10


def train(study: Study, accuracies: Sequence[float]) -> int | None:
    """Report a trial epoch by epoch; return the step at which it is pruned, or None."""
    claimed = trials.claim(study, trials.WorkerId.here("hand"), num_train=1000, num_classes=2, epochs=8)
    assert claimed is not None
    for step, accuracy in enumerate(accuracies, 1):
        trials.report(study, claimed, by_hand.epochs(claimed, [accuracy], first=step))
        if trials.should_prune(study, claimed):
            by_hand.finish(study, claimed, accuracy, ending=Ending.STOPPED)
            return step
    by_hand.finish(study, claimed, max(accuracies))
    return None


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({"name": "none"}, None),
        # 2 probe epochs plus half of the 8 fine-tuning epochs: the first step with pruning is 7
        ({"name": "median", "startup_trials": 2}, 7),
        ({"name": "median", "startup_trials": 2, "warmup": 0}, 3),
        ({"name": "median", "startup_trials": 4}, None),
        ({"name": "percentile", "startup_trials": 2, "percentile": 75}, 7),
        ({"name": "percentile", "startup_trials": 2, "warmup": 0.75}, 9),
        ({"name": "top-k", "keep": 3}, 3),
        ({"name": "top-k", "keep": 2, "epochs": 5}, 7),
        ({"name": "top-k", "keep": 4}, None),
        ({"name": "patient", "patience": 2}, 7),
        ({"name": "patient", "patience": 5}, 8),
        ({"name": "hyperband", "reduction_factor": 2}, 8),
        ({"name": "successive-halving", "reduction_factor": 2}, 7),
        ({"name": "wilcoxon", "p_threshold": 0.3}, 8),
        ({"name": "threshold", "lower": 0.3}, 7),
        ({"name": "threshold", "lower": 0.05}, None),
    ],
)
def test_a_flat_trial_behind_three_good_ones_is_pruned(begin: Begin, options: dict[str, Any], step: int | None) -> None:
    study = begin(pruner=options, training=TRAINING)
    for _ in range(3):
        train(study, GOOD)
    assert train(study, FLAT) == step


@pytest.mark.parametrize(
    "name", ["none", "median", "percentile", {"name": "patient", "patience": 0}, "hyperband", "successive-halving", "wilcoxon"]
)
def test_a_trial_that_wins_late_is_not_pruned(begin: Begin, name: Any) -> None:
    study = begin(pruner=name, training=TRAINING)
    for _ in range(6):
        assert train(study, [0.6, 0.7, 0.7, 0.7, 0.71, 0.72, 0.74, 0.75, 0.76, 0.77]) in (None, 7, 8, 10)
    # a measured curve: below the probe for half of the fine-tuning, then better than all others
    late = [0.6, 0.72, 0.67, 0.65, 0.70, 0.71, 0.80, 0.81, 0.82, 0.83]
    assert train(study, late) is None


def test_top_k_never_prunes_the_best_trials_of_its_epoch_later(begin: Begin) -> None:
    study = begin(pruner={"name": "top-k", "keep": 2}, training=TRAINING)
    firsts = [0.6, 0.7, 0.65, 0.72, 0.71, 0.7]
    # 0.65 and later 0.71 are second best so far; the second 0.7 is third
    assert [train(study, [0.5, 0.5, first, *[0.1] * 7]) for first in firsts] == [None, None, None, None, None, 3]


def test_top_k_does_not_prune_a_running_trial_because_of_a_later_one(begin: Begin) -> None:
    study = begin(pruner={"name": "top-k", "keep": 1}, training=TRAINING)
    running = by_hand.must_claim(study)
    trials.report(study, running, by_hand.epochs(running, [0.5, 0.5, 0.55]))
    assert not trials.should_prune(study, running)
    assert train(study, GOOD) is None
    trials.report(study, running, by_hand.epochs(running, [0.6], first=4))
    assert not trials.should_prune(study, running)


def test_top_k_does_not_prune_a_running_trial_when_an_earlier_one_catches_up(begin: Begin) -> None:
    study = begin(pruner={"name": "top-k", "keep": 1}, training=TRAINING)
    slow, quick = by_hand.must_claim(study), by_hand.must_claim(study)
    trials.report(study, quick, by_hand.epochs(quick, [0.5, 0.5, 0.55]))
    assert not trials.should_prune(study, quick)
    trials.report(study, slow, by_hand.epochs(slow, [0.5, 0.5, 0.6]))
    trials.report(study, quick, by_hand.epochs(quick, [0.56], first=4))
    assert not trials.should_prune(study, quick)


def test_the_patient_pruner_never_prunes_a_trial_that_keeps_improving(begin: Begin) -> None:
    assert train(begin(pruner={"name": "patient", "patience": 0}, training=TRAINING), GOOD) is None


def test_trials_of_different_lengths_cause_no_warning(begin: Begin) -> None:
    study = begin(pruner="wilcoxon", training=TRAINING)
    claimed = by_hand.must_claim(study)
    trials.report(study, claimed, by_hand.epochs(claimed, [0.9, 0.9]))
    by_hand.finish(study, claimed, 0.9)
    assert train(study, GOOD) is None


def test_a_pruner_that_never_prunes_does_not_query_the_storage(begin: Begin) -> None:
    study = begin(pruner="none", training=TRAINING)
    claimed = by_hand.must_claim(study)
    with by_hand.statements(study.storage) as seen:
        assert not trials.should_prune(study, claimed)
    assert seen == []


def test_nothing_is_pruned_in_the_first_half_of_the_fine_tuning_by_default() -> None:
    assert pruners.build(by_hand.spec(training=TRAINING), epochs=8).start == 6


@pytest.mark.parametrize(
    ("options", "values", "step"),
    [
        # 2 folds of 4 epochs: nothing is pruned in the first half of the 8 epochs
        ({"name": "median", "startup_trials": 2}, [0.9, 0.9, 0.9, 0.9, 0.4, 0.5, 0.5, 0.5], 5),
        ({"name": "median", "startup_trials": 2, "warmup": 0}, [0.9, 0.9, 0.9, 0.9, 0.4, 0.5, 0.5, 0.5], 5),
        ({"name": "median", "startup_trials": 2, "warmup": 0}, [0.1, 0.9, 0.9, 0.9, 0.4, 0.5, 0.5, 0.5], 1),
        ({"name": "percentile", "startup_trials": 2, "warmup": 0.75}, [0.9, 0.9, 0.9, 0.9, 0.4, 0.4, 0.4, 0.4], 7),
        ({"name": "threshold", "lower": 0.45}, [0.9, 0.9, 0.9, 0.9, 0.4, 0.5, 0.5, 0.5], 5),
        ({"name": "median", "startup_trials": 2}, [0.1, 0.2, 0.3, 0.4, 0.6, 0.6, 0.6, 0.7], None),
    ],
)
def test_a_pruner_sees_the_mean_over_the_folds_so_far(
    storage: Storage, options: dict[str, Any], values: list[float], step: int | None
) -> None:
    given = {"name": "folds", "task": "custom", "model": {"build": "my.py:build"}, "data": {"load": "my.py:load"}, "objective": "val_auc"}
    sections = {"validation": {"folds": 2}, "training": {"epochs": 4}, "pruner": options, "sampler": "random"}
    study = studies.join(study_file.parse(given | sections, "folds.yaml"), storage)
    data_check.admit(study, of_code.PREPARED)
    for good in (True, True, True, False):
        claimed = trials.claim(study, trials.WorkerId.here("hand"), num_train=1000, num_classes=0, epochs=4)
        assert claimed is not None
        pruned = None
        for number, value in enumerate([0.8, 0.8, 0.8, 0.8, 0.6, 0.6, 0.6, 0.6] if good else values, 1):
            epoch = messages.Epoch(trial=claimed.number, stage=messages.Stage.TRAIN, step=number, seconds=1.0, value=value)
            if trials.should_prune(study, claimed, [epoch]):
                pruned = number
                break
            trials.report(study, claimed, [epoch])
        of_code.finish(study, claimed, value, {})
    assert pruned == step
    assert study.optuna.get_trials()[0].intermediate_values[8] == 0.6  # not the best so far
