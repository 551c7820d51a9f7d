"""Differences: how two versions differ in config, data, metrics and origin."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
        metrics=tuple(each for each in _differences(*(side.kept.metrics for side in sides)) if not _is_sentence(each)),
        making=_differences(*(_making(side) for side in sides)),
    )


def flat(values: Any, field: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested values with dotted names; mappings in a list are named by their `name` or position, other lists stay whole."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from flat(value, f"{field}.{name}" if field else str(name))
    elif isinstance(values, Sequence) and not isinstance(values, str) and any(isinstance(value, Mapping) for value in values):
        for place, value in enumerate(values):
            name = value.get("name", place) if isinstance(value, Mapping) else place
            yield from flat(value, f"{field}.{name}")
    else:
        yield field, list(values) if isinstance(values, tuple) else values


def _differences(before: Any, after: Any) -> tuple[Difference, ...]:
    sides = dict(flat(before)), dict(flat(after))
    names = [*sides[0], *(name for name in sides[1] if name not in sides[0])]
    found = [Difference(field=name, before=sides[0].get(name), after=sides[1].get(name)) for name in names]
    return tuple(difference for difference in found if difference.before != difference.after)


def _is_sentence(difference: Difference) -> bool:
    """Return whether the values are sentences, which only repeat other figures."""
    sides = [side if isinstance(side, list) else [side] for side in (difference.before, difference.after)]
    return any(isinstance(value, str) and " " in value for side in sides for value in side)


def _config(version: Version) -> dict[str, Any]:
    return {name: value for name, value in version.kept.config.items() if name not in _WITHOUT_EFFECT}


def _data(version: Version) -> dict[str, Any]:
    kept = version.kept
    return dict(kept.config.get("data") or {}) | {"fingerprint": kept.fingerprint, "splits": kept.splits} | _of_result(version, _OF_DATA)


def _making(version: Version) -> dict[str, Any]:
    kept = version.kept
    origin = {"study": kept.study, "origin": kept.origin.value, "trial": kept.trial, "created_by": kept.created_by, "sha256": kept.sha256}
    return origin | _of_result(version, _OF_MAKING)


def _of_result(version: Version, names: Sequence[str]) -> dict[str, Any]:
    result = version.kept.config.get("result") or {}
    return {name: result[name] for name in names if name in result}
