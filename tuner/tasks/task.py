"""Tasks: the two interfaces that each task implements, and how its modules are found.

A task is a package beside this module. Its `spec` modules say what a study file may contain and run without Keras. Its `training` modules
train trials. `spec.tasks` lists the tasks; a new one adds one entry there.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from tuner.machine import TrainerShare
from tuner.protocol import messages
from tuner.protocol.messages import WorkerPort
from tuner.spec import tasks
from tuner.spec.hyperparameters import TrialValues
from tuner.spec.space import Chooser, SpaceRow
from tuner.spec.study import AnyStudySpec


class TaskSpec(Protocol):
    """Part of a task that reads study files, without Keras. Each function gets a study of this task."""

    def rule(self, spec: AnyStudySpec, *, num_train: int, num_classes: int) -> dict[str, Any]:
        """Return the parameters of trial 0, which a rule takes from the size of the data; empty if the task has no rule."""

    def suggest(self, chooser: Chooser, spec: AnyStudySpec) -> TrialValues:
        """Return the values of a trial that `chooser` chooses; it is asked only for those that act, given its earlier choices."""

    def fitted(self, given: Mapping[str, Any], spec: AnyStudySpec) -> tuple[dict[str, Any], list[str]]:
        """Return values of parameters as a trial of the study takes them, and the reasons why others do not fit."""

    def rows(self, spec: AnyStudySpec) -> list[SpaceRow]:
        """Return a row for each hyperparameter that can act in the study, searched or fixed."""

    def subject(self, spec: AnyStudySpec) -> str:
        """Return in a few words what the study trains on what: `folder on efficientnet_lite0 at 96 pixels`."""

    def facts(self, spec: AnyStudySpec, epochs: int | None) -> list[tuple[str, str]]:
        """Return what the study trains and how, as pairs of a name and a text; `epochs` are those of a trial, None if not known yet."""

    def asks_while_running(self, spec: AnyStudySpec) -> bool:
        """Return whether the trainer may ask for values while a trial runs, so that its parameters are not known before."""


class PreparedStudy(Protocol):
    """A study whose data and network are loaded, ready to train its trials."""

    @property
    def num_traced(self) -> int:
        """Number of graphs traced so far."""

    def describe(self, *, seconds: float) -> messages.Prepared:
        """Return the facts that the worker records about the study: classes, numbers of examples, epochs, fingerprints, versions."""

    def try_once(self) -> tuple[tuple[str, str], ...]:
        """Try what a trial will do, and return what was found, as pairs of a name and a text."""

    def train(self, order: messages.Train, worker: WorkerPort) -> messages.Finished:
        """Train one trial."""

    def evaluate(self, order: messages.Evaluate) -> messages.Evaluated:
        """Score the weights of a trial on the test split."""


@runtime_checkable
class PredictsLogits(Protocol):
    """What a prepared study of classifiers can do, too: the members of ensembles and the networks of a retraining are asked for it."""

    def predict(self, order: messages.Predict) -> messages.Predicted:
        """Write the logits of whole splits to a file."""


class TaskTraining(Protocol):
    """Part of a task that trains."""

    def prepare(self, study: Any, *, cache: Path, share: TrainerShare) -> PreparedStudy:
        """Load what the trials of a study share.

        Raises:
            RequestError: the data or the network cannot be used as the study names them.
        """


def spec(name: str) -> TaskSpec:
    """Return the file side of a task."""
    return cast(TaskSpec, importlib.import_module(tasks.TASKS[name].spec))


def training(name: str) -> TaskTraining:
    """Return the trainer side of a task; the first call imports Keras, if the task needs it."""
    return cast(TaskTraining, importlib.import_module(tasks.TASKS[name].training))
