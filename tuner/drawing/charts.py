"""Charts as SVG paths and confusion tables, which the templates of pages and reports draw.

A chart is stretched to the width of its place on the page. Its lines keep their width, and its labels are HTML beside it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner import wording
from tuner.results import statistics
from tuner.spec.hyperparameters import TargetKind
from tuner.spec.objective import METRICS, Objective
from tuner.spec.study import AnyStudySpec, StudySpec
from tuner.spec.tasks import OBJECTIVE
from tuner.storage.epochs import EpochRow
from tuner.storage.queries import BestSoFar
from tuner.views.trial import Trial
from tuner.views.trials import CurvePoint, MeasuredTrial

WIDTH, HEIGHT = 1000.0, 100.0
#: part of the height that stays free at the top and at the bottom
_MARGIN = 0.06
#: share of the lowest values that are drawn at the edge
_OUTLIERS = 0.1
#: most classes whose confusion is a table; with more classes, it is a picture
_MAX_TABLE_CLASSES = 20
#: most pairs of classes in the list of frequent mistakes
_MAX_CONFUSED = 8
#: most charts of the metrics of one trial
_MAX_CHARTS = 12
#: free width at the left and at the right of a chart of points
_MARGIN_X = 12.0
#: most trials of a front in words
_MAX_SAID = 6
#: units of the figures that constraints limit
_UNITS = {"latency_ms": " ms", "size_mb": " MB"}
#: start of the names that Keras gives to metrics of the validation data
_VALIDATION = "val_"
#: name of a curve, its CSS class, and its value at each epoch, None if it is unknown
Curve = tuple[str, str, Sequence[float | None]]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart."""

    name: str
    #: CSS class
    style: str
    #: SVG path
    path: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with its labels."""

    series: tuple[Series, ...]
    #: SVG paths of points
    dots: str = ""
    faint_dots: str = ""
    hollow_dots: str = ""
    #: from top to bottom
    y_labels: tuple[float, ...] = ()
    x_labels: tuple[str, ...] = ()
    #: x coordinate of the end of the probe; None: not marked
    boundary: float | None = None
    #: x coordinate of the limit of a constraint; None: not marked
    limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class MetricChart:
    """The chart of one metric of a trial."""

    title: str
    #: what the chart shows, for a reader who does not see it
    label: str
    chart: Chart


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a confusion matrix."""

    row: int
    column: int
    num: int
    #: 0 to 10, the part of the row that is in this cell
    shade: int


def sparkline(values: Sequence[float]) -> str:
    """Return the values from left to right as an SVG path; "" if there are fewer than two."""
    if len(values) < 2:
        return ""
    scale = Scale(values)
    step = WIDTH / (len(values) - 1)
    return line([(index * step, scale(value)) for index, value in enumerate(values)])


def steps(history: BestSoFar, num_trials: int, *, maximizes: bool) -> str:
    """Return the best value so far over the trials as an SVG path; a single value is near the top, or the bottom if it is a minimum."""
    if not history.records:
        return ""
    values = [point.value for point in history.records]
    only = values[0]
    margin = abs(only) / 10 or 1.0
    return _staircase(
        history, Scale(values if len(values) > 1 else [only, only - margin if maximizes else only + margin]), max(num_trials - 1, 1)
    )


def history(found: BestSoFar, num_trials: int, *, maximizes: bool) -> Chart | None:
    """Return the value of each trial and the best value so far; None if no trial has a value."""
    if not found.records and not found.others:
        return None
    values = sorted((point.value for point in (*found.records, *found.others)), reverse=not maximizes)
    kept = values[int(len(values) * _OUTLIERS) :] if len(values) > 10 else values
    scale, last = Scale(kept), max(num_trials - 1, 1)
    dots = {
        is_pruned: _dots([(WIDTH * point.number / last, scale(point.value)) for point in found.others if point.is_pruned is is_pruned])
        for is_pruned in (False, True)
    }
    best = Series(name="best so far", style="accent", path=_staircase(found, scale, last))
    low, high = min(kept), max(kept)
    return Chart(
        series=(best,),
        dots=dots[False],
        faint_dots=dots[True],
        y_labels=(high, (low + high) / 2, low),
        x_labels=("trial 0", f"{(num_trials - 1) // 2:,}", f"{num_trials - 1:,}") if num_trials > 2 else ("trial 0", f"{num_trials - 1}"),
    )


