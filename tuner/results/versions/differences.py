"""Differences: how two versions differ in config, data, metrics and origin."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tuner import wording
from tuner.results.versions.versions import Version

#: sections of a study file that do not affect the network
_WITHOUT_EFFECT = ("name", "data", "result")
#: keys of `result` about the data, and about the machine; the others are metrics
_OF_DATA = ("classes", "images")
_OF_MAKING = ("versions", "device")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A value that differs; None if a version does not have it."""

    #: dotted name
    field: str
    before: Any
    after: Any

    @property
    def change(self) -> float | None:
        """The difference of two numbers; None for other values."""
        numbers = [value for value in (self.before, self.after) if isinstance(value, int | float) and not isinstance(value, bool)]
        return numbers[1] - numbers[0] if len(numbers) == 2 else None


@dataclass(frozen=True, kw_only=True)
class Differences:
    """All differences between two versions, in the order of their fields."""

    config: tuple[Difference, ...]
    data: tuple[Difference, ...]
    metrics: tuple[Difference, ...]
    #: origin, packages and device
    making: tuple[Difference, ...]

    @property
    def is_none(self) -> bool:
        """Whether there are no differences."""
        return not (self.config or self.data or self.metrics or self.making)


def between(first: Version, second: Version) -> Differences:
    """Return the differences from the first version to the second."""
    sides = (first, second)
    return Differences(
        config=_differences(*(_config(side) for side in sides)),
        data=_differences(*(_data(side) for side in sides)),
        metrics=tuple(each for each in _differences(*(side.model.metrics for side in sides)) if not _is_sentence(each)),
        making=_differences(*(_making(side) for side in sides)),
    )


def _differences(before: Any, after: Any) -> tuple[Difference, ...]:
    sides = wording.flatten(before), wording.flatten(after)
    names = [*sides[0], *(name for name in sides[1] if name not in sides[0])]
    found = [Difference(field=name, before=sides[0].get(name), after=sides[1].get(name)) for name in names]
    return tuple(difference for difference in found if difference.before != difference.after)


def _is_sentence(difference: Difference) -> bool:
    """Return whether the values are sentences, which only repeat other figures."""
    sides = [side if isinstance(side, list) else [side] for side in (difference.before, difference.after)]
    return any(isinstance(value, str) and " " in value for side in sides for value in side)


def _config(version: Version) -> dict[str, Any]:
    return {name: value for name, value in version.model.config.items() if name not in _WITHOUT_EFFECT}


def _data(version: Version) -> dict[str, Any]:
    model = version.model
    return dict(model.config.get("data") or {}) | {"fingerprint": model.fingerprint, "splits": model.splits} | _of_result(version, _OF_DATA)


def _making(version: Version) -> dict[str, Any]:
    model = version.model
    origin = {
        "study": model.study,
        "origin": model.origin.value,
        "trial": model.trial,
        "created_by": model.created_by,
        "sha256": model.sha256,
    }
    return origin | _of_result(version, _OF_MAKING)


def _of_result(version: Version, names: Sequence[str]) -> dict[str, Any]:
    result = version.model.config.get("result") or {}
    return {name: result[name] for name in names if name in result}
