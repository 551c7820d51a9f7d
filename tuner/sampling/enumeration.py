"""Enumeration: every combination of a search space, for the samplers grid and brute-force, and whether a sampler can run at all.

Imports no Optuna, because `tuner check` uses it.
"""

import importlib.util
from collections.abc import Sequence
from typing import Any, TypeVar

from tuner.errors import MissingPackage, Problem, SpecError
from tuner.spec.strategies import BruteForce, Gp, Grid
from tuner.spec.study import AnyStudySpec
from tuner.tasks import task

T = TypeVar("T")

#: limit of an exhaustive search; more combinations are a mistake
MAX_COMBINATIONS = 10_000


class _EnumeratingChooser:
    """A chooser that goes through every combination; the last parameter changes fastest."""

    def __init__(self) -> None:
        self._positions: list[int] = []
        self._sizes: list[int] = []
        self._depth = 0
        self.values: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None) -> float:
        raise AssertionError(f"{name} is a range, which a study file with this sampler cannot contain")

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        return self._next(name, range(low, high + 1, step))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._next(name, choices)

    def _next(self, name: str, values: Sequence[T]) -> T:
        if self._depth == len(self._positions):
            self._positions.append(0)
            self._sizes.append(len(values))
        value = values[self._positions[self._depth]]
        self.values[name] = value
        self._depth += 1
        return value

    def advance(self) -> bool:
        """Go to the next combination; return False after the last one."""
        while self._positions:
            self._positions[-1] += 1
            if self._positions[-1] < self._sizes[-1]:
                self._depth, self.values = 0, {}
                return True
            self._positions.pop()
            self._sizes.pop()
        return False


def combinations(spec: AnyStudySpec) -> list[dict[str, Any]] | None:
    """Return the parameters of every combination of a study's search space; None if its sampler does not try all of them.

    Raises:
        SpecError: there are too many combinations.
    """
    if not isinstance(spec.sampler, Grid | BruteForce):
        return None
    odometer = _EnumeratingChooser()
    found: list[dict[str, Any]] = []
    is_more = True
    while is_more:
        task.spec(spec.task).suggest(odometer, spec)
        found.append(odometer.values)
        if len(found) > MAX_COMBINATIONS:
            raise SpecError(spec.name, [_too_many(spec)])
        is_more = odometer.advance()
    return found


def _too_many(spec: AnyStudySpec) -> Problem:
    message = f"is {spec.sampler.name}, which would try more than {MAX_COMBINATIONS} combinations; give fewer choices, or use sampler: tpe"
    return Problem(field="sampler", message=message)


def check_sampler(spec: AnyStudySpec) -> None:
    """Check that the sampler of a study can run.

    Raises:
        MissingPackage: it needs a package that is not installed.
        SpecError: it would try too many combinations.
    """
    if isinstance(spec.sampler, Gp):
        require_torch()
    combinations(spec)


def require_torch() -> None:
    """Check that the sampler gp can run.

    Raises:
        MissingPackage: torch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingPackage("torch", extra="gp", needed_for="sampler gp")