def measured(epochs: Sequence[EpochRow], spec: AnyStudySpec | None) -> list[MetricChart]:
    """Return the metrics of a trial over its epochs, that of the study first; [] if tuner did not train the trial."""
    of_images = _of_images(epochs, spec) if spec is None or isinstance(spec, StudySpec) else []
    return of_images or _of_code(epochs, spec)


def _of_images(epochs: Sequence[EpochRow], spec: AnyStudySpec | None) -> list[MetricChart]:
    """Return accuracy and loss on training and validation images, after another metric that the study optimizes."""
    on = "on validation and training images over the epochs"
    accuracy = "Exact matches" if isinstance(spec, StudySpec) and spec.data.kind is TargetKind.LABELS else "Accuracy"
    found = [
        (accuracy, f"{accuracy} {on}", _of_epochs(epochs, "validation_accuracy", "accuracy")),
        ("Loss", f"Loss {on}", _of_epochs(epochs, "validation_loss", "loss")),
    ]
    if spec is not None and spec.objective.metric != "accuracy":
        name = spec.objective.metric.replace("_", " ")
        name = name.upper() if name in METRICS[TargetKind.NUMBER] else name.capitalize()
        found.insert(0, (name, f"{name} on validation images over the epochs", _of_epochs(epochs, "value", None)))
    return [MetricChart(title=title, label=label, chart=chart) for title, label, chart in found if chart is not None]


def _of_epochs(epochs: Sequence[EpochRow], validation: str, training: str | None) -> Chart | None:
    curves: list[Curve] = [] if training is None else [("training", "quiet", [getattr(epoch, training) for epoch in epochs])]
    return _curves(epochs, [*curves, ("validation", "accent", [getattr(epoch, validation) for epoch in epochs])])


def _of_code(epochs: Sequence[EpochRow], spec: AnyStudySpec | None) -> list[MetricChart]:
    """Return what user code reported: a metric and its namesake on the validation data share a chart."""
    metric = "value" if spec is None else spec.objective.metric
    names = dict.fromkeys(name.removeprefix(_VALIDATION) for epoch in epochs for name in epoch.metrics)
    own, is_objective = metric.removeprefix(_VALIDATION), spec is not None and spec.task == OBJECTIVE
    step = "step" if is_objective else "epoch"
    found = [] if own in names else [_chart(epochs, metric, [(metric, "accent", [epoch.value for epoch in epochs])], step=step)]
    for name in sorted(names, key=lambda name: name != own):
        training, validation = ([epoch.metrics.get(key) for epoch in epochs] for key in (name, f"{_VALIDATION}{name}"))
        found.append(_chart(epochs, name, [("training", "quiet", training), ("validation", "accent", validation)], step=step))
    return [chart for chart in found if chart is not None][:_MAX_CHARTS]


def _chart(epochs: Sequence[EpochRow], name: str, curves: Sequence[Curve], *, step: str) -> MetricChart | None:
    chart = _curves(epochs, [curve for curve in curves if any(value is not None for value in curve[2])], step=step)
    which = "" if chart is None or len(chart.series) < 2 else " in training and on validation data"
    return None if chart is None else MetricChart(title=name, label=f"{name}{which} over the {step}s", chart=chart)


