"""Task: the input of one contender for one run: data, seed, epochs per trial and a folder."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tuner.spec import file as study_file
from tuner.spec import study as spec_study

STUDY = Path(__file__).with_name("study.yaml")
#: name of the data set without a file
ANIMALS = "animals"
#: environment variable with the start of a contender's process, in seconds since the epoch
STARTED = "TUNER_BENCHMARK_STARTED"
_FILE = "task.json"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run of one contender."""

    contender: str
    #: name of the data set
    data: str
    #: an .npz file; None for a data set that comes with tuner
    npz: str | None
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

    def study(self) -> spec_study.StudySpec:
        """Return the study of the run, whose splits and search space all contenders use."""
        given = study_file.read(STUDY).model_dump(exclude_unset=True)
        data = given["data"] if self.npz is None else {"source": "npz", "path": self.npz}
        return spec_study.StudySpec.model_validate(
            given | {"name": f"peers-{self.data}", "data": data, "seed": self.seed, "budget": _budget(given, self.minutes)}
        )


def started() -> float:
    """Return the start of this contender's process in seconds since the epoch."""
    return float(os.environ[STARTED])


def _budget(given: Mapping[str, Any], minutes: float) -> dict[str, Any]:
    return dict(given["budget"]) | {"timeout": minutes * 60}
