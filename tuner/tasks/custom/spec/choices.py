"""User code as study files describe it: implements `tasks.task.TaskSpec` for the tasks custom and objective."""

from collections.abc import Mapping
from typing import Any

from tuner import wording
from tuner.spec import domains, space
from tuner.spec.domains import Domain, Fixed
from tuner.spec.hyperparameters import ChosenValues
from tuner.spec.space import Chooser, SpaceRow
from tuner.spec.study import AnyStudySpec
from tuner.tasks.custom.spec.custom_study import CustomStudySpec, Declared, ObjectiveStudySpec


def rule(spec: AnyStudySpec, *, num_train: int, num_classes: int) -> dict[str, Any]:
    """Return nothing: user code has no rule for trial 0."""
    return {}


def suggest(chooser: Chooser, spec: AnyStudySpec) -> ChosenValues:
    """Return the values of the declared hyperparameters that act; the code may ask for others while it runs."""
    chosen: dict[str, Any] = {}
    for name, declared in _declared(spec).items():
        if all(other in chosen and _is_among(chosen[other], values) for other, values in declared.when.items()):
            chosen[name] = space.choose(chooser, name, declared.domain)
    return ChosenValues(values=chosen)


def _is_among(value: Any, values: tuple[Any, ...]) -> bool:
    return any(domains.is_same(value, other) for other in values)


def fitted(given: Mapping[str, Any], spec: AnyStudySpec) -> tuple[dict[str, Any], list[str]]:
    """Return values of parameters as a trial of the study takes them, and the reasons why others do not fit.

    A value that the study file does not name is taken as it is: only the code knows what it asks for.
    """
    domains = {name: declared.domain for name, declared in _declared(spec).items()}
    known = {name: value for name, value in given.items() if name in domains}
    values, reasons = space.fitted_to(known, domains)
    others = {name: value for name, value in given.items() if name not in domains}
    odd = [name for name, value in others.items() if not (value is None or isinstance(value, bool | int | float | str))]
    reasons += [f"{name} is {wording.show(others[name])}; expected a number, text, true, false or null" for name in odd]
    return values | {name: value for name, value in others.items() if name not in odd}, reasons


def rows(spec: AnyStudySpec) -> list[SpaceRow]:
    """Return a row for each declared hyperparameter."""
    return [
        SpaceRow(name=name, what=_what(declared.domain), when=_when(declared), is_searched=not isinstance(declared.domain, Fixed))
        for name, declared in _declared(spec).items()
    ]


def _what(domain: Domain) -> str:
    return space.describe(domain)


def _when(declared: Declared) -> str:
    words = [f"{name} is {' or '.join(wording.value(value) for value in values)}" for name, values in declared.when.items()]
    return " and ".join(words) or "always"


def subject(spec: AnyStudySpec) -> str:
    """Return the functions that the study runs."""
    return spec.function if isinstance(spec, ObjectiveStudySpec) else wording.listed(name for _, name in spec.named_code())


def facts(spec: AnyStudySpec, epochs: int | None) -> list[tuple[str, str]]:
    """Return the functions that the study runs, and how it trains, in words."""
    if isinstance(spec, ObjectiveStudySpec):
        count = spec.training.executions
        calls = "a call" if count == 1 else f"{count} calls with different seeds"
        return [("a trial", f"{calls} of {spec.function}")]
    assert isinstance(spec, CustomStudySpec)
    training = spec.training
    stopping = (
        "" if training.early_stopping is None else f", or {wording.count(training.early_stopping.patience, 'epoch')} without improvement"
    )
    several = f", {training.executions} times with different seeds" if training.executions > 1 else ""
    if spec.num_folds > 1:
        several = f", for each of {spec.num_folds} folds"
    length = wording.count(training.epochs, "epoch")
    limits = [("constraints", wording.listed(f"{name} at most {wording.number(limit)}" for name, limit in spec.limits.items()))]
    known = [("model", spec.model.build), ("data", spec.data.load), ("a trial", f"{length}{stopping}{several}")]
    return known + (limits if spec.limits else [])


def asks_while_running(spec: AnyStudySpec) -> bool:
    """Return whether the trainer may ask for values while a trial runs; not if the sampler tries every combination of the file."""
    return spec.sampler.name not in ("grid", "brute-force")


def _declared(spec: AnyStudySpec) -> Mapping[str, Declared]:
    assert isinstance(spec, CustomStudySpec | ObjectiveStudySpec), f"a study of the task {spec.task} is not one of user code"
    return spec.search