def reports(curve: Sequence[CurvePoint]) -> Chart | None:
    """Return the reported values of a trial that tuner did not make; None if it has none."""
    if not curve:
        return None
    values = [point.value for point in curve]
    first, last = curve[0].step, curve[-1].step
    scale, span = Scale(values), max(last - first, 1)
    path = line([(WIDTH * (point.step - first) / span, scale(point.value)) for point in curve])
    return Chart(
        series=(Series(name="reported", style="accent", path=path),),
        y_labels=(max(values), (min(values) + max(values)) / 2, min(values)),
        x_labels=(f"step {first}", f"{last}"),
    )


def costs(trials: Sequence[MeasuredTrial], spec: AnyStudySpec) -> list[MetricChart]:
    """Return the value of each trial against each figure that a constraint limits, with the front of the trials that keep them all."""
    found = [_against(name, limit, [one for one in trials if name in one.costs], spec) for name, limit in spec.limits.items()]
    return [chart for chart in found if chart is not None]


def _against(name: str, limit: float, trials: Sequence[MeasuredTrial], spec: AnyStudySpec) -> MetricChart | None:
    if not trials:
        return None
    objective = spec.objective
    figures, values = [one.costs[name] for one in trials], [one.value for one in trials]
    low, high, scale = min(*figures, limit), max(*figures, limit), Scale(values)
    points = {one.number: (_MARGIN_X + (WIDTH - 2 * _MARGIN_X) * _part(one.costs[name], low, high), scale(one.value)) for one in trials}
    limit_x = _MARGIN_X + (WIDTH - 2 * _MARGIN_X) * _part(limit, low, high)
    front = front_of(trials, name, objective)
    path = "".join(f"H{x:.0f}V{y:.1f}" for x, y in (points[one.number] for one in front)).replace("H", "M", 1).replace("V", " ", 1)
    feasible = [one for one in trials if one.is_feasible]
    unit = _UNITS.get(name, "")
    said = [f"{wording.figure(one.value)} at {one.costs[name]:.3g}{unit}" for one in front]
    shown = said if len(said) <= _MAX_SAID else [*said[: _MAX_SAID - 1], said[-1]]
    chart = Chart(
        series=(Series(name="feasible front", style="accent", path=f"{path}H{limit_x:.0f}"),) if front else (),
        dots=_dots([points[one.number] for one in feasible]),
        hollow_dots=_dots([points[one.number] for one in trials if not one.is_feasible]),
        y_labels=(max(values), (min(values) + max(values)) / 2, min(values)),
        x_labels=tuple(f"{figure:.3g}{unit}" for figure in (low, (low + high) / 2, high)),
        limit=limit_x,
    )
    label = (
        f"{objective.metric} against {name}, limit {wording.number(limit)}{unit}: {len(feasible)} of {wording.count(len(trials), 'trial')} "
        f"within all constraints; front: {', '.join(shown) or 'none'}"
    )
    return MetricChart(title=f"{objective.metric} against {name}", label=label, chart=chart)


def front_of(trials: Sequence[MeasuredTrial], name: str, objective: Objective) -> list[MeasuredTrial]:
    """Return the trials that keep all constraints and beat every one with a smaller or equal figure, by that figure."""
    front: list[MeasuredTrial] = []
    for one in sorted(
        (one for one in trials if one.is_feasible), key=lambda one: (one.costs[name], -objective.merit(one.value), one.number)
    ):
        if not front or objective.is_better(one.value, front[-1].value):
            front.append(one)
    return front


def _part(figure: float, low: float, high: float) -> float:
    return 0.5 if high <= low else (figure - low) / (high - low)


