"""Enqueue: adds a trial with given hyperparameters, which the next free worker takes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection

from tuner import wording
from tuner.errors import Problem, SpecError, StudyError
from tuner.spec import budget, space
from tuner.spec import file as study_file
from tuner.spec.conditions import MODEL_NAMES
from tuner.spec.domains import Choice, Domain, Fixed, Range
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.search import AugmentationSpace, HeadSpace
from tuner.spec.study import StudySpec
from tuner.storage import attributes, tables
from tuner.storage.attributes import REQUESTED
from tuner.storage.tables import TRIAL_SYSTEM, TRIAL_USER
from tuner.studies import claims
from tuner.studies import progress as studies_progress
from tuner.studies.study import Study
from tuner.tasks import task

#: values of parameters by their names
Requested = dict[str, Any]
_RATES = ("learning_rate", "probe_learning_rate")
_NAME_LENGTH = 100


def enqueue(study: Study, given: Mapping[str, Any], *, by: str, origin: str = "the config") -> int:
    """Add a trial with the given hyperparameters for the next claim of any worker, and return its number.

    `given` is like the section `search` of a study file, with one value per hyperparameter; the sampler chooses the others. The trial
    counts in the budget at once. In a study without trials, trial 0 (the rule) is added before it.

    Raises:
        SpecError: values are wrong or outside of the search space. It lists all mistakes and names `origin` as their source.
        StudyError: the budget is spent, the study has stopped, or its sampler tries all combinations anyway.
    """
    requested = values(study, given, origin=origin)
    if study.combinations is not None:
        message = f"the sampler {study.spec.sampler.name} tries all combinations in order; no trial can be enqueued"
        raise StudyError(f"the study {study.name}: {message}")

    def write(connection: Connection) -> int:
        tables.lock_study(connection, study.id, study.name)
        current, progress = studies_progress.read(connection, study)
        ended = budget.decide_to_end(current.spec.budget, progress)
        if ended is not None:
            raise StudyError(f"the study {study.name} trains no further trial: {ended}")
        first = 0 if progress.num_trials else 1
        full = budget.decide_to_add(current.spec.budget, progress, num_trials=progress.num_trials + first)
        if full is not None:
            raise StudyError(f"the study {study.name} cannot take another trial: {full}; raise it first")
        for number in range(progress.num_trials, progress.num_trials + first):
            put(connection, study, number, {attributes.ORIGIN: "rule"}, {})
        number = progress.num_trials + first
        put(connection, study, number, {attributes.ORIGIN: "enqueued", attributes.ENQUEUED_BY: by[:_NAME_LENGTH]}, requested)
        return number

    return study.storage.write(write)


def put(connection: Connection, study: Study, number: int, known: dict[str, Any], requested: Requested) -> None:
    """Add a waiting trial. The study must be locked, and `number` must be the number of its trials."""
    trial_id = tables.enqueue_trial(connection, study.id, number)
    tables.put(connection, TRIAL_USER, trial_id, known | {attributes.SEED: claims.seed(study, number)})
    if requested:
        tables.put(connection, TRIAL_SYSTEM, trial_id, {REQUESTED: requested})


def config_of(study: Study, content: Mapping[str, Any]) -> Any:
    """Return the config in the content of a file: the whole file, or what a study file such as an export gives in its sections.

    Of the section `model`, only what the study searches counts.
    """
    search, model = content.get("search"), content.get("model")
    if not isinstance(search, Mapping):
        return search if "search" in content else content
    searched = {row.name for row in task.spec(study.spec.task).rows(study.spec) if row.name in MODEL_NAMES}
    return {**search, **{name: value for name, value in (model.items() if isinstance(model, Mapping) else ()) if name in searched}}


def values(study: Study, given: Mapping[str, Any], *, origin: str) -> Requested:
    """Return the values of a study's parameters for a config.

    Raises:
        SpecError: the config has mistakes; the error lists all of them.
    """
    if not given:
        raise SpecError(origin, [Problem(field="", message="names no hyperparameter; expected, for example, `dropout: 0.3`")])
    if not isinstance(study.spec, StudySpec):
        return _fitted(study, given, origin)
    config = _read(study, given, origin)
    found: Requested = {}
    problems: list[Problem] = []
    for field, name, domain, value in _pairs(study.images, config, given):
        if isinstance(value, Range | Choice):
            message = "has several values; a config to enqueue has one value per hyperparameter"
            problems.append(Problem(field=field, message=message))
            continue
        pinned = _pin(name, domain, value.value)
        if pinned is None:
            expected = f"expected {space.describe(domain)}, as in the study {study.name}"
            problems.append(Problem(field=field, message=f"is {wording.show(_plain(value.value))}; {expected}"))
        else:
            found |= pinned
    if problems:
        raise SpecError(origin, list({(problem.field, problem.message): problem for problem in problems}.values()))
    _try(study, found, origin)
    return found


def _fitted(study: Study, given: Mapping[str, Any], origin: str) -> Requested:
    """Return the values of a config for user code, each checked against the study file."""
    found, reasons = task.spec(study.spec.task).fitted(given, study.spec)
    if reasons:
        raise SpecError(origin, [Problem(field="", message=reason) for reason in reasons])
    return found


def _read(study: Study, given: Mapping[str, Any], origin: str) -> StudySpec:
    """Return a config as a study of single values; mistakes are reported as for a study file."""
    plain = study.images.search.model_dump(mode="json")
    decisive = {name: plain[name] for name in ("optimizer", "loss", "probe_solver") if name not in given}
    decisive["adam_weight_decay"] = study.images.search.decays_adam
    of_model = {"backbone": study.images.model.backbones[0], "image_size": max(study.images.model.sizes)}
    file = {
        "name": study.name,
        "data": {"source": "digits"},
        "training": {"epochs": study.images.training.epochs},
        "model": of_model | {name: value for name, value in given.items() if name in MODEL_NAMES},
        "search": decisive | {name: value for name, value in given.items() if name not in MODEL_NAMES},
    }
    try:
        read = study_file.parse(file, origin)
    except SpecError as error:
        own = [Problem(field=_own_name(problem.field), message=_own_name(problem.message), line=problem.line) for problem in error.problems]
        raise SpecError(origin, own) from error
    assert isinstance(read, StudySpec)
    return read


def _own_name(text: str) -> str:
    """Return a field or a message without the sections of a study file."""
    text = text.replace("search.", "")
    for name in MODEL_NAMES:
        text = text.replace(f"model.{name}", name)
    return text


def _pairs(study: StudySpec, config: StudySpec, given: Mapping[str, Any]) -> Iterator[tuple[str, str, Domain, Domain]]:
    """Yield for each given value its field, the name of the parameter, the domain in the study, and the value."""
    for field, inner in given.items():
        if field in MODEL_NAMES:
            yield field, field, _choices(getattr(study.model, field)), _choices(getattr(config.model, field))
            continue
        in_study, in_config = getattr(study.search, field), getattr(config.search, field)
        if field in _RATES:
            chosen = inner if isinstance(inner, Mapping) else in_study
            yield from (
                (f"{field}.{optimizer.value}" if isinstance(inner, Mapping) else field, f"{field}.{optimizer}", in_study[optimizer], rate)
                for optimizer, rate in in_config.items()
                if optimizer in in_study and (optimizer in chosen or optimizer.value in chosen)
            )
        elif field == "head_units":
            yield from _pairs_of_head(in_study, in_config, inner)
        elif isinstance(in_study, AugmentationSpace):
            yield from ((f"{field}.{name}", f"{field}.{name}", getattr(in_study, name), getattr(in_config, name)) for name in inner or ())
        else:
            yield field, field, in_study, in_config


def _choices(given: Any) -> Domain:
    return Choice(values=given) if isinstance(given, tuple) else Fixed(value=given)


def _pairs_of_head(
    in_study: HeadSpace | tuple[int, ...], in_config: HeadSpace | tuple[int, ...], given: Any
) -> Iterator[tuple[str, str, Domain, Domain]]:
    if isinstance(in_study, HeadSpace) and isinstance(in_config, HeadSpace):
        if "layers" in given:
            yield "head_units.layers", "head_layers", in_study.layers, in_config.layers
        if "units" in given:
            yield from (
                ("head_units.units", f"head_units.{layer}", in_study.units, in_config.units)
                for layer in range(1, _most(in_study.layers) + 1)
            )
    elif isinstance(in_study, HeadSpace) and not isinstance(in_config, HeadSpace):
        yield "head_units", "head_layers", in_study.layers, Fixed(value=len(in_config))
        yield from (
            ("head_units", f"head_units.{layer}", in_study.units, Fixed(value=units)) for layer, units in enumerate(in_config, start=1)
        )
    else:
        yield "head_units", "head_units", Fixed(value=in_study), in_config if isinstance(in_config, Choice) else Fixed(value=in_config)


def _most(layers: Domain) -> int:
    match layers:
        case Fixed(value=value):
            return int(value)
        case Choice(values=values):
            return int(max(values))
        case Range(high=high):
            return int(high)


def _pin(name: str, domain: Domain, value: Any) -> Requested | None:
    """Return the values of parameters that give a hyperparameter its value, or None if the domain excludes the value."""
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


class _FirstChoices:
    """A chooser that takes the requested values, and the first possible value for every other parameter."""

    def __init__(self, requested: Requested) -> None:
        self._requested = requested

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None) -> float:
        return float(self._requested.get(name, math.sqrt(low * high) if log else low))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        return int(self._requested.get(name, low))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._requested.get(name, choices[0])


def _try(study: Study, requested: Requested, origin: str) -> Hyperparameters:
    """Check that the values make valid hyperparameters."""
    try:
        return space.suggest(_FirstChoices(requested), study.images.space, fine_tunes=space.fine_tunes(study.images))
    except ValidationError as error:
        raise SpecError(origin, [Problem(field="", message=str(problem["msg"])) for problem in error.errors()]) from error
