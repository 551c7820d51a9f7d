"""Claims: which trial a worker gets. A trial without a worker is resumed first, then a new one is started."""

import dataclasses
from collections.abc import Container, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError
from sqlalchemy import Connection

from tuner.errors import Dismissed, LeaseLost, UnusableTrial
from tuner.protocol import messages
from tuner.sampling import history, samplers, suggestion
from tuner.spec import budget
from tuner.spec import hyperparameters as values
from tuner.spec.budget import StudyProgress
from tuner.spec.hyperparameters import ChosenValues, Hyperparameters, TrialValues
from tuner.spec.study import AnyStudySpec, StudySpec
from tuner.storage import attributes, tables
from tuner.storage.attributes import HYPERPARAMETERS, REQUESTED
from tuner.storage.tables import STUDY_USER, TRIAL_SYSTEM, TRIAL_USER
from tuner.studies import endings, leases, planning, reaper, screening, workers
from tuner.studies import progress as studies_progress
from tuner.studies.leases import Lease, LeaseEnding, WorkerId
from tuner.studies.planning import Plan
from tuner.studies.study import Study
from tuner.studies.workers import WorkerRequest
from tuner.tasks import task

#: trials that tell which values the next one will ask for
_LAST_TRIALS = 5
_ALIVE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A worker's right to train one trial, with everything the trial needs."""

    number: int
    #: id in the database
    trial_id: int
    hyperparameters: TrialValues
    #: seed of everything random in the trial; the same for every attempt
    seed: int
    #: counted from 1
    attempt: int
    #: maximum number of fine-tuning epochs
    epochs: int
    worker_key: str
    #: name of the worker; "" in the spool of an earlier tuner
    worker: str = ""

    @property
    def of_images(self) -> Hyperparameters:
        """The hyperparameters of a trial of an image study."""
        return values.of_images(self.hyperparameters)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldTrial:
    """A trial whose lease a worker holds, before its hyperparameters are chosen."""

    number: int
    trial_id: int
    attempt: int
    #: values of parameters that an enqueued trial must use; None if it is not known whether the trial was enqueued
    requested: Mapping[str, Any] | None = None
    #: the plan of the study; None: it has none
    plan: Plan | None = None
    #: epochs of fine-tuning, if it was shortened in an earlier attempt
    epochs: int | None = None
    #: values of the model that the trial takes for the plan
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def lease(connection: Connection, study: Study, worker: WorkerId, *, proposal: Plan | None = None) -> HeldTrial | None:
    """Give a worker the lease of a trial, or return None if there is none for it. A repeated call gives the same trial.

    Other workers wait meanwhile. `proposal` becomes the plan of the study if this is its first trial.

    Raises:
        Dismissed: this worker was asked to end.
    """
    tables.lock_study(connection, study.id, study.name)
    request, requested_by = workers.request_to(connection, study.id, worker.key)
    if request is not WorkerRequest.NONE:
        raise Dismissed(f"asked to end by {requested_by}")
    stored = tables.get(connection, STUDY_USER, study.id, attributes.SPEC, *studies_progress.STORED, attributes.PLAN)
    study, progress = studies_progress.read(connection, study, stored)
    if budget.decide_to_end(study.spec.budget, progress) is not None:
        return None
    held = _take_up(connection, study, worker) or _start(connection, study, worker, progress, stored)
    if held is None:
        return None
    kept = planning.keep(connection, study, proposal, stored, num_started=progress.num_trials - progress.num_enqueued)
    return dataclasses.replace(held, plan=kept, model=planning.next_model(connection, study, kept, progress))


