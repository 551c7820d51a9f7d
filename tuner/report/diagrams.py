"""Diagrams of a report as SVG paths: slices, parallel coordinates, learning curves and worker timelines."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from tuner import wording
from tuner.drawing import charts
from tuner.drawing.charts import Scale
from tuner.report.content import ranked, value
from tuner.spec.objective import Objective
from tuner.spec.study import AnyStudySpec, StudySpec
from tuner.studies.leases import LeaseEnding
from tuner.views.trial import Attempt
from tuner.views.trials import CurvePoint

#: suffix of the sampled parameter that switches another parameter on or off
SWITCH = ".on"
#: most workers with a timeline
MOST_WORKERS = 40
#: start of the values on the axis of a parameter that can be off
_ON_START = 0.14
#: margin beside the first and the last choice
_CHOICE_MARGIN = 0.08
#: an integer range below this size is drawn as choices
_FEW = 6
#: names in the study file of parameters that are sampled under another name
_STUDY_FILE_NAMES = {"head_layers": "head_units.layers"}
#: share of the worst values that are drawn at the edge
_OUTLIERS = 0.05
#: height of a timeline's bars, of 100
_BAR = 70.0
#: width of the narrowest bar
_MIN_BAR_WIDTH = 1.0
#: number of paths that the lines in the background are spread over, so that crossing lines look darker
_SHEETS = 24


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Values of one parameter, as positions between 0 and 1."""

    name: str
    #: positions by trial number
    positions: Mapping[int, float]
    #: label and position, from the left
    labels: Sequence[tuple[str, float]]
    is_choice: bool
    is_log: bool

    @property
    def ends(self) -> tuple[str, str]:
        """The first and the last label."""
        return self.labels[0][0], self.labels[-1][0]


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Values of trials over one parameter."""

    axis: Axis
    #: SVG paths of points
    completed: str
    pruned: str
    best: str
    #: lowest and highest value of the diagram
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Lines:
    """One line per trial, the best ones in front."""

    #: SVG paths
    others: tuple[str, ...]
    good: str
    best: str
    num: int
    num_good: int
    #: from top to bottom, and from left to right
    y_labels: tuple[float, ...] = ()
    x_labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Attempts of one worker over the time of the study."""

    worker: str
    #: SVG paths of bars by style
    bars: Mapping[str, str]
    num_attempts: int
    seconds: float
    #: time of attempts that ended because the worker was lost
    lost_seconds: float


def axes(trials: Sequence[FrozenTrial], spec: AnyStudySpec) -> list[Axis]:
    """Return an axis for each parameter with more than one value, in the order in which they were first sampled."""
    names = dict.fromkeys(parameter(name, spec) for trial in trials for name in trial.params)
    found = [_axis(name, trials) for name in names]
    return [axis for axis in found if len(set(axis.positions.values())) > 1]


def parameter(name: str, spec: AnyStudySpec) -> str:
    """Return the parameter that a sampled name belongs to; only studies of images have switches."""
    return name.removesuffix(SWITCH) if isinstance(spec, StudySpec) else name


def study_file_name(name: str, spec: AnyStudySpec) -> str:
    """Return the name of a parameter in a study file."""
    return _STUDY_FILE_NAMES.get(name, name) if isinstance(spec, StudySpec) else name


def _axis(name: str, trials: Sequence[FrozenTrial]) -> Axis:
    having = [trial for trial in trials if name in trial.params]
    off = [trial.number for trial in trials if trial.params.get(f"{name}{SWITCH}") is False]
    distributions = [trial.distributions[name] for trial in having]
    if not having:  # always off, or on without a range
        on = {trial.number: 1.0 for trial in trials if trial.params.get(f"{name}{SWITCH}") is True}
        return Axis(name=name, positions=dict.fromkeys(off, 0.0) | on, labels=[("off", 0.0), ("on", 1.0)], is_choice=True, is_log=False)
    choices = _choices(distributions)
    if choices and not off:
        return _axis_of_choices(name, {trial.number: trial.params[name] for trial in having}, choices)
    return _axis_of_numbers(name, {trial.number: float(trial.params[name]) for trial in having}, distributions, off)


def _choices(distributions: Sequence[BaseDistribution]) -> list[Any]:
    """Return all values of a categorical parameter or a short integer range; [] for any other."""
    integers = [one for one in distributions if isinstance(one, IntDistribution)]
    low, high = min((one.low for one in integers), default=0), max((one.high for one in integers), default=0)
    if len(integers) == len(distributions) and high - low < _FEW:
        return list(range(low, high + 1))
    known = [value for one in distributions if isinstance(one, CategoricalDistribution) for value in one.choices]
    return list(dict.fromkeys(known))


def _axis_of_choices(name: str, values: Mapping[int, Any], choices: Sequence[Any]) -> Axis:
    step = (1 - 2 * _CHOICE_MARGIN) / max(1, len(choices) - 1)
    position = {choice: _CHOICE_MARGIN + step * index for index, choice in enumerate(choices)}
    labels = [(wording.value(choice), position[choice]) for choice in choices]
    positions = {number: position[value] for number, value in values.items()}
    return Axis(name=name, positions=positions, labels=labels, is_choice=True, is_log=False)


def _axis_of_numbers(name: str, values: Mapping[int, float], distributions: Sequence[Any], off: Sequence[int]) -> Axis:
    low, high = min(one.low for one in distributions), max(one.high for one in distributions)
    is_log = all(one.log for one in distributions) and low > 0
    start = _ON_START if off else 0.0

    def position(value: float) -> float:
        if high <= low:
            return 1.0
        part = math.log(value / low) / math.log(high / low) if is_log else (value - low) / (high - low)
        return start + (1 - start) * min(1.0, max(0.0, part))

    labels = [("off", 0.0)] if off else []
    labels += [(wording.number(low), start), (wording.number(high), 1.0)]
    positions = {number: position(value) for number, value in values.items()} | dict.fromkeys(off, 0.0)
    return Axis(name=name, positions=positions, labels=labels, is_choice=False, is_log=is_log)


