"""Tasks: what a study can be about, and the two interfaces that each task implements.

A task is a package beside this module. Its `spec` modules say what a study file may contain and run without Keras. Its `training` modules
train trials and import Keras. A new task adds one entry to `_MODULES`.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from tuner.protocol import messages
from tuner.protocol.messages import WorkerPort
from tuner.spec.model import TrialModel
from tuner.spec.search import SearchSpace
from tuner.spec.study import StudySpec

if TYPE_CHECKING:
    from tuner.kernels import devices

IMAGE_CLASSIFICATION = "image_classification"


class TaskSpec(Protocol):
    """Part of a task that reads study files, without Keras."""

    def parameters(self, num_train: int, num_classes: int, space: SearchSpace, *, fine_tunes: bool = True) -> dict[str, Any]:
        """Return the parameters of trial 0, which a rule takes from the size of the data."""

    def chosen_model(self, spec: StudySpec) -> TrialModel:
        """Return the model of trial 0, of those that the study searches."""

    def relative_cost(self, model: TrialModel) -> float:
        """Return the cost of one example with a model, in a unit of the task's own."""


class PreparedStudy(Protocol):
    """A study whose data and network are loaded, ready to train its trials."""

    @property
    def num_traced(self) -> int:
        """Number of graphs traced so far."""

    def describe(self, *, device: str, seconds: float) -> messages.Prepared:
        """Return the facts that the worker records about the study: classes, numbers of examples, epochs, fingerprints, versions."""

    def train(self, order: messages.Train, worker: WorkerPort) -> messages.Finished:
        """Train one trial."""

    def evaluate(self, order: messages.Evaluate) -> messages.Evaluated:
        """Score the weights of a trial on the test split."""

    def predict(self, order: messages.Predict) -> messages.Predicted:
        """Write the logits of whole splits to a file."""


class TaskTraining(Protocol):
    """Part of a task that trains, with Keras."""

    def prepare(self, study: StudySpec, *, cache: Path, share: "devices.TrainerShare") -> PreparedStudy:
        """Load what the trials of a study share.

        Raises:
            RequestError: the data or the network cannot be used as the study names them.
        """


@dataclass(frozen=True, kw_only=True)
class _Modules:
    #: implements `TaskSpec`
    spec: str
    #: implements `TaskTraining`
    training: str


_MODULES = {
    IMAGE_CLASSIFICATION: _Modules(spec="tuner.tasks.images.spec.recipe", training="tuner.tasks.images.training.prepared"),
}


def spec(name: str) -> TaskSpec:
    """Return the file side of a task."""
    return cast(TaskSpec, importlib.import_module(_MODULES[name].spec))


def training(name: str) -> TaskTraining:
    """Return the trainer side of a task; the first call imports Keras."""
    return cast(TaskTraining, importlib.import_module(_MODULES[name].training))
