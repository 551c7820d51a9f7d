"""Messages between a worker and its trainer, exchanged as JSON through a pipe.

worker -> trainer   Prepare, Train, Proceed, Stop, Suspend, Answer, Evaluate, Predict, Quit
trainer -> worker   Prepared, Busy, Ask, AskPruning, Resumed, Epoch, CheckpointWritten, TrialWarning, Probed, Finished, Failed, Evaluated,
                    Predicted

One trial: Train → Epoch… → Probed (the trainer waits) → Proceed → Epoch… → Finished.

- The worker may send Stop or Suspend at any time. The trainer obeys at its next step and answers Finished.
- A trial without fine-tuning sends Finished instead of Probed.
- A trial that resumes from a checkpoint sends Resumed first.
- The trainer sends Busy from time to time while it prepares data, or waits for another worker that does.
- User code may ask for values while it runs: the trainer sends Ask, or AskPruning, and waits for the Answer.
- It sends CheckpointWritten after each checkpoint, and TrialWarning for a problem that a user may want to fix.
"""

import math
import statistics
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from tuner.spec import hyperparameters as values
from tuner.spec.hyperparameters import ChosenValues, Hyperparameters, Plain, TrialValues
from tuner.trust.user_code import CodeFile


class Stage(StrEnum):
    """A part of a trial: image studies have a probe and a fine-tuning, other studies one stage."""

    PROBE = "probe"
    FINE_TUNE = "fine_tune"
    TRAIN = "train"


class Ending(StrEnum):
    """Ending of a trial that did not fail."""

    COMPLETED = "completed"
    STOPPED = "stopped"
    NOT_FINITE = "not_finite"
    SUSPENDED = "suspended"


#: prime number, by which the seeds of the trainings of a trial differ
_SEED_STEP = 7919
#: pictures in each row of the sheet of mistakes
SHEET_COLUMNS = 6
#: beside the checkpoint of a trial: the folder of checkpoints that user code writes, and the file of the values that it reported
OWN_CHECKPOINTS, REPORTS = "own-checkpoints", "reports.jsonl"


class PictureKind(StrEnum):
    """Subject of a picture that a trial stores."""

    #: the most confident mistakes, as small pictures
    MISTAKES = "mistakes"
    #: the confusion matrix
    CONFUSION = "confusion"


#: a field that is stored only if it has a value
_IF_ANY = Field(exclude_if=lambda value: not value)


class _Message(BaseModel):
    # a loss may be infinite or not a number, and must arrive unchanged
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Prepare(_Message):
    """Ask for the data, the backbone and the features of a study to be loaded; the answer is Prepared or Failed."""

    kind: Literal["prepare"] = "prepare"
    #: the StudySpec as JSON
    spec: str
    #: folder with decoded images and features, shared by all workers on the machine
    cache: str
    #: whether to try user code once: build the model, and train one batch
    tries: bool = False


class TrainedMember(_Message):
    """A network that was trained in the same study."""

    hyperparameters: Hyperparameters
    #: .npz file with its weights
    weights: str


class Teacher(_Message):
    """Networks whose mean probabilities teach a trial in place of the labels."""

    members: tuple[TrainedMember, ...]
    #: weight of the probabilities in the target; the rest is the label
    share: float


class _OfTrial(_Message):
    trial: int
    hyperparameters: TrialValues

    @property
    def of_images(self) -> Hyperparameters:
        """The hyperparameters of a trial of an image study."""
        return values.of_images(self.hyperparameters)

    @property
    def chosen(self) -> dict[str, Plain]:
        """The values of a trial of user code."""
        assert isinstance(self.hyperparameters, ChosenValues), "an image study has hyperparameters of its own"
        return dict(self.hyperparameters.values)


class Train(_OfTrial):
    """Ask for one trial to be trained; the answers are Epoch…, Probed, then Finished or Failed."""

    kind: Literal["train"] = "train"
    #: seed of all random choices in the trial
    seed: int
    #: path for the weights of the best epoch at the end of the trial, without suffix
    weights: str
    #: path of the checkpoint; if the file exists, the trial resumes from it
    checkpoint: str
    #: path of a checkpoint that was downloaded from another machine; the trial resumes from the later of both
    fetched: str | None = None
    #: epochs of fine-tuning; None: those of the study
    epochs: int | None = None
    #: None: the labels teach
    teacher: Teacher | None = None

    def seed_of(self, number: int) -> int:
        """Return the seed of one of several trainings of the trial, counted from 0."""
        return self.seed + number * _SEED_STEP


