"""Objective: the metric that a study optimizes, and whether a higher or a lower value of it is better."""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tuner import wording
from tuner.spec.clashes import Clash, Clashes
from tuner.spec.data import Section
from tuner.spec.hyperparameters import TargetKind


class Direction(StrEnum):
    """Whether a higher or a lower value is better."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


#: last words of the names of metrics whose direction is known
_MINIMIZED = ("loss", "error", "mae", "mse", "rmse", "mape", "msle", "crossentropy", "entropy", "divergence", "perplexity", "deviance")
_MAXIMIZED = (
    "accuracy",
    "acc",
    "auc",
    "f1",
    "score",
    "precision",
    "recall",
    "specificity",
    "sensitivity",
    "r2",
    "iou",
    "dice",
    "similarity",
    "match",
)
#: the number that Keras appends to the name of a metric that it makes for the second time in a process
_COUNTER = re.compile(r"_\d+$")


def known_direction(metric: str) -> Direction | None:
    """Return the direction of a metric by its name, such as `val_auc` or `mean_absolute_error`; None if the name tells nothing."""
    last = plain_name(metric).lower().removesuffix("_score").replace("-", "_").rpartition("_")[2]
    if last in _MINIMIZED:
        return Direction.MINIMIZE
    return Direction.MAXIMIZE if last in _MAXIMIZED else None


def plain_name(metric: str) -> str:
    """Return the name of a metric without the number that Keras appends: `val_auc` for `val_auc_2`."""
    return _COUNTER.sub("", metric)


def find(metric: str, reported: Mapping[str, float]) -> float | None:
    """Return a reported metric by its name, or by its name without the number that Keras appends; None if it was not reported."""
    if metric in reported:
        return reported[metric]
    alike = [value for name, value in reported.items() if plain_name(name) == metric]
    return alike[0] if len(alike) == 1 else None


def _long_form(given: Any) -> Any:
    """Expand a name: `objective: val_auc` is short for `objective: {metric: val_auc}`."""
    return {"metric": given} if isinstance(given, str) else given


class Objective(Section):
    """The value of a trial, which the study optimizes."""

    #: what `metric` may be, for messages
    examples: ClassVar[str] = "val_auc"

    metric: Annotated[str, Field(min_length=1, examples=["val_auc", "val_loss"])]
    """name of the metric, as `fit` reports it"""
    direction: Literal["maximize", "minimize"] | None = None
    """whether a higher or a lower value is better; null: known from the name, as for val_loss or auc"""

    @model_validator(mode="after")
    def _check_direction(self) -> Self:
        if self.direction is None and known_direction(self.metric) is None:
            message = f"is missing: {wording.show(self.metric)} does not say whether higher is better; add maximize or minimize"
            raise Clashes([Clash(field="direction", message=message)])
        return self

    @property
    def aim(self) -> Direction:
        """The direction, whether it was given or is known from the name."""
        return Direction.MAXIMIZE if self.maximizes else Direction.MINIMIZE

    @property
    def maximizes(self) -> bool:
        """Whether a higher value is better."""
        return (self.direction or known_direction(self.metric)) == Direction.MAXIMIZE

    def merit(self, value: float) -> float:
        """Return a number that is higher the better a value is: the value itself, or its negative."""
        return value if self.maximizes else -value

    def is_better(self, value: float, than: float) -> bool:
        """Return whether a value is better than another one."""
        return self.merit(value) > self.merit(than)

    def best(self, values: Sequence[float]) -> float | None:
        """Return the best of some values; None if there are none."""
        return max(values, key=self.merit, default=None)


#: metrics of image studies on the validation images
ImageMetric = Literal[
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "auc",
    "log_loss",
    "top_5_accuracy",
    "mean_average_precision",
    "exact_match",
    "mae",
    "rmse",
    "r2",
]
#: the metrics that suit a target, the default first
METRICS: Mapping[TargetKind, tuple[ImageMetric, ...]] = {
    TargetKind.LABEL: ("accuracy", "balanced_accuracy", "macro_f1", "auc", "log_loss", "top_5_accuracy"),
    TargetKind.LABELS: ("macro_f1", "mean_average_precision", "exact_match"),
    TargetKind.NUMBER: ("mae", "rmse", "r2"),
}
#: metrics that are no share of something, so that any limit may make sense
UNLIMITED = frozenset({"log_loss", "mae", "rmse", "r2"})
#: metrics whose standard error does not follow from their value and the number of images
UNCERTAIN = frozenset({"log_loss"})


class ImageObjective(Objective):
    """The metric of the validation images that chooses the best epoch and the best trial."""

    metric: ImageMetric = "accuracy"
    """accuracy; balanced_accuracy, macro_f1: means over classes; auc: one against the rest; the last five: several labels, numbers"""

    @model_validator(mode="after")
    def _check_known(self) -> Self:
        known = known_direction(self.metric)
        if self.direction is not None and self.direction != known:
            message = f"is {self.direction}, but {self.metric} is better the {'higher' if self.maximizes is False else 'lower'}; remove it"
            raise Clashes([Clash(field="direction", message=message)])
        return self


OBJECTIVE = BeforeValidator(_long_form)


#: latency that other work on the machine may have caused, as a multiple of the limit
_NOISE = 2.0


class Constraints(Section):
    """Limits that the best trial of a study keeps, measured when a trial has been trained."""

    latency_ms: Annotated[float, Field(gt=0)] | None = None
    """largest time of one example, in milliseconds on the device that trains: the median of 30; null: no limit"""
    size_mb: Annotated[float, Field(gt=0)] | None = None
    """largest size of the weights, in megabytes; null: no limit"""

    @property
    def limits(self) -> dict[str, float]:
        """The given limits by name."""
        return {name: limit for name, limit in self if limit is not None}


def exceeded(limits: Mapping[str, float], measured: Mapping[str, float]) -> str:
    """Return in words which limits a trial exceeds, or was not measured for; "" if none."""
    over = []
    for name, limit in limits.items():
        if name not in measured:
            over.append(f"{name} was not measured")
        elif not measured[name] <= limit:
            over.append(f"{name} is {wording.number(measured[name])}, above the constraint {wording.number(limit)}")
    return "; ".join(over)


def is_near(limits: Mapping[str, float], measured: Mapping[str, float]) -> bool:
    """Return whether a trial keeps all limits, or exceeds only that of the latency, by so little that noise may explain it."""
    return not exceeded({name: limit * (_NOISE if name == "latency_ms" else 1) for name, limit in limits.items()}, measured)
