"""Hyperparameters of someone's own into a trial that waits for the next worker, if they lie in the study's search space."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection

from tuner import wording
from tuner.errors import Problem, SpecError, StudyError
from tuner.spec import budget, space
from tuner.spec import file as study_file
from tuner.spec.domains import Choice, Domain, Fixed, Range
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.search import AugmentationSpace, HeadSpace, SearchSpace
from tuner.storage import attributes, tables
from tuner.storage.attributes import REQUESTED
from tuner.storage.tables import TRIAL_SYSTEM, TRIAL_USER
from tuner.studies import claims
from tuner.studies import progress as studies_progress
from tuner.studies.study import Study

#: values of parameters by their names
Wanted = dict[str, Any]
_RATES = ("learning_rate", "probe_learning_rate")
_NAME_LENGTH = 100


def enqueue(study: Study, given: Mapping[str, Any], *, by: str, origin: str = "the config") -> int:
    """Have the next claim of any worker take these hyperparameters; the number of the trial. What is not given, the sampler chooses.

    `given` is what the section `search` of a study file may hold, one value each. The trial counts in the budget from now on. Where no
    trial has begun yet, trial 0, the rule, comes first.

    Raises:
        SpecError: they are wrong, or outside of what the study searches; lists all mistakes, as for a study file. `origin` names it there.
        StudyError: the budget has no room, the study has stopped, or it goes through all combinations anyway.
    """
    wanted = values(study, given, origin=origin)
    if study.combinations is not None:
        message = f"the sampler {study.spec.sampler.name} goes through all combinations of its search space; nothing can be put before them"
        raise StudyError(f"the study {study.name}: {message}")

    def write(connection: Connection) -> int:
        tables.lock_study(connection, study.id, study.name)
        current, progress = studies_progress.read(connection, study)
        ended = budget.decide_to_end(current.spec.budget, progress)
        if ended is not None:
            raise StudyError(f"the study {study.name} trains no further trial: {ended}")
        first = 0 if progress.num_trials else 1
        full = budget.decide_room(current.spec.budget, progress, num_trials=progress.num_trials + first)
        if full is not None:
            raise StudyError(f"the study {study.name} has no room for another trial: {full}; raise that first")
        for number in range(progress.num_trials, progress.num_trials + first):
            put(connection, study, number, {attributes.ORIGIN: "rule"}, {})
        number = progress.num_trials + first
        put(connection, study, number, {attributes.ORIGIN: "enqueued", attributes.ENQUEUED_BY: by[:_NAME_LENGTH]}, wanted)
        return number

    return study.storage.write(write)


def put(connection: Connection, study: Study, number: int, known: dict[str, Any], wanted: Wanted) -> None:
    """A new trial that waits, with what it is to try. The study must be locked, and `number` be the count of its trials."""
    trial_id = tables.enqueue_trial(connection, study.id, number)
    tables.put(connection, TRIAL_USER, trial_id, known | {attributes.SEED: claims.seed(study, number)})
    if wanted:
        tables.put(connection, TRIAL_SYSTEM, trial_id, {REQUESTED: wanted})


def values(study: Study, given: Mapping[str, Any], *, origin: str) -> Wanted:
    """The values of a study's parameters that a config means.

    Raises:
        SpecError: it has mistakes; all of them are in it.
    """
    if not given:
        raise SpecError(origin, [Problem(field="", message="names no hyperparameter; expected for example `dropout: 0.3`")])
    config = _read(study, given, origin)
    found: Wanted = {}
    problems: list[Problem] = []
    for field, name, domain, value in _pairs(study.spec.search, config, given):
        if isinstance(value, Range | Choice):
            message = "is searched there; a config of your own gives each hyperparameter one value"
            problems.append(Problem(field=field, message=message))
            continue
        pinned = _pin(name, domain, value.value)
        if pinned is None:
            expected = f"expected {space.what(domain)}, as the study {study.name} has it"
            problems.append(Problem(field=field, message=f"is {wording.show(_plain(value.value))}; {expected}"))
        else:
            found |= pinned
    if problems:
        raise SpecError(origin, list({(problem.field, problem.message): problem for problem in problems}.values()))
    _try(study, found, origin)
    return found


def _read(study: Study, given: Mapping[str, Any], origin: str) -> SearchSpace:
    """A config as a search space of single values, with the mistakes of a study file."""
    plain = study.spec.search.model_dump(mode="json")
    decisive = {name: plain[name] for name in ("optimizer", "loss") if name not in given}
    decisive["adam_weight_decay"] = study.spec.search.decays_adam
    file = {"name": study.name, "data": {"source": "digits"}, "training": {"epochs": study.spec.training.epochs}}
    try:
        return study_file.parse(file | {"search": decisive | dict(given)}, origin).search
    except SpecError as error:
        own = [
            Problem(field=problem.field.removeprefix("search."), message=problem.message.replace("search.", ""), line=problem.line)
            for problem in error.problems
        ]
        raise SpecError(origin, own) from error


def _pairs(searched: SearchSpace, config: SearchSpace, given: Mapping[str, Any]) -> Iterator[tuple[str, str, Domain, Domain]]:
    """Of all that is given: its field, the parameter of the study, what the study makes of it, and the value."""
    for field, inner in given.items():
        theirs, ours = getattr(searched, field), getattr(config, field)
        if field in _RATES:
            chosen = inner if isinstance(inner, Mapping) else theirs
            yield from (
                (f"{field}.{optimizer.value}" if isinstance(inner, Mapping) else field, f"{field}.{optimizer}", theirs[optimizer], rate)
                for optimizer, rate in ours.items()
                if optimizer in theirs and (optimizer in chosen or optimizer.value in chosen)
            )
        elif field == "head_units":
            yield from _pairs_of_head(theirs, ours, inner)
        elif isinstance(theirs, AugmentationSpace):
            yield from ((f"{field}.{name}", f"{field}.{name}", getattr(theirs, name), getattr(ours, name)) for name in inner or ())
        else:
            yield field, field, theirs, ours


def _pairs_of_head(
    theirs: HeadSpace | tuple[int, ...], ours: HeadSpace | tuple[int, ...], given: Any
) -> Iterator[tuple[str, str, Domain, Domain]]:
    if isinstance(theirs, HeadSpace) and isinstance(ours, HeadSpace):
        if "layers" in given:
            yield "head_units.layers", "head_layers", theirs.layers, ours.layers
        if "units" in given:
            yield from (
                ("head_units.units", f"head_units.{layer}", theirs.units, ours.units) for layer in range(1, _most(theirs.layers) + 1)
            )
    elif isinstance(theirs, HeadSpace) and not isinstance(ours, HeadSpace):
        yield "head_units", "head_layers", theirs.layers, Fixed(value=len(ours))
        yield from (("head_units", f"head_units.{layer}", theirs.units, Fixed(value=units)) for layer, units in enumerate(ours, start=1))
    else:
        yield "head_units", "head_units", Fixed(value=theirs), ours if isinstance(ours, Choice) else Fixed(value=ours)


def _most(layers: Domain) -> int:
    match layers:
        case Fixed(value=value):
            return int(value)
        case Choice(values=values):
            return int(max(values))
        case Range(high=high):
            return int(high)


def _pin(name: str, domain: Domain, value: Any) -> Wanted | None:
    """The values of parameters by which a hyperparameter takes a value; None if it never does."""
    match domain:
        case Fixed():
            return {} if _plain(domain.value) == _plain(value) else None
        case Choice(values=values):
            return {name: _plain(value)} if _plain(value) in [_plain(other) for other in values] else None
        case Range():
            if domain.off and value == 0:
                return {f"{name}.on": False}
            if not domain.low <= value <= domain.high or (domain.integer and not float(value).is_integer()):
                return None
            switch = {f"{name}.on": True} if domain.off else {}
            return switch | ({} if domain.low == domain.high else {name: value})


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return getattr(value, "value", value)


class _Stand:
    """A chooser that takes what is wanted, and the first possible value of the rest."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._wanted.get(name, math.sqrt(low * high) if log else low))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return int(self._wanted.get(name, low))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._wanted.get(name, choices[0])


def _try(study: Study, wanted: Wanted, origin: str) -> Hyperparameters:
    """Make sure that the values make hyperparameters."""
    try:
        return space.suggest(_Stand(wanted), study.spec.search, fine_tunes=space.fine_tunes(study.spec))
    except ValidationError as error:
        raise SpecError(origin, [Problem(field="", message=str(problem["msg"])) for problem in error.errors()]) from error
