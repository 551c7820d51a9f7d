"""Verdict: the test of the network that a retraining has chosen, with intervals, comparisons and the optimism of the search."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tuner import wording
from tuner.results import statistics
from tuner.results.retrain import networks, trainings
from tuner.results.retrain.networks import Evaluator, Forms, Network, SplitLogits, Temperature, TestedNetwork
from tuner.results.retrain.trainings import RetrainedConfig
from tuner.results.statistics import ClassFigures
from tuner.spec.hyperparameters import Hyperparameters

RUNNER_UP, RULE, RUNNER_UP_AND_RULE = "number 2", "the rule", "number 2, the rule"
ON_TRAIN = "the same config trained on the train split alone"
Interval = tuple[float, float]
#: p-value below which a difference is significant
_SIGNIFICANT = 0.05


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Calibration(_Figures):
    """Match of the probabilities with the accuracy on the test split, before and after the temperature."""

    #: fitted on the validation split; 1 if it increases the calibration error there
    temperature: float
    #: the temperature before that check
    fitted_temperature: float
    #: expected calibration error over 15 bins
    error_before: float
    error_after: float
    #: mean cross-entropy
    log_loss_before: float
    log_loss_after: float
    #: after the temperature, lowest confidence first; empty in versions that were made before bins were stored
    bins: tuple[statistics.Bin, ...] = ()

    @property
    def words(self) -> str:
        """The effect of the temperature, in a sentence."""
        before = f"Calibration error {self.error_before:.4f}"
        if self.temperature != self.fitted_temperature:
            return f"{before}; a temperature of {self.fitted_temperature:.3f} increases it on the validation images and is not used."
        after = f"{self.error_after:.4f} with a temperature of {self.temperature:.3f}"
        return f"{before}, {after}; cross-entropy {self.log_loss_before:.4f}, {self.log_loss_after:.4f} with it."


class JudgedConfig(_Figures):
    """One config: its value in the search, its retraining, and its network on the test split."""

    #: trial of the search
    trial: int
    search_value: float | None
    seeds: tuple[int, ...]
    #: validation accuracies by seed; empty if it was trained on the validation images
    values: tuple[float, ...]
    mean: float | None
    spread: float | None
    #: seeds of the trainings whose weights are averaged, or whose probabilities are; a single one is taken as it is
    chosen_seeds: tuple[int, ...]
    #: whether their probabilities are averaged, and whether also over each image and its mirror image
    is_ensemble: bool = False
    mirrored: bool = False
    #: of that network; None if it was trained on the validation images
    validation_accuracy: float | None
    test_accuracy: float
    test_interval: Interval
    #: test accuracy of each training, by seed
    test_accuracies: tuple[float, ...]


class Comparison(_Figures):
    """The chosen network compared with another one on the same test images."""

    #: "number 2", "the rule"
    against: str
    #: trial of the search
    trial: int
    #: images that only the chosen, or only the other network classifies correctly
    only_chosen: int
    only_other: int
    #: p-value of McNemar's exact two-sided test
    p: float
    #: mean difference in test accuracy over the seeds, and its 95 % interval
    difference: float
    difference_interval: Interval | None
    words: str


class Optimism(_Figures):
    """Excess of the search's best value over the test accuracy."""

    #: best trial of the search
    trial: int
    search_value: float
    test_accuracy: float
    #: search value minus test accuracy
    too_high: float
    #: validation accuracy of the chosen config in the search minus its mean over new seeds; None if the search has none, or has folds
    luck: float | None

    @property
    def words(self) -> str:
        """The optimism, in one or two sentences."""
        which = "too high by" if self.too_high >= 0 else "too low by"
        optimism = f"The best value of the search, {self.search_value:.4f} of trial {self.trial}, was {which} {abs(self.too_high):.4f}."
        if self.luck is None:
            return optimism
        by_seeds = round(-self.luck, 4) + 0.0  # no -0.0000
        return f"{optimism} On the same validation images, new seeds alone change the value of the chosen config by {by_seeds:+.4f}."


