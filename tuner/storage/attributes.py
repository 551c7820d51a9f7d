"""Attribute names: the keys under which a study and a trial keep facts in Optuna's attribute tables.

The names are stored in databases, and optuna-dashboard shows the user attributes. Never change the value of one.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from tuner.protocol.messages import LabelCounts, Misclassified
from tuner.spec import hyperparameters as trial_values
from tuner.spec.hyperparameters import TrialValues
from tuner.storage import optuna_private

# User attributes of a study.
#: the study file, as JSON
SPEC: Final = "spec"
#: why the study stopped itself
STOPPED: Final = "stopped"
#: who stopped the study, as a dict of `by` and `at`
HALTED: Final = "halted"
#: when someone last resumed the study, in seconds since the epoch by the database's clock
RESUMED_AT: Final = "resumed_at"
#: the budget of the last `tuner run`, if someone has changed the budget since
GIVEN_BUDGET: Final = "given_budget"
#: messages.Prepared of the first trainer, as a dict
PREPARED: Final = "prepared"
#: for a study made by `tuner migrate`: its source, the changes, and how many trials were carried over, as a dict
MIGRATED: Final = "migrated"
#: backbones and image sizes that no further trial chooses, as a list of dicts of `backbone`, `image_size` and `reason`
LEFT_OUT: Final = "left_out"
#: for a study made by `tuner copy`: its source, who copied it and when, what was copied, and a digest of it, as a dict
COPIED: Final = "copied"
#: the ensemble of the study's best trials, as a dict
ENSEMBLE: Final = "ensemble"
#: the network that the ensemble taught, as a dict
TAUGHT: Final = "taught"
#: for a study that another program renamed: its earlier names, the newest first
EARLIER_NAMES: Final = "earlier_names"
#: studies.planning.Plan as a dict, decided once, before the first trial of a study with a timeout
PLAN: Final = "plan"
#: how long trials took in the study so far, as a dict: studies.planning.Pace
PACE: Final = "pace"

# System attributes of a study.
#: start of the key of a note's digest, which shows whether a user changed the note
NOTE_DIGEST: Final = "tuner:note"
#: set as soon as a trial exceeds a constraint of the study
CONSTRAINED: Final = "tuner:constrained"

# User attributes of a trial.
#: "rule", "enqueued", "retraining", "screening", or the name of the sampler
ORIGIN: Final = "origin"
#: seed of everything random in the trial
SEED: Final = "seed"
#: name of the worker that last had the trial
WORKER: Final = "worker"
#: number of attempts so far, if there is more than one
ATTEMPTS: Final = "attempts"
#: who enqueued the trial
ENQUEUED_BY: Final = "enqueued_by"
#: who stopped the trial
STOPPED_BY: Final = "stopped_by"
#: for a trial of a retraining: the number of the trial in the searched study
RETRAINED_TRIAL: Final = "retrained_trial"
#: for a trial carried over by `tuner migrate`: its origin in words
CARRIED_FROM: Final = "carried_from"
#: for a trial enqueued by `tuner run --from`: its origin in words
TAKEN_FROM: Final = "taken_from"
#: value of the probe; the name in the storage is that of earlier versions, which had no other metric
PROBE_VALUE: Final = "probe_accuracy"
#: whether the trial was promoted from its probe to fine-tuning
PROMOTED: Final = "promoted"
#: for a trial with less time than the others: its epochs of fine-tuning
SHORTENED: Final = "fine_tune_epochs"
#: stage that the trial ended in
STAGE: Final = "stage"
#: number of epochs in both stages
NUM_EPOCHS: Final = "epochs"
#: epoch with the best value, counted from 1 through both stages
BEST_EPOCH: Final = "best_epoch"
#: for a trial with folds: the value and the best epoch of each fold, as lists
FOLDS: Final = "folds"
BEST_EPOCHS: Final = "best_epochs"
#: for a trial of several trainings with different seeds: their values, as a list
EXECUTIONS: Final = "executions"
#: for a trial that is a mean of several trainings
STANDARD_DEVIATION: Final = "standard_deviation"
#: training accuracy and validation loss of that epoch
TRAIN_ACCURACY: Final = "train_accuracy"
VALIDATION_LOSS: Final = "validation_loss"
#: all other metrics of that epoch, as a dict of numbers
METRICS: Final = "metrics"
#: seconds of training: in all, in the probe, in fine-tuning
SECONDS: Final = "seconds"
PROBE_SECONDS: Final = "probe_seconds"
FINE_TUNE_SECONDS: Final = "fine_tune_seconds"
#: first digits of the SHA-256 of the code that the trial ran, one for each file that the study names
CODE: Final = "code"
#: device that the trial was trained on
DEVICE: Final = "device"
#: path or URL of the weights of the best epoch
WEIGHTS: Final = "weights"
#: size of this file
WEIGHTS_BYTES: Final = "weights_bytes"
#: path or URL of the logits of the validation images and of their mirror images, by these weights
LOGITS: Final = "logits"
#: milliseconds of one example and megabytes of the weights, for a study with constraints
LATENCY_MS: Final = "latency_ms"
SIZE_MB: Final = "size_mb"
#: whether that was measured again while nothing else of the study ran
MEASURED_ALONE: Final = "measured_alone"
#: which constraints of the study the trial exceeds, in words; such a trial is never the best
INFEASIBLE: Final = "breaks_constraints"
#: messages.Evaluated as a dict, without the confusion matrix
TEST: Final = "test"
#: why the trial was pruned, or was shortened
REASON: Final = "reason"
#: kind of a failure, and its message
ERROR: Final = "error"
MESSAGE: Final = "message"

# System attributes of a trial.
#: the trial's Hyperparameters as a dict
HYPERPARAMETERS: Final = "tuner:hyperparameters"
#: for an enqueued trial: values of parameters by name
REQUESTED: Final = optuna_private.FIXED_PARAMS
#: confusion matrix on the validation images; rows: true class, columns: predicted class
CONFUSION: Final = "tuner:confusion"
#: how the answers about each class fare on the validation images, if an image may have several labels
BY_CLASS: Final = "tuner:by_class"
#: the most confident mistakes of the best epoch
MISTAKES: Final = "tuner:mistakes"
#: for a failed trial: last lines of the trainer's log; for another one: the last part of what user code printed
LOG: Final = "tuner:log"
#: id of each picture in the artifact store, by kind
PICTURES: Final = "tuner:pictures"


# Other programs can set attributes, too. The functions below leave out what is not of the kind that a worker of tuner stores.
_TEXTS: Final = {
    ORIGIN,
    WORKER,
    ENQUEUED_BY,
    STOPPED_BY,
    CARRIED_FROM,
    TAKEN_FROM,
    STAGE,
    CODE,
    DEVICE,
    WEIGHTS,
    REASON,
    ERROR,
    MESSAGE,
    INFEASIBLE,
}
_COUNTS: Final = {SEED, ATTEMPTS, RETRAINED_TRIAL, SHORTENED, NUM_EPOCHS, BEST_EPOCH}
_NUMBERS: Final = {PROBE_VALUE, TRAIN_ACCURACY, SECONDS, PROBE_SECONDS, FINE_TUNE_SECONDS, LATENCY_MS, SIZE_MB}
#: names of user attributes that user code cannot set under its own name
RESERVED: Final = frozenset(
    {*_TEXTS, *_COUNTS, *_NUMBERS, ENSEMBLE, TAUGHT, PROMOTED, VALIDATION_LOSS, WEIGHTS_BYTES, LOGITS, TEST, SPEC, PREPARED, METRICS}
    | {MEASURED_ALONE}
)
_CONFUSION: Final = TypeAdapter(tuple[tuple[int, ...], ...])
_BY_CLASS: Final = TypeAdapter(tuple[LabelCounts, ...])
_MISTAKES: Final = TypeAdapter(tuple[Misclassified, ...])


def shortened(stored: Mapping[str, Any]) -> int | None:
    """Return the epochs of fine-tuning of a shortened trial; None for any other trial."""
    found = stored.get(SHORTENED)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else None


def of_trial(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user attributes of a trial, without those of tuner that hold something else."""
    return {key: value for key, value in stored.items() if _is_ours(key, value)}


