"""Task: the input of one contender for one run: data, seed, epochs per trial and a folder."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from optuna.trial import FixedTrial

from benchmarks.peers import contenders
from tuner.results import export
from tuner.spec import file as study_file
from tuner.spec import space as spaces
from tuner.spec.study import StudySpec
from tuner.tasks.images.data import in_memory
from tuner.tasks.images.spec import recipe

STUDY = Path(__file__).with_name("study.yaml")
#: name of the data set without a file
ANIMALS = "animals"
#: environment variable with the start of a contender's process, in seconds since the epoch
STARTED = "TUNER_BENCHMARK_STARTED"
_FILE = "task.json"
#: seconds that a study of tuner leaves for its start and for its ensemble, which are part of the time of a run
_RESERVED_SECONDS = 75.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run of one contender."""

    contender: str
    #: name of the data set
    data: str
    #: an .npz file; None for a data set that comes with tuner
    npz: str | None
    #: an .npz file with x and y, further test images of the same data set; None: none
    more: str | None = None
    seed: int
    #: wall-clock time from the start of the process
    minutes: float
    #: epochs of each trial of a peer; tuner uses its study file
    epochs: int
    #: number of processors for the run
    threads: int
    #: number of workers, only for tuner
    workers: int
    #: folder for all files of the run
    folder: Path

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the task in a folder."""
        given = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        return cls(**given, folder=folder)

    def write(self) -> None:
        """Write the task and the study file of the run to its folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / _FILE).write_text(json.dumps(self.plain(), indent=1), encoding="utf-8")
        # JSON is YAML
        given = self.study().model_dump(mode="json", exclude_unset=True)
        self.study_path.write_text(json.dumps(given, indent=1), encoding="utf-8")

    def plain(self) -> dict[str, Any]:
        """Return everything except the folder."""
        return {name: value for name, value in vars(self).items() if name != "folder"}

    @property
    def study_path(self) -> Path:
        """Return the path of the run's study file."""
        return self.folder / "study.yaml"

    @property
    def cache(self) -> Path:
        """Return the run's cache, which is empty at first."""
        return self.folder / "cache"

    def study(self, npz: str | None = None) -> StudySpec:
        """Return the study of the run, whose splits and search space all contenders use; `npz` replaces the file of its images."""
        given = study_file.read_images(STUDY).model_dump(exclude_unset=True)
        path = npz or self.npz
        data = given["data"] if path is None else {"source": "npz", "path": path}
        given |= {"name": f"peers-{self.data}", "data": data, "seed": self.seed, "budget": _budget(given, self.minutes)}
        contender = contenders.CONTENDERS[self.contender]
        if contender.image_size is not None:
            given["model"] = {"backbone": given["model"]["backbone"][0], "image_size": contender.image_size}
        found = StudySpec.model_validate(given)
        return self._of_recipe(found) if contender.is_recipe else found

    def _of_recipe(self, found: StudySpec) -> StudySpec:
        """Return a study whose every trial has the hyperparameters of trial 0, and is fine-tuned."""
        num_train, num_classes = self._size()
        values = recipe.parameters(num_train, num_classes, found.search)
        hyperparameters = spaces.suggest(FixedTrial(values), found.search, fine_tunes=True)
        training = found.training.model_copy(update={"promote": 1.0})
        return found.model_copy(update={"search": export.fixed(hyperparameters), "training": training})

    def _size(self) -> tuple[int, int]:
        """Return the numbers of training images and of classes."""
        if self.npz is None:
            return study_file.read_images(STUDY).model_dump()["data"]["train"], len(in_memory.ANIMALS)
        with np.load(self.npz) as arrays:
            return len(arrays["y_train"]), len(np.unique(arrays["y_train"]))


def started() -> float:
    """Return the start of this contender's process in seconds since the epoch."""
    return float(os.environ[STARTED])


def _budget(given: Mapping[str, Any], minutes: float) -> dict[str, Any]:
    return dict(given["budget"]) | {"timeout": max(30.0, minutes * 60 - _RESERVED_SECONDS)}
