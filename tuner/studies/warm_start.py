"""Warm start: enqueues the best configs of an earlier study, or the config of an export, in a new study."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from tuner import wording
from tuner.errors import StudyError
from tuner.sampling import matching
from tuner.sampling.matching import MatchedParameters
from tuner.spec import budget
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.model import Model
from tuner.spec.study import StudySpec
from tuner.storage import attributes, optuna_private, queries, tables
from tuner.storage.attributes import HYPERPARAMETERS, REQUESTED, TAKEN_FROM
from tuner.storage.queries import VALUED
from tuner.storage.tables import TRIAL_SYSTEM, TRIALS
from tuner.studies import enqueue
from tuner.studies import progress as studies_progress
from tuner.studies.study import Study

#: number of configs taken from an earlier study
MOST = 3
_NAME_LENGTH = 300


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A config from an earlier study."""

    hyperparameters: Hyperparameters
    #: its origin in words: `trial 7 of flowers (0.9520)`
    origin: str
    #: the section `model` of its study; None: unknown
    model: Model | None = field(default=None, compare=False)

    @property
    def config(self) -> Hyperparameters:
        """The hyperparameters, with the backbone and the image size that its study has."""
        return self.hyperparameters if self.model is None else matching.with_model(self.hyperparameters, self.model)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Result of enqueuing an earlier config."""

    earlier: Earlier
    #: number of the trial that tries it; None if none does
    trial: int | None
    #: reason why no new trial tries it; "" if a new one does
    reason: str


def best_of(study: Study, *, most: int = MOST) -> list[Earlier]:
    """Return the best distinct configs of a study, the best first.

    Raises:
        StudyError: no trial has completed.
    """
    query = (
        queries.ranked(study.id)
        .add_columns(TRIAL_SYSTEM.c.value_json)
        .join(TRIAL_SYSTEM, TRIAL_SYSTEM.c.trial_id == VALUED.c.trial_id)
        .where(TRIAL_SYSTEM.c.key == HYPERPARAMETERS)
    )
    found: dict[Hyperparameters, Earlier] = {}
    for _, number, value, text in study.storage.read(lambda connection: connection.execute(query).all()):
        known = attributes.hyperparameters(optuna_private.decoded(text))
        if not isinstance(known, Hyperparameters):
            continue
        origin = f"trial {number} of {study.name} ({wording.figure(value)})"
        found.setdefault(known, Earlier(hyperparameters=known, origin=origin, model=study.images.model))
        if len(found) == most:
            break
    if not found:
        raise StudyError(f"the study {study.name} has no completed trial yet, so it cannot be used for a warm start")
    return list(found.values())


def of_file(spec: StudySpec, origin: str) -> Earlier:
    """Return the config of a study file with fixed values, such as `tuner export` writes.

    Raises:
        StudyError: the file searches at least one hyperparameter.
    """
    known = matching.fixed_hyperparameters(spec)
    if isinstance(known, list):
        raise StudyError(
            f"{origin} searches {', '.join(known[:3])}{' and more' if len(known) > 3 else ''}; expected fixed values, as in an export"
        )
    return Earlier(hyperparameters=known, origin=origin, model=spec.model)


def begin(study: Study, found: Sequence[Earlier], *, by: str) -> list[Taken]:
    """Enqueue the configs that fit a study and that it has not tried yet.

    The trials count in the budget. In a study without trials, trial 0 (the rule) is added before them.

    Raises:
        StudyError: the sampler of the study tries all combinations anyway.
    """
    if study.combinations is not None:
        raise StudyError(
            f"the study {study.name}: its sampler {study.spec.sampler.name} tries all combinations in order; no trial can be enqueued"
        )
    return study.storage.write(lambda connection: enqueue_in(connection, study, found, by=by))


def enqueue_in(connection: Connection, study: Study, found: Sequence[Earlier], *, by: str) -> list[Taken]:
    """Enqueue the same in a transaction of the caller; a repeated call adds nothing."""
    tables.lock_study(connection, study.id, study.name)
    current, progress = studies_progress.read(connection, study)
    ended = budget.decide_to_end(current.spec.budget, progress)
    known = _known(connection, study)
    number, taken = progress.num_trials, []
    for earlier in found:
        # it is trained again in any case, so an earlier way of training its probe does not matter
        wanted = matching.with_probe_of(earlier.config, study.images)
        fitted = matching.match(wanted, study.images)
        if isinstance(fitted, list):
            taken.append(Taken(earlier=earlier, trial=None, reason="does not fit: " + "; ".join(fitted)))
            continue
        as_here = matching.without_model(wanted, study.images)
        there = known.get(_mark(fitted.values), known.get(_mark(as_here.model_dump(mode="json"))))
        reason = ended or budget.decide_to_add(current.spec.budget, progress, num_trials=number + (0 if number else 1))
        if there is not None:
            taken.append(Taken(earlier=earlier, trial=there, reason="was tried already"))
        elif reason or not fitted.values:
            taken.append(
                Taken(
                    earlier=earlier,
                    trial=None,
                    reason=f"exceeds the budget: {reason}" if reason else "is the only config of the search space",
                )
            )
        else:
            number = _put(connection, study, number, earlier, fitted, by)
            known[_mark(fitted.values)] = number - 1
            taken.append(Taken(earlier=earlier, trial=number - 1, reason=""))
    return taken


def _put(connection: Connection, study: Study, number: int, earlier: Earlier, fitted: MatchedParameters, by: str) -> int:
    """Add a waiting trial, after the rule if there is no trial yet, and return the number of the next one."""
    if number == 0:
        enqueue.put(connection, study, 0, {attributes.ORIGIN: "rule"}, {})
        number = 1
    known = {
        attributes.ORIGIN: "enqueued",
        attributes.ENQUEUED_BY: by[:_NAME_LENGTH],
        TAKEN_FROM: earlier.origin[:_NAME_LENGTH],
    }
    enqueue.put(connection, study, number, known, dict(fitted.values))
    return number + 1


def _known(connection: Connection, study: Study) -> dict[str, int]:
    """Return the number of each trial by its requested parameters and by its hyperparameters."""
    query = (
        select(TRIALS.c.number, TRIAL_SYSTEM.c.value_json)
        .join(TRIAL_SYSTEM, TRIAL_SYSTEM.c.trial_id == TRIALS.c.trial_id)
        .where(TRIALS.c.study_id == study.id, TRIAL_SYSTEM.c.key.in_((REQUESTED, HYPERPARAMETERS)))
        .order_by(TRIALS.c.number.desc())
    )
    return {_mark(optuna_private.decoded(text)): number for number, text in connection.execute(query)}


def _mark(values: object) -> str:
    return json.dumps(values, sort_keys=True)
