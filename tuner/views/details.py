"""One trial, and the failures of a study, into all that a page says of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection, select

from tuner.errors import StudyError
from tuner.protocol.messages import Epoch, Misclassified
from tuner.spec.hyperparameters import Hyperparameters
from tuner.storage import tables
from tuner.storage.tables import LEASES, STUDY_USER, TRIAL_SYSTEM, TRIAL_USER, TRIALS, VALUES
from tuner.studies import claims, endings, epochs, pictures
from tuner.studies.study import PREPARED, Study

#: trials of a kind of failure that are named
_NAMED_TRIALS = 20


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """How the best epoch did on the validation images of one class."""

    name: str
    #: images of the class
    support: int
    #: of the images that were taken for this class, the part that is of it; None: none was taken for it
    precision: float | None
    #: of the images of this class, the part that was taken for it; None: there is none
    recall: float | None
    #: harmonic mean of the two; None where one of them is
    f1: float | None


@dataclass(frozen=True, kw_only=True)
class AttemptMade:
    """One worker's time with a trial."""

    #: counted from 1
    attempt: int
    worker: str
    #: seconds since the epoch by the database's clock
    started_at: float
    #: None: it goes on
    ended_at: float | None
    #: a leases.LeaseEnding; "" while it goes on
    ending: str
    #: kind of the failure; "" if it did not fail
    error: str


@dataclass(frozen=True, kw_only=True)
class Details:
    """All that is known of one trial."""

    number: int
    #: "running", "waiting" (enqueued, not begun), "completed", "pruned" or "failed"
    state: str
    #: "rule", "enqueued", or the sampler's name
    origin: str
    #: best validation accuracy; of a running trial, so far
    value: float | None
    #: why it was pruned or failed; "" otherwise
    reason: str
    #: kind of the failure; "" if it did not fail
    error: str
    #: last lines of the trainer's log; "" if it did not fail
    log: str
    #: None until they are chosen
    hyperparameters: Hyperparameters | None
    #: values of the searched parameters, by name
    parameters: Mapping[str, Any]
    #: as measured, in order; fine-tuning follows the probe
    curve: Sequence[Epoch]
    #: names of the classes; () until a trainer has read the images
    classes: Sequence[str]
    #: rows: true class, columns: predicted class, of the best epoch; () where it is not known
    confusion: Sequence[Sequence[int]]
    #: in the order of `classes`; () where the confusion is not known
    scores: Sequence[ClassScore]
    #: the most confident first; in the picture sheet in the same order, row by row
    mistakes: Sequence[Misclassified]
    #: id of each picture in the artifact store, by `messages.PictureKind`; only the best few trials have some
    pictures: Mapping[str, str]
    attempts: Sequence[AttemptMade]
    #: everything else that optuna-dashboard shows: seed, worker, device, seconds, best_epoch, probe_accuracy, promoted, test, …
    attributes: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class FailureGroup:
    """Trials that failed alike."""

    #: kind
    error: str
    count: int
    #: the latest first, the first few
    trials: Sequence[int]
    #: of the latest one
    message: str
    #: last lines of the trainer's log, of the latest one; "" where there is none
    log: str


def of_trial(study: Study, number: int) -> Details:
    """All that is known of a trial.

    Raises:
        StudyError: there is no such trial.
    """
    return study.storage.read(lambda connection: _read(connection, study, number))


def failures(study: Study) -> list[FailureGroup]:
    """The failed trials of a study by kind, the most frequent kind first."""
    return study.storage.read(lambda connection: _failures(connection, study.id))


def scores(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> list[ClassScore]:
    """Precision, recall and F1 of each class."""
    found = []
    for place, (name, row) in enumerate(zip(classes, confusion, strict=True)):
        hits, support, taken = row[place], sum(row), sum(other[place] for other in confusion)
        precision = hits / taken if taken else None
        recall = hits / support if support else None
        f1 = 2 * hits / (support + taken) if support and taken else None
        found.append(ClassScore(name=name, support=support, precision=precision, recall=recall, f1=f1))
    return found


def _read(connection: Connection, study: Study, number: int) -> Details:
    found = tables.state_of(connection, study.id, number)
    if found is None:
        raise StudyError(f"the study {study.name} has no trial {number}")
    trial_id, state = found
    user = tables.all_of(connection, TRIAL_USER, trial_id)
    system = tables.get(connection, TRIAL_SYSTEM, trial_id, *_SYSTEM)
    prepared = tables.get(connection, STUDY_USER, study.id, PREPARED).get(PREPARED) or {}
    classes, confusion = prepared.get("classes", ()), system.get(endings.CONFUSION, ())
    stored = system.get(claims.HYPERPARAMETERS)
    return Details(
        number=number,
        state=_STATES[state],
        origin=str(user.pop("origin", "")),
        value=_value(connection, trial_id, state),
        reason=str(user.pop("reason", user.pop("message", ""))),
        error=str(user.pop("error", "")),
        log=str(system.get(endings.LOG, "")),
        hyperparameters=None if stored is None else Hyperparameters.model_validate(stored),
        parameters=tables.parameters(connection, trial_id),
        curve=epochs.read(connection, study, number),
        classes=classes,
        confusion=confusion,
        scores=scores(classes, confusion) if len(classes) == len(confusion) else (),
        mistakes=[Misclassified.model_validate(mistake) for mistake in system.get(endings.MISTAKES, ())],
        pictures=system.get(pictures.PICTURES, {}),
        attempts=_attempts(connection, study.id, number),
        attributes=user,
    )


_SYSTEM = (claims.HYPERPARAMETERS, endings.CONFUSION, endings.MISTAKES, endings.LOG, pictures.PICTURES)
_STATES = endings.OUTCOMES | {TrialState.RUNNING: "running", TrialState.WAITING: "waiting"}


def _value(connection: Connection, trial_id: int, state: TrialState) -> float | None:
    if not state.is_finished():
        return max(tables.intermediate_values(connection, trial_id).values(), default=None)
    value: float | None = connection.execute(select(VALUES.c.value).where(VALUES.c.trial_id == trial_id)).scalar_one_or_none()
    return value


def _attempts(connection: Connection, study_id: int, number: int) -> list[AttemptMade]:
    query = select(LEASES).where(LEASES.c.study_id == study_id, LEASES.c.trial_number == number).order_by(LEASES.c.attempt)
    names = AttemptMade.__dataclass_fields__
    return [AttemptMade(**{name: row[name] for name in names}) for row in connection.execute(query).mappings()]


def _failures(connection: Connection, study_id: int) -> list[FailureGroup]:
    attribute = TRIAL_USER.c
    query = (
        select(TRIALS.c.number, TRIALS.c.trial_id, attribute.key, attribute.value_json)
        .join(TRIAL_USER, attribute.trial_id == TRIALS.c.trial_id)
        .where(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.FAIL, attribute.key.in_(("error", "message")))
    )
    known: dict[int, dict[str, Any]] = {}
    for number, trial_id, key, text in connection.execute(query):
        known.setdefault(number, {"trial_id": trial_id})[key] = json.loads(text)
    kinds: dict[str, list[int]] = {}
    for number in sorted(known, reverse=True):
        kinds.setdefault(str(known[number].get("error", "")), []).append(number)
    return [
        FailureGroup(
            error=error,
            count=len(numbers),
            trials=numbers[:_NAMED_TRIALS],
            message=str(known[numbers[0]].get("message", "")),
            log=str(tables.get(connection, TRIAL_SYSTEM, known[numbers[0]]["trial_id"], endings.LOG).get(endings.LOG, "")),
        )
        for error, numbers in sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    ]