def choose(study: Study, held: HeldTrial, worker: WorkerId, given: dict[str, Any], rule: Mapping[str, Any]) -> TrialValues:
    """Return the hyperparameters of a trial: the stored ones; else choose them from `given` and the sampler, and store them.

    Values in `given` take precedence over the sampler's. `rule` are the values of trial 0.

    Raises:
        LeaseLost: another worker has the trial now.
        UnusableTrial: another program enqueued the trial with values that the study does not search.
    """
    requested = held.requested
    if requested is None:  # otherwise the trial has just begun
        stored, requested = study.storage.read(lambda connection: (_stored(connection, held), _requested(connection, held.trial_id)))
        if stored is not None:
            return stored
    fitting = _fitted(study, requested)
    try:
        chosen, asked = study.storage.call(lambda: _suggest(study, held, given, fitting, rule))
    except ValidationError as error:
        if not requested:
            raise
        raise UnusableTrial(_refusal([str(problem["msg"]) for problem in error.errors()])) from error

    is_repeated = False

    def write(connection: Connection) -> TrialValues:
        nonlocal is_repeated
        is_first, is_repeated = not is_repeated, True
        if not leases.hold(connection, study.id, trial_number=held.number, attempt=held.attempt, worker_key=worker.key):
            raise LeaseLost(f"trial {held.number} was given to another worker")
        # an earlier try may have stored them although its commit was not acknowledged
        if not is_first and (known := _stored(connection, held)) is not None:
            return known
        if requested:
            tables.remove_parameters(connection, held.trial_id)  # of another program, perhaps with other ranges
            if task.spec(study.spec.task).asks_while_running(study.spec):  # the code will ask for them
                tables.put(connection, TRIAL_SYSTEM, held.trial_id, {REQUESTED: requested})
        tables.put_parameters(connection, held.trial_id, asked.values, asked.distributions)
        tables.put(connection, TRIAL_SYSTEM, held.trial_id, {HYPERPARAMETERS: chosen.model_dump(mode="json")})
        study.memory.suggested = held.trial_id, asked.distributions
        return chosen

    return study.storage.write(write)


def refuse(study: Study, held: HeldTrial, worker: WorkerId, error: UnusableTrial) -> None:
    """Fail a trial that cannot be trained as it was enqueued. The study continues, however many of them there are.

    Raises:
        LeaseLost: another worker has the trial now.
    """
    failed = messages.Failed(trial=held.number, error=type(error).__name__, message=str(error))

    def write(connection: Connection) -> None:
        if leases.end(
            connection,
            study.id,
            trial_number=held.number,
            attempt=held.attempt,
            worker_key=worker.key,
            ending=LeaseEnding.FAILED,
            error=failed.error,
        ):
            endings.mark_failed(connection, study, trial_id=held.trial_id, known=endings.of_failed(failed))

    study.storage.write(write)


def rule(study: Study, *, num_train: int, num_classes: int) -> dict[str, Any]:
    """Return the values of trial 0 by the names of the parameters: the rule, which needs no search; empty if the task has no rule."""
    return task.spec(study.spec.task).rule(study.spec, num_train=num_train, num_classes=num_classes)


def plan(study: Study, held: HeldTrial, rule: dict[str, Any]) -> dict[str, Any]:
    """Return the values that a trial takes without a sampler.

    They are those of the rule for trial 0, or one combination of a grid per trial. If the study has a plan, its model is among them.
    """
    number = held.number
    if study.combinations is None:
        return {**rule, **held.model} if number == 0 else dict(held.model)
    if not rule:  # the task has none
        return dict(study.combinations[number]) if study.combinations else {}
    if rule not in study.combinations:
        return rule if number == 0 else dict(study.combinations[number]) if study.combinations else {}
    first = study.combinations.index(rule)
    return dict(study.combinations[{0: first, first: 0}.get(number, number)])


def _take_up(connection: Connection, study: Study, worker: WorkerId) -> HeldTrial | None:
    running = leases.of_running_trials(connection, study.id)
    now = tables.clock(connection) if running else 0.0
    for old in running:
        if old.worker_key == worker.key and old.ended_at is None:
            return HeldTrial(number=old.trial_number, trial_id=old.trial_id, attempt=old.attempt, epochs=_shortened(connection, old))
        if not old.is_vacant(worker, now, steady_seconds=study.storage.steady_seconds()):
            continue
        if old.ended_at is None and reaper.lose(connection, study, old):
            continue
        attempt = old.attempt + 1
        leases.grant(connection, study.id, worker, trial_number=old.trial_number, trial_id=old.trial_id, attempt=attempt)
        tables.put(connection, TRIAL_USER, old.trial_id, {attributes.WORKER: worker.name, attributes.ATTEMPTS: attempt})
        return HeldTrial(number=old.trial_number, trial_id=old.trial_id, attempt=attempt, epochs=_shortened(connection, old))
    return None


