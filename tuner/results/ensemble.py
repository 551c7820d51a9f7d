"""Ensemble: the mean of the probabilities or numbers of a study's best trials, over each image and its mirror image.

The members are chosen by a rule that has almost no freedom, because 1,000 validation images are too few to search in: every good trial is a
member, and one bit says whether mirror images help. `python -m benchmarks.replay.run --sections members` compares other rules, such as the
greedy selection of Caruana and others (Ensemble selection from libraries of models, ICML 2004).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection

from tuner import wording
from tuner.kernels import targets
from tuner.protocol.messages import LabelCounts
from tuner.results import statistics
from tuner.results.statistics import Labels, Logits
from tuner.spec.hyperparameters import Hyperparameters, TargetKind
from tuner.spec.objective import ImageMetric, ImageObjective, Objective
from tuner.storage import tables
from tuner.storage.attributes import ENSEMBLE, TAUGHT
from tuner.storage.tables import STUDY_USER
from tuner.studies.study import Study

#: a trial is good if its value is at most this many standard errors below the best one
GOOD_ERRORS = 2.0
#: a confusion matrix of more classes is not stored: databases limit the length of an attribute
CONFUSED_CLASSES = 100
#: largest difference between two measurements of the same value, as a fraction of it
_SAME_VALUE = 1e-3
#: a field that is written only for a study of another metric than the accuracy
_UNUSUAL = Field(exclude_if=lambda value: value in (None, "accuracy"))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trial that can be a member, with what it predicts for the validation images."""

    trial: int
    #: the metric of the study on the validation images
    value: float
    #: logits (n, classes) of the images and of their mirror images
    logits: Logits
    mirrored: Logits


class Ensemble(BaseModel):
    """The ensemble of a study, as it is stored."""

    model_config = ConfigDict(frozen=True)

    #: the members, the best first
    trials: tuple[int, ...]
    #: whether each member predicts the mirror image, too
    mirrored: bool
    #: accuracy and cross-entropy on the validation images, by which the members were chosen; of numbers None and the squared error
    validation_accuracy: float | None
    validation_loss: float
    #: accuracy of the best member alone on the same images
    best_member_accuracy: float | None
    #: rows: true class, columns: predicted class, on the validation images; () for many classes
    confusion: tuple[tuple[int, ...], ...] = ()
    #: of each class on the validation images, if an image may have several labels
    by_class: Annotated[tuple[LabelCounts, ...], Field(exclude_if=lambda value: not value)] = ()
    #: accuracy on the test images, by which nothing was chosen; None: not measured
    test_accuracy: float | None = None
    num_test: int = 0
    #: milliseconds to predict one image in a batch on the machine that measured it; None: not measured
    milliseconds: float | None = None
    #: the metric of the study, by which the members were chosen
    metric: Annotated[ImageMetric, _UNUSUAL] = "accuracy"
    #: this metric on the validation images, that of the best member alone, and on the test images; None: it is the accuracy
    value: Annotated[float | None, _UNUSUAL] = None
    best_member_value: Annotated[float | None, _UNUSUAL] = None
    test_value: Annotated[float | None, _UNUSUAL] = None

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Of each class, the probability from which an image gets its label; () if an image has one label or a number."""
        return tuple(each.threshold for each in self.by_class)

    @property
    def num_networks(self) -> int:
        """How often an image passes through a network."""
        return len(self.trials) * (2 if self.mirrored else 1)

    @property
    def measured(self) -> float:
        """The metric of the study on the validation images."""
        return _known(self.value, self.validation_accuracy)

    @property
    def gain(self) -> float:
        """Its value on the validation images minus that of its best member alone."""
        return self.measured - _known(self.best_member_value, self.best_member_accuracy)

    def is_at_least(self, value: float) -> bool:
        """Return whether it is at least as good on the validation images as a trial with this value."""
        merit = ImageObjective(metric=self.metric).merit
        return merit(self.measured) >= merit(value)

    @property
    def words(self) -> str:
        """Its members in words."""
        which = wording.listed(self.trials) if len(self.trials) <= 8 else f"{wording.listed(self.trials[:8])} …"
        who = f"trial {which}" if len(self.trials) == 1 else f"mean of trials {which}"
        return f"{who}, with mirror images" if self.mirrored else who

    def is_same(self, other: "Ensemble | None") -> bool:
        """Return whether another ensemble predicts the same."""
        return other is not None and (self.trials, self.mirrored) == (other.trials, other.mirrored)


class Taught(BaseModel):
    """The network that an ensemble taught, as it is stored."""

    model_config = ConfigDict(frozen=True)

    #: members of the ensemble
    trials: tuple[int, ...]
    #: the trial with the form of the network, and the hyperparameters, which differ from those of the trial
    trial: int
    hyperparameters: Hyperparameters
    #: path or URL
    weights: str
    #: accuracy and cross-entropy on the validation images; of numbers None and the squared error
    validation_accuracy: float | None
    validation_loss: float
    #: rows: true class, columns: predicted class, on the validation images; () for many classes
    confusion: tuple[tuple[int, ...], ...] = ()
    #: of each class on the validation images, if an image may have several labels
    by_class: Annotated[tuple[LabelCounts, ...], Field(exclude_if=lambda value: not value)] = ()
    #: accuracy on the test images, by which nothing was chosen; None: not measured
    test_accuracy: float | None = None
    num_test: int = 0
    #: of its training
    seconds: float
    #: the metric of the study
    metric: Annotated[ImageMetric, _UNUSUAL] = "accuracy"
    #: this metric on the validation and the test images; None: it is the accuracy
    value: Annotated[float | None, _UNUSUAL] = None
    test_value: Annotated[float | None, _UNUSUAL] = None

    @property
    def measured(self) -> float:
        """The metric of the study on the validation images."""
        return _known(self.value, self.validation_accuracy)


def _known(value: float | None, accuracy: float | None) -> float:
    """Return the metric of a study, which is the accuracy if it is not given."""
    found = accuracy if value is None else value
    assert found is not None, "an ensemble has a value"
    return found


class CodeEnsemble(BaseModel):
    """The ensemble of a study of user models, as it is stored: the mean of what the best trials predict."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: the trials whose means were compared, the best first
    considered: tuple[int, ...]
    #: the members: the first few of them; () if they have no mean
    trials: tuple[int, ...] = ()
    #: why they have no mean; "" if they have one
    refused: str = ""
    #: the metric of the study on the validation data, and that of the first member alone, measured in the same way
    value: float | None = None
    best_member_value: float | None = None
    #: the metric on the test data, by which nothing was chosen; None: not measured
    test_value: float | None = None
    num_test: int = 0

    def is_better(self, objective: Objective, value: float) -> bool:
        """Return whether it is better than its first member, and than a trial with this value."""
        if self.value is None or self.best_member_value is None:
            return False
        return objective.is_better(self.value, self.best_member_value) and objective.is_better(self.value, value)

    @property
    def words(self) -> str:
        """Its members in words."""
        return f"mean of trials {wording.listed(self.trials)}"