def _curves(epochs: Sequence[EpochRow], curves: Sequence[Curve], *, step: str = "epoch") -> Chart | None:
    """Return a chart of curves over the epochs; None if no value is known."""
    values = [value for _, _, curve in curves for value in curve if value is not None]
    if not values:
        return None
    scale, first, last = Scale(values), epochs[0].step, epochs[-1].step
    span = max(last - first, 1)
    series = []
    for name, style, curve in curves:
        known = [(epoch.step - first, value) for epoch, value in zip(epochs, curve, strict=True) if value is not None]
        points = [(WIDTH * step / span, scale(value)) for step, value in known]
        series.append(Series(name=name, style=style, path=line(points)))
    probed = [epoch.step for epoch in epochs if epoch.stage == "probe"]
    is_tuned = any(epoch.stage != "probe" for epoch in epochs)
    return Chart(
        series=tuple(series),
        y_labels=(max(values), (min(values) + max(values)) / 2, min(values)),
        x_labels=(f"{step} {first}", f"{last}") if last > first else (f"{step} {first}",),
        boundary=WIDTH * (probed[-1] + 0.5 - first) / span if probed and is_tuned else None,
    )


class Scale:
    """Map values to y coordinates: the lowest near the bottom, the highest near the top, any beyond them at the edge."""

    def __init__(self, values: Sequence[float]) -> None:
        self.low, self.high = (min(values), max(values)) if values else (0.0, 1.0)

    def __call__(self, value: float) -> float:
        """Return the y coordinate of a value."""
        span = self.high - self.low
        return y_of(0.5 if not span or not math.isfinite(span) else (value - self.low) / span)


def y_of(part: float) -> float:
    """Return the y coordinate of a part of the height: 0 is near the bottom, 1 near the top."""
    return HEIGHT * (1 - _MARGIN - (1 - 2 * _MARGIN) * min(1.0 + _MARGIN / 2, max(-_MARGIN / 2, part)))


def line(points: Sequence[tuple[float, float]]) -> str:
    """Return an SVG path through some points; a single point is a dot."""
    return "M" + "L".join(f"{x:.0f} {y:.1f}" for x, y in points) + ("h0" if len(points) == 1 else "") if points else ""


def _staircase(found: BestSoFar, scale: Scale, last: int) -> str:
    path: list[str] = []
    for record in found.records:
        x, y = WIDTH * record.number / last, scale(record.value)
        path.append(f"H{x:.0f}V{y:.1f}" if path else f"M{x:.0f} {y:.1f}")
    return "".join(path) + (f"H{WIDTH:.0f}" if path else "")


def _dots(points: Sequence[tuple[float, float]]) -> str:
    return "".join(f"M{x:.0f} {y:.1f}h0" for x, y in points)


def confusion(trial: Trial, names: Sequence[str]) -> Mapping[str, Any]:
    """Return the variables of the template `confusion.html`, except the picture of mistakes."""
    if trial.by_class:
        named = [statistics.name_of(label, names) for label in range(len(trial.by_class))]
        scores = statistics.of_labels(trial.by_class, named)
        return {"class_scores": scores, "has_several": True, "confused": [], "mistakes": [], "cells": [], "is_table": True, "of_folds": ""}
    return {
        "has_several": False,
        "class_scores": statistics.by_class(trial.confusion, [statistics.name_of(label, names) for label in range(len(trial.confusion))]),
        "confused": statistics.most_confused(trial.confusion, names, most=_MAX_CONFUSED),
        "mistakes": _mistakes(trial, names),
        "of_folds": f"of all {trial.spec.num_folds} folds" if trial.spec is not None and trial.spec.num_folds > 1 else "",
        "cells": _cells(trial),
        "is_table": len(trial.confusion) <= _MAX_TABLE_CLASSES,
    }


def _mistakes(trial: Trial, names: Sequence[str]) -> list[tuple[str, str, float]]:
    """Return true class, predicted class and confidence of the most confident mistakes."""
    return [
        (statistics.name_of(mistake.true, names), statistics.name_of(mistake.predicted, names), mistake.confidence)
        for mistake in trial.mistakes
    ]


def _cells(trial: Trial) -> list[list[Cell]]:
    return [
        [Cell(row=row, column=column, num=num, shade=round(10 * num / sum(counts)) if num else 0) for column, num in enumerate(counts)]
        for row, counts in enumerate(trial.confusion)
    ]
