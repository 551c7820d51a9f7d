"""Code as users write it, wrong in one way each, and a worker that answers its questions."""

import itertools
import textwrap
from pathlib import Path
from typing import Any

from tuner.protocol import messages
from tuner.spec import file as study_file
from tuner.spec.hyperparameters import ChosenValues
from tuner.spec.study import AnyStudySpec

#: modules keep their names in a process, so that each test has a file of its own
_NUMBERS = itertools.count()


class AnsweringWorker:
    """A worker that answers each question with the first possible value, and remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[messages.Message] = []
        self.wanted: messages.Stop | messages.Suspend | None = None

    def send(self, message: messages.Message) -> None:
        self.told.append(message)

    def interruption(self) -> messages.Stop | messages.Suspend | None:
        return self.wanted

    def decision(self) -> messages.Proceed:
        return messages.Proceed()

    def ask(self, question: messages.Ask | messages.AskPruning) -> messages.Answer:
        if isinstance(question, messages.AskPruning):
            return messages.Answer(value=False)
        return messages.Answer(value=question.choices[0] if question.low is None else question.low)


def write(folder: Path, code: str) -> str:
    """Write a file of code, and return its name."""
    path = folder / f"code_{next(_NUMBERS)}.py"
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return path.name


def objective_study(folder: Path, code: str, function: str = "objective", **sections: Any) -> AnyStudySpec:
    """Return a study of an objective."""
    given = {"name": "mine", "task": "objective", "function": f"{write(folder, code)}:{function}", "objective": "minimize"}
    return study_file.parse(given | sections, "study.yaml", folder)


def custom_study(folder: Path, code: str, **sections: Any) -> AnyStudySpec:
    """Return a study of a model, with the functions `build` and `load` of one file."""
    name = write(folder, code)
    given: dict[str, Any] = {"name": "mine", "task": "custom", "objective": "val_loss", "training": {"epochs": 1, "batch_size": 8}}
    given |= {"model": {"build": f"{name}:build"}, "data": {"load": f"{name}:load"}}
    return study_file.parse(given | sections, "study.yaml", folder)


def train(folder: Path, **values: Any) -> messages.Train:
    """Return the order to train trial 0."""
    chosen = ChosenValues(values=values)
    return messages.Train(trial=0, hyperparameters=chosen, seed=7, weights=str(folder / "weights"), checkpoint=str(folder / "checkpoint"))
