"""Control: stop and resume a study, change its budget, stop a trial or a worker.

Each function is one transaction. Workers read the requests from the storage. `by` is stored as the author of the request.
"""

from typing import Any

from optuna.trial import TrialState
from pydantic import ValidationError
from sqlalchemy import Connection, update

from tuner.errors import StudyError
from tuner.spec.study import Budget
from tuner.storage import epochs as epoch_rows
from tuner.storage import tables
from tuner.storage.attributes import GIVEN_BUDGET, HALTED, NUM_EPOCHS, REASON, RESUMED_AT, STOPPED, STOPPED_BY
from tuner.storage.tables import QUEUE, STUDY_USER, WORKERS
from tuner.studies import endings, leases, workers
from tuner.studies import progress as studies_progress
from tuner.studies import study as studies
from tuner.studies.leases import LeaseEnding
from tuner.studies.study import Study
from tuner.studies.workers import WorkerRequest

_NAME_LENGTH = 100


def stop(study: Study, *, by: str) -> None:
    """Stop a study: no trial starts any more, and running trials are trained to their end.

    Raises:
        StudyError: the study has stopped already.
    """

    def write(connection: Connection) -> None:
        _lock(connection, study)
        reasons = tables.get(connection, STUDY_USER, study.id, STOPPED, HALTED)
        if reasons.get(STOPPED):
            raise StudyError(f"the study {study.name} has stopped itself already: {reasons[STOPPED]}")
        if reasons.get(HALTED):
            raise StudyError(f"the study {study.name} was stopped already, by {reasons[HALTED]['by']}")
        _halt(connection, study.id, by)

    study.storage.write(write)


def suspend(study: Study, *, by: str) -> int:
    """Stop a study and suspend its running trials at the next heartbeat of their workers; return how many workers were asked.

    This also works for a stopped study that is still training.

    Raises:
        StudyError: the study was stopped already, and it has no worker.
    """

    def write(connection: Connection) -> int:
        _lock(connection, study)
        known = tables.get(connection, STUDY_USER, study.id, HALTED).get(HALTED)
        num_asked = _ask_to_suspend(connection, study.id, by)
        if known and not num_asked:
            raise StudyError(f"the study {study.name} was stopped already, by {known['by']}")
        if not known:
            _halt(connection, study.id, by)
        return num_asked

    return study.storage.write(write)


def halt(connection: Connection, study_id: int, *, by: str, now: bool) -> None:
    """Stop a study in a transaction of the caller, however it stands; `now` also suspends its running trials."""
    if not tables.get(connection, STUDY_USER, study_id, HALTED):
        _halt(connection, study_id, by)
    if now:
        _ask_to_suspend(connection, study_id, by)


def _halt(connection: Connection, study_id: int, by: str) -> None:
    tables.put(connection, STUDY_USER, study_id, {HALTED: {"by": by[:_NAME_LENGTH], "at": tables.clock(connection)}})


def _ask_to_suspend(connection: Connection, study_id: int, by: str) -> int:
    return workers.ask(connection, WorkerRequest.SUSPEND, WORKERS.c.study_id == study_id, by=by[:_NAME_LENGTH])


def resume(study: Study) -> None:
    """Resume a study that was stopped or that stopped itself. Restart workers that have ended.

    Raises:
        StudyError: it was not stopped.
    """

    def write(connection: Connection) -> None:
        _lock(connection, study)
        reasons = tables.get(connection, STUDY_USER, study.id, STOPPED, HALTED)
        if not reasons:
            raise StudyError(f"the study {study.name} was not stopped, so it cannot be resumed")
        lift(connection, study.id)
        queued = update(QUEUE).where(QUEUE.c.study_id == study.id, QUEUE.c.ended_at.is_not(None) | (QUEUE.c.state == "paused"))
        connection.execute(queued.values(state="queued", ended_at=None, message=""))

    study.storage.write(write)


def lift(connection: Connection, study_id: int) -> None:
    """Let workers train a study again, in a transaction of the caller, whatever had stopped it."""
    if tables.get(connection, STUDY_USER, study_id, STOPPED, HALTED):
        tables.remove(connection, STUDY_USER, study_id, STOPPED, HALTED)
        tables.put(connection, STUDY_USER, study_id, {RESUMED_AT: tables.clock(connection)})
        workers.withdraw_suspensions(connection, study_id)


