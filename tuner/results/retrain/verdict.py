"""Networks on the test split into a verdict: figures with intervals, comparisons in words, and how far the search's number was too high."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tuner import wording
from tuner.results import statistics
from tuner.results.retrain.examination import Answers, Examined, Temperature
from tuner.results.retrain.retrained import Retrained

Interval = tuple[float, float]
#: below this probability a difference is called one
_SIGNIFICANT = 0.05


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassFigures(_Figures):
    """How one class was told from the others, on the test split."""

    name: str
    num_images: int
    precision: float
    recall: float
    f1: float


class Calibration(_Figures):
    """How well probabilities fit accuracy, on the test split, before and after the temperature."""

    #: fitted on the validation split; 1 where that made the calibration error there larger
    temperature: float
    #: as it was fitted
    fitted_temperature: float
    #: expected calibration error over 15 bins
    error_before: float
    error_after: float
    #: mean cross-entropy
    log_loss_before: float
    log_loss_after: float
    #: with the temperature, the least sure first; empty where a version was made before they were kept
    bins: tuple[statistics.Bin, ...] = ()

    @property
    def words(self) -> str:
        """What the temperature did, in a sentence."""
        before = f"Calibration error {self.error_before:.4f}"
        if self.temperature != self.fitted_temperature:
            return f"{before}; a temperature ({self.fitted_temperature:.3f}) made it worse on the validation images, and is left out."
        after = f"with the temperature {self.temperature:.3f} {self.error_after:.4f}"
        return f"{before}, {after}; cross-entropy {self.log_loss_before:.4f}, then {self.log_loss_after:.4f}."


class JudgedConfig(_Figures):
    """One config: what the search said of it, what its retraining came to, and its network on the test split."""

    #: of the search
    trial: int
    search_value: float | None
    seeds: tuple[int, ...]
    #: validation accuracy, by seed; empty where validation images were trained on
    values: tuple[float, ...]
    mean: float | None
    spread: float | None
    #: seeds whose weights are averaged; one: nothing is
    chosen_seeds: tuple[int, ...]
    #: of that network; None where validation images were trained on
    validation_accuracy: float | None
    test_accuracy: float
    test_interval: Interval
    #: by seed
    test_accuracies: tuple[float, ...]


class Comparison(_Figures):
    """The chosen network against another one, on the same test images."""

    #: "number 2", "the rule"
    against: str
    #: of the search
    trial: int
    #: images that only the chosen one, and only the other one, got right
    only_chosen: int
    only_other: int
    #: McNemar's test, exact and two-sided
    p: float
    #: mean over the seeds of the difference in test accuracy, and its 95 % interval
    difference: float
    difference_interval: Interval | None
    words: str


class Optimism(_Figures):
    """How far the number that a search ended with was too high."""

    #: of the search's best trial
    trial: int
    search_value: float
    test_accuracy: float
    #: the first less the second
    too_high: float
    #: the chosen config's validation accuracy in the search, where it was among the luckiest, less its mean over new seeds
    luck: float | None

    @property
    def words(self) -> str:
        """How far, in one or two sentences."""
        which = "too high by" if self.too_high >= 0 else "too low by"
        said = f"The search's own number, {self.search_value:.4f} of trial {self.trial}, was {which} {abs(self.too_high):.4f}."
        if self.luck is None:
            return said
        by_seeds = round(-self.luck, 4) + 0.0  # no -0.0000
        return f"{said} On the same validation images, new seeds alone make {by_seeds:+.4f} of the chosen config's number."


class Verdict(_Figures):
    """All that is known of a version that a retraining made."""

    study: str
    #: the study that trained its configs again
    retraining: str
    trained_on: Literal["train", "train+validation"]
    #: why this config, in sentences
    choice: tuple[str, ...]
    #: what was said of the soup, in a sentence
    soup: str
    #: of the network; None where validation images were trained on
    validation_accuracy: float | None
    test_accuracy: float
    #: Wilson's, at 95 %
    test_interval: Interval
    num_test: int
    macro_f1: float
    #: bootstrap, at 95 %
    macro_f1_interval: Interval
    classes: tuple[ClassFigures, ...]
    #: rows: true class, columns: predicted class
    confusion: tuple[tuple[int, ...], ...]
    calibration: Calibration
    optimism: Optimism
    #: the version's own network first, then the configs that it was chosen among
    networks: tuple[JudgedConfig, ...]
    comparisons: tuple[Comparison, ...]
    #: what is to be known of the test split and of how this was measured, in sentences
    notes: tuple[str, ...]


def figures(answers: Answers, names: Sequence[str]) -> tuple[tuple[ClassFigures, ...], tuple[tuple[int, ...], ...], float, Interval]:
    """Figures by class, confusion, and mean F1 with its interval."""
    predicted, labels, num_classes = answers.logits.argmax(1), answers.labels, len(names)
    counts = statistics.confusion(labels, predicted, num_classes)
    classes = tuple(
        ClassFigures(name=name, num_images=found.num, precision=found.precision, recall=found.recall, f1=found.f1)
        for name, found in zip(names, statistics.by_class(counts), strict=True)
    )
    interval = statistics.bootstrap(
        lambda rows: statistics.macro_f1(statistics.confusion(labels[rows], predicted[rows], num_classes)), len(labels)
    )
    return classes, tuple(tuple(int(count) for count in row) for row in counts), statistics.macro_f1(counts), interval


def calibration(answers: Answers, found: Temperature) -> Calibration:
    """How well the probabilities of a network fit its accuracy, before and after a temperature."""
    before, after = (statistics.probabilities(answers.logits, each) for each in (1.0, found.kept))
    return Calibration(
        temperature=found.kept,
        fitted_temperature=found.fitted,
        error_before=statistics.calibration_error(before, answers.labels),
        error_after=statistics.calibration_error(after, answers.labels),
        log_loss_before=statistics.log_loss(answers.logits, answers.labels),
        log_loss_after=statistics.log_loss(answers.logits, answers.labels, found.kept),
        bins=tuple(statistics.bins(after, answers.labels)),
    )


def standing(examined: Examined, *, is_measured: bool = True) -> JudgedConfig:
    """A config and its network; `is_measured`: on validation images that were not trained on."""
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
        validation_accuracy=None if network.validation is None else network.validation.accuracy,
        test_accuracy=examined.test.accuracy,
        test_interval=statistics.wilson(right, len(examined.test.labels)),
        test_accuracies=tuple(answers.accuracy for answers in examined.of_runs),
    )


def compare(chosen: Examined, other: Examined, *, against: str) -> Comparison:
    """Whether the chosen network is better than another one, on the same images and over the same seeds."""
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


def optimism(best: tuple[int, float], config: Retrained, test_accuracy: float) -> Optimism:
    """How far the value of the search's best trial lies above the test accuracy of what was chosen."""
    trial, value = best
    luck = None if config.search_value is None else config.search_value - config.mean
    return Optimism(trial=trial, search_value=value, test_accuracy=test_accuracy, too_high=value - test_accuracy, luck=luck)


