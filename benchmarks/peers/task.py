"""What one contender is given for one run: data, seed, epochs a trial, a folder of its own."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tuner.spec import file as study_file
from tuner.spec import study as spec_study

STUDY = Path(__file__).with_name("study.yaml")
#: the data set that needs no file
ANIMALS = "animals"
#: seconds since the epoch at which the process of a contender was started
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
    #: wall-clock time from the start of the process on
    minutes: float
    #: of each trial of a peer; tuner has its study file
    epochs: int
    #: processors that the run may use
    threads: int
    #: of tuner alone
    workers: int
    #: everything that the run writes
    folder: Path

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The task that was written into a folder."""
        given = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        return cls(**given, folder=folder)

    def write(self) -> None:
        """Put the task and the study file of the run into its folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / _FILE).write_text(json.dumps(self.plain(), indent=1), encoding="utf-8")
        # JSON is YAML
        given = self.study().model_dump(mode="json", exclude_unset=True)
        self.study_path.write_text(json.dumps(given, indent=1), encoding="utf-8")

    def plain(self) -> dict[str, Any]:
        """Everything but the folder."""
        return {name: value for name, value in vars(self).items() if name != "folder"}

    @property
    def study_path(self) -> Path:
        """The study file of the run."""
        return self.folder / "study.yaml"

    @property
    def cache(self) -> Path:
        """The run's cache, empty at first."""
        return self.folder / "cache"

    def study(self) -> spec_study.StudySpec:
        """The study of the run: its splits and its search space are those of every contender."""
        given = study_file.read(STUDY).model_dump(exclude_unset=True)
        data = given["data"] if self.npz is None else {"source": "npz", "path": self.npz}
        return spec_study.StudySpec.model_validate(
            given | {"name": f"peers-{self.data}", "data": data, "seed": self.seed, "budget": _budget(given, self.minutes)}
        )


def started() -> float:
    """Seconds since the epoch at which this contender's process was started."""
    return float(os.environ[STARTED])


def _budget(given: Mapping[str, Any], minutes: float) -> dict[str, Any]:
    return dict(given["budget"]) | {"timeout": minutes * 60}
