"""Values into the coordinates of a picture; the templates draw it.

Every picture is stretched to its place on the page, so its lines are drawn without scaling and its labels stand beside it in HTML.

Which classes a trial took for which, into the table or the picture of it, and the figures of each class beside it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.results import statistics
from tuner.storage.epochs import EpochRow
from tuner.storage.queries import BestSoFar
from tuner.views.trial import Trial
from tuner.views.trials import CurvePoint

WIDTH, HEIGHT = 1000.0, 100.0
#: part of the height that stays free above and below
_MARGIN = 0.06
#: share of the trials that may lie below the picture's edge, where they are drawn on it
_OUTLIERS = 0.1


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line."""

    name: str
    #: of the line in the style sheet
    style: str
    #: as an SVG path
    path: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture with its labels."""

    series: tuple[Series, ...]
    #: dots as an SVG path of points
    dots: str = ""
    faint_dots: str = ""
    #: from the top down
    y_labels: tuple[float, ...] = ()
    x_labels: tuple[str, ...] = ()
    #: where the probe ends, in the picture's width; None: there is nothing to mark
    boundary: float | None = None


def sparkline(values: Sequence[float]) -> str:
    """Some values from left to right, as an SVG path; "" for fewer than two."""
    if len(values) < 2:
        return ""
    scale = _Scale(values)
    step = WIDTH / (len(values) - 1)
    return _line([(place * step, scale(value)) for place, value in enumerate(values)])


def steps(history: BestSoFar, num_trials: int) -> str:
    """The best value so far over the trials, as an SVG path."""
    if not history.records:
        return ""
    values = [point.value for point in history.records]
    return _staircase(history, _Scale(values if len(values) > 1 else [values[0] * 0.9, values[0]]), max(num_trials - 1, 1))


def history(found: BestSoFar, num_trials: int, *, maximizes: bool) -> Chart | None:
    """Each trial's value, and the best so far; None while no trial has ended with one."""
    if not found.records and not found.others:
        return None
    values = sorted((point.value for point in (*found.records, *found.others)), reverse=not maximizes)
    kept = values[int(len(values) * _OUTLIERS) :] if len(values) > 10 else values
    scale, last = _Scale(kept), max(num_trials - 1, 1)
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


def accuracy(epochs: Sequence[EpochRow]) -> Chart | None:
    """Accuracy on training and validation images over the epochs of a trial."""
    return _curves(epochs, [epoch.validation_accuracy for epoch in epochs], [epoch.accuracy for epoch in epochs])


def loss(epochs: Sequence[EpochRow]) -> Chart | None:
    """Loss on training and validation images over the epochs of a trial."""
    return _curves(epochs, [epoch.validation_loss for epoch in epochs], [epoch.loss for epoch in epochs])


def reports(curve: Sequence[CurvePoint]) -> Chart | None:
    """What a trial that is not ours has reported."""
    if not curve:
        return None
    values = [point.value for point in curve]
    first, last = curve[0].step, curve[-1].step
    scale, span = _Scale(values), max(last - first, 1)
    path = _line([(WIDTH * (point.step - first) / span, scale(point.value)) for point in curve])
    return Chart(
        series=(Series(name="reported", style="accent", path=path),),
        y_labels=(max(values), (min(values) + max(values)) / 2, min(values)),
        x_labels=(f"step {first}", f"{last}"),
    )


def _curves(epochs: Sequence[EpochRow], validation: Sequence[float | None], training: Sequence[float | None]) -> Chart | None:
    lines = (("training", "quiet", training), ("validation", "accent", validation))
    values = [value for _, _, line in lines for value in line if value is not None]
    if not values:
        return None
    scale, last = _Scale(values), max(epochs[-1].step - 1, 1)
    series = []
    for name, style, line in lines:
        points = [(WIDTH * (epoch.step - 1) / last, scale(value)) for epoch, value in zip(epochs, line, strict=True) if value is not None]
        series.append(Series(name=name, style=style, path=_line(points)))
    probed = [epoch.step for epoch in epochs if epoch.stage == "probe"]
    is_tuned = any(epoch.stage != "probe" for epoch in epochs)
    return Chart(
        series=tuple(series),
        y_labels=(max(values), (min(values) + max(values)) / 2, min(values)),
        x_labels=("epoch 1", f"{epochs[-1].step}") if epochs[-1].step > 1 else ("epoch 1",),
        boundary=WIDTH * (probed[-1] - 0.5) / last if probed and is_tuned else None,
    )


class _Scale:
    """A value into a height: the lowest near the bottom, the highest near the top, what lies beyond on the edge."""

    def __init__(self, values: Sequence[float]) -> None:
        self._low, self._span = min(values), max(values) - min(values)

    def __call__(self, value: float) -> float:
        part = 0.5 if not self._span or not math.isfinite(self._span) else (value - self._low) / self._span
        return HEIGHT * (1 - _MARGIN - (1 - 2 * _MARGIN) * min(1.0 + _MARGIN / 2, max(-_MARGIN / 2, part)))


def _staircase(found: BestSoFar, scale: _Scale, last: int) -> str:
    path = []
    for place, record in enumerate(found.records):
        x, y = WIDTH * record.number / last, scale(record.value)
        path.append(f"M{x:.0f} {y:.1f}" if not place else f"H{x:.0f}V{y:.1f}")
    return "".join(path) + (f"H{WIDTH:.0f}" if path else "")


def _line(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.0f} {y:.1f}" for x, y in points) + ("h0" if len(points) == 1 else "") if points else ""


def _dots(points: Sequence[tuple[float, float]]) -> str:
    return "".join(f"M{x:.0f} {y:.1f}h0" for x, y in points)


#: classes whose confusion is a table; of more it is a picture
_TABLED = 20
_MISTAKES = 8


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One place of a confusion matrix."""

    row: int
    column: int
    num: int
    #: shade from 0 to 10: the part of the row that is here
    shade: int


def shown(trial: Trial, names: Sequence[str]) -> Mapping[str, Any]:
    """What the template `confusion.html` shows of a trial, less the picture of its mistakes."""
    return {
        "figures": statistics.by_class(trial.confusion, [statistics.name_of(label, names) for label in range(len(trial.confusion))]),
        "confused": statistics.most_confused(trial.confusion, names, most=_MISTAKES),
        "mistakes": _mistakes(trial, names),
        "cells": _cells(trial),
        "is_tabled": len(trial.confusion) <= _TABLED,
    }


def _mistakes(trial: Trial, names: Sequence[str]) -> list[tuple[str, str, float]]:
    """True class, predicted class and confidence of the most confident mistakes."""
    return [
        (statistics.name_of(mistake.true, names), statistics.name_of(mistake.predicted, names), mistake.confidence)
        for mistake in trial.mistakes
    ]


def _cells(trial: Trial) -> list[list[Cell]]:
    return [
        [Cell(row=place, column=column, num=num, shade=round(10 * num / sum(row)) if num else 0) for column, num in enumerate(row)]
        for place, row in enumerate(trial.confusion)
    ]