def _shortened(connection: Connection, old: Lease) -> int | None:
    return attributes.shortened(tables.get(connection, TRIAL_USER, old.trial_id, attributes.SHORTENED))


def _start(connection: Connection, study: Study, worker: WorkerId, progress: StudyProgress, stored: Mapping[str, Any]) -> HeldTrial | None:
    """Start the next trial. `stored` has what `planning.keep_pace` reads of the study's attributes."""
    if study.spec.budget.timeout is not None and (pace := planning.keep_pace(connection, study, stored)) is not None:
        progress = dataclasses.replace(progress, needed_seconds=pace.needed_seconds)
    if budget.decide(study.spec.budget, progress) is not None:
        return None
    if progress.num_enqueued:
        return _start_enqueued(connection, study, worker)
    number = progress.num_trials
    screened = screening.begin(connection, study, planning.screened(study, stored)) if number else {}
    trial_id = tables.create_trial(connection, study.id, number)
    leases.grant(connection, study.id, worker, trial_number=number, trial_id=trial_id, attempt=1)
    known = {
        attributes.ORIGIN: "rule" if number == 0 and study.is_of_images else screening.SCREENING if screened else study.spec.sampler.name,
        attributes.SEED: seed(study, number),
        attributes.WORKER: worker.name,
    }
    tables.put(connection, TRIAL_USER, trial_id, known)
    if screened:
        tables.put(connection, TRIAL_SYSTEM, trial_id, {REQUESTED: screened})
    return HeldTrial(number=number, trial_id=trial_id, attempt=1, requested=screened)


def _start_enqueued(connection: Connection, study: Study, worker: WorkerId) -> HeldTrial | None:
    found = tables.first_enqueued(connection, study.id)
    if found is None:
        return None
    trial_id, number = found
    tables.begin_trial(connection, trial_id)
    leases.grant(connection, study.id, worker, trial_number=number, trial_id=trial_id, attempt=1)
    known = tables.get(connection, TRIAL_USER, trial_id, attributes.ORIGIN, attributes.SEED)
    own = {attributes.ORIGIN: "enqueued", attributes.SEED: seed(study, number)} | known  # another program enqueues without them
    tables.put(connection, TRIAL_USER, trial_id, own | {attributes.WORKER: worker.name})
    return HeldTrial(number=number, trial_id=trial_id, attempt=1, requested=_requested(connection, trial_id))


def seed(study: Study, number: int) -> int:
    """Return the seed of a trial of this study, the same on every machine."""
    return seed_of(study.spec, number)


def seed_of(spec: AnyStudySpec, number: int) -> int:
    """Return the seed of a trial of a study file.

    A retraining lists the seeds of its trials. An exported study contains the seed of trial 0, so that it trains as the exported trial did.
    """
    again = spec.retraining
    if again is not None and number < again.num_trainings:
        return again.seeds[again.indices(number)[1]]
    exported = (spec.result or {}).get("trial_seed")
    if number == 0 and isinstance(exported, int) and 0 <= exported < 2**32:
        return exported
    return samplers.derive_seed(spec.seed, "trial", number)


def _stored(connection: Connection, held: HeldTrial) -> TrialValues | None:
    """Return the stored hyperparameters of the trial, or None if they are not chosen yet."""
    found = tables.get(connection, TRIAL_SYSTEM, held.trial_id, HYPERPARAMETERS)
    return values.parse(found[HYPERPARAMETERS]) if found else None


def _requested(connection: Connection, trial_id: int) -> dict[str, Any]:
    """Return the values of parameters that an enqueued trial must use; empty for any other trial.

    `Study.enqueue_trial` stores them as an attribute, `Study.add_trial` with a waiting trial as parameters.
    """
    return tables.parameters(connection, trial_id) | _requested_before(connection, trial_id)


def _requested_before(connection: Connection, trial_id: int) -> dict[str, Any]:
    """Return the values that a running trial was enqueued with."""
    stored = tables.get(connection, TRIAL_SYSTEM, trial_id, REQUESTED).get(REQUESTED, {})
    return stored if isinstance(stored, dict) else {REQUESTED: stored}