def set_budget(study: Study, **changes: Any) -> Budget:
    """Change `trials`, `timeout` (seconds, or 1h30m) or `target`, and return the new budget; None removes a limit.

    Workers read the budget at their next claim. A later `tuner run` overwrites it only if the budget in the file has changed.

    Raises:
        StudyError: a study file may not have such a value.
    """

    def write(connection: Connection) -> Budget:
        _lock(connection, study)
        old = studies.up_to_date(connection, study).spec.budget
        new = _changed(study, old, changes)
        if new != old:
            if not tables.get(connection, STUDY_USER, study.id, GIVEN_BUDGET):
                tables.put(connection, STUDY_USER, study.id, {GIVEN_BUDGET: old.model_dump(mode="json")})
            studies.put_budget(connection, study, new)
        return new

    return study.storage.write(write)


def stop_trial(study: Study, number: int, *, by: str) -> float | None:
    """End a trial as pruned with its value so far, and return that value. Its worker stops at its next report or heartbeat.

    Raises:
        StudyError: the study has no such trial, or the trial has ended.
    """

    def write(connection: Connection) -> float | None:
        _lock(connection, study)
        trial_id, state = _trial(connection, study, number)
        if state.is_finished():
            raise StudyError(f"trial {number} of the study {study.name} has ended already: {endings.OUTCOMES[state]}")
        if state is TrialState.WAITING:
            tables.begin_trial(connection, trial_id)
        name = by[:_NAME_LENGTH]
        values = tables.intermediate_values(connection, trial_id)
        value = study.spec.value_so_far([value for _, value in sorted(values.items()) if epoch_rows.is_measured(value)])
        leases.close(connection, study.id, number, LeaseEnding.PRUNED)
        known = {REASON: f"stopped by {name}", STOPPED_BY: name, NUM_EPOCHS: len(values)}
        endings.mark_pruned(connection, study, trial_id=trial_id, value=value, known=known)
        return value

    return study.storage.write(write)


def stop_worker(study: Study, key: str, *, by: str) -> None:
    """Ask a worker, by key or name, to end after its current trial.

    Raises:
        StudyError: there is no such worker, it has ended, or several workers have that name.
    """

    def write(connection: Connection) -> None:
        _lock(connection, study)
        is_it = (WORKERS.c.worker_key == key) | (WORKERS.c.worker == key)
        present = [worker for worker in workers.read(connection, study.id) if key in (worker.key, worker.name) and worker.ended_at is None]
        if len(present) > 1:
            raise StudyError(
                f"the study {study.name} has {len(present)} workers named {key}; give the key of one, for example {present[0].key}"
            )
        if not present or not workers.ask(connection, WorkerRequest.LEAVE, WORKERS.c.study_id == study.id, is_it, by=by[:_NAME_LENGTH]):
            raise StudyError(f"the study {study.name} has no active worker {key}")

    study.storage.write(write)


def _lock(connection: Connection, study: Study) -> None:
    tables.lock_study(connection, study.id, study.name)


def _trial(connection: Connection, study: Study, number: int) -> tuple[int, TrialState]:
    found = tables.state_of(connection, study.id, number)
    if found is None:
        _, progress = studies_progress.read(connection, study)
        known = f"it has trials 0 to {progress.num_trials - 1}" if progress.num_trials else "it has none yet"
        raise StudyError(f"the study {study.name} has no trial {number}; {known}")
    return found


def _changed(study: Study, old: Budget, changes: dict[str, Any]) -> Budget:
    try:
        budget = Budget.model_validate(old.model_dump() | changes)
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False)
        field = ".".join(str(key) for key in ("budget", *first["loc"][:1]))
        message = str(first["msg"]).removeprefix("Value error, ")
        given = "" if message.startswith(("is ", "trials ")) else f"is {first['input']!r}; "
        raise StudyError(f"{study.name}: {field} {given}{message}") from error
    for clash in study.spec.model_copy(update={"budget": budget}).wrong_limits():
        raise StudyError(f"{study.name}: {clash.field} {clash.message}")
    return budget
