"""The sampled parameters of trials into columns: a place between 0 and 1 for each value, and the labels of the scale.

The trials of a study into how much each hyperparameter decided: PED-ANOVA, as Optuna has it.

It asks how differently the best trials chose a parameter than all of them did, and knows parameters that act only sometimes
(arXiv 2304.10255, 2601.20800). A pruned trial counts with the value that it had reached: what was pruned was not among the best.

Trials into the coordinates of a report's pictures: slices, parallel coordinates, curves and the work of the workers.
"""

import copy
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState

from tuner import wording
from tuner.sampling import suggestion
from tuner.studies.leases import LeaseEnding
from tuner.studies.study import Study
from tuner.views.trial import Attempt
from tuner.views.trials import CurvePoint

#: the switch of a parameter that may be off
SWITCH = ".on"
#: where values begin on the scale of a parameter that may be off
_ON = 0.14
#: room beside the first and the last choice
_CHOICE_MARGIN = 0.08
#: whole numbers of so few values stand beside each other as choices do
_FEW = 6
#: parameters that a study file calls otherwise
_NAMES = {"head_layers": "head_units.layers"}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One parameter over the trials that have it."""

    name: str
    #: places by the number of the trial
    places: Mapping[int, float]
    #: label and place, from the left
    labels: Sequence[tuple[str, float]]
    is_choice: bool
    is_log: bool

    @property
    def ends(self) -> tuple[str, str]:
        """The labels at both ends of the scale."""
        return self.labels[0][0], self.labels[-1][0]


def columns(trials: Sequence[FrozenTrial]) -> list[Column]:
    """The parameters that took more than one value in some trials, in the order in which they were first sampled."""
    found = [_column(name, trials) for name in _names(trials)]
    return [column for column in found if len(set(column.places.values())) > 1]


def base(name: str) -> str:
    """The parameter that a name or its switch belongs to."""
    return name.removesuffix(SWITCH)


def shown(name: str) -> str:
    """A parameter as a study file calls it."""
    return _NAMES.get(name, name)


def _names(trials: Sequence[FrozenTrial]) -> list[str]:
    return list(dict.fromkeys(base(name) for trial in trials for name in trial.params))


def _column(name: str, trials: Sequence[FrozenTrial]) -> Column:
    having = [trial for trial in trials if name in trial.params]
    off = [trial.number for trial in trials if trial.params.get(f"{name}{SWITCH}") is False]
    distributions = [trial.distributions[name] for trial in having]
    if not having:  # only ever switched off, or on without a range
        on = {trial.number: 1.0 for trial in trials if trial.params.get(f"{name}{SWITCH}") is True}
        return Column(name=name, places=dict.fromkeys(off, 0.0) | on, labels=[("off", 0.0), ("on", 1.0)], is_choice=True, is_log=False)
    choices = _choices(distributions)
    if choices and not off:
        return _of_choices(name, {trial.number: trial.params[name] for trial in having}, choices)
    return _of_numbers(name, {trial.number: float(trial.params[name]) for trial in having}, distributions, off)


def _choices(distributions: Sequence[BaseDistribution]) -> list[Any]:
    """All that a parameter may be, where that is little enough to stand side by side; else none."""
    whole = [one for one in distributions if isinstance(one, IntDistribution)]
    low, high = min((one.low for one in whole), default=0), max((one.high for one in whole), default=0)
    if len(whole) == len(distributions) and high - low < _FEW:
        return list(range(low, high + 1))
    known = [value for one in distributions if isinstance(one, CategoricalDistribution) for value in one.choices]
    return list(dict.fromkeys(known))


def _of_choices(name: str, values: Mapping[int, Any], choices: Sequence[Any]) -> Column:
    step = (1 - 2 * _CHOICE_MARGIN) / max(1, len(choices) - 1)
    place = {choice: _CHOICE_MARGIN + step * index for index, choice in enumerate(choices)}
    labels = [(wording.value(choice), place[choice]) for choice in choices]
    return Column(name=name, places={number: place[value] for number, value in values.items()}, labels=labels, is_choice=True, is_log=False)


def _of_numbers(name: str, values: Mapping[int, float], distributions: Sequence[Any], off: Sequence[int]) -> Column:
    low, high = min(one.low for one in distributions), max(one.high for one in distributions)
    is_log = all(one.log for one in distributions) and low > 0
    start = _ON if off else 0.0

    def place(value: float) -> float:
        if high <= low:
            return 1.0
        part = math.log(value / low) / math.log(high / low) if is_log else (value - low) / (high - low)
        return start + (1 - start) * min(1.0, max(0.0, part))

    labels = [("off", 0.0)] if off else []
    labels += [(wording.number(low), start), (wording.number(high), 1.0)]
    places = {number: place(value) for number, value in values.items()} | dict.fromkeys(off, 0.0)
    return Column(name=name, places=places, labels=labels, is_choice=False, is_log=is_log)


#: trials below which nothing is said
LEAST = 20
#: part of the trials that are called the best, and the fewest trials that they are
_BEST, _FEWEST_BEST = 0.1, 5


def num_best(num_valued: int) -> int:
    """How many trials are held against all."""
    return max(_FEWEST_BEST, -(-num_valued // round(1 / _BEST)))


def importances(study: Study, valued: Sequence[FrozenTrial]) -> list[tuple[str, float]]:
    """Each parameter with its part of the whole, the most important first; none while too few trials have ended with a value."""
    if len(valued) < LEAST:
        return []
    reader = suggestion.open_study(study.name, study.storage.cached, [_completed(trial) for trial in valued], RandomSampler(seed=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a parameter that hardly any trial had counts for nothing, which is right
        evaluator = PedAnovaImportanceEvaluator(target_quantile=num_best(len(valued)) / len(valued))
        found = optuna.importance.get_param_importances(reader, evaluator=evaluator)
    whole: dict[str, float] = {}
    for name, part in found.items():
        whole[base(name)] = whole.get(base(name), 0.0) + float(part)
    return sorted(whole.items(), key=lambda item: (-item[1], item[0]))


def _completed(trial: FrozenTrial) -> FrozenTrial:
    if trial.state is TrialState.COMPLETE:
        return trial
    shown = copy.copy(trial)
    shown.state = TrialState.COMPLETE
    return shown


WIDTH, HEIGHT = 1000.0, 100.0
#: part of the height that stays free above and below
_MARGIN = 0.06
#: part of the values that may lie below a picture's edge, where they are drawn on it
_OUTLIERS = 0.05
#: workers that have a line of their own
MOST_WORKERS = 40
#: height of a worker's bars, of 100
_BAR = 70.0
#: shortest bar that is seen
_SHORTEST = 1.0
#: paths that lines are spread over
_SHEETS = 24


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The values of trials over one parameter."""

    column: Column
    #: SVG paths of points
    completed: str
    pruned: str
    best: str
    #: lowest and highest value of the picture
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Many lines, the better ones in front."""

    #: SVG paths: where many lines of different ones cross, it is darker
    others: tuple[str, ...]
    good: str
    best: str
    num: int
    num_good: int
    #: labels: from the top down, and from the left
    y_labels: tuple[float, ...] = ()
    x_labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Shift:
    """The work of one worker."""

    worker: str
    #: SVG paths of bars by their style
    bars: Mapping[str, str]
    num_attempts: int
    seconds: float
    #: of attempts whose worker was lost
    lost_seconds: float


class Scale:
    """A value into a height: the lowest near the bottom, the highest near the top, what lies beyond on the edge."""

    def __init__(self, values: Sequence[float]) -> None:
        ordered = sorted(values)
        kept = ordered[int(len(ordered) * _OUTLIERS) :] if len(ordered) > 20 else ordered
        self.low, self.high = (kept[0], kept[-1]) if kept else (0.0, 1.0)

    def __call__(self, value: float) -> float:
        """The height of a value."""
        part = 0.5 if self.high <= self.low else (value - self.low) / (self.high - self.low)
        return HEIGHT * (1 - _MARGIN - (1 - 2 * _MARGIN) * min(1.0, max(-_MARGIN / 2, part)))


def good_numbers(trials: Sequence[FrozenTrial]) -> frozenset[int]:
    """The numbers of the best tenth of some trials."""
    ranked = sorted(trials, key=lambda trial: (-value(trial), trial.number))
    return frozenset(trial.number for trial in ranked[: max(1, len(ranked) // 10)])


def value(trial: FrozenTrial) -> float:
    """The value that a trial ended with."""
    return float(trial.values[0])


def slices(columns: Sequence[Column], trials: Sequence[FrozenTrial], best: int | None) -> list[Slice]:
    """One picture a parameter."""
    scale = Scale([value(trial) for trial in trials])
    return [_slice(column, trials, best, scale) for column in columns]


def parallel(columns: Sequence[Column], trials: Sequence[FrozenTrial], best: int | None) -> Lines:
    """One line a trial through its place in each column, ending at its value; a column that it lacks is left out."""
    scale, good, num_axes = Scale([value(trial) for trial in trials]), good_numbers(trials), len(columns) + 1
    xs = [WIDTH * (place + 0.5) / num_axes for place in range(num_axes)]
    paths: dict[int, str] = {}
    for trial in trials:
        points = [
            (xs[axis], HEIGHT * (1 - _MARGIN - (1 - 2 * _MARGIN) * column.places[trial.number]))
            for axis, column in enumerate(columns)
            if trial.number in column.places
        ]
        paths[trial.number] = _line([*points, (xs[-1], scale(value(trial)))])
    return _sorted(paths, good, best, y_labels=(scale.high, scale.low))


def curves(found: Mapping[int, Sequence[CurvePoint]], trials: Sequence[FrozenTrial], best: int | None) -> Lines | None:
    """Validation accuracy of each trial over its epochs; None while there is none."""
    last = max((points[-1].step for points in found.values() if points), default=0)
    if last < 2:
        return None
    scale = Scale([point.value for points in found.values() for point in points])
    paths = {
        number: _line([(WIDTH * (point.step - 1) / (last - 1), scale(point.value)) for point in points])
        for number, points in found.items()
        if len(points) > 1
    }
    labels = (scale.high, (scale.high + scale.low) / 2, scale.low)
    return _sorted(paths, good_numbers(trials), best, y_labels=labels, x_labels=("epoch 1", f"{last}"))


def shifts(attempts: Sequence[Attempt]) -> list[Shift]:
    """The work of each worker over the time of the study, in the order in which they came."""
    if not attempts:
        return []
    first, last = min(attempt.began for attempt in attempts), max(attempt.ended for attempt in attempts)
    span = max(last - first, 1e-9)
    of_worker: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        of_worker.setdefault(attempt.worker, []).append(attempt)
    return [_shift(worker, theirs, first, span) for worker, theirs in of_worker.items()]


def _shift(worker: str, attempts: Sequence[Attempt], first: float, span: float) -> Shift:
    bars: dict[str, list[str]] = {}
    for attempt in attempts:
        x, width = WIDTH * (attempt.began - first) / span, WIDTH * (attempt.ended - attempt.began) / span
        bars.setdefault(_STYLES.get(attempt.ending, "open"), []).append(
            f"M{x:.1f} {(HEIGHT - _BAR) / 2:.0f}h{max(_SHORTEST, width - _SHORTEST):.1f}v{_BAR:.0f}H{x:.1f}z"
        )
    return Shift(
        worker=worker,
        bars={style: "".join(paths) for style, paths in bars.items()},
        num_attempts=len(attempts),
        seconds=sum(attempt.ended - attempt.began for attempt in attempts),
        lost_seconds=sum(attempt.ended - attempt.began for attempt in attempts if attempt.ending == LeaseEnding.LOST),
    )


_STYLES: Mapping[str, str] = {
    LeaseEnding.COMPLETED: "completed",
    LeaseEnding.PRUNED: "pruned",
    LeaseEnding.FAILED: "failed",
    LeaseEnding.LOST: "failed",
    LeaseEnding.RELEASED: "open",
    LeaseEnding.SUPERSEDED: "open",
}


def _slice(column: Column, trials: Sequence[FrozenTrial], best: int | None, scale: Scale) -> Slice:
    having = [trial for trial in trials if trial.number in column.places and trial.number != best]

    def points(chosen: Iterable[FrozenTrial]) -> str:
        return "".join(f"M{WIDTH * _spread(column, trial.number):.0f} {scale(value(trial)):.1f}h0" for trial in chosen)

    return Slice(
        column=column,
        completed=points(trial for trial in having if trial.state is TrialState.COMPLETE),
        pruned=points(trial for trial in having if trial.state is TrialState.PRUNED),
        best=points(trial for trial in trials if trial.number == best and best in column.places),
        low=scale.low,
        high=scale.high,
    )


def _spread(column: Column, number: int) -> float:
    """Where a trial's dot stands: those of one choice beside each other, the same in each picture of the same trials."""
    place = column.places[number]
    return place + (((number * 0.618034) % 1) - 0.5) * 0.1 if column.is_choice else place


def _sorted(
    paths: Mapping[int, str], good: frozenset[int], best: int | None, *, y_labels: tuple[float, ...], x_labels: tuple[str, ...] = ()
) -> Lines:
    behind = [path for number, path in paths.items() if number not in good and number != best]
    front = [path for number, path in paths.items() if number in good and number != best]
    return Lines(
        others=tuple("".join(behind[place::_SHEETS]) for place in range(min(_SHEETS, len(behind)))),
        good="".join(front),
        num=len(paths),
        num_good=len(front),
        best="" if best is None else paths.get(best, ""),
        y_labels=y_labels,
        x_labels=x_labels,
    )


def _line(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.0f} {y:.1f}" for x, y in points)