class Verdict(_Figures):
    """All measurements of a version that a retraining made."""

    study: str
    #: the retraining study
    retraining: str
    trained_on: Literal["train", "train+validation"]
    #: why this config was chosen, in sentences
    choice: tuple[str, ...]
    #: whether a soup or an ensemble was chosen and why, in a sentence
    soup: str
    #: whether ensembles were left out
    single: bool = False
    #: validation accuracy of the network; None if it was trained on the validation images
    validation_accuracy: float | None
    test_accuracy: float
    #: Wilson's 95 % interval
    test_interval: Interval
    num_test: int
    macro_f1: float
    #: 95 % bootstrap interval
    macro_f1_interval: Interval
    classes: tuple[ClassFigures, ...]
    #: rows are true classes, columns are predicted classes; empty if there are too many classes
    confusion: tuple[tuple[int, ...], ...]
    calibration: Calibration
    optimism: Optimism
    #: the network of the version first, then the networks that it is compared with
    networks: tuple[JudgedConfig, ...]
    comparisons: tuple[Comparison, ...]
    #: remarks on the test split and on the measurement, in sentences
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class VerdictSubject:
    """The search and the retraining that a verdict is about."""

    study: str
    retraining: str
    classes: tuple[str, ...]
    #: best trial of the search and its validation accuracy
    best: tuple[int, float]
    #: folds of the search; if there are several, its values are means over them
    num_folds: int = 1
    #: hyperparameters of trial 0 of the search; None if unknown
    rule: Hyperparameters | None
    #: what the network of a config may be
    forms: Forms = field(default_factory=Forms)


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The networks that a verdict compares."""

    #: every config, the chosen one first
    configs: tuple[RetrainedConfig, ...]
    chosen: Network
    #: the networks that it is compared with, by name
    others: dict[str, Network]


def build_candidates(
    configs: Sequence[RetrainedConfig], rule: Hyperparameters | None, ask: Evaluator, forms: Forms | None = None
) -> Candidates:
    """Build the networks of the chosen config, of the next best one and of the rule, on the validation images alone.

    Raises:
        StudyError: no config completed with every seed.
    """
    chosen = trainings.choose(configs)
    complete = [config for config in configs[1:] if config.is_complete]
    named: dict[str, RetrainedConfig] = {}
    for index, config in enumerate(complete):
        is_rule = config.hyperparameters == rule
        if index == 0:
            named[RUNNER_UP_AND_RULE if is_rule else RUNNER_UP] = config
        elif is_rule:
            named[RULE] = config
    others = {name: networks.best_network(config, ask, forms) for name, config in named.items()}
    return Candidates(configs=tuple(configs), chosen=networks.best_network(chosen, ask, forms), others=others)


def judge(subject: VerdictSubject, candidates: Candidates, ask: Evaluator, *, notes: Sequence[str]) -> tuple[Verdict, Network]:
    """Read the test split; return the verdict on the chosen network, and that network."""
    chosen = networks.test(candidates.chosen, ask)
    others = {name: networks.test(network, ask) for name, network in candidates.others.items()}
    return _verdict(subject, candidates, chosen, others, notes=notes, trained_on="train"), candidates.chosen


def judge_on_all(
    subject: VerdictSubject, candidates: Candidates, of_train: Evaluator, on_all: tuple[RetrainedConfig, Evaluator], *, notes: Sequence[str]
) -> tuple[Verdict, Network]:
    """Read the test split; return the verdict on the chosen config after training on the validation images too, and its network.

    `of_train` evaluates the networks of `candidates`; `on_all` is the config trained on both splits, with its own evaluator.
    """
    others = {ON_TRAIN: networks.test(candidates.chosen, of_train)}
    others |= {name: networks.test(network, of_train) for name, network in candidates.others.items()}
    config, ask = on_all
    like = candidates.chosen
    network = networks.declared_network(config, soup=like.is_soup, ensemble=like.is_ensemble, mirrored=like.mirrored)
    chosen = networks.test(network, ask)
    remarks = (
        "The version was trained on the train and the validation split, so it has no validation accuracy. "
        "The config, the number of epochs and the temperature come from its retraining on the train split alone.",
        *notes,
    )
    return _verdict(subject, candidates, chosen, others, notes=remarks, trained_on="train+validation"), network


def _verdict(
    subject: VerdictSubject,
    candidates: Candidates,
    chosen: TestedNetwork,
    others: dict[str, TestedNetwork],
    *,
    notes: Sequence[str],
    trained_on: Literal["train", "train+validation"],
) -> Verdict:
    temperature = networks.temperature(candidates.chosen)
    chosen = chosen.at(temperature.chosen)
    classes, counts, macro_f1, macro_f1_interval = figures(chosen.test, subject.classes)
    validation = chosen.network.validation
    number = len(chosen.test.labels)
    return Verdict(
        study=subject.study,
        retraining=subject.retraining,
        trained_on=trained_on,
        choice=tuple(trainings.choice_words(candidates.configs)),
        soup=soup_words(chosen),
        single=not subject.forms.ensembles,
        validation_accuracy=None if validation is None else validation.accuracy,
        test_accuracy=chosen.test.accuracy,
        test_interval=statistics.wilson(int(chosen.test.right.sum()), number),
        num_test=number,
        macro_f1=macro_f1,
        macro_f1_interval=macro_f1_interval,
        classes=classes,
        confusion=counts,
        calibration=calibration(chosen.test, temperature),
        optimism=optimism(subject, candidates.configs[0], chosen.test.accuracy),
        networks=(
            judged_config(chosen, is_measured=validation is not None),
            *(judged_config(other) for other in others.values()),
        ),
        comparisons=tuple(compare(chosen, other, against=name) for name, other in others.items()),
        notes=tuple(notes),
    )


def figures(answers: SplitLogits, names: Sequence[str]) -> tuple[tuple[ClassFigures, ...], tuple[tuple[int, ...], ...], float, Interval]:
    """Return the figures of each class, the confusion matrix, and the mean F1 with its interval."""
    predicted, labels, num_classes = answers.logits.argmax(1), answers.labels, len(names)
    classes = tuple(statistics.class_figures(labels, predicted, names))
    interval = statistics.bootstrap(lambda rows: statistics.macro_f1(labels[rows], predicted[rows], num_classes), len(labels))
    is_small = num_classes <= statistics.CONFUSED_CLASSES
    counts = statistics.confusion(labels, predicted, num_classes).tolist() if is_small else []
    return classes, tuple(map(tuple, counts)), statistics.macro_f1(labels, predicted, num_classes), interval


def calibration(answers: SplitLogits, found: Temperature) -> Calibration:
    """Measure how well probabilities match the accuracy before and after a temperature."""
    before, after = (statistics.probabilities(answers.source, each) for each in (1.0, found.chosen))
    return Calibration(
        temperature=found.chosen,
        fitted_temperature=found.fitted,
        error_before=statistics.calibration_error(before, answers.labels),
        error_after=statistics.calibration_error(after, answers.labels),
        log_loss_before=statistics.log_loss(answers.source, answers.labels),
        log_loss_after=statistics.log_loss(answers.source, answers.labels, found.chosen),
        bins=tuple(statistics.bins(after, answers.labels)),
    )


def judged_config(examined: TestedNetwork, *, is_measured: bool = True) -> JudgedConfig:
    """Describe a config and its network; `is_measured` is False if it was trained on the validation images."""
    network, config = examined.network, examined.network.config
    right = int(examined.test.right.sum())
    return JudgedConfig(
        trial=config.trial,
        search_value=config.search_value,
        seeds=tuple(run.seed for run in config.runs),
        values=tuple(config.values) if is_measured else (),
        mean=config.mean if is_measured else None,
        spread=config.spread if is_measured else None,
        chosen_seeds=tuple(run.seed for run in network.runs),
        is_ensemble=network.is_ensemble,
        mirrored=network.mirrored,
        validation_accuracy=None if network.validation is None else network.validation.accuracy,
        test_accuracy=examined.test.accuracy,
        test_interval=statistics.wilson(right, len(examined.test.labels)),
        test_accuracies=tuple(answers.accuracy for answers in examined.of_runs),
    )


def compare(chosen: TestedNetwork, other: TestedNetwork, *, against: str) -> Comparison:
    """Compare the chosen network with another one on the same images and over the same seeds."""
    tested = statistics.mcnemar(chosen.test.right, other.test.right)
    paired = statistics.paired([each.accuracy for each in chosen.of_runs], [each.accuracy for each in other.of_runs])
    trial = other.network.config.trial
    return Comparison(
        against=against,
        trial=trial,
        only_chosen=tested.only_first,
        only_other=tested.only_second,
        p=tested.p,
        difference=paired.difference,
        difference_interval=paired.interval,
        words=_compared(tested, paired, f"{against} (trial {trial})", len(chosen.test.labels)),
    )


def optimism(subject: VerdictSubject, config: RetrainedConfig, test_accuracy: float) -> Optimism:
    """Compare the value of the search's best trial with the test accuracy of the chosen network."""
    trial, value = subject.best
    # a mean over folds and an accuracy on the validation split differ in more than the seeds
    luck = None if config.search_value is None or subject.num_folds > 1 else config.search_value - config.mean
    return Optimism(trial=trial, search_value=value, test_accuracy=test_accuracy, too_high=value - test_accuracy, luck=luck)


