"""The toy task as study files describe it: implements `tasks.task.TaskSpec`."""

from collections.abc import Mapping
from typing import Any

from tests.tasks.toy.toy_study import ToyStudySpec
from tuner.spec import space
from tuner.spec.domains import Domain, Range
from tuner.spec.hyperparameters import ChosenValues
from tuner.spec.space import Chooser, SpaceRow
from tuner.spec.study import AnyStudySpec


def rule(spec: AnyStudySpec, *, num_train: int, num_classes: int) -> dict[str, Any]:
    return {"guess": 0.0}


def suggest(chooser: Chooser, spec: AnyStudySpec) -> ChosenValues:
    return ChosenValues(values={"guess": space.choose(chooser, "guess", _domain(spec))})


def fitted(given: Mapping[str, Any], spec: AnyStudySpec) -> tuple[dict[str, Any], list[str]]:
    return space.fitted_to(given, {"guess": _domain(spec)})


def rows(spec: AnyStudySpec) -> list[SpaceRow]:
    return [SpaceRow(name="guess", what=space.describe(_domain(spec)), when="always", is_searched=True)]


def subject(spec: AnyStudySpec) -> str:
    return "a number"


def facts(spec: AnyStudySpec, epochs: int | None) -> list[tuple[str, str]]:
    return [("a trial", "one guess")]


def asks_while_running(spec: AnyStudySpec) -> bool:
    return False


def _domain(spec: AnyStudySpec) -> Domain:
    assert isinstance(spec, ToyStudySpec)
    if "guess" in spec.search:
        return spec.search["guess"].domain
    return Range(low=-spec.width, high=spec.width, log=False, integer=False, step=None)
