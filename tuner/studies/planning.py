"""Planning: how a study divides its time among models, epochs and trials, and which trials can still end in time.

A plan is decided once, before the first trial of a study with a timeout, and stored; all workers use it. It is decided from the estimated
cost of each model. The pace is what the trials of the study took since. From it a study decides which probes still have time for their
fine-tuning, and when no trial has.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Connection

from tuner import machine, wording
from tuner.protocol import messages
from tuner.sampling.history import TimedTrial
from tuner.spec import budget, space
from tuner.spec.budget import MARGIN, WANTED_TRIALS, StudyProgress
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.model import TrialModel
from tuner.spec.study import AnyStudySpec, StudySpec
from tuner.storage import tables
from tuner.storage.attributes import PACE, PLAN, PREPARED
from tuner.storage.tables import STUDY_USER
from tuner.studies import leases, screening
from tuner.studies.screening import Key
from tuner.studies.study import Study
from tuner.tasks.images.spec import cost, recipe
from tuner.tasks.images.spec.cost import Cost, DataSize

#: maximum fraction of the time for probes
PROBE_SHARE = 0.25
#: fraction of the time that a plan leaves for probes, if the fine-tunings could take it
_RESERVE = 0.1
#: minimum fraction of the usual number of epochs, before a plan takes smaller images instead
_PLANNED_PART = 2 / 3
#: maximum fraction of the time for the probes of other backbones
_SCREENING_SHARE = 0.05
#: minimum fraction of the planned epochs that a shortened trial has
_SHORTENED_PART = 1 / 2
#: fewest epochs that a plan chooses
_FEWEST_EPOCHS = 4


class _Stored(BaseModel):
    """What a study stores about its time."""

    model_config = ConfigDict(frozen=True)

    @classmethod
    def understood(cls, stored: Any) -> Self | None:
        """Return a stored value; None if there is none, or if another program wrote it."""
        try:
            return None if stored is None else cls.model_validate(stored)
        except ValidationError:
            return None


class Plan(_Stored):
    """The model and the number of epochs of a study's trials, and what that was expected to take."""

    #: the model of the trials that choose one
    backbone: str
    image_size: int
    #: epochs of fine-tuning, and how many they are without a plan
    epochs: int
    usual_epochs: int
    #: seconds that the plan divides
    timeout: float
    #: expected seconds of a probe and of a fine-tuning of the whole backbone
    probe_seconds: float
    fine_tune_seconds: float
    #: number of fine-tunings that are expected to fit
    num_fine_tuned: int
    #: whether the speed of this machine was measured
    is_measured: bool = False
    #: backbone and image size of the models that are screened; None: a plan of an earlier tuner, which screens all
    screened: tuple[Key, ...] | None = None

    @property
    def words(self) -> str:
        """The plan in words."""
        epochs = wording.count(self.epochs, "epoch") + ("" if self.epochs == self.usual_epochs else f" instead of {self.usual_epochs}")
        length = f"about {wording.duration(self.fine_tune_seconds)} a fine-tuned trial"
        fit = f"{self.num_fine_tuned} of them fit into {wording.duration(self.timeout)}"
        return f"{self.backbone} at {self.image_size} pixels, {epochs}, {length}, {fit}"


class Pace(_Stored):
    """How long the trials of a study took so far."""

    num_fine_tuned: int
    #: mean seconds of a probe, and of the fine-tuning of a trial that was not pruned
    probe_seconds: float
    fine_tune_seconds: float
    #: seconds that a further trial takes at least: shortened, on the fastest worker, with a margin
    needed_seconds: float

    @property
    def words(self) -> str:
        """The pace in words."""
        trials = wording.count(self.num_fine_tuned, "fine-tuned trial")
        return f"{trials}, {wording.duration(self.fine_tune_seconds)} each; a probe took {wording.duration(self.probe_seconds)}"


#: attributes of a study that `told` reads
TOLD = (PLAN, PACE)