def _is_ours(key: str, value: Any) -> bool:
    if key in _TEXTS:
        return isinstance(value, str) or (key == WEIGHTS and value is None)
    if key in _COUNTS:
        return type(value) is int
    if key in _NUMBERS:
        return type(value) in (int, float) and math.isfinite(value)
    if key == VALIDATION_LOSS:
        return type(value) in (int, float)
    if key == TEST:
        return isinstance(value, dict) and type(value.get("accuracy")) in (int, float, type(None))
    return True


def hyperparameters(stored: Any) -> TrialValues | None:
    """Return the hyperparameters of a trial; None if none are stored."""
    try:
        return None if stored is None else trial_values.parse(stored)
    except ValidationError:
        return None


def confusion(stored: Any) -> tuple[tuple[int, ...], ...]:
    """Return the confusion matrix of a trial; () if none is stored."""
    try:
        return () if stored is None else _CONFUSION.validate_python(stored)
    except ValidationError:
        return ()


def by_class(stored: Any) -> tuple[LabelCounts, ...]:
    """Return how the answers of a trial about each class fare; () if that is not stored."""
    try:
        return () if stored is None else _BY_CLASS.validate_python(stored)
    except ValidationError:
        return ()


def mistakes(stored: Any) -> tuple[Misclassified, ...]:
    """Return the most confident mistakes of a trial; () if none are stored."""
    try:
        return () if stored is None else _MISTAKES.validate_python(stored)
    except ValidationError:
        return ()
