"""The estimated cost of a study."""

import pytest

from tuner.spec.study import StudySpec
from tuner.tasks.images.spec import cost


def spec(**sections: object) -> StudySpec:
    return StudySpec.model_validate({"name": "x", "data": {"source": "animals"}} | sections)


def test_the_cost_is_near_what_was_measured() -> None:
    """2,000 images, 8 epochs of 16 s on two cores (EfficientNet-Lite0 at 96 pixels)."""
    measured = cost.estimate(spec(model={"image_size": 96}), num_train=2000, num_validation=0, epochs=8, num_cores=2)
    assert (measured.fine_tune_seconds - cost.TRACE_SECONDS) / 8 == pytest.approx(16, rel=0.1)


def test_twice_the_side_costs_four_times_as_much() -> None:
    small, large = (
        cost.estimate(
            spec(model={"image_size": side}, search={"probe_solver": "sgd"}), num_train=1000, num_validation=200, epochs=5, num_cores=2
        )
        for side in (96, 192)
    )
    assert large.prepare_seconds == pytest.approx(4 * small.prepare_seconds)


def test_only_promoted_trials_and_trial_0_are_fine_tuned() -> None:
    estimated = cost.estimate(
        spec(budget={"trials": 21}, training={"promote": 0.25}), num_train=1000, num_validation=200, epochs=5, num_cores=2
    )
    assert estimated.num_fine_tuned == 6
    assert estimated.total_seconds == pytest.approx(
        estimated.prepare_seconds + 21 * estimated.probe_seconds + 6 * estimated.fine_tune_seconds
    )


@pytest.mark.parametrize(
    ("augmentation", "mirrored", "drawn"),
    [
        ({"flip": "none"}, 1, 0),
        ({"flip": ["none", "horizontal"]}, 2, 0),
        ({"flip": "both"}, 4, 0),
        ({"flip": "horizontal", "views": 10}, 2, 8),
        ({"flip": "both", "views": [2, 12]}, 4, 8),
    ],
)
def test_each_view_costs_one_pass(augmentation: dict[str, object], mirrored: int, drawn: int) -> None:
    sizes = {"num_train": 1000, "num_validation": 0, "epochs": 5, "num_cores": 2}
    plain = cost.estimate(spec(search={"augmentation": {"flip": "none"}, "probe_solver": "sgd"}), **sizes)
    estimated = cost.estimate(spec(search={"augmentation": augmentation, "probe_solver": "sgd"}), **sizes)
    assert estimated.prepare_seconds == pytest.approx(mirrored * plain.prepare_seconds)
    assert estimated.probe_seconds == pytest.approx(plain.probe_seconds + drawn * plain.prepare_seconds)


def test_a_study_without_a_number_of_trials_has_no_total() -> None:
    budget = {"trials": None, "timeout": "1h"}
    assert cost.estimate(spec(budget=budget), num_train=1000, num_validation=200, epochs=5, num_cores=2).total_seconds is None


def test_a_probe_only_study_costs_no_fine_tuning() -> None:
    estimated = cost.estimate(spec(), num_train=1000, num_validation=200, epochs=0, num_cores=2)
    assert (estimated.num_fine_tuned, estimated.fine_tune_seconds) == (0, 0.0)


def test_several_trainings_cost_as_many_fine_tunings() -> None:
    sizes = {"num_train": 1000, "num_validation": 200, "epochs": 5, "num_cores": 2}
    once, thrice = (cost.estimate(spec(training={"executions": number}), **sizes) for number in (1, 3))
    assert thrice.prepare_seconds == once.prepare_seconds
    assert thrice.probe_seconds == once.probe_seconds
    repeated = thrice.fine_tune_seconds - cost.TRACE_SECONDS
    assert repeated == pytest.approx(3 * (once.fine_tune_seconds - cost.TRACE_SECONDS) + 2 * once.probe_seconds)


@pytest.mark.parametrize(("backbone", "is_known"), [("EfficientNetB0", True), ("ResNet50", True), ("kerashub:vit_base", False)])
def test_backbones_are_known_by_their_keras_names_too(backbone: str, is_known: bool) -> None:
    named = spec().model_copy(update={"model": spec().model.model_copy(update={"backbone": backbone})})
    assert cost.estimate(named, num_train=1000, num_validation=200, epochs=5, num_cores=2).is_known is is_known


def test_the_cost_of_several_models_is_that_of_preparing_each_and_of_the_mean_trial() -> None:
    sizes = {"num_train": 1000, "num_validation": 200, "epochs": 5, "num_cores": 2}
    small, large = (cost.estimate(spec(model={"image_size": size}), **sizes) for size in (96, 160))
    both = cost.estimate(spec(model={"image_size": [96, 160]}), **sizes)
    assert both.prepare_seconds == pytest.approx(small.prepare_seconds + large.prepare_seconds)
    assert both.fine_tune_seconds == pytest.approx((small.fine_tune_seconds + large.fine_tune_seconds) / 2)
    assert both.num_fine_tuned == small.num_fine_tuned
    assert both.is_known


def test_one_unknown_backbone_makes_the_cost_a_guess() -> None:
    mixed = spec(model={"backbone": ["squeezenet1_1", "kerashub:vit_base"], "image_size": 96})
    assert not cost.estimate(mixed, num_train=1000, num_validation=200, epochs=5, num_cores=2).is_known


def test_probes_that_share_one_solution_cost_nothing_on_cached_features() -> None:
    exact, steps = (
        cost.estimate(
            spec(training={"epochs": 0}, search={"head_units": [], "probe_solver": solver}),
            num_train=1000, num_validation=100, epochs=0, num_cores=2,
        )
        for solver in ("lbfgs", "sgd")
    )  # fmt: skip
    assert exact.probe_seconds == 0
    assert steps.probe_seconds > 0
    # but the solution itself, once
    assert exact.prepare_seconds - steps.prepare_seconds == pytest.approx(cost.EXACT_SECONDS)
