"""Configs that were trained again into the verdict on the chosen one, by one look at the test split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tuner.results import statistics
from tuner.results.retrain import examination, retrained, verdict
from tuner.results.retrain.examination import Evaluator, Examined, Network
from tuner.results.retrain.retrained import Retrained
from tuner.results.retrain.verdict import Verdict
from tuner.spec.hyperparameters import Hyperparameters

RUNNER_UP, RULE, RUNNER_UP_AND_RULE = "number 2", "the rule", "number 2, the rule"
ON_TRAIN = "the same config trained on the train split alone"


@dataclass(frozen=True, kw_only=True)
class Matter:
    """What a verdict is about."""

    study: str
    retraining: str
    classes: tuple[str, ...]
    #: the search's best trial, and its validation accuracy
    best: tuple[int, float]
    #: what trial 0 of the search trained with; None: not known
    rule: Hyperparameters | None


@dataclass(frozen=True, kw_only=True)
class Field:
    """The networks that a verdict compares."""

    #: every config, the chosen one first
    configs: tuple[Retrained, ...]
    chosen: Network
    #: what it is compared with, by name
    others: dict[str, Network]


def enter(configs: Sequence[Retrained], rule: Hyperparameters | None, ask: Evaluator) -> Field:
    """Make a network of the chosen config, and by the same recipe of the next one and of the rule, on validation images alone.

    Raises:
        StudyError: no config completed with every seed.
    """
    chosen = retrained.choose(configs)
    whole = [config for config in configs[1:] if config.is_whole]
    named: dict[str, Retrained] = {}
    for place, config in enumerate(whole):
        is_rule = config.hyperparameters == rule
        if place == 0:
            named[RUNNER_UP_AND_RULE if is_rule else RUNNER_UP] = config
        elif is_rule:
            named[RULE] = config
    others = {name: examination.build(config, ask) for name, config in named.items()}
    return Field(configs=tuple(configs), chosen=examination.build(chosen, ask), others=others)


def judge(matter: Matter, field: Field, ask: Evaluator, *, notes: Sequence[str]) -> tuple[Verdict, Network]:
    """The verdict on the network that was chosen on validation images, and that network. Reads the test split."""
    chosen = examination.read_test(field.chosen, ask)
    others = {name: examination.read_test(network, ask) for name, network in field.others.items()}
    return _verdict(matter, field, chosen, others, notes=notes, trained_on="train"), field.chosen


def judge_on_all(
    matter: Matter, field: Field, of_train: Evaluator, on_all: tuple[Retrained, Evaluator], *, notes: Sequence[str]
) -> tuple[Verdict, Network]:
    """The verdict on a chosen config that was then trained on validation images too, and the network that was declared for it before.

    Reads the test split; `of_train` knows the networks of `field`, `on_all` the others.
    """
    others = {ON_TRAIN: examination.read_test(field.chosen, of_train)}
    others |= {name: examination.read_test(network, of_train) for name, network in field.others.items()}
    config, ask = on_all
    network = examination.declared(config, soup=field.chosen.is_soup)
    chosen = examination.read_test(network, ask)
    said = (
        "The version was trained on the train and the validation split: no images are left to take a validation accuracy of it on. "
        "Which config, how many epochs, and the temperature come from its retraining on the train split alone.",
        *notes,
    )
    return _verdict(matter, field, chosen, others, notes=said, trained_on="train+validation"), network


def _verdict(
    matter: Matter,
    field: Field,
    chosen: Examined,
    others: dict[str, Examined],
    *,
    notes: Sequence[str],
    trained_on: Literal["train", "train+validation"],
) -> Verdict:
    classes, counts, macro_f1, macro_f1_interval = verdict.figures(chosen.test, matter.classes)
    validation = chosen.network.validation
    number = len(chosen.test.labels)
    return Verdict(
        study=matter.study,
        retraining=matter.retraining,
        trained_on=trained_on,
        choice=tuple(retrained.words(field.configs)),
        soup=verdict.soup(chosen),
        validation_accuracy=None if validation is None else validation.accuracy,
        test_accuracy=chosen.test.accuracy,
        test_interval=statistics.wilson(int(chosen.test.right.sum()), number),
        num_test=number,
        macro_f1=macro_f1,
        macro_f1_interval=macro_f1_interval,
        classes=classes,
        confusion=counts,
        calibration=verdict.calibration(chosen.test, examination.temperature(field.chosen)),
        optimism=verdict.optimism(matter.best, field.configs[0], chosen.test.accuracy),
        networks=(
            verdict.standing(chosen, is_measured=validation is not None),
            *(verdict.standing(other) for other in others.values()),
        ),
        comparisons=tuple(verdict.compare(chosen, other, against=name) for name, other in others.items()),
        notes=tuple(notes),
    )