def soup(examined: Examined) -> str:
    """What became of the averages of weights, in a sentence."""
    network = examined.network
    if network.validation is None:
        seeds = "the average of all seeds' weights" if network.is_soup else "the training with the first seed"
        return f"The version is {seeds}, as was declared before: no images are left to choose by."
    if not network.tried:
        return "With one seed there is nothing to average."
    if network.is_soup:
        return (
            f"The average of the weights of seeds {wording.listed(run.seed for run in network.runs)} is kept: "
            f"{network.validation.accuracy:.4f} on the validation images, the best single seed {network.config.by_value[0].value:.4f}."
        )
    best = max(accuracy for _, accuracy in network.tried)
    return (
        f"Averages of the seeds' weights reach {best:.4f} on the validation images at best, the best single seed "
        f"{network.validation.accuracy:.4f}: the version is that one, with seed {network.runs[0].seed}."
    )


def _compared(tested: statistics.McNemar, paired: statistics.Paired, other: str, num: int) -> str:
    counted = f"of {num:,} test images {tested.only_first} only the chosen one got right and {tested.only_second} only the other"
    chance = f"exact McNemar test, p {_shown(tested.p)}"
    if tested.p >= _SIGNIFICANT:
        said = f"Against {other}: no difference can be shown; {counted} ({chance})."
    else:
        which = "better" if tested.only_first > tested.only_second else "worse"
        said = f"Against {other}: {which}; {counted} ({chance})."
    if paired.interval is None:
        return said
    low, high = paired.interval
    over = f"Over {paired.num} seeds test accuracy differs by {paired.difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}"
    return f"{said} {over}" + (", which new seeds alone may make." if low <= 0 <= high else ", more than new seeds alone make.")


def _shown(p: float) -> str:
    return "below 0.0001" if p < 0.0001 else f"= {p:.2g}"
