import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.results.conftest import PREPARED, RandomChooser
from tuner.results import export
from tuner.results.best import Best
from tuner.spec import domains, space
from tuner.spec import file as study_file
from tuner.spec.domains import Fixed
from tuner.spec.hyperparameters import LOSSES, Activation, ClassWeights, Flip, Hyperparameters, Optimizer, TargetKind
from tuner.spec.study import StudySpec, images_of

OPTIMIZERS = [optimizer.value for optimizer in Optimizer]
#: every hyperparameter, searched over its whole range
WIDEST: dict[str, Any] = {
    "optimizer": OPTIMIZERS,
    "learning_rate": {name: [1e-7, 10] for name in OPTIMIZERS},
    "probe_learning_rate": {name: [1e-7, 10] for name in OPTIMIZERS},
    "momentum": [0, 0.99],
    "nesterov": [True, False],
    "weight_decay": {"range": [1e-8, 1], "off": True},
    "head_units": {"layers": [0, 4], "units": [1, 65536]},
    "activation": [activation.value for activation in Activation],
    "dropout": [0, 0.9],
    "loss": [loss.value for loss in LOSSES[TargetKind.LABEL]],
    "label_smoothing": {"range": [0.01, 0.5], "off": True},
    "focal_gamma": [0, 5],
    "class_weights": [weights.value for weights in ClassWeights],
    "batch_size": [8, 16, 32, 64],
    "unfreeze": {"range": [0.1, 1], "off": True},
    "layer_decay": [0.01, 1],
    "warmup": [0, 0.9],
    "ema": {"range": [0.5, 0.999], "off": True},
    "augmentation": {
        "flip": [flip.value for flip in Flip],
        **{name: {"range": [1e-3, 0.5], "off": True} for name in ("rotation", "zoom", "translation", "shear", "brightness", "contrast")},
        **{name: {"range": [1e-3, 0.5], "off": True} for name in ("rand_augment", "erasing", "mixup", "cutmix")},
    },
}