def choose_means(trials: Sequence[int], values: Sequence[float], best_value: float, objective: Objective) -> CodeEnsemble:
    """Return the mean with the best value, given the values of the means of the first, the first two, … of some trials.

    `best_value` is the value of the first trial in its training. If its predictions score otherwise, the mean cannot be compared with it.
    """
    alone, found = values[0], CodeEnsemble(considered=tuple(trials))
    if not math.isclose(alone, best_value, rel_tol=_SAME_VALUE, abs_tol=_SAME_VALUE):
        return found.model_copy(
            update={
                "refused": f"trial {trials[0]} reached {wording.figure(best_value)} in its training, but its predictions alone score "
                f"{wording.figure(alone)}: the loss or the metric depends on more than predictions and labels"
            }
        )
    merits = [objective.merit(value) if math.isfinite(value) else -math.inf for value in values[1:]]
    count = 2 + merits.index(max(merits))
    known = {"trials": tuple(trials[:count]), "value": values[count - 1], "best_member_value": alone}
    return found.model_copy(update=known if math.isfinite(values[count - 1]) else {"refused": "their mean is not finite"})


def read_code(study: Study) -> CodeEnsemble | None:
    """Return the stored ensemble of a study of user models; None if it has none that this version of tuner understands."""
    return code_understood(study.storage.read(lambda connection: tables.get(connection, STUDY_USER, study.id, ENSEMBLE)).get(ENSEMBLE))


def code_understood(stored: object) -> CodeEnsemble | None:
    """Return the ensemble of user models that the attribute of a study describes; None if there is none."""
    try:
        return None if stored is None else CodeEnsemble.model_validate(stored)
    except ValidationError:
        return None


def value_words(found: Ensemble | Taught) -> str:
    """Return its value on the validation images in words: `validation accuracy 0.9000`."""
    return f"validation {found.metric.replace('_', ' ')} {found.measured:.4f}"


