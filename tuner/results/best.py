"""Best: the best trial of a study, or another trial that completed, with its rank."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, func, select

from tuner import errors, wording
from tuner.kernels import imports
from tuner.protocol import messages
from tuner.results import ensemble as ensembles
from tuner.results.ensemble import CodeEnsemble, Ensemble
from tuner.spec import hyperparameters as values
from tuner.spec import plan, tasks
from tuner.spec.hyperparameters import ChosenValues, Hyperparameters, Plain, TargetKind, TrialValues
from tuner.spec.study import AnyStudySpec, StudySpec, images_of
from tuner.storage import attributes, queries, tables
from tuner.storage.attributes import ENSEMBLE, PREPARED
from tuner.studies import claims
from tuner.studies.study import Study
from tuner.tasks import task
from tuner.tasks.custom.spec.custom_study import CustomStudySpec
from tuner.trust import user_code
from tuner.trust.user_code import CodeFile
from tuner.views import trial as trials
from tuner.views.trial import Trial

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Best:
    """A completed trial with its rank: 1 for the best value; among equal values the earliest trial ranks first.

    Trials that exceed a constraint of the study rank after all others.
    """

    #: the study of the trial
    spec: AnyStudySpec
    found: Trial
    rank: int
    #: number of completed trials in the study that exceed no constraint
    num_completed: int
    #: trial 0, the rule that needs no search; None if it has not completed
    rule: Trial | None
    #: what the trainer found when it loaded the data and the backbone
    prepared: messages.Prepared
    #: the ensemble of the study; None if it has none, or this trial is better
    ensemble: Ensemble | None = None
    #: whether this program, and not the storage, named the code of the study
    is_own: bool = False
    #: the same for a study of user models
    ensemble_of_code: CodeEnsemble | None = None

    @property
    def trial(self) -> int:
        """The number of the trial."""
        return self.found.number

    @property
    def is_best(self) -> bool:
        """Whether it is the best trial of the study; a trial that exceeds a constraint never is."""
        return self.rank == 1 and not self.exceeds

    @property
    def exceeds(self) -> str:
        """Which constraints of the study the trial exceeds, in words; "" if none."""
        return str(self.found.attributes.get(attributes.INFEASIBLE, ""))

    @property
    def standing(self) -> str:
        """Its place in the study in words: `the best of 12 completed trials`."""
        if self.exceeds:
            return f"which exceeds a constraint of the study ({self.exceeds})"
        return f"{'the best' if self.is_best else 'one'} of {wording.count(self.num_completed, 'completed trial')}"

    @property
    def value(self) -> float:
        """Best value of the trial."""
        return _value(self.found)

    @property
    def validated(self) -> float | None:
        """Its value on data that it was not trained on; of a final model, which saw all of them, that of its config over the folds."""
        if self.spec.measured_on_new_data:
            return self.value
        again = self.spec.retraining
        return None if again is None else again.values[again.indices(self.trial)[0]]

    @property
    def hyperparameters(self) -> Hyperparameters | Mapping[str, Plain]:
        """Hyperparameters of the trial; for user code, its values by name."""
        chosen = self.chosen
        return chosen if isinstance(chosen, Hyperparameters) else dict(chosen.values)

    @property
    def chosen(self) -> TrialValues:
        """Values of the trial as its trainer gets them."""
        return _chosen(self.found)

    @property
    def of_images(self) -> Hyperparameters:
        """Hyperparameters of a trial of an image study."""
        return values.of_images(self.chosen)

    @property
    def images(self) -> StudySpec:
        """The study file of an image study.

        Raises:
            StudyError: the study is about something else.
        """
        return images_of(self.spec)

    @property
    def seed(self) -> int:
        """Seed of everything random in the trial."""
        return int(self.found.attributes.get(attributes.SEED, claims.seed_of(self.spec, self.trial)))

    @property
    def best_epoch(self) -> int | None:
        """Epoch of the best value, counted from 1 through both stages."""
        epoch: int | None = self.found.attributes.get(attributes.BEST_EPOCH)
        return epoch

    @property
    def epochs(self) -> int:
        """Epochs of its fine-tuning."""
        return attributes.shortened(self.found.attributes) or self.prepared.epochs

    @property
    def seconds(self) -> float | None:
        """Seconds of training."""
        seconds: float | None = self.found.attributes.get(attributes.SECONDS)
        return seconds

    @property
    def weights(self) -> str | None:
        """File with the weights of the best epoch on the machine that trained it, or their URL; None if they were not kept."""
        weights: str | None = self.found.attributes.get(attributes.WEIGHTS)
        return weights

    @property
    def model(self) -> Any:
        """The trained Keras model of a study with `task: custom`; None if the study has an objective, which has no model of tuner's.

        Keras and the code of the study are imported into this process. Code that only the storage names must be in TUNER_ALLOW_CODE.

        Raises:
            StudyError: the weights were not stored, or are not on this machine; or it is a study of images.
            RequestError: the code is not allowed here, or was changed; or the data or the weights cannot be used.
        """
        if self.spec.task == tasks.OBJECTIVE:
            _log.warning("study %s: an objective returns a number and no model, so best.model is None", self.spec.name)
            return None
        export = f"tuner export {self.spec.name} --trial {self.trial} --to FOLDER"
        if self.spec.task != tasks.CUSTOM:
            raise errors.StudyError(f"best.model loads models of your own code; to load this one: {export}, then FOLDER/model.keras")
        if self.spec.num_folds > 1:
            raise errors.StudyError(without_model(self))
        if self.weights is None:
            raise errors.StudyError(
                f"the weights of trial {self.trial} of the study {self.spec.name} were not stored, as it is not the best"
            )
        if not Path(self.weights).is_file():
            raise errors.StudyError(
                f"the weights of trial {self.trial} are in {self.weights}, not on this machine; to fetch them: {export}"
            )
        if not self.is_own:
            allowed = user_code.read_allowed(os.environ.get(user_code.ALLOW_CODE))
            user_code.require_allowed(self.spec.name, self.spec.named_code(), allowed)
        require_code(self)
        imports.import_keras()
        chosen = dict(self.chosen.values) if isinstance(self.chosen, ChosenValues) else {}
        return task.training(self.spec.task).load_model(self.spec, self.trial, chosen, Path(self.weights))  # type: ignore[attr-defined]

    @property
    def spread(self) -> str:
        """Of how many trainings its value is the mean, and their standard deviation, in words; "" if it is that of one training."""
        stored, what = self.found.attributes, "calls" if self.spec.task == tasks.OBJECTIVE else "trainings"
        if self.spec.num_folds == self.spec.num_executions == 1:
            return ""  # user code may have attributes of these names
        values = stored.get(attributes.FOLDS if self.spec.num_folds > 1 else attributes.EXECUTIONS)
        deviation = stored.get(attributes.STANDARD_DEVIATION)
        if not isinstance(values, list) or not isinstance(deviation, int | float):
            return ""
        what = f"{len(values)} folds" if self.spec.num_folds > 1 else f"{len(values)} {what} with different seeds"
        return f"the mean over {what}, with a standard deviation of {wording.figure(deviation)}"

    @property
    def costs(self) -> dict[str, float]:
        """What the constraints of the study limit, by name, as it was measured; empty for a study without constraints."""
        stored = self.found.attributes
        return {name: stored[name] for name in (attributes.LATENCY_MS, attributes.SIZE_MB) if name in stored}

    @property
    def test_accuracy(self) -> float | None:
        """Accuracy on the test split, by which nothing was chosen; None if it was not measured."""
        return self.found.test_accuracy

    @property
    def is_accuracy(self) -> bool:
        """Whether the value of a trial is an accuracy."""
        return isinstance(self.spec, StudySpec) and self.spec.objective.metric == "accuracy"

    @property
    def is_several(self) -> bool:
        """Whether an image may have several labels, so that the accuracy counts exact matches."""
        return isinstance(self.spec, StudySpec) and self.spec.data.kind is TargetKind.LABELS

    @property
    def validation_accuracy(self) -> float | None:
        """Accuracy on the validation images at the best epoch, by which nothing was chosen if it is not the value; None if unknown."""
        if self.is_accuracy:
            return self.value
        measured = self.found.attributes.get(attributes.METRICS)
        known = measured if isinstance(measured, dict) else {}
        if isinstance(self.spec, StudySpec):
            known = {**known, self.spec.objective.metric: self.value}
        return known.get("accuracy", known.get("exact_match"))  # that of images with several labels

    @property
    def test_value(self) -> float | None:
        """The metric of the study on the test split, by which nothing was chosen; None if it was not measured."""
        stored = self.found.attributes.get(attributes.TEST) or {}
        value = stored.get("accuracy") if self.is_accuracy else stored.get("value")
        return value if isinstance(value, int | float) else None

    @property
    def rule_value(self) -> float | None:
        """Value of trial 0; None if it has not completed."""
        return None if self.rule is None else _value(self.rule)

    @property
    def rule_test_accuracy(self) -> float | None:
        """Accuracy of trial 0 on the test split; None if it was not measured."""
        return None if self.rule is None else self.rule.test_accuracy

    @property
    def baseline(self) -> str:
        """What a model scores that always answers the commonest class, as a phrase; "" if the study does not know it."""
        return plan.commonest_of(self.prepared.model_dump(), self.spec.objective.metric)

    @property
    def num_validation(self) -> int:
        """Number of images that measure the value of a trial; with folds, all but the test split."""
        return self.prepared.num_validation + (self.prepared.num_train if self.spec.num_folds > 1 else 0)

    @property
    def num_test(self) -> int:
        """Number of images in the test split."""
        return self.prepared.num_test


def best(study: Study) -> Best:
    """Return the best trial of a study that a worker of tuner trained; its rank shows whether another program added a better one.

    Raises:
        StudyError: no trial has completed.
    """

    def read(connection: Connection) -> Best | None:
        found = queries.best_of_tuner(connection, study.id) or queries.best(connection, study.id)
        return None if found is None else _read(connection, study, found.number, found.value)

    found = study.storage.read(read)
    if found is None:
        raise errors.StudyError(why_none(study))
    return found


def why_none(study: Study) -> str:
    """Return why a study has no best trial."""
    completed = study.storage.read(lambda connection: queries.values(connection, study.id))
    if not completed:
        return f"the study {study.name} has no completed trial yet; to see how far it is: tuner status {study.name}"
    limits = wording.listed(f"{name} {wording.number(limit)}" for name, limit in study.spec.limits.items())
    return (
        f"no trial of the study {study.name} keeps its constraints ({limits}), but {wording.count(len(completed), 'trial')} completed. "
        f"Raise the limits in a study of another name, or export the best of these trials: tuner export {study.name} "
        f"--trial {next(iter(completed))} --to best.yaml"
    )


def without_model(best: Best) -> str:
    """Say why a trial with folds has no model, and how to get one."""
    name = best.spec.name
    search = best.spec.retraining.study if best.spec.retraining is not None else name
    return (
        f"trial {best.trial} of the study {name} trained a model for each of {best.spec.num_folds} folds, and none of them on all the "
        f"data. Train the final model: tuner retrain {search}. To export it: tuner export {search} --version 1 --to FOLDER"
    )


def of(study: Study, number: int) -> Best:
    """Return another completed trial with its rank.

    Raises:
        StudyError: there is no such trial, or it has not completed.
    """

    def read(connection: Connection) -> Best | None:
        value = queries.values(connection, study.id).get(number)
        return None if value is None else _read(connection, study, number, value)

    found = study.storage.read(read)
    if found is None:
        raise errors.StudyError(
            f"the study {study.name} has no completed trial {number}; to see its trials: tuner status {study.name}, or tuner dashboard"
        )
    return found


def require_code(best: Best) -> list[tuple[CodeFile, Path]]:
    """Return the files of code of a study as they are on this machine.

    Raises:
        RequestError: a file does not exist here, or was changed since the study was trained.
        StudyError: the study has no model.
    """
    spec = best.spec
    if not isinstance(spec, CustomStudySpec):
        raise errors.StudyError(
            f"the study {spec.name} has the task {spec.task}: tuner knows the values of its trials, but no model. "
            f"Export the values: tuner export {spec.name} --to best.yaml"
        )
    known = {file.name: file.sha256 for file in best.prepared.code}
    names = [name for _, name in spec.named_code()]
    paths = {name.rpartition(":")[0]: user_code.path_of(name, spec.folder) for name in names}
    found = [(file, path) for file in user_code.read(names, spec.folder) if (path := paths[file.name]) is not None]
    for file, path in found:
        if file.sha256 != known.get(file.name, file.sha256):
            raise errors.RequestError(
                f"{path} was changed since the study {spec.name} was trained: its SHA-256 is {file.sha256[:12]}…, that of the study "
                f"{known[file.name][:12]}…. Restore the file: the weights fit only the model that it built"
            )
    return found


def rule(study: Study) -> Hyperparameters | None:
    """Return the hyperparameters of trial 0, which uses the rule, or None if it has not completed, or the task has no rule."""
    if not isinstance(study.spec, StudySpec):
        return None
    found = study.storage.read(lambda connection: _rule(connection, study))
    return None if found is None else values.of_images(_chosen(found))


def with_weights(study: Study) -> list[int]:
    """Return the trials whose weights are stored: trial 0, and those that were the best when they ended."""
    user, listed = tables.TRIAL_USER, tables.TRIALS
    query = (
        select(listed.c.number, user.c.value_json)
        .join(user, user.c.trial_id == listed.c.trial_id)
        .where(listed.c.study_id == study.id, user.c.key == attributes.WEIGHTS)
        .order_by(listed.c.number)
    )
    return [number for number, value in study.storage.read(lambda connection: connection.execute(query).all()) if value != "null"]


def _read(connection: Connection, study: Study, number: int, value: float) -> Best:
    ranked = queries.ranked(study.id).order_by(None).subquery()
    num_completed = connection.execute(select(func.count()).select_from(ranked)).scalar_one()
    is_feasible = connection.execute(select(ranked.c.number).where(ranked.c.number == number)).first() is not None
    is_better = ranked.c.value > value if study.spec.objective.maximizes else ranked.c.value < value
    is_before = is_better | ((ranked.c.value == value) & (ranked.c.number < number))
    num_before = connection.execute(select(func.count()).select_from(ranked).where(is_before)).scalar_one()
    if not is_feasible:
        feasible = set(connection.execute(select(ranked.c.number)).scalars())
        num_before = num_completed + [one for one in queries.values(connection, study.id) if one not in feasible].index(number)
    found = trials.read(connection, study.id, number, study.spec)
    assert found is not None, "the study has a trial with a value"
    return Best(
        spec=study.spec,
        found=found,
        rank=1 + int(num_before),
        num_completed=int(num_completed),
        rule=_rule(connection, study) if isinstance(study.spec, StudySpec) else None,
        prepared=_prepared(connection, study, found),
        ensemble=_ensemble(connection, study.id, value),
        is_own=study.is_own,
        ensemble_of_code=_ensemble_of_code(connection, study, value),
    )


def _ensemble(connection: Connection, study_id: int, value: float) -> Ensemble | None:
    found = ensembles.understood(tables.get(connection, tables.STUDY_USER, study_id, ENSEMBLE).get(ENSEMBLE))
    return found if found is not None and found.is_at_least(value) else None


def _ensemble_of_code(connection: Connection, study: Study, value: float) -> CodeEnsemble | None:
    if study.spec.task != tasks.CUSTOM:
        return None
    found = ensembles.code_understood(tables.get(connection, tables.STUDY_USER, study.id, ENSEMBLE).get(ENSEMBLE))
    return found if found is not None and found.is_better(study.spec.objective, value) else None


def _prepared(connection: Connection, study: Study, found: Trial) -> messages.Prepared:
    """Return what the first trainer of the study found. Raise `StudyError` if the trial, or the whole study, is not of tuner."""
    cure = f"To see the trials of tuner: tuner status {study.name}"
    if found.hyperparameters is None:
        raise errors.StudyError(
            f"trial {found.number} of the study {study.name} was completed by another program, which stored no hyperparameters that tuner "
            f"can train. Use a trial that a worker of tuner trained. {cure}"
        )
    try:
        return messages.Prepared.model_validate(tables.get(connection, tables.STUDY_USER, study.id, PREPARED).get(PREPARED))
    except ValidationError as error:
        raise errors.StudyError(
            f"the study {study.name} has trials, but its attribute `{PREPARED}` is not what a worker of tuner stores. Start a worker, "
            f"which stores it: tuner worker {study.name}. {cure}"
        ) from error


def _rule(connection: Connection, study: Study) -> Trial | None:
    """Trial 0 if a worker of tuner has completed it with the rule."""
    found = trials.read(connection, study.id, 0, study.spec) if 0 in queries.values(connection, study.id) else None
    return None if found is None or found.hyperparameters is None else found


def _value(trial: Trial) -> float:
    assert trial.value is not None, "a completed trial has a value"
    return trial.value


def _chosen(trial: Trial) -> TrialValues:
    assert trial.hyperparameters is not None, "a completed trial has stored hyperparameters"
    return values.parse(trial.hyperparameters)
