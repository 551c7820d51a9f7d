"""Retraining: creates a study that trains the best configs of a search again, each with several seeds."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from optuna.trial import TrialState
from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from tuner.errors import StudyError
from tuner.protocol import messages
from tuner.sampling import samplers
from tuner.spec import hyperparameters as trial_values
from tuner.spec.hyperparameters import Hyperparameters, TrialValues
from tuner.spec.strategies import NoPruner, Random
from tuner.spec.study import AnyStudySpec, Budget, Retraining, StudySpec
from tuner.storage import attributes, queries, tables
from tuner.storage.attributes import HYPERPARAMETERS, PREPARED, REQUESTED
from tuner.storage.queries import VALUED
from tuner.storage.tables import STUDY_USER, TRIAL_SYSTEM, TRIAL_USER
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.tasks.custom.spec.custom_study import CustomStudySpec

#: maximum length of the searched study's name in the name of its retraining
KEPT_NAME = 80
#: text between the name of the searched study and the number of the retraining
_MIDDLE = "-retrain-"
#: suffix for the study that trains the winner of a retraining on train and validation images
_ON_ALL = "-all"


@dataclass(frozen=True, kw_only=True)
class Config:
    """A trial of a search that is trained again."""

    #: number of the trial
    trial: int
    #: value in the search; None if the trial did not complete
    value: float | None
    hyperparameters: TrialValues
    #: values of the searched parameters that give these hyperparameters
    parameters: Mapping[str, Any]
    #: seconds of training in the search; None if unknown
    seconds: float | None


def configs(study: Study, top: int) -> list[Config]:
    """Return the best distinct configs of a study, the best first; then the rule of trial 0, unless it is among them.

    Raises:
        StudyError: no trial has completed.
    """
    found = study.storage.read(lambda connection: _configs(connection, study.id, top))
    if not found:
        raise StudyError(f"the study {study.name} has no completed trial yet; to see its progress: tuner status {study.name}")
    return found


def config(study: Study, number: int) -> Config:
    """Return a trial of a search as a config."""

    def read(connection: Connection) -> Config | None:
        trial_id = tables.trial_id(connection, study.id, number)
        value = connection.execute(select(VALUED.c.value).where(VALUED.c.trial_id == trial_id)).scalar()
        return _config(connection, trial_id, number, value)

    found = study.storage.read(read)
    assert found is not None, "a trial that is trained again was trained before"
    return found


def prepared(study: Study) -> messages.Prepared:
    """Return the facts that the first trainer of a study recorded.

    Raises:
        StudyError: no trainer has read the images yet.
    """
    known = study.storage.read(lambda connection: tables.get(connection, STUDY_USER, study.id, PREPARED))
    if not known:
        raise StudyError(f"no worker of the study {study.name} has read its images yet; to see its progress: tuner status {study.name}")
    return messages.Prepared.model_validate(known[PREPARED])


def seeds(study: Study, count: int) -> tuple[int, ...]:
    """Return the first `count` seeds for retrainings of a study. They differ from the seeds of its trials."""
    return tuple(samplers.derive_seed(study.spec.seed, "retraining", number) for number in range(count))


def existing(study: Study) -> list[Study]:
    """Return the studies that retrain configs of this study, the newest first."""
    found = []
    for name in studies.names(study.storage):
        if _number(study, name) is not None:
            with contextlib.suppress(StudyError):  # one that cannot be read says nothing about the others
                found.append(studies.load(name, study.storage))
    return [other for other in found if other.spec.retraining is not None and other.spec.retraining.study == study.name]


def begin(study: Study, chosen: Sequence[Config], with_seeds: Sequence[int], *, top: int) -> Study:
    """Create a study in which each config waits to be trained with each seed, on the images and splits of the search."""
    number = 1 + max((_number(study, name) or 0 for name in studies.names(study.storage)), default=0)
    return _begin(study, f"{_stem(study)}{number}", chosen, tuple(with_seeds), _Setting(images="train", epochs=prepared(study).epochs), top)


def begin_on_all(study: Study, again: Study, config: Config, *, fine_tunes: bool) -> Study:
    """Create a study that trains a config chosen by the retraining `again` on train and validation images, with the same seeds.

    Without `fine_tunes`, only its probe is trained.
    """
    assert again.spec.retraining is not None
    setting = _Setting(images="train+validation", epochs=prepared(study).epochs if fine_tunes else 0)
    return _begin(study, name_on_all(again), [config], again.spec.retraining.seeds, setting, top=1)


def begin_on_all_folds(study: Study, again: Study, config: Config, *, epochs: int) -> Study:
    """Create a study that trains a config chosen by the retraining `again` on all folds for some epochs, once."""
    assert again.spec.retraining is not None
    return _begin(
        study, name_on_all(again), [config], again.spec.retraining.seeds[:1], _Setting(images="train+validation", epochs=epochs), 1
    )


def on_all(study: Study, again: Study) -> Study | None:
    """Return the study that `begin_on_all` created earlier for a retraining, or None."""
    name = name_on_all(again)
    return studies.load(name, study.storage) if name in studies.names(study.storage) else None


def name_on_all(again: Study) -> str:
    """Return the name of the study that `begin_on_all` creates."""
    return f"{again.name}{_ON_ALL}"


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """The images and epochs of a retraining."""

    images: Literal["train", "train+validation"]
    epochs: int


def _begin(study: Study, name: str, chosen: Sequence[Config], with_seeds: tuple[int, ...], setting: _Setting, top: int) -> Study:
    known = prepared(study)
    again = Retraining(
        study=study.name,
        top=top,
        trials=tuple(config.trial for config in chosen),
        values=tuple(config.value for config in chosen),
        seeds=with_seeds,
    )
    changes: dict[str, Any] = {
        "name": name,
        "budget": Budget(trials=again.num_trainings),
        "sampler": Random(),
        "pruner": NoPruner(),
        "result": None,
        "retraining": again,
    }
    if isinstance(study.spec, StudySpec):
        own = {"epochs": setting.epochs, "promote": 1.0, "images": setting.images, "executions": 1}  # its seeds repeat them
        changes["training"] = study.spec.training.model_copy(update=own)
        changes["validation"] = None  # the final networks have a validation split, or all images
    elif isinstance(study.spec, CustomStudySpec) and study.spec.validation is not None and setting.images != "train":
        changes["validation"] = study.spec.validation.model_copy(update={"train_on": "all"})
        changes["training"] = study.spec.training.model_copy(update={"epochs": setting.epochs, "early_stopping": None})
        known = known.model_copy(update={"splits": ""})
    spec = study.spec.model_copy(update=changes)
    extra = 0 if setting.images == "train" else known.num_validation
    _create(study, spec, chosen, known.model_copy(update={"epochs": setting.epochs, "num_train": known.num_train + extra}))
    return studies.load(name, study.storage)


def _create(study: Study, spec: AnyStudySpec, chosen: Sequence[Config], found: messages.Prepared) -> None:
    """Create the study with all of its trials in one transaction, so that no worker sees it without them."""
    again = spec.retraining
    assert again is not None

    def write(connection: Connection) -> None:
        study_id = studies.create(connection, spec)
        tables.put(connection, STUDY_USER, study_id, {PREPARED: found.model_dump(mode="json", exclude={"kind"})})
        for number in range(again.num_trainings):
            config, seed = again.indices(number)
            trial_id = tables.enqueue_trial(connection, study_id, number)
            known = {
                attributes.ORIGIN: "retraining",
                attributes.RETRAINED_TRIAL: chosen[config].trial,
                attributes.SEED: again.seeds[seed],
            }
            tables.put(connection, TRIAL_USER, trial_id, known)
            tables.put(connection, TRIAL_SYSTEM, trial_id, {REQUESTED: dict(chosen[config].parameters)})

    def attempt() -> None:
        try:
            study.storage.transact(write)
        except IntegrityError:
            if spec.name not in studies.names(study.storage):
                raise

    study.storage.call(attempt)


def _configs(connection: Connection, study_id: int, top: int) -> list[Config]:
    found: list[Config] = []
    for trial_id, number, value in connection.execute(queries.ranked(study_id)):
        config = _config(connection, trial_id, number, value)
        if config is not None and config.hyperparameters not in [other.hyperparameters for other in found]:
            found.append(config)
        if len(found) == top:
            break
    has_rule = bool(found) and isinstance(found[0].hyperparameters, Hyperparameters)  # user code has none
    return found + _rule(connection, study_id, found) if has_rule else found


def _rule(connection: Connection, study_id: int, found: Sequence[Config]) -> list[Config]:
    """Return the rule of trial 0, unless it is among the configs or no worker has started it."""
    state = tables.state_of(connection, study_id, 0)
    if state is None:
        return []
    value = connection.execute(select(VALUED.c.value).where(VALUED.c.trial_id == state[0], VALUED.c.state == TrialState.COMPLETE)).scalar()
    rule = _config(connection, state[0], 0, value)
    return [] if rule is None or rule.hyperparameters in [other.hyperparameters for other in found] else [rule]


def _config(connection: Connection, trial_id: int, number: int, value: float | None) -> Config | None:
    stored = tables.get(connection, TRIAL_SYSTEM, trial_id, HYPERPARAMETERS)
    if not stored:
        return None
    return Config(
        trial=number,
        value=value,
        hyperparameters=trial_values.parse(stored[HYPERPARAMETERS]),
        parameters=tables.parameters(connection, trial_id),
        seconds=tables.get(connection, TRIAL_USER, trial_id, attributes.SECONDS).get(attributes.SECONDS),
    )


def _number(study: Study, name: str) -> int | None:
    """Return the number of a study's retraining from its name, or None if the name is not that of a retraining."""
    number = name.removeprefix(_stem(study))
    return int(number) if name != number and number.isdecimal() else None


def _stem(study: Study) -> str:
    return study.name[:KEPT_NAME] + _MIDDLE