def told(stored: Mapping[str, Any], *, timeout: float | None, busy_seconds: float) -> list[tuple[str, str]]:
    """Return what was planned and what became of it, as pairs of a name and a text; empty without a timeout and a plan."""
    plan, found = Plan.understood(stored.get(PLAN)), Pace.understood(stored.get(PACE))
    rows = [] if plan is None else [("time plan", plan.words)]
    if timeout is not None and found is not None:
        left = timeout - busy_seconds
        rest = f"{wording.duration(left)} left" if left >= 0 else f"{wording.duration(-left)} over"
        rows.append(("so far", f"{found.words}; {rest} of {wording.duration(timeout)}"))
    return rows


def propose(spec: AnyStudySpec, prepared: messages.Prepared) -> Plan | None:
    """Return the plan of a study, given what its first trainer found; None if there is nothing to plan."""
    if not isinstance(spec, StudySpec):
        return None
    return choose(
        spec,
        num_train=prepared.num_train,
        num_validation=prepared.num_validation,
        usual_epochs=prepared.epochs,
        image_seconds=prepared.image_seconds,
    )


def choose(spec: StudySpec, *, num_train: int, num_validation: int, usual_epochs: int, image_seconds: float | None = None) -> Plan | None:
    """Return the plan of a study with a timeout; None if there is nothing to plan.

    It takes the largest images, with the usual epochs or at least two thirds of them, with which WANTED_TRIALS fine-tunings fit; if they
    fit with no size, the largest with which two or one fit. Of several backbones it takes the first that the file lists, as trial 0 does,
    unless only another one is fast enough. `image_seconds` is the measured time of one image in the model of trial 0.
    """
    timeout = spec.budget.timeout
    if timeout is None or usual_epochs == 0 or spec.retraining is not None:
        return None
    core_seconds = None if image_seconds is None else image_seconds / (cost.relative(recipe.chosen_model(spec)) * 1e9)

    def estimate(model: TrialModel, epochs: int) -> Cost:
        size = DataSize(num_train=num_train, num_validation=num_validation, epochs=epochs)
        return cost.of_model(spec, model, size, num_cores=machine.num_cores(), seconds_a_multiply_add=core_seconds)

    model, epochs = _choice(spec, estimate, timeout, usual_epochs)
    found = estimate(model, epochs)
    fitting = _num_that_fit(found, timeout)
    num_fine_tuned = max(1, min(fitting, spec.budget.trials or fitting))
    return Plan(
        backbone=model.backbone,
        image_size=model.image_size,
        epochs=epochs,
        usual_epochs=usual_epochs,
        timeout=timeout,
        probe_seconds=round(found.probe_seconds, 3),
        fine_tune_seconds=round(found.fine_tune_seconds, 3),
        num_fine_tuned=num_fine_tuned,
        is_measured=image_seconds is not None,
        screened=_worth_screening(spec, model, lambda other: estimate(other, epochs), timeout, wanted=min(WANTED_TRIALS, num_fine_tuned)),
    )


def _choice(spec: StudySpec, estimate: Callable[[TrialModel, int], Cost], timeout: float, usual_epochs: int) -> tuple[TrialModel, int]:
    models = [
        spec.model.fixed(backbone, size).of_trial() for backbone in spec.model.backbones for size in sorted(spec.model.sizes, reverse=True)
    ]
    fewest = usual_epochs
    if spec.training.epochs == "auto":
        fewest = max(min(usual_epochs, _FEWEST_EPOCHS), math.ceil(_PLANNED_PART * usual_epochs))
    for wanted in range(min(WANTED_TRIALS, spec.budget.trials or WANTED_TRIALS), 0, -1):
        for model in models:
            for epochs in range(usual_epochs, fewest - 1, -1):
                if _num_that_fit(estimate(model, epochs), timeout) >= wanted:
                    return model, epochs
    return min(models, key=cost.relative), fewest


def _worth_screening(
    spec: StudySpec, planned: TrialModel, estimate: Callable[[TrialModel], Cost], timeout: float, *, wanted: int
) -> tuple[Key, ...]:
    """Return the other backbones at the planned size of which `wanted` fine-tunings fit, while their probes take little of the time."""
    found, left = [], _SCREENING_SHARE * timeout
    for backbone in spec.model.backbones if space.is_screened(spec) else ():
        model = spec.model.fixed(backbone, planned.image_size).of_trial()
        expected = estimate(model)
        seconds = expected.prepare_seconds + expected.probe_seconds
        if screening.key(model) != screening.key(planned) and _num_that_fit(expected, timeout) >= wanted and seconds <= left:
            found.append(screening.key(model))
            left -= seconds
    return tuple(found)