class Nobody:
    """Fails if it is asked to choose."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None) -> float:
        raise AssertionError(name)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        raise AssertionError(name)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        raise AssertionError(name)


@pytest.fixture(scope="module")
def widest() -> StudySpec:
    return images_of(study_file.parse({"name": "widest", "data": {"source": "digits"}, "search": WIDEST}, "widest.yaml"))


def reread(spec: StudySpec, folder: Path) -> StudySpec:
    file = folder / "best.yaml"
    file.write_text(study_file.dump(spec))
    return study_file.read_images(file)


@pytest.mark.parametrize("seed", range(60))
def test_an_exported_study_file_trains_with_the_same_hyperparameters(
    make_best: Callable[..., Best], widest: StudySpec, seed: int, tmp_path: Path
) -> None:
    chosen = space.suggest(RandomChooser(seed), widest.search, fine_tunes=True)
    read = reread(export.resolved_images(make_best(spec=widest, hyperparameters=chosen)), tmp_path)
    assert space.suggest(Nobody(), read.search, fine_tunes=True) == chosen
    assert all(isinstance(domain, Fixed) for domain in all_domains(read))


def all_domains(spec: StudySpec) -> Iterator[domains.Domain]:
    for name in type(spec.search).model_fields:
        part = getattr(spec.search, name)
        if name in ("learning_rate", "probe_learning_rate"):
            yield from part.values()
        elif name == "augmentation":
            yield from (getattr(part, strength) for strength in type(part).model_fields)
        elif name not in ("head_units", "adam_weight_decay"):
            yield part


@pytest.mark.parametrize("head_units", [(), (1,), (512,), (256, 64), (1, 65536, 7, 32)])
def test_the_width_of_every_head_layer_is_exported(make_best: Callable[..., Best], head_units: tuple[int, ...], tmp_path: Path) -> None:
    read = reread(export.resolved_images(make_best(hyperparameters=Hyperparameters(head_units=head_units))), tmp_path)
    assert read.search.head_units == head_units


@pytest.mark.parametrize("optimizer", Optimizer)
def test_the_exported_rates_belong_to_the_optimizer_of_the_best_trial(
    make_best: Callable[..., Best], optimizer: Optimizer, tmp_path: Path
) -> None:
    won = Hyperparameters(optimizer=optimizer, learning_rate=3.3e-05, probe_learning_rate=1e-7)
    read = reread(export.resolved_images(make_best(hyperparameters=won)), tmp_path)
    assert read.search.learning_rate == {optimizer: Fixed(value=3.3e-05)}
    assert read.search.probe_learning_rate == {optimizer: Fixed(value=1e-7)}


def test_the_export_of_a_study_without_fine_tuning_has_none(make_best: Callable[..., Best], tmp_path: Path) -> None:
    probing = images_of(study_file.parse({"name": "probing", "data": {"source": "digits"}, "training": {"epochs": 0}}, "probing.yaml"))
    chosen = space.suggest(RandomChooser(0), probing.search, fine_tunes=False)
    best = make_best(spec=probing, hyperparameters=chosen, prepared=PREPARED.model_copy(update={"epochs": 0}))
    read = reread(export.resolved_images(best), tmp_path)
    assert space.suggest(Nobody(), read.search, fine_tunes=space.fine_tunes(read)) == chosen


def test_the_config_is_a_study_of_one_trial_on_the_same_splits(make_best: Callable[..., Best], spec: StudySpec) -> None:
    resolved = export.resolved_images(make_best())
    assert (resolved.name, resolved.budget.trials) == ("animals-trial-17", 1)
    assert (resolved.data, resolved.model, resolved.seed) == (spec.data, spec.model, spec.seed)
    assert resolved.training.epochs == 8


def test_the_longest_name_of_a_study_gives_a_valid_name(make_best: Callable[..., Best], spec: StudySpec, tmp_path: Path) -> None:
    longest = spec.model_copy(update={"name": "a" * 100})
    assert reread(export.resolved_images(make_best(spec=longest)), tmp_path).name == "a" * 91 + "-trial-17"


def test_a_later_best_trial_is_another_study(make_best: Callable[..., Best]) -> None:
    assert export.resolved_images(make_best(trial=3)).name != export.resolved_images(make_best(trial=17)).name


def test_the_result_section_holds_results_and_conditions(make_best: Callable[..., Best]) -> None:
    result = export.resolved_images(make_best()).result
    assert result is not None
    assert (result["study"], result["trial"], result["trial_seed"]) == ("animals", 17, 4711)
    assert (result["validation_accuracy"], result["test_accuracy"]) == (0.976, 0.968)
    assert result["rule"] == {"validation_accuracy": 0.95}
    assert result["images"] == {"train": 1000, "validation": 500, "test": 2000}
    assert (result["fingerprint"], result["splits"]) == (PREPARED.fingerprint, PREPARED.splits)
    assert result["versions"].keys() == {"python", "keras", "tensorflow", "tuner", "optuna"}


def test_the_result_section_leaves_out_what_was_not_measured(make_best: Callable[..., Best]) -> None:
    result = export.resolved_images(make_best(test_accuracy=None, rule_value=None, best_epoch=None, seconds=None)).result
    assert result is not None
    assert not {"test_accuracy", "rule", "best_epoch", "seconds"} & result.keys()


def test_the_result_holds_what_the_commonest_class_scores_if_it_is_known(make_best: Callable[..., Best]) -> None:
    known = PREPARED.model_copy(update={"commonest": "Bird", "commonest_validation": 0.99})
    result = json.loads(export.as_json(make_best(prepared=known)))["result"]
    assert result["always_commonest_class"] == {"class": "Bird", "validation_accuracy": 0.99}
    assert "always_commonest_class" not in json.loads(export.as_json(make_best()))["result"]
