"""What passes through the pipe between a worker and its trainer, as JSON.

worker -> trainer   Prepare, Train, Proceed, Stop, Suspend, Evaluate, Predict, Quit
trainer -> worker   Prepared, Busy, Resumed, Epoch, Kept, Trouble, Probed, Finished, Failed, Evaluated, Predicted

One trial: Train → Epoch… → Probed (the trainer waits) → Proceed → Epoch… → Finished. A Stop or Suspend may come at any time and is
obeyed at the next step; the trainer then answers Finished. A trial with nothing to unfreeze sends Finished in place of Probed. Where it
has to compute what it needs of the images, or to wait for another worker that does, Busy comes from time to time. One that goes on from a
checkpoint sends Resumed first. Kept comes after each checkpoint, Trouble where it bears something that a person may want to mend.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from tuner.spec.hyperparameters import Hyperparameters


class Stage(StrEnum):
    """The two parts of a trial."""

    PROBE = "probe"
    FINE_TUNE = "fine_tune"


class Ending(StrEnum):
    """How a trial that did not fail came to its end."""

    COMPLETED = "completed"
    STOPPED = "stopped"
    NOT_FINITE = "not_finite"
    SUSPENDED = "suspended"


#: pictures in a row of the sheet of mistakes
SHEET_COLUMNS = 6


class PictureKind(StrEnum):
    """What the pictures of a trial show."""

    #: the most confident mistakes, a small picture each
    MISTAKES = "mistakes"
    #: which classes were taken for which
    CONFUSION = "confusion"


class _Message(BaseModel):
    # a loss may be infinite or not a number, and must arrive as such
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Prepare(_Message):
    """Load the data, the backbone and the features of a study; answered by Prepared or Failed."""

    kind: Literal["prepare"] = "prepare"
    #: the StudySpec as JSON
    spec: str
    #: folder of decoded images and features, shared by the workers of a host
    cache: str


class Train(_Message):
    """Train one trial; answered by Epoch…, Probed, then Finished or Failed."""

    kind: Literal["train"] = "train"
    trial: int
    hyperparameters: Hyperparameters
    #: of everything random in the trial
    seed: int
    #: where the weights of the best epoch go when the trial ends, without suffix
    weights: str
    #: where a suspended trial keeps what it needs to go on; read first if it is there
    checkpoint: str
    #: the same as another machine kept it, if it was fetched; whichever is further is gone on from
    fetched: str | None = None


class Proceed(_Message):
    """Go on from the probe to the fine-tuning."""

    kind: Literal["proceed"] = "proceed"


class Stop(_Message):
    """End the trial at the next step."""

    kind: Literal["stop"] = "stop"


class Suspend(_Message):
    """Hand the trial back at the next step; it goes on from there."""

    kind: Literal["suspend"] = "suspend"
    #: whether a checkpoint is kept of that step; not of a trial whose files are another worker's now
    keeps: bool = True


class Evaluate(_Message):
    """Score kept weights on the test split; answered by Evaluated or Failed."""

    kind: Literal["evaluate"] = "evaluate"
    trial: int
    hyperparameters: Hyperparameters
    weights: str


#: images that a trained network is asked about
Split = Literal["validation", "test"]


class Predict(_Message):
    """Write what a network makes of whole splits to a file; answered by Predicted or Failed."""

    kind: Literal["predict"] = "predict"
    trial: int
    hyperparameters: Hyperparameters
    #: files of kept weights; of several the average
    weights: tuple[str, ...]
    #: where the average goes; None: nowhere
    average: str | None = None
    splits: tuple[Split, ...]
    #: .npz file: for each split its logits (n, classes), and its labels (n,) under the split's name and `_labels`
    to: str


class Quit(_Message):
    """Leave."""

    kind: Literal["quit"] = "quit"


class Prepared(_Message):
    """The trainer is warm."""

    kind: Literal["prepared"] = "prepared"
    #: for example "cpu, 2 threads" or "NVIDIA H100"
    device: str
    classes: tuple[str, ...]
    num_train: int
    num_validation: int
    num_test: int
    #: fine-tuning epochs that `training.epochs: auto` came to
    epochs: int
    #: SHA-256 over every image and label
    fingerprint: str
    #: SHA-256 over the three splits
    splits: str
    #: of Python, Keras, TensorFlow, tuner
    versions: dict[str, str]
    seconds: float


class Busy(_Message):
    """A trial computes what it trains on, or waits for another worker that does, or for room; it says so that it is not taken to hang."""

    kind: Literal["busy"] = "busy"
    trial: int


class Epoch(_Message):
    """One epoch of training, measured."""

    kind: Literal["epoch"] = "epoch"
    trial: int
    stage: Stage
    #: counted from 1 through both stages
    step: int
    #: training loss and accuracy; of the epoch, with dropout and augmentation on
    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float
    #: at the epoch's last step
    learning_rate: float
    seconds: float


class Resumed(_Message):
    """The trial goes on from a checkpoint. The storage lacks those of its epochs that a killed worker had not reported."""

    kind: Literal["resumed"] = "resumed"
    trial: int
    #: every epoch up to the checkpoint; none where an earlier version wrote it
    curve: tuple[Epoch, ...]


class CheckpointWritten(_Message):
    """A checkpoint of the trial was written."""

    kind: Literal["kept"] = "kept"
    trial: int


class TrialWarning(_Message):
    """Something is wrong that the trial bears."""

    kind: Literal["trouble"] = "trouble"
    trial: int
    #: what it is, and what becomes of the trial
    message: str


class Probed(_Message):
    """The probe is done; the trainer waits for Proceed, Stop or Suspend."""

    kind: Literal["probed"] = "probed"
    trial: int
    #: best validation accuracy of the probe
    value: float


class Misclassified(_Message):
    """A validation image whose class the best epoch got wrong."""

    #: in the validation split
    index: int
    #: places in `Prepared.classes`
    true: int
    predicted: int
    #: probability that it gave to the wrong class
    confidence: float


class Finished(_Message):
    """The trial has ended without failing."""

    kind: Literal["finished"] = "finished"
    trial: int
    ending: Ending
    #: why, for NOT_FINITE; "" otherwise: of the other endings the worker knows the reason
    reason: str = ""
    #: best validation accuracy; None if no epoch was finished
    value: float | None = None
    #: step of the best epoch
    best_step: int | None = None
    #: rows: true class, columns: predicted class, on the validation split at the best epoch
    confusion: tuple[tuple[int, ...], ...] = ()
    #: the most confident ones at the best epoch, the most confident first
    mistakes: tuple[Misclassified, ...] = ()
    #: file of each picture that was drawn; once they are kept, their names in the artifact store
    pictures: dict[PictureKind, str] = {}
    #: file with the weights of the best epoch; None if none were kept
    weights: str | None = None
    #: seconds spent in each stage, with what was needed to build and trace it
    probe_seconds: float = 0.0
    fine_tune_seconds: float = 0.0


class Failed(_Message):
    """The work could not be done."""

    kind: Literal["failed"] = "failed"
    #: None where no trial was at work
    trial: int | None
    #: groups equal failures, for example "MemoryError" or "DataError"
    error: str
    message: str
    #: whether the request was wrong, not the work: nothing is gained by trying again
    is_request: bool = False
    traceback: str = ""
    #: last lines of the trainer's log
    log: str = ""


class Evaluated(_Message):
    """Kept weights, scored on the test split."""

    kind: Literal["evaluated"] = "evaluated"
    trial: int
    accuracy: float
    loss: float
    num_images: int
    confusion: tuple[tuple[int, ...], ...]


class Predicted(_Message):
    """The file that Predict asked for is there."""

    kind: Literal["predicted"] = "predicted"
    trial: int


_Order = Prepare | Train | Proceed | Stop | Suspend | Evaluate | Predict | Quit
_Answer = Prepared | Busy | Epoch | Resumed | CheckpointWritten | TrialWarning | Probed | Finished | Failed | Evaluated | Predicted
Message = Annotated[_Order | _Answer, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[Message] = TypeAdapter(Message)


def encode(message: Message) -> bytes:
    """A message as the bytes that pass through the pipe."""
    return message.model_dump_json().encode()


def decode(data: bytes) -> Message:
    """The message that `encode` made these bytes of."""
    return _ADAPTER.validate_json(data)