def _fitted(study: Study, requested: Mapping[str, Any]) -> dict[str, Any]:
    if requested and study.combinations is not None:
        raise UnusableTrial(f"the sampler {study.spec.sampler.name} tries all combinations in order; no trial can be enqueued")
    fitting, reasons = task.spec(study.spec.task).fitted(requested, study.spec)
    if reasons:
        raise UnusableTrial(_refusal(reasons))
    return fitting


def _refusal(reasons: Sequence[str]) -> str:
    return f"it was enqueued with values that this study does not search: {'; '.join(reasons)}"


def _suggest(
    study: Study, held: HeldTrial, given: Mapping[str, Any], requested: Mapping[str, Any], rule: Mapping[str, Any]
) -> tuple[TrialValues, suggestion.Suggestion]:
    """Choose by the values that were requested, then by those that are `given`, then by the sampler."""
    chosen, asked = _ask(study, held, {**given, **requested}, rule)
    if isinstance(study.spec, StudySpec) and study.spec.model.is_searched:
        assert not isinstance(chosen, ChosenValues)
        lost = study.storage.read_once(lambda connection: screening.left_out(connection, study))
        other = screening.replacement(study, chosen, requested, lost, number=held.number)
        return _ask(study, held, {**given, **requested, **other}, rule) if other else (chosen, asked)
    return chosen, asked


def open_suggestion(study: Study, number: int, trial_id: int, given: Mapping[str, Any], *, asked: str) -> suggestion.Suggestion:
    """Return a chooser that asks the sampler of a study for the values of a running trial; enqueued and `given` ones come first.

    `asked`: the first parameter for which it will be asked.
    """
    requested = study.storage.read_once(lambda connection: _requested_before(connection, trial_id))
    return _open(study, _seen(study, trial_id), number, {**given, **requested}, {}, asked=asked)


def _open(
    study: Study,
    trials: Sequence[FrozenTrial],
    number: int,
    given: Mapping[str, Any],
    rule: Mapping[str, Any],
    *,
    asked: str = "",
) -> suggestion.Suggestion:
    trial = next(trial for trial in trials if trial.number == number)
    sampler = samplers.build(study.spec, number + study.num_left, rule, asked=asked)
    reader = suggestion.open_study(study.id, study.name, study.storage.cached, trials, sampler)
    return suggestion.Suggestion(reader, trial, given)


def _ask(study: Study, held: HeldTrial, given: dict[str, Any], rule: Mapping[str, Any]) -> tuple[TrialValues, suggestion.Suggestion]:
    trials = _seen(study, held.trial_id)
    asked = _open(study, trials, held.number, given, rule)
    chosen = task.spec(study.spec.task).suggest(asked, study.spec)
    about = task.spec(study.spec.task)
    if isinstance(chosen, ChosenValues) and about.asks_while_running(study.spec):
        declared = {row.name for row in about.rows(study.spec)}
        return ChosenValues(values=chosen.values | _foreseen(asked, trials, declared)), asked
    return chosen, asked


def _foreseen(asked: suggestion.Suggestion, trials: Sequence[FrozenTrial], declared: Container[str]) -> dict[str, Any]:
    """Choose the values that a trial will probably ask for while it runs: those for which each of the last trials asked.

    They are stored with the trial before it starts, so its questions need no statement. What it does not ask for is removed at its end.
    """
    ended = [trial for trial in trials if trial.state.is_finished() and trial.distributions][-_LAST_TRIALS:]
    known = ended[-1].distributions if ended else {}
    same = {name: kind for name, kind in known.items() if all(trial.distributions.get(name) == kind for trial in ended)}
    return {name: asked.of(name, kind) for name, kind in same.items() if name not in declared}


def _seen(study: Study, trial_id: int) -> list[FrozenTrial]:
    """Return the trials that the sampler needs, including its own."""
    match samplers.required_input(study.spec):
        case samplers.SamplerInput.NOTHING:
            return [study.storage.read_once(lambda connection: history.running_trial(connection, trial_id))]
        case samplers.SamplerInput.HISTORY:
            return study.storage.read_once(
                lambda connection: study.memory.history.read(
                    connection, study.id, maximizes=study.spec.objective.maximizes, is_constrained=bool(study.spec.limits)
                )
            )
        case samplers.SamplerInput.EVERYTHING:
            return study.storage.cached.get_all_trials(study.id, deepcopy=False, states=_ALIVE)
