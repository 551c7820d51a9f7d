"""Which trial a worker gets: one that was begun and is left alone, else a new one."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

from tuner.errors import Dismissed, LeaseLost
from tuner.sampling import history, samplers, suggestion
from tuner.spec import budget, space
from tuner.spec.budget import StudyProgress
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.study import StudySpec
from tuner.storage import attributes, tables
from tuner.storage.attributes import HYPERPARAMETERS, REQUESTED
from tuner.storage.tables import TRIAL_SYSTEM, TRIAL_USER
from tuner.studies import leases, reaper, workers
from tuner.studies import progress as studies_progress
from tuner.studies.leases import WorkerId
from tuner.studies.study import Study
from tuner.studies.workers import WorkerRequest
from tuner.tasks import task

_ALIVE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """The right of a worker to one trial, with what it is to train."""

    number: int
    #: of Optuna's tables
    trial_id: int
    hyperparameters: Hyperparameters
    #: of everything random in the trial; the same at every attempt
    seed: int
    #: counted from 1
    attempt: int
    #: epochs of fine-tuning that a trial may have
    epochs: int
    worker_key: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldTrial:
    """A trial that a worker holds the lease of."""

    number: int
    trial_id: int
    attempt: int
    #: what whoever enqueued it wants it to try; None: whether someone did is not known
    wanted: Mapping[str, Any] | None = None


def lease(connection: Connection, study: Study, worker: WorkerId) -> HeldTrial | None:
    """Entitle a worker to a trial, if there is one for it, while all other workers wait. Repeating it gives the same trial.

    Raises:
        Dismissed: someone asked this worker to end.
    """
    tables.lock_study(connection, study.id, study.name)
    wish, wished_by = workers.wish(connection, study.id, worker.key)
    if wish is not WorkerRequest.NONE:
        raise Dismissed(f"asked to end by {wished_by}")
    study, progress = studies_progress.read(connection, study)
    if budget.decide_to_end(study.spec.budget, progress) is not None:
        return None
    return _take_up(connection, study, worker) or _start(connection, study, worker, progress)


def choose(study: Study, place: HeldTrial, worker: WorkerId, given: dict[str, Any]) -> Hyperparameters:
    """What the trial of a lease trains with: what is stored, else `given` and the sampler's values, stored in one go.

    Raises:
        LeaseLost: another worker has the trial now.
    """
    wanted = place.wanted
    if wanted is None:  # else the write below sees what an earlier try stored
        stored, wanted = study.storage.read(lambda connection: (_stored(connection, place), _wanted(connection, place.trial_id)))
        if stored is not None:
            return stored
    chosen, asked = study.storage.call(lambda: _suggest(study, place, {**given, **wanted}))

    def write(connection: Connection) -> Hyperparameters:
        if not leases.hold(connection, study.id, trial_number=place.number, attempt=place.attempt, worker_key=worker.key):
            raise LeaseLost(f"trial {place.number} was given to another worker")
        # they are there if the transaction is repeated because its end was not acknowledged
        known = _stored(connection, place)
        if known is not None:
            return known
        tables.put_parameters(connection, place.trial_id, asked.values, asked.distributions)
        tables.put(connection, TRIAL_SYSTEM, place.trial_id, {HYPERPARAMETERS: chosen.model_dump(mode="json")})
        return chosen

    return study.storage.write(write)


def plan(study: Study, number: int, *, num_train: int, num_classes: int) -> dict[str, Any]:
    """The values that a trial takes without a sampler: trial 0 the rule's; where all combinations are gone through, every trial its own."""
    if study.combinations is None and number > 0:
        return {}
    recipe = task.spec(task.IMAGE_CLASSIFICATION).parameters(
        num_train, num_classes, study.spec.search, fine_tunes=space.fine_tunes(study.spec)
    )
    if study.combinations is None or recipe not in study.combinations:
        return recipe if number == 0 else dict(study.combinations[number]) if study.combinations else {}
    first = study.combinations.index(recipe)
    return dict(study.combinations[{0: first, first: 0}.get(number, number)])