class Proceed(_Message):
    """Tell the trainer to continue from the probe to the fine-tuning."""

    kind: Literal["proceed"] = "proceed"
    #: epochs of fine-tuning; None: those that `Train` named
    epochs: int | None = None


class Stop(_Message):
    """Tell the trainer to end the trial at its next step."""

    kind: Literal["stop"] = "stop"


class Suspend(_Message):
    """Tell the trainer to suspend the trial at its next step, from which it can resume later."""

    kind: Literal["suspend"] = "suspend"
    #: whether to write a checkpoint at that step; not if the trial's files belong to another worker now
    keeps: bool = True


class Answer(_Message):
    """Answer a question of the trainer."""

    kind: Literal["answer"] = "answer"
    #: the value of the parameter, or whether to prune the trial
    value: Plain = None
    #: why there is no value: the question contradicts earlier trials; "" if there is one
    refusal: str = ""


class Evaluate(_OfTrial):
    """Ask for stored weights to be scored on the test split, or for their costs; the answer is Evaluated or Failed."""

    kind: Literal["evaluate"] = "evaluate"
    weights: str
    #: costs: what the constraints of the study limit, without the test split
    measures: Literal["test", "costs"] = "test"


#: splits that a trained network may predict
Split = Literal["validation", "test"]


class Predict(_OfTrial):
    """Ask for a network's outputs on whole splits, written to a file; the answer is Predicted or Failed."""

    kind: Literal["predict"] = "predict"
    #: files with weights; if there are several, their average is used
    weights: tuple[str, ...]
    #: path for the averaged weights; None: they are not written
    average: str | None = None
    splits: tuple[Split, ...]
    #: whether to predict the mirror images, too
    mirrored: bool = False
    #: path of the .npz file: for each split its logits (n, classes); under the split's name and `_labels` its labels (n,), and under its
    #: name and `_mirrored` the logits of the mirror images
    to: str


class Quit(_Message):
    """Tell the trainer to exit."""

    kind: Literal["quit"] = "quit"


class Prepared(_Message):
    """The study is loaded, and the trainer can start trials."""

    kind: Literal["prepared"] = "prepared"
    #: for example "cpu, 2 threads" or "NVIDIA H100"
    device: str
    classes: tuple[str, ...]
    #: numbers of examples; 0: unknown, or the study has no data of its own
    num_train: int
    num_validation: int
    num_test: int
    #: fine-tuning epochs of each trial, also for `training.epochs: auto`
    epochs: int
    #: SHA-256 of all images and labels
    fingerprint: str
    #: SHA-256 of the three splits
    splits: str
    #: what a model answers that looks at no image; "": the commonest class
    always: Annotated[str, _IF_ANY] = ""
    #: the commonest class of the training images; "" if an earlier version of tuner wrote this
    commonest: str = ""
    #: accuracy of a model that always answers it, on each split; None: unknown, or the split has no images
    commonest_validation: float | None = None
    commonest_test: float | None = None
    #: what a model scores in the metric of the study that always answers with the shares of the classes among the training images, on each
    #: split; None: unknown, the split has no images, or the metric is the accuracy
    baseline_validation: float | None = None
    baseline_test: float | None = None
    #: number of images whose accuracy is as certain as a mean over the classes of the validation images; None: unknown
    balanced_validation: float | None = None
    #: values of the images that became 0 and 255; None: those of 8 or 16 bits
    value_range: tuple[float, float] | None = None
    #: what a user should know about images that only a trainer can read, one line each; `commands.check.admit` tells of all others
    warnings: tuple[str, ...] = ()
    #: of Python, Keras, TensorFlow, tuner
    versions: dict[str, str]
    seconds: float
    #: files of code that the study names
    code: tuple[CodeFile, ...] = ()
    #: what a trainer found that tried the code once, as pairs of a name and a text; (): it did not
    facts: tuple[tuple[str, str], ...] = ()
    #: what the code asked for then, and the metrics that it will report
    asked: "tuple[Ask, ...]" = ()
    metrics: tuple[str, ...] = ()
    #: seconds of one image in the network at the size of trial 0, on all threads of the trainer; None: not measured
    image_seconds: float | None = None


