"""Conditions: the table of when each hyperparameter acts."""

from typing import Any

import pytest

from tests.spec.test_space import EVERYTHING, throw
from tests.studies import by_hand
from tuner.spec import conditions, space
from tuner.spec.hyperparameters import Augmentation, Hyperparameters, Optimizer
from tuner.spec.search import AugmentationSpace, HeadSpace, SearchSpace


def scope(search: dict[str, Any], *, fine_tunes: bool = True) -> conditions.Scope:
    return conditions.Scope(space=by_hand.spec(search=search).search, fine_tunes=fine_tunes)


def test_the_table_names_every_hyperparameter_of_a_study_file_and_of_a_trial() -> None:
    sections = {name.partition(".")[0] for name in conditions.BY_NAME}
    assert sections == set(SearchSpace.model_fields) - {"adam_weight_decay"} == set(Hyperparameters.model_fields)
    for section, model in (("augmentation", AugmentationSpace), ("augmentation", Augmentation), ("head_units", HeadSpace)):
        assert {name.removeprefix(f"{section}.") for name in conditions.BY_NAME if name.startswith(f"{section}.")} == set(
            model.model_fields
        )
    assert len(conditions.TABLE) == len(conditions.BY_NAME)


def names(condition: conditions.Condition) -> set[str]:
    return {when.name for when in condition.conditions} if isinstance(condition, conditions.AnyOf) else {condition.name}


def test_a_condition_depends_only_on_earlier_choices() -> None:
    before = {conditions.FINE_TUNES}
    for each in conditions.TABLE:
        asked = {name for condition in each.acts_when for name in names(condition)}
        assert asked <= before, each.name
        before.add(each.name)


@pytest.mark.parametrize("search", [{}, EVERYTHING, {"optimizer": "adam"}, {"loss": "focal", "unfreeze": 0}, {"head_units": {"layers": 0}}])
def test_no_trial_asks_for_a_hyperparameter_that_never_acts(search: dict[str, Any]) -> None:
    can = {name for name, each in conditions.BY_NAME.items() if each.can_act(scope(search))}
    never = set(conditions.BY_NAME) - can
    asked = {name.removesuffix(".on") for seed in range(50) for name in throw(search, seed)[1]}
    assert not asked & never


DECAY = {"range": [1e-5, 1e-2], "off": False}
#: optimizer and weight decay in a study file, and whether weight decay acts on adam
ADAM = [
    ({"optimizer": ["adam", "adamw"]}, False),
    ({"optimizer": ["adam", "sgd"]}, False),
    ({"optimizer": "adam"}, False),
    ({"optimizer": ["adam", "adamw"], "weight_decay": DECAY}, False),
    ({"optimizer": "adam", "weight_decay": DECAY}, True),
    ({"optimizer": ["adam", "sgd"], "weight_decay": 1e-3}, True),
    ({"optimizer": ["adam", "adamw"], "weight_decay": DECAY, "adam_weight_decay": True}, True),
    ({"optimizer": ["adam", "lion"], "weight_decay": DECAY, "adam_weight_decay": False}, False),
]


@pytest.mark.parametrize(("search", "decays"), ADAM)
def test_adam_has_weight_decay_only_if_the_file_gives_it_and_does_not_list_adamw(search: dict[str, Any], decays: bool) -> None:
    found = [throw(search, seed, optimizer="adam") for seed in range(20)]
    assert {chosen.optimizer for chosen, _ in found} == {Optimizer.ADAM}
    assert all((chosen.weight_decay > 0) == decays for chosen, _ in found)
    assert not any("weight_decay" in asked for _, asked in found) or decays
    assert by_hand.spec(search=search).search.decays_adam == decays


def test_adamw_keeps_its_weight_decay_beside_adam() -> None:
    chosen, asked = throw({"optimizer": ["adam", "adamw"], "weight_decay": DECAY}, optimizer="adamw")
    assert chosen.weight_decay == asked["weight_decay"] > 0
    (row,) = [row for row in space.rows(by_hand.spec(search={"optimizer": ["adam", "adamw"]})) if row.name == "weight_decay"]
    assert row.when == "optimizer is adamw"