def _take_up(connection: Connection, study: Study, worker: WorkerId) -> HeldTrial | None:
    running = leases.of_running_trials(connection, study.id)
    now = tables.clock(connection) if running else 0.0
    for old in running:
        if old.worker_key == worker.key and old.ended_at is None:
            return HeldTrial(number=old.trial_number, trial_id=old.trial_id, attempt=old.attempt)
        if not old.is_vacant(worker, now, steady_seconds=study.storage.steady_seconds()):
            continue
        if old.ended_at is None and reaper.lose(connection, study, old):
            continue
        attempt = old.attempt + 1
        leases.grant(connection, study.id, worker, trial_number=old.trial_number, trial_id=old.trial_id, attempt=attempt)
        tables.put(connection, TRIAL_USER, old.trial_id, {attributes.WORKER: worker.name, attributes.ATTEMPTS: attempt})
        return HeldTrial(number=old.trial_number, trial_id=old.trial_id, attempt=attempt)
    return None


def _start(connection: Connection, study: Study, worker: WorkerId, progress: StudyProgress) -> HeldTrial | None:
    if budget.decide(study.spec.budget, progress) is not None:
        return None
    if progress.num_enqueued:
        return _start_enqueued(connection, study, worker)
    number = progress.num_trials
    trial_id = tables.create_trial(connection, study.id, number)
    leases.grant(connection, study.id, worker, trial_number=number, trial_id=trial_id, attempt=1)
    known = {
        attributes.ORIGIN: "rule" if number == 0 else study.spec.sampler.name,
        attributes.SEED: seed(study, number),
        attributes.WORKER: worker.name,
    }
    tables.put(connection, TRIAL_USER, trial_id, known)
    return HeldTrial(number=number, trial_id=trial_id, attempt=1, wanted={})


def _start_enqueued(connection: Connection, study: Study, worker: WorkerId) -> HeldTrial | None:
    found = tables.first_enqueued(connection, study.id)
    if found is None:
        return None
    trial_id, number = found
    tables.begin_trial(connection, trial_id)
    leases.grant(connection, study.id, worker, trial_number=number, trial_id=trial_id, attempt=1)
    tables.put(connection, TRIAL_USER, trial_id, {attributes.WORKER: worker.name})
    return HeldTrial(number=number, trial_id=trial_id, attempt=1, wanted=_wanted(connection, trial_id))


def seed(study: Study, number: int) -> int:
    """The seed of a trial that begins in this study, the same on every machine."""
    return seed_of(study.spec, number)


def seed_of(spec: StudySpec, number: int) -> int:
    """The same; a retraining says those of all, an exported study its trial 0's, so that it trains as the exported trial did."""
    again = spec.retraining
    if again is not None and number < again.num_trainings:
        return again.seeds[again.place(number)[1]]
    exported = (spec.result or {}).get("trial_seed")
    if number == 0 and isinstance(exported, int) and 0 <= exported < 2**32:
        return exported
    return samplers.derive_seed(spec.seed, "trial", number)


def _stored(connection: Connection, place: HeldTrial) -> Hyperparameters | None:
    """What the trial trains with, if that was chosen before."""
    found = tables.get(connection, TRIAL_SYSTEM, place.trial_id, HYPERPARAMETERS)
    return Hyperparameters.model_validate(found[HYPERPARAMETERS]) if found else None


def _wanted(connection: Connection, trial_id: int) -> dict[str, Any]:
    """The values of parameters that whoever enqueued the trial wants; where no one did, none."""
    return dict(tables.get(connection, TRIAL_SYSTEM, trial_id, REQUESTED).get(REQUESTED, {}))


def _suggest(study: Study, place: HeldTrial, given: dict[str, Any]) -> tuple[Hyperparameters, suggestion.Suggestion]:
    trials = _seen(study, place)
    trial = next(trial for trial in trials if trial.number == place.number)
    reader = suggestion.open_study(study.name, study.storage.cached, trials, samplers.build(study.spec, place.number + study.num_left))
    asked = suggestion.Suggestion(reader, trial, given)
    return space.suggest(asked, study.spec.search, fine_tunes=space.fine_tunes(study.spec)), asked


def _seen(study: Study, place: HeldTrial) -> list[FrozenTrial]:
    """The trials that the sampler of a trial is to see, its own among them."""
    match samplers.sight(study.spec):
        case samplers.SamplerView.NOTHING:
            return [study.storage.look(lambda connection: history.one(connection, place.trial_id))]
        case samplers.SamplerView.HISTORY:
            return study.storage.look(lambda connection: study.memory.history.read(connection, study.id))
        case samplers.SamplerView.EVERYTHING:
            return study.storage.cached.get_all_trials(study.id, deepcopy=False, states=_ALIVE)
