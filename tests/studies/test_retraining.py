"""Creating a study that retrains the best configs of a search."""

from collections.abc import Callable, Sequence

import pytest

from tests.studies import by_hand
from tuner.errors import StudyError
from tuner.protocol import messages
from tuner.protocol.messages import Ending
from tuner.spec.hyperparameters import Hyperparameters
from tuner.studies import claims, data_check, retraining, trials
from tuner.studies import study as studies
from tuner.studies.study import Study

Begin = Callable[..., Study]


def work(study: Study, values: Sequence[float | None]) -> list[Hyperparameters]:
    """Claim and end one trial per value, pruned if the value is None, and return the hyperparameters of each."""
    data_check.admit(study, by_hand.PREPARED)
    found = []
    for value in values:
        claim = by_hand.must_claim(study)
        ending = Ending.STOPPED if value is None else Ending.COMPLETED
        by_hand.finish(study, claim, value or 0.99, ending=ending)
        found.append(claim.of_images)
    return found


@pytest.fixture
def searched(begin: Begin) -> Study:
    study = begin(sampler="random", budget={"trials": 8})
    work(study, [0.7, 0.9, None, 0.8, 0.85])
    return study


def test_the_best_completed_trials_and_the_rule_are_retrained(searched: Study) -> None:
    found = retraining.configs(searched, 2)
    assert [(config.trial, config.value) for config in found] == [(1, 0.9), (4, 0.85), (0, 0.7)]
    assert found[0].seconds == 10.0
    assert [config.trial for config in retraining.configs(searched, 9)] == [1, 4, 3, 0]


def test_equal_configs_are_retrained_once(begin: Begin) -> None:
    study = begin(sampler="random", search={"optimizer": "adamw", "dropout": {"choices": [0.1, 0.2]}} | FIXED, budget={"trials": 12})
    trained = work(study, [0.70 + 0.01 * number for number in range(8)])
    assert len({each.dropout for each in trained}) == 2
    found = retraining.configs(study, 5)
    assert len(found) == 2
    assert found[0].trial == 7


#: a search space with only the dropout
FIXED = {
    "learning_rate": 1e-3,
    "probe_learning_rate": 1e-3,
    "weight_decay": 1e-4,
    "label_smoothing": 0.1,
    "head_units": [],
    "unfreeze": 0.5,
    "layer_decay": 0.9,
    "warmup": 0.1,
    "ema": 0.9,
    "batch_size": 32,
    "features": "last",
    "augmentation": dict.fromkeys(["flip"], "none")
    | dict.fromkeys(["rotation", "zoom", "translation", "brightness", "contrast", "erasing", "mixup"], 0),
}


def test_a_search_without_a_completed_trial_cannot_be_retrained(begin: Begin) -> None:
    study = begin(budget={"trials": 8})
    work(study, [None])
    with pytest.raises(StudyError, match="no completed trial yet"):
        retraining.configs(study, 3)


def test_every_config_gets_every_seed_and_its_own_hyperparameters(searched: Study) -> None:
    configs, seeds = retraining.configs(searched, 2), retraining.seeds(searched, 2)
    again = retraining.begin(searched, configs, seeds, top=2)
    assert again.name == "by-hand-retrain-1"
    taken = [by_hand.must_claim(again, trials.WorkerId.here(f"w{number}")) for number in range(6)]
    assert [claim.hyperparameters for claim in taken] == [config.hyperparameters for config in configs] * 2
    assert [claim.seed for claim in taken] == [seed for seed in seeds for _ in range(3)]
    assert by_hand.claim(again, trials.WorkerId.here("w7")) is None
    assert not set(seeds) & {claims.seed(searched, number) for number in range(5)}


def test_a_retraining_promotes_every_probe_and_prunes_nothing(searched: Study) -> None:
    again = retraining.begin(searched, retraining.configs(searched, 2), (1,), top=2)
    for value in (0.9, 0.5, 0.1):
        claim = by_hand.must_claim(again)
        epochs = by_hand.epochs(claim, [value, value])
        assert trials.promotion(again, claim, messages.Probed(trial=claim.number, value=value), epochs).is_promoted
        assert not trials.should_prune(again, claim, by_hand.epochs(claim, [0.01], first=6))
        by_hand.finish(again, claim, value)


def test_a_retraining_trains_once_with_each_seed(begin: Begin) -> None:
    study = begin(sampler="random", training={**by_hand.SHORT, "executions": 3})
    work(study, [0.7])
    again = retraining.begin(study, retraining.configs(study, 1), (1, 2), top=1)
    assert (again.spec.num_executions, again.spec.budget.trials) == (1, 2)


def test_a_retraining_of_folds_has_the_usual_splits(begin: Begin) -> None:
    study = begin(sampler="random", validation={"folds": 5})
    work(study, [0.7])
    again = retraining.begin(study, retraining.configs(study, 1), (1, 2), top=1)
    assert again.spec.num_folds == 1
    data_check.admit(again, by_hand.PREPARED)
    made = retraining.begin_on_all(study, again, retraining.config(study, 0), fine_tunes=True)
    assert (made.images.training.images, made.spec.num_folds) == ("train+validation", 1)


def test_a_retraining_stores_its_configs_and_shows_them_in_its_note(searched: Study) -> None:
    again = retraining.begin(searched, retraining.configs(searched, 1), (3, 4), top=1)
    spec = studies.load(again.name, searched.storage).spec.retraining
    assert spec is not None
    assert (spec.study, spec.trials, spec.values, spec.seeds, spec.num_trainings) == ("by-hand", (1, 0), (0.9, 0.7), (3, 4), 4)
    noted = searched.storage.rdb.get_study_system_attrs(again.id)
    assert "trials 1, 0 of the study by-hand, retrained with 2 seeds each" in noted["dashboard:note_str:0"]


def test_a_retraining_refuses_other_images_than_those_of_the_search(searched: Study) -> None:
    again = retraining.begin(searched, retraining.configs(searched, 1), (3,), top=1)
    data_check.admit(again, by_hand.PREPARED)
    with pytest.raises(StudyError, match="was started with other images"):
        data_check.admit(again, by_hand.PREPARED.model_copy(update={"fingerprint": "0" * 64}))


def test_retrainings_are_numbered_and_the_newest_comes_first(searched: Study) -> None:
    configs = retraining.configs(searched, 1)
    for _ in range(2):
        retraining.begin(searched, configs, (3,), top=1)
    assert [study.name for study in retraining.existing(searched)] == ["by-hand-retrain-2", "by-hand-retrain-1"]


def test_a_chosen_config_is_also_trained_on_validation_images(searched: Study) -> None:
    again = retraining.begin(searched, retraining.configs(searched, 1), (3, 4), top=1)
    assert retraining.on_all(searched, again) is None
    made = retraining.begin_on_all(searched, again, retraining.config(searched, 1), fine_tunes=True)
    assert made.name == "by-hand-retrain-1-all"
    found = retraining.on_all(searched, again)
    assert found is not None
    assert found.spec == made.spec
    assert (made.images.training.images, made.images.training.epochs, made.images.budget.trials) == ("train+validation", 4, 2)
    data_check.admit(made, by_hand.PREPARED.model_copy(update={"num_train": 1200}))
    assert [study.name for study in retraining.existing(searched)] == ["by-hand-retrain-1"]
    probe_only = retraining.begin(searched, retraining.configs(searched, 1), (5,), top=1)
    assert retraining.begin_on_all(searched, probe_only, retraining.config(searched, 1), fine_tunes=False).images.training.epochs == 0