def _num_that_fit(found: Cost, timeout: float) -> int:
    """Return how many fine-tunings fit, with some time for probes."""
    return max(0, math.floor(((1 - _RESERVE) * timeout - found.prepare_seconds) / (MARGIN * found.fine_tune_seconds)))


def screened(study: Study, stored: Mapping[str, Any]) -> tuple[Key, ...] | None:
    """Return the models that a study screens for its plan, which is among the `stored` attributes; None if it has none, and screens all."""
    is_planned = study.searches_models and study.spec.budget.timeout is not None
    plan = Plan.understood(stored.get(PLAN)) if is_planned else None
    return None if plan is None else plan.screened


def _understood(connection: Connection, study: Study, stored: Mapping[str, Any]) -> Plan | None:
    """Return the plan among stored attributes, as it is after the screening."""
    plan = Plan.understood(stored.get(PLAN))
    return None if plan is None else _after_screening(connection, study, plan)


def _after_screening(connection: Connection, study: Study, plan: Plan) -> Plan:
    """Return a plan as it is after the screening: if its backbone is left out at its size, with the one that has won there."""
    winner = screening.winner(connection, study, (plan.backbone, plan.image_size)) if study.searches_models else None
    if winner is None:
        return plan
    old, new = (cost.relative(study.images.model.fixed(backbone, plan.image_size).of_trial()) for backbone in (plan.backbone, winner))
    return plan.model_copy(update={"backbone": winner, "fine_tune_seconds": plan.fine_tune_seconds * new / old})


def keep(connection: Connection, study: Study, proposal: Plan | None, stored: Mapping[str, Any], *, num_started: int) -> Plan | None:
    """Return the plan of a study, which must be locked; a study without a trial takes the proposal. `stored` has the attribute PLAN."""
    if not study.is_of_images:
        return None
    known = Plan.understood(stored.get(PLAN))
    if known is not None or proposal is None or num_started or study.spec.budget.timeout is None:
        return known
    found = tables.get(connection, STUDY_USER, study.id, PREPARED)
    tables.put(connection, STUDY_USER, study.id, {PLAN: proposal.model_dump(mode="json")})
    if isinstance(prepared := found.get(PREPARED), Mapping):  # exports and retrainings take the number of epochs from here
        tables.put(connection, STUDY_USER, study.id, {PREPARED: {**prepared, "epochs": proposal.epochs}})
    return proposal


def next_model(connection: Connection, study: Study, plan: Plan | None, progress: StudyProgress) -> dict[str, Any]:
    """Return the values of the next trial's model, if the study has a plan and searches them. `study` must be locked.

    It is the planned model, unless trials took so long that too few of it fit into the time that is left.
    """
    if plan is None or (plan.backbone, plan.image_size) not in {screening.key(model) for model in study.images.model.combinations()}:
        return {}
    plan = _after_screening(connection, study, plan)
    model, left = None, budget.seconds_left(study.spec.budget, progress)
    if left is not None and len(models_of(plan, study.images)) > 1:
        study.memory.measured.read(connection, study.id)
        timed = list(study.memory.measured.times.values())
        num_promoted = sum(went_on for _, went_on in study.memory.measured.probes.values())
        num_workers = max(1, sum(lease.ended_at is None for lease in leases.of_running_trials(connection, study.id)))
        wanted = math.ceil((WANTED_TRIALS - num_promoted) / num_workers)
        model = fitting_model(study.images, timed, plan, left_seconds=left, wanted=max(1, wanted)) if timed else None
    model = model or models_of(plan, study.images)[0]
    choices = {"backbone": study.images.model.backbones, "image_size": study.images.model.sizes}
    return {name: getattr(model, name) for name, values in choices.items() if len(values) > 1}


