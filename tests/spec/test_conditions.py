"""Conditions: the table of when each hyperparameter acts."""

from typing import Any

import pytest

from tests.spec.test_space import EVERYTHING, throw
from tests.studies import by_hand
from tuner.spec import conditions, space
from tuner.spec.hyperparameters import Augmentation, Hyperparameters, Optimizer
from tuner.spec.search import AugmentationSpace, HeadSpace, StudySpace


def scope(search: dict[str, Any], *, fine_tunes: bool = True) -> conditions.Scope:
    return conditions.Scope(space=by_hand.spec(search=search).search, fine_tunes=fine_tunes)


def test_the_table_names_every_hyperparameter_of_a_study_file_and_of_a_trial() -> None:
    sections = {name.partition(".")[0] for name in conditions.BY_NAME}
    assert sections == set(StudySpace.model_fields) - {"adam_weight_decay"} == set(Hyperparameters.model_fields)
    for section, model in (("augmentation", AugmentationSpace), ("augmentation", Augmentation), ("head_units", HeadSpace)):
        assert {name.removeprefix(f"{section}.") for name in conditions.BY_NAME if name.startswith(f"{section}.")} == set(
            model.model_fields
        )
    assert len(conditions.TABLE) == len(conditions.BY_NAME)


def names(condition: conditions.Condition) -> set[str]:
    return {when.name for when in condition.conditions} if isinstance(condition, conditions.AnyOf) else {condition.name}


@pytest.mark.parametrize("solvers", ["lbfgs", ["sgd", "ridge"]])
def test_a_condition_depends_only_on_earlier_choices(solvers: Any) -> None:
    before = {conditions.FINE_TUNES}
    for each in conditions.in_order(by_hand.spec(search={"probe_solver": solvers}).search):
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


#: hyperparameters that act in a probe only if it trains in steps
STEPWISE = {"optimizer", "weight_decay", "dropout", "batch_size", "momentum", "nesterov", "label_smoothing"}


@pytest.mark.parametrize("solver", ["lbfgs", "conjugate_gradient", "ridge"])
def test_an_exact_probe_asks_for_nothing_that_acts_only_in_steps(solver: str) -> None:
    chosen, asked = throw({"probe_solver": solver, "optimizer": ["sgd", "adamw"]}, fine_tunes=False, head_layers=0)
    off = {"unfreeze": 0, "weight_decay": 0, "ema": 0, "augmentation": {"flip": "horizontal"}}
    assert chosen == Hyperparameters(probe_solver=solver, features=chosen.features, feature_floor=chosen.feature_floor, **off)
    assert asked.keys() == {"features", "head_layers"}


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_a_fine_tuned_trial_asks_for_everything_but_the_rate_of_its_exact_probe(solver: str) -> None:
    _, asked = throw({"probe_solver": solver, "optimizer": ["sgd", "adamw"]}, head_layers=0, optimizer="sgd")
    stepwise = {name.removesuffix(".on") for name in asked} & STEPWISE
    assert stepwise == {"optimizer", "weight_decay", "dropout", "label_smoothing"}
    assert ("probe_learning_rate.sgd" in asked) == (solver == "sgd")


def test_a_head_with_hidden_layers_always_trains_in_steps() -> None:
    chosen, asked = throw({"probe_solver": ["lbfgs", "ridge"]}, head_layers=1, fine_tunes=False)
    assert chosen.probe_solver == "sgd"
    assert "probe_solver" not in asked
    assert {"optimizer", "dropout"} <= asked.keys()
    assert [name for name in asked if name.startswith("probe_learning_rate")]


def test_the_solver_is_chosen_before_what_depends_on_it() -> None:
    found = {throw({"probe_solver": ["sgd", "lbfgs"], "head_units": []}, seed, fine_tunes=False)[0].probe_solver for seed in range(20)}
    assert found == {"sgd", "lbfgs"}
    for solver in found:
        _, asked = throw({"probe_solver": ["sgd", "lbfgs"], "head_units": []}, fine_tunes=False, probe_solver=solver.value)
        assert ("dropout" in asked) == (solver == "sgd")


@pytest.mark.parametrize(
    ("search", "name", "when"),
    [
        ({}, "probe_solver", "the head has no hidden layers"),
        ({"head_units": []}, "probe_solver", "always"),
        ({}, "probe_learning_rate.sgd", "optimizer is sgd and the probe uses sgd"),
        ({"unfreeze": 0, "probe_solver": "lbfgs"}, "dropout", "the probe uses sgd"),
        ({"unfreeze": [0, 1], "probe_solver": "lbfgs"}, "dropout", "the probe uses sgd or unfreeze > 0"),
        ({"unfreeze": 0, "probe_solver": "sgd"}, "dropout", "always"),
        ({}, "dropout", "always"),
    ],
)
def test_the_table_says_what_an_exact_probe_leaves_out(search: dict[str, Any], name: str, when: str) -> None:
    (row,) = [row for row in space.rows(by_hand.spec(search=search)) if row.name == name]
    assert row.when == when


@pytest.mark.parametrize("name", sorted(STEPWISE | {"activation"} | {f"probe_learning_rate.{each}" for each in Optimizer}))
def test_a_study_of_exact_probes_has_no_row_for_what_never_acts(name: str) -> None:
    rows = space.rows(by_hand.spec(search={"probe_solver": "lbfgs", "head_units": []}, training={"epochs": 0}))
    assert name not in {row.name for row in rows}
    assert {"features", "probe_solver", "class_weights", "loss"} <= {row.name for row in rows}


def test_a_space_without_another_solver_is_asked_for_in_the_order_of_earlier_versions() -> None:
    order = ["optimizer", "unfreeze", "probe_learning_rate.sgd", "features", "dropout", "label_smoothing.on", "label_smoothing"]
    order += ["head_layers", "head_units.1", "activation", "learning_rate.sgd", "layer_decay"]
    search = {"probe_solver": "sgd", "optimizer": ["sgd", "adamw"], "weight_decay": 0}
    asked = throw(search, optimizer="sgd", head_layers=1, **{"label_smoothing.on": True})[1]
    assert [name for name in asked if not name.startswith("augmentation")] == order
