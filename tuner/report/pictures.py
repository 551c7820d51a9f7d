"""Trials into the coordinates of a report's pictures: slices, parallel coordinates, curves and the work of the workers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from tuner.report.columns import Column
from tuner.report.material import Attempt
from tuner.search.leases import LeaseEnding
from tuner.search.listing import Measured

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


def curves(found: Mapping[int, Sequence[Measured]], trials: Sequence[FrozenTrial], best: int | None) -> Lines | None:
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
