"""A search space of choices into all its combinations, conditional ones counted once.

What the sampler of a study needs, checked before anything is written; nothing heavy is imported for it.
"""

import importlib.util
from collections.abc import Sequence
from typing import Any, TypeVar

from tuner.errors import MissingPackage, Problem, SpecError
from tuner.spec import space
from tuner.spec.strategies import BruteForce, Gp, Grid
from tuner.spec.study import StudySpec

T = TypeVar("T")

#: more than anyone trains; beyond it an exhaustive search is a mistake
MAX_COMBINATIONS = 10_000


class _Odometer:
    """A chooser that goes through every combination: the last parameter turns fastest."""

    def __init__(self) -> None:
        self._positions: list[int] = []
        self._sizes: list[int] = []
        self._depth = 0
        self.values: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        raise AssertionError(f"{name} is a range, which a study file with this sampler may not have")

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return self._turn(name, range(low, high + 1))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._turn(name, choices)

    def _turn(self, name: str, values: Sequence[T]) -> T:
        if self._depth == len(self._positions):
            self._positions.append(0)
            self._sizes.append(len(values))
        value = values[self._positions[self._depth]]
        self.values[name] = value
        self._depth += 1
        return value

    def advance(self) -> bool:
        """Go to the next combination; False after the last."""
        while self._positions:
            self._positions[-1] += 1
            if self._positions[-1] < self._sizes[-1]:
                self._depth, self.values = 0, {}
                return True
            self._positions.pop()
            self._sizes.pop()
        return False


def combinations(spec: StudySpec) -> list[dict[str, Any]] | None:
    """The parameters of every combination of a study's space, in an order of its own; None where the sampler does not go through them.

    Raises:
        SpecError: there are too many.
    """
    if not isinstance(spec.sampler, Grid | BruteForce):
        return None
    odometer = _Odometer()
    found: list[dict[str, Any]] = []
    is_more = True
    while is_more:
        space.suggest(odometer, spec.search, fine_tunes=space.fine_tunes(spec))
        found.append(odometer.values)
        if len(found) > MAX_COMBINATIONS:
            raise SpecError(spec.name, [_too_many(spec)])
        is_more = odometer.advance()
    return found


def _too_many(spec: StudySpec) -> Problem:
    message = f"is {spec.sampler.name}, which would try more than {MAX_COMBINATIONS} combinations; name fewer choices, or take sampler tpe"
    return Problem(field="sampler", message=message)


def check(spec: StudySpec) -> None:
    """Refuse a sampler that cannot work.

    Raises:
        MissingPackage: it needs a package that is not installed.
        SpecError: it cannot go through this search space.
    """
    if isinstance(spec.sampler, Gp):
        require_torch()
    combinations(spec)


def require_torch() -> None:
    """Refuse the sampler gp where it cannot run.

    Raises:
        MissingPackage: torch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingPackage("torch", extra="gp", needed_for="sampler gp")