class Busy(_Message):
    """The trainer prepares data or waits for another worker or for disk space; this message shows that it does not hang."""

    kind: Literal["busy"] = "busy"
    trial: int


class Ask(_Message):
    """Ask for the value of a parameter; the answer is Answer. A parameter of a trial has one value, however often it is asked for."""

    kind: Literal["ask"] = "ask"
    trial: int
    name: str
    #: the ends of a range, both included; None: it is a choice
    low: float | None = None
    high: float | None = None
    #: distance between two possible values; None: any number
    step: float | None = None
    #: whether the values are whole numbers
    integer: bool = False
    #: whether the range is sampled evenly on a logarithmic scale
    log: bool = False
    #: the values of a choice
    choices: tuple[Plain, ...] = ()


class AskPruning(_Message):
    """Ask whether the trial must be pruned, given the values that it reported; the answer is Answer."""

    kind: Literal["ask_pruning"] = "ask_pruning"
    trial: int


class Epoch(_Message):
    """The results of one epoch; a measure that the task does not know is NaN."""

    kind: Literal["epoch"] = "epoch"
    trial: int
    stage: Stage
    #: number of the epoch, counted from 1 across both stages
    step: int
    #: training loss and accuracy during the epoch, with dropout and augmentation
    loss: float = math.nan
    accuracy: float = math.nan
    validation_loss: float = math.nan
    validation_accuracy: float = math.nan
    #: at the epoch's last step
    learning_rate: float = math.nan
    seconds: float
    #: the metric that the study optimizes; None: an earlier version of tuner wrote the message, and it is the validation accuracy
    value: float | None = None
    #: all other metrics that were reported
    metrics: dict[str, float] = {}

    @property
    def measured(self) -> float:
        """The metric that the study optimizes."""
        return self.validation_accuracy if self.value is None else self.value


class Resumed(_Message):
    """The trial resumes from a checkpoint. The storage may lack epochs that a killed worker did not report."""

    kind: Literal["resumed"] = "resumed"
    trial: int
    #: every epoch up to the checkpoint; empty if an earlier version of tuner wrote it
    curve: tuple[Epoch, ...]


class CheckpointWritten(_Message):
    """A checkpoint of the trial was written."""

    kind: Literal["kept"] = "kept"
    trial: int


class TrialWarning(_Message):
    """A problem that does not end the trial."""

    kind: Literal["trouble"] = "trouble"
    trial: int
    #: the problem, and what happens to the trial
    message: str


class Probed(_Message):
    """The probe has ended; the trainer waits for Proceed, Stop or Suspend."""

    kind: Literal["probed"] = "probed"
    trial: int
    #: best value of the probe
    value: float


class Misclassified(_Message):
    """A validation image that the best epoch misclassified."""

    #: index in the validation split
    index: int
    #: indices in `Prepared.classes`
    true: int
    predicted: int
    #: predicted probability of the wrong class
    confidence: float


def _rounded(costs: dict[str, float]) -> dict[str, float]:
    return {name: round(cost, 4) for name, cost in costs.items()}


class LabelCounts(_Message):
    """How the answers about one class fare, where an image may have several labels."""

    #: images that have the label, images that are given it, and images of which both are true
    num_images: int
    num_given: int
    num_right: int
    #: probability from which an image is given the label
    threshold: float
    #: None: no image has the label
    average_precision: float | None = None


