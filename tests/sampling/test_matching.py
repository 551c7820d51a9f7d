"""Matching: hyperparameters of one study in the search space of another."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.results.conftest import RandomChooser
from tests.studies import by_hand
from tuner.results import export
from tuner.sampling import matching
from tuner.sampling.matching import MatchedParameters
from tuner.spec import space
from tuner.spec.hyperparameters import Augmentation, Hyperparameters
from tuner.spec.study import StudySpec


def spec(**search: Any) -> StudySpec:
    return by_hand.spec(search={"probe_solver": "sgd"} | search)


@pytest.mark.parametrize("seed", range(40))
def test_hyperparameters_of_a_study_match_its_own_search_space(seed: int) -> None:
    own = spec(optimizer=["sgd", "adamw"], momentum=[0.5, 0.95], loss=["cross_entropy", "focal"], head_units={"layers": [0, 3]})
    chosen = space.suggest(RandomChooser(seed), own.search, fine_tunes=True)
    found = matching.match(chosen, own)
    assert isinstance(found, MatchedParameters)
    assert set(found.values) == set(found.distributions)
    for name, value in found.values.items():
        assert found.distributions[name]._contains(found.distributions[name].to_internal_repr(value))
    again = matching.match(chosen, spec(**export.fixed(chosen).model_dump(mode="json")))
    assert isinstance(again, MatchedParameters)
    assert again.values == {}


@pytest.mark.parametrize(
    ("search", "known", "reasons"),
    [
        # the range is narrower
        ({"dropout": [0, 0.2]}, {"dropout": 0.4}, ["dropout is 0.4; expected 0 to 0.2"]),
        # the value is fixed
        ({"dropout": 0.2}, {"dropout": 0.4}, ["dropout is 0.4; expected 0.2, which is fixed in that study"]),
        # adam has no weight decay if adamw is listed
        (
            {"optimizer": ["adam", "adamw"]},
            {"optimizer": "adam", "weight_decay": 1e-3},
            ["weight_decay is 0.001; expected 0, because weight_decay does not act on adam in that study"],
        ),
        # the optimizer is missing: its learning rates are not reported
        ({"optimizer": ["sgd", "lion"]}, {"optimizer": "adamw"}, ["optimizer is 'adamw'; expected sgd or lion"]),
        # the choice is missing
        ({"features": "last"}, {"features": "several"}, ["features is 'several'; expected last, which is fixed in that study"]),
        # weight decay can no longer be off
        ({"weight_decay": [1e-4, 1e-2]}, {"weight_decay": 0.0}, ["weight_decay is 0; expected 0.0001 to 0.01, logarithmic"]),
        # the probe trains in another way, which decides what else acts
        ({"probe_solver": "lbfgs"}, {"dropout": 0.9}, ["probe_solver is 'sgd'; expected lbfgs, which is fixed in that study"]),
        # the head is too deep
        (
            {"head_units": {"layers": [0, 1], "units": [64, 512]}},
            {"head_units": (128, 64)},
            ["head_units is [128, 64]; expected layers 0 to 1, whole; units 64 to 512, whole, logarithmic"],
        ),
        # two mismatches in the augmentation
        (
            {"augmentation": {"zoom": 0, "mixup": [0.1, 0.2]}},
            {"augmentation": Augmentation(flip="horizontal", translation=0.1, zoom=0.1, mixup=0.3)},
            ["augmentation.zoom is 0.1; expected 0, which is fixed in that study", "augmentation.mixup is 0.3; expected 0.1 to 0.2"],
        ),
    ],
)  # fmt: skip
def test_a_mismatch_is_reported_with_what_was_expected(search: Mapping[str, Any], known: Mapping[str, Any], reasons: list[str]) -> None:
    augmentation = Augmentation(flip="horizontal", translation=0.1)
    usual: dict[str, Any] = {"ema": 0.99, "layer_decay": 0.9, "feature_floor": 0.3, "augmentation": augmentation}
    assert matching.match(Hyperparameters.model_validate(usual | dict(known)), spec(**search)) == reasons


def test_a_changed_scale_does_not_matter() -> None:
    given: dict[str, Any] = {"weight_decay": 1e-3, "ema": 0.99, "layer_decay": 0.9, "feature_floor": 0.3}
    known = Hyperparameters(**given, augmentation=Augmentation(flip="horizontal", translation=0.1))
    for log in (False, True):
        found = matching.match(known, spec(weight_decay={"range": [1e-4, 1e-2], "log": log}))
        assert isinstance(found, MatchedParameters)
        assert found.values["weight_decay"] == 1e-3
        assert found.distributions["weight_decay"].log is log  # type: ignore[attr-defined]


def test_a_fine_tuned_trial_does_not_match_a_study_without_fine_tuning() -> None:
    known = Hyperparameters(unfreeze=0.5, augmentation=Augmentation(flip="horizontal"))
    probes = by_hand.spec(training={"epochs": 0}, search={"probe_solver": "sgd"})
    assert matching.match(known, probes) == ["unfreeze is 0.5; expected 0, because that study does no fine-tuning"]


def test_a_study_file_of_fixed_values_has_hyperparameters_and_any_other_lists_what_it_searches() -> None:
    known = Hyperparameters(dropout=0.25, head_units=(64,), optimizer="sgd")
    assert matching.fixed_hyperparameters(spec(**export.fixed(known).model_dump(mode="json"))) == known
    searched = matching.fixed_hyperparameters(spec(**export.fixed(known).model_dump(mode="json") | {"dropout": [0, 0.5]}))
    assert searched == ["dropout"]


@pytest.mark.parametrize(("floor", "expected"), [(0.3, 0.3), ([0.1, 0.5], 0.1)])
def test_a_config_of_an_earlier_version_takes_the_floor_of_features_of_another_study(floor: Any, expected: float) -> None:
    other = spec(feature_floor=floor)
    earlier = space.suggest(RandomChooser(1), spec(feature_floor=0).search, fine_tunes=True)
    adapted = matching.with_probe_of(earlier, other)
    assert adapted == earlier.model_copy(update={"feature_floor": expected})
    assert isinstance(matching.match(adapted, other), MatchedParameters)


@pytest.mark.parametrize(("old", "new"), [("sgd", "lbfgs"), ("lbfgs", "sgd"), ("ridge", "lbfgs"), ("sgd", "sgd")])
@pytest.mark.parametrize("layers", [0, 1])
def test_a_config_takes_the_solver_of_another_study(old: str, new: str, layers: int) -> None:
    given: dict[str, Any] = {"head_units": {"layers": 1}} if layers else {"head_units": {"layers": 0}, "probe_solver": old}
    searched = space.suggest(RandomChooser(1), spec(**given).search, fine_tunes=True)
    other = spec(probe_solver=new)
    adapted = matching.with_probe_of(searched, other)
    assert adapted.probe_solver == ("sgd" if layers else new)
    assert adapted.model_copy(update={name: getattr(searched, name) for name in ("probe_solver", "probe_learning_rate")}) == searched
    assert isinstance(matching.match(adapted, other), MatchedParameters)