def fitting_model(spec: StudySpec, timed: Sequence[TimedTrial], plan: Plan, *, left_seconds: float, wanted: int) -> TrialModel:
    """Return the largest of a plan's models of which `wanted` trials fit into the time that is left, else fewer, else the smallest.

    A single trial fits if it can be shortened.
    """
    for number in range(wanted, 0, -1):
        epochs = plan.epochs if number > 1 else _fewest_if_shortened(spec, plan.epochs)
        for model in models_of(plan, spec):
            found = duration(spec, timed, plan, model=model, unfreeze=1.0, epochs=epochs, worker=None)
            if found is not None and number * found.needed_seconds <= left_seconds:
                return model
    return models_of(plan, spec)[-1]


def models_of(plan: Plan | None, spec: StudySpec) -> list[TrialModel]:
    """Return the models that trials may take: that of the plan, then the smaller sizes of its backbone; without a plan, all."""
    if plan is None or (plan.backbone, plan.image_size) not in {screening.key(model) for model in spec.model.combinations()}:
        return list(spec.model.combinations())
    sizes = sorted((size for size in spec.model.sizes if size <= plan.image_size), reverse=True)
    return [spec.model.fixed(plan.backbone, size).of_trial() for size in sizes]


@dataclass(frozen=True, kw_only=True)
class Duration:
    """How long a trial takes."""

    probe_seconds: float
    fine_tune_seconds: float
    #: epochs of that fine-tuning
    epochs: int

    def of(self, epochs: int) -> "Duration":
        """Return the duration with another number of epochs."""
        return Duration(probe_seconds=self.probe_seconds, fine_tune_seconds=self.fine_tune_seconds * epochs / self.epochs, epochs=epochs)

    @property
    def needed_seconds(self) -> float:
        """Seconds of the whole trial, with a margin."""
        return self.probe_seconds + MARGIN * self.fine_tune_seconds


def epochs_that_fit(spec: StudySpec, expected: Duration, left_seconds: float) -> int | None:
    """Return how many epochs of a fine-tuning can end in time; None if they are too few."""
    fitting = math.floor(left_seconds / (MARGIN * expected.fine_tune_seconds) * expected.epochs + 1e-9)
    return min(fitting, expected.epochs) if fitting >= _fewest_if_shortened(spec, expected.epochs) else None


def _fewest_if_shortened(spec: StudySpec, epochs: int) -> int:
    """Return the fewest epochs that a trial may have if there is no time for `epochs`."""
    return max(min(epochs, _FEWEST_EPOCHS), math.ceil(_SHORTENED_PART * epochs)) if spec.training.epochs == "auto" else epochs


def duration(
    spec: StudySpec, timed: Sequence[TimedTrial], plan: Plan | None, *, model: TrialModel, unfreeze: float, epochs: int, worker: str | None
) -> Duration | None:
    """Return how long a trial of a model takes on a worker, by what trials took so far; None if nothing is known.

    It takes the trials of this model on this worker; without any, those on all workers; then those of other models, whose times grow with
    the operations of the model; then the plan. `worker` None: on any.
    """
    trials = [trial for trial in timed if _is_tuned(spec, trial)]
    own = [trial for trial in trials if _model(spec, trial) == screening.key(model)]
    used = [trial for trial in own if trial.worker == worker] or own or trials
    work = cost.relative(model)
    if used:
        # the slowest of the latest three, because the first one of a kind is traced, and a busy machine is slow for a while
        seconds = max(_epoch_seconds(spec, trial, work) for trial in used[-3:])
        probe = sum(trial.probe_seconds for trial in used) / len(used)
        length = epochs * spec.num_trainings
        return Duration(probe_seconds=probe, fine_tune_seconds=seconds * length * _part(unfreeze), epochs=epochs)
    if plan is None:
        return None
    planned = spec.model.fixed(plan.backbone, plan.image_size).of_trial()
    factor = work / cost.relative(planned) * epochs / plan.epochs
    fine_tune_seconds = plan.fine_tune_seconds * factor * _part(unfreeze)
    return Duration(probe_seconds=plan.probe_seconds, fine_tune_seconds=fine_tune_seconds, epochs=epochs)


def _num_tuned(spec: StudySpec, trial: TimedTrial) -> int:
    """Return the number of epochs of fine-tuning of a trial, over all its trainings."""
    return trial.num_epochs - (1 if trial.is_probed_exactly else spec.training.probe_epochs)