class Finished(_Message):
    """The trial ended without failing."""

    kind: Literal["finished"] = "finished"
    trial: int
    ending: Ending
    #: the reason for NOT_FINITE; "" for other endings, because the worker knows their reason
    reason: str = ""
    #: best value; None if no epoch finished
    value: float | None = None
    #: step of the best epoch
    best_step: int | None = None
    #: rows: true class, columns: predicted class, on the validation split at the best epoch
    confusion: tuple[tuple[int, ...], ...] = ()
    #: of each class on the validation split at the best epoch, if an image may have several labels
    by_class: tuple[LabelCounts, ...] = ()
    #: the most confident mistakes of the best epoch, the most confident first
    mistakes: tuple[Misclassified, ...] = ()
    #: file of each picture; once they are stored, their names in the artifact store
    pictures: dict[PictureKind, str] = {}
    #: file with the weights of the best epoch; None if none were saved
    weights: str | None = None
    #: size of this file, once the worker knows it
    weights_bytes: int | None = None
    #: file with the logits of the validation images and of their mirror images by these weights; None if the trial was not fine-tuned
    logits: str | None = None
    #: duration of each stage in seconds, including building and tracing the network
    probe_seconds: float = 0.0
    fine_tune_seconds: float = 0.0
    #: values of the parameters that were asked for; None: the worker knew all of them before
    asked: dict[str, Plain] | None = None
    #: user attributes that user code set, as JSON values by name
    attributes: dict[str, Any] = {}
    #: the last part of what user code printed
    printed: str = ""
    #: all other metrics of the best epoch
    metrics: dict[str, float] = {}
    #: first digits of the SHA-256 of the code that the trial ran; "" if it ran none
    code: str = ""
    #: what the constraints of the study limit, by name: latency_ms, size_mb; rounded here, so that all compare and store the same number
    costs: Annotated[dict[str, float], AfterValidator(_rounded)] = {}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the attributes of a trial whose value is the mean of several trainings, by the values of these; empty for one."""
    return {"executions": list(values), "standard_deviation": statistics.stdev(values)} if len(values) > 1 else {}


class Failed(_Message):
    """The work could not be done."""

    kind: Literal["failed"] = "failed"
    #: None if no trial was running
    trial: int | None
    #: kind of the failure, which groups equal ones, for example "MemoryError" or "DataError"
    error: str
    message: str
    #: whether the request was wrong, so that a retry cannot succeed
    is_request: bool = False
    #: whether user code raised it; then the traceback has only its own frames
    is_users: bool = False
    traceback: str = ""
    #: last lines of the trainer's log, or what user code printed last
    log: str = ""
    #: first digits of the SHA-256 of the code that the trial ran; "" if it ran none
    code: str = ""

    @property
    def words(self) -> str:
        """The message, which starts with the kind of the failure."""
        return self.message if self.message.startswith(f"{self.error}:") else f"{self.error}: {self.message}"


class Evaluated(_Message):
    """The score of stored weights on the test split, or their costs."""

    kind: Literal["evaluated"] = "evaluated"
    trial: int
    #: None: the task has no accuracy
    accuracy: float | None = None
    loss: float | None = None
    #: number of examples
    num_images: int
    confusion: tuple[tuple[int, ...], ...] = ()
    #: of each class, if an image may have several labels, with the thresholds that were chosen on the validation split
    by_class: Annotated[tuple[LabelCounts, ...], _IF_ANY] = ()
    #: the metric that the study optimizes; None: it is the accuracy
    value: float | None = None
    #: all other metrics
    metrics: dict[str, float] = {}
    #: as in `Finished`, if they were asked for
    costs: Annotated[dict[str, float], AfterValidator(_rounded), _IF_ANY] = {}


class Predicted(_Message):
    """The file with the predictions is written."""

    kind: Literal["predicted"] = "predicted"
    trial: int
    #: seconds to predict all images once, in batches
    seconds: float = 0.0


_Order = Prepare | Train | Proceed | Stop | Suspend | Answer | Evaluate | Predict | Quit
_Reply = (
    Prepared
    | Busy
    | Ask
    | AskPruning
    | Epoch
    | Resumed
    | CheckpointWritten
    | TrialWarning
    | Probed
    | Finished
    | Failed
    | Evaluated
    | Predicted
)
Message = Annotated[_Order | _Reply, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[Message] = TypeAdapter(Message)


def encode(message: Message) -> bytes:
    """Return a message as bytes."""
    return message.model_dump_json().encode()


def decode(data: bytes) -> Message:
    """Return the message that `encode` turned into these bytes."""
    return _ADAPTER.validate_json(data)


class WorkerPort(Protocol):
    """Takes reports about a trial and passes on what the worker decides about it."""

    def send(self, message: Message) -> None:
        """Send a message to the worker."""

    def interruption(self) -> Stop | Suspend | None:
        """Return the worker's request to end the trial now, if there is one; it stays until the trial ends."""

    def decision(self) -> Proceed | Stop | Suspend:
        """Wait for the worker's decision after the probe."""

    def ask(self, question: Ask | AskPruning) -> Answer | Stop | Suspend:
        """Ask the worker, and wait for its answer, or for its request to end the trial."""
