"""A study whose trials choose their backbone and image size: what they choose, and what may be enqueued."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.studies import by_hand
from tuner.errors import SpecError, StudyError
from tuner.spec.hyperparameters import Hyperparameters
from tuner.studies import data_check, enqueue, migrate, trials, warm_start
from tuner.studies.study import Study

Begin = Callable[..., Study]
MODEL = {"backbone": ["squeezenet1_1", "efficientnet_lite0"], "image_size": [96, 160, 128]}
FEW = {"optimizer": "adamw", "dropout": 0.2}


def chosen(hyperparameters: Hyperparameters) -> tuple[str | None, int | None]:
    return hyperparameters.backbone, hyperparameters.image_size


def test_trial_0_has_the_first_backbone_and_the_largest_size(begin: Begin) -> None:
    claimed = by_hand.must_claim(begin(model=MODEL))
    assert chosen(claimed.of_images) == ("squeezenet1_1", 160)


def test_trials_choose_from_the_lists_only(begin: Begin) -> None:
    study = begin(model={"image_size": [96, 160]})
    claimed = [by_hand.must_claim(study) for _ in range(4)]
    assert {chosen(each.of_images)[0] for each in claimed} == {None}  # the study has one
    assert {chosen(each.of_images)[1] for each in claimed} <= {96, 160}
    parameters = study.optuna.get_trials()[0].params
    assert parameters["image_size"] == 160
    assert "backbone" not in parameters


def test_a_study_of_one_model_stores_what_it_did_before(begin: Begin) -> None:
    study = begin()
    claimed = by_hand.must_claim(study)
    assert not {"backbone", "image_size"} & claimed.hyperparameters.model_dump().keys()
    assert not {"backbone", "image_size"} & study.optuna.get_trials()[0].params.keys()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image_size": 100}, "image_size is 100; expected 96 or 160 or 128, as in the study by-hand"),
        ({"backbone": "ResNet50"}, "backbone is 'ResNet50'; expected squeezenet1_1 or efficientnet_lite0, as in the study by-hand"),
        ({"backbone": "squeeznet"}, "backbone is 'squeeznet', which is not a backbone. Known: "),
        ({"image_size": [96, 160]}, "image_size has several values; a config to enqueue has one value per hyperparameter"),
        ({"image_size": 5}, "image_size is 5; expected a whole number from 8 to 1024"),
    ],
)
def test_a_model_that_the_study_does_not_have_is_not_enqueued(begin: Begin, given: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as raised:
        enqueue.values(begin(model=MODEL), given, origin="--set")
    assert message in str(raised.value)
    assert "model." not in str(raised.value)


def test_an_enqueued_model_is_chosen_in_any_spelling(begin: Begin) -> None:
    study = begin(model=MODEL)
    enqueue.enqueue(study, {"backbone": "EfficientNet-Lite0", "image_size": 128}, by="ada", origin="--set")
    by_hand.must_claim(study)
    assert chosen(by_hand.must_claim(study).of_images) == ("efficientnet_lite0", 128)


def test_the_one_model_of_a_study_may_be_enqueued_and_another_may_not(begin: Begin) -> None:
    study = begin(model={"backbone": "squeezenet1_1", "image_size": 96})
    assert enqueue.values(study, {"backbone": "squeezenet1_1", "image_size": 96}, origin="--set") == {}
    with pytest.raises(SpecError, match="image_size is 128; expected 96"):
        enqueue.values(study, {"image_size": 128}, origin="--set")


def test_the_model_of_an_export_is_enqueued_if_the_study_searches_it(begin: Begin) -> None:
    study = begin(model={"backbone": "squeezenet1_1", "image_size": [96, 160]})
    content = {"search": {"dropout": 0.2}, "model": {"backbone": "efficientnet_lite0", "image_size": 96, "weights": "imagenet"}}
    assert enqueue.config_of(study, content) == {"dropout": 0.2, "image_size": 96}
    assert enqueue.config_of(study, {"dropout": 0.2}) == {"dropout": 0.2}


def completed(begin: Begin, name: str, **model: Any) -> Study:
    """A study of one completed trial: the rule, with another dropout."""
    study = begin(name=name, model=model, search=FEW)
    by_hand.finish(study, by_hand.must_claim(study), 0.9)
    return study


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"image_size": 96}, {"image_size": [96, 160]}, (None, 96)),  # the value of the old study is a choice of the new one
        ({"image_size": [160, 96]}, {"image_size": [96, 160]}, (None, 160)),
        ({"image_size": [160, 96]}, {"image_size": 224}, (None, None)),  # a config fits a study of another model, as it always did
        ({"image_size": 96}, {"image_size": 224}, (None, None)),
    ],
)
def test_a_warm_start_takes_the_model_over_if_the_new_study_searches_it(
    begin: Begin, old: dict[str, Any], new: dict[str, Any], expected: tuple[str | None, int | None]
) -> None:
    earlier = warm_start.best_of(completed(begin, "old", **old))
    study = begin(name="new", model=new)
    assert [taken.reason for taken in warm_start.begin(study, earlier, by="ada")] == [""]
    by_hand.must_claim(study)
    second = by_hand.must_claim(study)
    assert (second.of_images.dropout, *chosen(second.of_images)) == (0.2, *expected)
    assert [taken.reason for taken in warm_start.begin(study, earlier, by="ada")] == ["was tried already"]


def test_a_config_of_a_model_that_the_new_study_lacks_does_not_fit(begin: Begin) -> None:
    earlier = warm_start.best_of(completed(begin, "old", image_size=96))
    (taken,) = warm_start.begin(begin(name="new", model={"image_size": [128, 160]}), earlier, by="ada")
    assert taken.reason == "does not fit: image_size is 96; expected 128 or 160"


def test_a_study_with_other_choices_is_another_study(begin: Begin) -> None:
    begin(model={"image_size": [96, 160]})
    with pytest.raises(StudyError, match=r"model.image_size: \[96, 160\] -> 96"):
        begin(model={"image_size": 96})


def test_a_migration_keeps_the_model_of_each_trial(begin: Begin) -> None:
    old = begin(name="old", model=MODEL)
    for value in (0.7, 0.8, 0.9):
        by_hand.finish(old, by_hand.must_claim(old), value)
    data_check.admit(old, by_hand.PREPARED)
    found = migrate.decide(old, by_hand.spec(name="new", model=MODEL, search={"dropout": [0, 0.6]}))
    assert [trial.number for trial in found.carried] == [0, 1, 2]
    new = migrate.carry(found, by="ada")
    before, after = ([trials.hyperparameters(trial) for trial in study.optuna.get_trials()] for study in (old, new))
    assert before == after
    of_model = [(trial.params["backbone"], trial.params["image_size"]) for trial in new.optuna.get_trials()]
    assert of_model == [chosen(each) for each in before if isinstance(each, Hyperparameters)]


def test_a_migration_cannot_change_the_lists(begin: Begin) -> None:
    old = begin(name="old", model={"image_size": [96, 160]})
    by_hand.finish(old, by_hand.must_claim(old), 0.7)
    data_check.admit(old, by_hand.PREPARED)
    with pytest.raises(StudyError, match=r"model.image_size: \[96, 160\] -> \[96, 128\]"):
        migrate.decide(old, by_hand.spec(name="new", model={"image_size": [96, 128]}))