def soup_words(examined: TestedNetwork) -> str:
    """Return a sentence on whether a soup or an ensemble was chosen and why."""
    network = examined.network
    with_mirror = ", with mirror images" if network.mirrored else ""
    if network.validation is None:
        seeds = "the average of all seeds' weights" if network.is_soup else "the training with the first seed"
        if network.is_ensemble:
            seeds = f"the mean of the probabilities of all seeds{with_mirror}"
        return f"The version is {seeds}; tuner set this rule in advance, because no images are left for the choice."
    if not network.tried:
        return "There is one seed, so there are no weights to average."
    best = max(accuracy for _, accuracy in network.tried)
    if network.is_ensemble:
        return (
            f"The version is the mean of the probabilities of seeds {wording.listed(run.seed for run in network.runs)}{with_mirror}: "
            f"{network.validation.accuracy:.4f} on the validation images; the best single seed has {network.config.by_value[0].value:.4f}, "
            f"the best average of several seeds' weights {best:.4f}."
        )
    tried = "" if network.ensemble_accuracy is None else f", the mean of their probabilities {network.ensemble_accuracy:.4f}"
    if network.is_soup:
        return (
            f"The version is the average of the weights of seeds {wording.listed(run.seed for run in network.runs)}: "
            f"{network.validation.accuracy:.4f} on the validation images; the best single seed has {network.config.by_value[0].value:.4f}"
            f"{tried}."
        )
    return (
        f"The version is the training with seed {network.runs[0].seed}: {network.validation.accuracy:.4f} on the validation images; "
        f"the best average of several seeds' weights has {best:.4f}{tried}."
    )


def _compared(tested: statistics.McNemar, paired: statistics.Paired, other: str, num: int) -> str:
    counted = f"of {num:,} test images, {tested.only_first} are right only with the chosen one and {tested.only_second} only with the other"
    chance = f"exact McNemar test, p {_shown(tested.p)}"
    if tested.p >= _SIGNIFICANT:
        words = f"Compared with {other}: no significant difference; {counted} ({chance})."
    else:
        which = "better" if tested.only_first > tested.only_second else "worse"
        words = f"Compared with {other}: {which}; {counted} ({chance})."
    if paired.interval is None:
        return words
    low, high = paired.interval
    over = f"Over {paired.num} seeds, the mean test accuracy differs by {paired.difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}"
    return f"{words} {over}" + (", which random seeds may explain." if low <= 0 <= high else ", more than random seeds explain.")


def _shown(p: float) -> str:
    return "below 0.0001" if p < 0.0001 else f"= {p:.2g}"