def slices(axes: Sequence[Axis], trials: Sequence[FrozenTrial], best: int | None, objective: Objective) -> list[Slice]:
    """Return one diagram per parameter."""
    scale = _scale([value(trial) for trial in trials], objective)
    return [_slice(axis, trials, best, scale) for axis in axes]


def _slice(axis: Axis, trials: Sequence[FrozenTrial], best: int | None, scale: Scale) -> Slice:
    having = [trial for trial in trials if trial.number in axis.positions and trial.number != best]

    def points(chosen: Iterable[FrozenTrial]) -> str:
        return "".join(f"M{charts.WIDTH * _spread(axis, trial.number):.0f} {scale(value(trial)):.1f}h0" for trial in chosen)

    return Slice(
        axis=axis,
        completed=points(trial for trial in having if trial.state is TrialState.COMPLETE),
        pruned=points(trial for trial in having if trial.state is TrialState.PRUNED),
        best=points(trial for trial in trials if trial.number == best and best in axis.positions),
        low=scale.low,
        high=scale.high,
    )


def _spread(axis: Axis, number: int) -> float:
    """Return the position of a trial's dot. Dots of the same choice are spread, in the same way in every diagram."""
    position = axis.positions[number]
    return position + (((number * 0.618034) % 1) - 0.5) * 0.1 if axis.is_choice else position


def parallel(axes: Sequence[Axis], trials: Sequence[FrozenTrial], best: int | None, objective: Objective) -> Lines:
    """Return one line per trial through its position on each axis to its value. An axis that a trial lacks is skipped."""
    scale, good, num_axes = _scale([value(trial) for trial in trials], objective), good_numbers(trials, objective), len(axes) + 1
    xs = [charts.WIDTH * (index + 0.5) / num_axes for index in range(num_axes)]
    paths: dict[int, str] = {}
    for trial in trials:
        points = [
            (x, charts.y_of(axis.positions[trial.number])) for x, axis in zip(xs, axes, strict=False) if trial.number in axis.positions
        ]
        paths[trial.number] = charts.line([*points, (xs[-1], scale(value(trial)))])
    return _sorted(paths, good, best, y_labels=(scale.high, scale.low))


def curves(
    found: Mapping[int, Sequence[CurvePoint]], trials: Sequence[FrozenTrial], best: int | None, objective: Objective, *, step: str = "epoch"
) -> Lines | None:
    """Return the metric of each trial over its epochs, which `step` names; None if no trial has two epochs."""
    steps = [point.step for points in found.values() for point in points]
    first, last = min(steps, default=0), max(steps, default=0)
    if first == last:
        return None
    scale = _scale([point.value for points in found.values() for point in points], objective)
    paths = {
        number: charts.line([(charts.WIDTH * (point.step - first) / (last - first), scale(point.value)) for point in points])
        for number, points in found.items()
        if len(points) > 1
    }
    labels = (scale.high, (scale.high + scale.low) / 2, scale.low)
    return _sorted(paths, good_numbers(trials, objective), best, y_labels=labels, x_labels=(f"{step} {first}", f"{last}"))


def good_numbers(trials: Sequence[FrozenTrial], objective: Objective) -> frozenset[int]:
    """Return the numbers of the best tenth of some trials."""
    return frozenset(trial.number for trial in ranked(trials, objective)[: max(1, len(trials) // 10)])


def _scale(values: Sequence[float], objective: Objective) -> Scale:
    """Return a scale for values without the worst few, which would flatten all others."""
    ordered = sorted(values, key=objective.merit)
    return Scale(ordered[int(len(ordered) * _OUTLIERS) :] if len(ordered) > 20 else ordered)


def _sorted(
    paths: Mapping[int, str], good: frozenset[int], best: int | None, *, y_labels: tuple[float, ...], x_labels: tuple[str, ...] = ()
) -> Lines:
    background = [path for number, path in paths.items() if number not in good and number != best]
    front = [path for number, path in paths.items() if number in good and number != best]
    return Lines(
        others=tuple("".join(background[sheet::_SHEETS]) for sheet in range(min(_SHEETS, len(background)))),
        good="".join(front),
        num=len(paths),
        num_good=len(front),
        best="" if best is None else paths.get(best, ""),
        y_labels=y_labels,
        x_labels=x_labels,
    )


def timelines(attempts: Sequence[Attempt]) -> list[Timeline]:
    """Return the timeline of each worker, in the order of their first attempts."""
    if not attempts:
        return []
    first, last = min(attempt.began for attempt in attempts), max(attempt.ended for attempt in attempts)
    span = max(last - first, 1e-9)
    by_worker: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        by_worker.setdefault(attempt.worker, []).append(attempt)
    return [_timeline(worker, own, first, span) for worker, own in by_worker.items()]


def _timeline(worker: str, attempts: Sequence[Attempt], first: float, span: float) -> Timeline:
    bars: dict[str, list[str]] = {}
    for attempt in attempts:
        x, width = charts.WIDTH * (attempt.began - first) / span, charts.WIDTH * (attempt.ended - attempt.began) / span
        bars.setdefault(_STYLES.get(attempt.ending, "open"), []).append(
            f"M{x:.1f} {(charts.HEIGHT - _BAR) / 2:.0f}h{max(_MIN_BAR_WIDTH, width - _MIN_BAR_WIDTH):.1f}v{_BAR:.0f}H{x:.1f}z"
        )
    return Timeline(
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