def _is_tuned(spec: StudySpec, trial: TimedTrial) -> bool:
    return _num_tuned(spec, trial) > 0 and trial.fine_tune_seconds > 0


def _epoch_seconds(spec: StudySpec, trial: TimedTrial, work: float) -> float:
    """Return the seconds of an epoch of another model, with the whole backbone unfrozen."""
    seconds = trial.fine_tune_seconds / _num_tuned(spec, trial) / _part(trial.unfreeze)
    backbone, size = _model(spec, trial)
    return seconds * work / cost.relative(spec.model.fixed(backbone, size).of_trial())


def _part(unfreeze: float) -> float:
    """Return the time of an epoch with a part of the backbone unfrozen: one forward pass, and twice that backward through the part."""
    return (1 + 2 * unfreeze) / 3


def _model(spec: StudySpec, trial: TimedTrial) -> tuple[str, int]:
    return screening.key(spec.model.fixed(trial.backbone, trial.image_size).of_trial())


def expected(
    connection: Connection, study: Study, hyperparameters: Hyperparameters, stored: Mapping[str, Any], *, worker: str | None
) -> Duration | None:
    """Return how long a trial takes on a worker; None if nothing is known of any trial.

    `stored` has the attributes PLAN and PREPARED of the study, and `study.memory.measured` must be up to date.
    """
    spec, plan, epochs = study.images, _understood(connection, study, stored), _epochs(stored)
    if epochs is None:
        return None
    model = spec.of_trial(hyperparameters).model.of_trial()
    timed = list(study.memory.measured.times.values())
    return duration(spec, timed, plan, model=model, unfreeze=hyperparameters.unfreeze, epochs=epochs, worker=worker)


def _epochs(stored: Mapping[str, Any]) -> int | None:
    plan, prepared = Plan.understood(stored.get(PLAN)), stored.get(PREPARED)
    if plan is not None:
        return plan.epochs
    epochs = prepared.get("epochs") if isinstance(prepared, Mapping) else None
    return epochs if isinstance(epochs, int) and epochs > 0 else None


def keep_pace(connection: Connection, study: Study, stored: Mapping[str, Any]) -> Pace | None:
    """Store and return how long the trials of a study took so far; None if no trial was fine-tuned.

    The study must be locked. `stored` has its attributes PLAN and PACE.
    """
    if not isinstance(study.spec, StudySpec) or not space.fine_tunes(study.spec):
        return None
    study.memory.measured.read(connection, study.id)
    if PLAN not in stored:
        stored = {**stored, **tables.get(connection, STUDY_USER, study.id, PREPARED)}
    epochs = _epochs(stored)
    plan = _understood(connection, study, stored)
    found = None if epochs is None else pace(study.images, list(study.memory.measured.times.values()), plan, epochs)
    if found is not None and stored.get(PACE) != (kept := found.model_dump(mode="json")):
        tables.put(connection, STUDY_USER, study.id, {PACE: kept})
    return found


def pace(spec: StudySpec, timed: Sequence[TimedTrial], plan: Plan | None, epochs: int) -> Pace | None:
    """Return how long trials took, and how long the next one takes: in the fastest model that it may have."""
    tuned = [trial for trial in timed if _is_tuned(spec, trial)]
    if not tuned:
        return None
    models = models_of(plan, spec)
    least, fewest = min(trial.unfreeze for trial in tuned), _fewest_if_shortened(spec, epochs)
    known = [
        found
        for worker in {trial.worker for trial in tuned}
        for model in models
        if (found := duration(spec, timed, plan, model=model, unfreeze=least, epochs=fewest, worker=worker)) is not None
    ]
    whole = [trial for trial in tuned if _num_tuned(spec, trial) >= epochs * spec.num_trainings] or tuned
    return Pace(
        num_fine_tuned=len(tuned),
        probe_seconds=round(sum(trial.probe_seconds for trial in timed) / len(timed), 3),
        fine_tune_seconds=round(sum(trial.fine_tune_seconds for trial in whole) / len(whole), 3),
        needed_seconds=round(min(found.needed_seconds for found in known), 3),
    )