def choose(
    candidates: Sequence[Candidate],
    labels: Labels,
    *,
    mirror: Literal["auto", "always", "never"] = "auto",
    metric: ImageMetric = "accuracy",
) -> Ensemble | None:
    """Return the ensemble of some trials, or None if their best one alone, without mirror images, is at least as good.

    Args:
        candidates: trials of one study.
        labels: those of the validation images (n,).
        mirror: whether mirror images count; auto: if they lower the cross-entropy of the ensemble.
        metric: the metric of the study, in which the candidates have their values.
    """
    merit = ImageObjective(metric=metric).merit
    ordered = sorted(candidates, key=lambda one: (-merit(one.value), one.trial))
    if not ordered:
        return None
    best = ordered[0]
    least = merit(best.value) - GOOD_ERRORS * _standard_error(best, labels, metric)
    members = [one for one in ordered if merit(one.value) >= least]
    plain, both = (of_members(members, labels, mirrored=each, metric=metric) for each in (False, True))
    found = both if mirror == "always" or (mirror == "auto" and both.validation_loss < plain.validation_loss) else plain
    alone = of_members([best], labels, mirrored=False, metric=metric)
    is_better = (merit(found.measured), -found.validation_loss) > (merit(alone.measured), -alone.validation_loss)
    return found if is_better else None


def _standard_error(best: Candidate, labels: Labels, metric: ImageMetric) -> float:
    if metric == "accuracy":
        return math.sqrt(max(best.value * (1 - best.value), 0.25 / len(labels)) / len(labels))
    return statistics.standard_error(metric, best.logits, labels)


def of_members(members: Sequence[Candidate], labels: Labels, *, mirrored: bool, metric: ImageMetric = "accuracy") -> Ensemble:
    """Return the ensemble of trials, the best first, with its figures on the validation images; it may be a single network."""
    answers = np.stack([logits for one in members for logits in ((one.logits, one.mirrored) if mirrored else (one.logits,))])
    best, is_accuracy = members[0].logits, metric == "accuracy"
    common = Ensemble(
        trials=tuple(one.trial for one in members),
        mirrored=mirrored,
        validation_accuracy=None,
        validation_loss=statistics.error(metric, answers, labels),
        best_member_accuracy=None,
        metric=metric,
        value=None if is_accuracy else statistics.value(metric, answers, labels),
        best_member_value=None if is_accuracy else statistics.value(metric, best, labels),
    )
    if targets.kind_of(metric, labels) is TargetKind.LABEL:
        return common.model_copy(update=_of_one_label(answers, best, labels))
    judged, alone = (statistics.judge(metric, each, labels) for each in (answers, best))
    accuracies = [one.accuracy if math.isfinite(one.accuracy) else None for one in (judged, alone)]
    return common.model_copy(
        update={"validation_accuracy": accuracies[0], "best_member_accuracy": accuracies[1], "by_class": judged.by_class}
    )


def _of_one_label(answers: Logits, best: Logits, labels: Labels) -> dict[str, Any]:
    """Return the accuracies and the confusion of an ensemble, and the accuracy of its best member."""
    num_classes, confusion = answers.shape[-1], []
    if num_classes <= CONFUSED_CLASSES:
        confusion = statistics.confusion(labels, statistics.probabilities(answers).argmax(1), num_classes).tolist()
    return {
        "validation_accuracy": statistics.accuracy(answers, labels),
        "best_member_accuracy": statistics.accuracy(best, labels),
        "confusion": tuple(tuple(row) for row in confusion),
    }


def read(study: Study) -> Ensemble | None:
    """Return the stored ensemble of a study; None if it has none that this version of tuner understands."""
    found = study.storage.read(lambda connection: tables.get(connection, STUDY_USER, study.id, ENSEMBLE)).get(ENSEMBLE)
    return understood(found)


def understood(stored: object) -> Ensemble | None:
    """Return the ensemble that the attribute of a study describes; None if there is none, or another program wrote it."""
    if stored is None:
        return None
    try:
        return Ensemble.model_validate(stored)
    except ValidationError:
        return None


def read_taught(study: Study) -> Taught | None:
    """Return the network that the stored ensemble taught; None if there is none for the members that it has now."""
    known = study.storage.read(lambda connection: tables.get(connection, STUDY_USER, study.id, ENSEMBLE, TAUGHT))
    ensemble = understood(known.get(ENSEMBLE))
    try:
        found = Taught.model_validate(known[TAUGHT]) if TAUGHT in known else None
    except ValidationError:
        return None
    return found if found is not None and ensemble is not None and found.trials == ensemble.trials else None


def store_taught(study: Study, taught: Taught) -> None:
    """Store the network that the ensemble of a study taught, in place of an earlier one."""
    known = {TAUGHT: taught.model_dump(mode="json")}
    study.storage.write(lambda connection: tables.put(connection, STUDY_USER, study.id, known))


def store(study: Study, ensemble: Ensemble | CodeEnsemble | None) -> None:
    """Store the ensemble of a study in place of an earlier one; None removes that."""

    def write(connection: Connection) -> None:
        if ensemble is None:
            tables.remove(connection, STUDY_USER, study.id, ENSEMBLE)
        else:
            tables.put(connection, STUDY_USER, study.id, {ENSEMBLE: ensemble.model_dump(mode="json")})

    study.storage.write(write)
