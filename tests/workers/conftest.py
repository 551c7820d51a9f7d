"""A study on SQLite and a worker whose trainer is a rehearsal."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import databases
from tuner.spec.study import StudySpec
from tuner.storage import engine as storages
from tuner.storage import epochs
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.studies.study import Study
from tuner.workers.bucket.transfer import Folders
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.rehearsal import Rehearsal, Script
from tuner.workers.worker.stopping import Stopping
from tuner.workers.worker.trainer import Limits, WarmTrainer
from tuner.workers.worker.worker import Worker, WorkerTiming


@dataclass
class WorkerRunner:
    """A worker that can be run several times on one study."""

    study: Study
    folder: Path
    script: Script = field(default_factory=Script)
    limits: Limits = field(default_factory=Limits)
    timing: WorkerTiming = field(default_factory=WorkerTiming)
    stopping: Stopping = field(default_factory=Stopping)
    events: list[Event] = field(default_factory=list)
    #: `Folders.bucket`
    bucket: str | None = None
    #: called with each event after it was recorded
    react: Callable[[Event], None] = lambda event: None

    def tell(self, event: Event) -> None:
        self.events.append(event)
        self.react(event)

    def work(self, name: str = "w1") -> None:
        """Be a worker until it ends."""
        trainer = WarmTrainer(lambda: Rehearsal(self.script), self.limits, self.stopping)
        folders = Folders(cache=self.folder / "cache", artifacts=self.folder / "artifacts", bucket=self.bucket)
        identity = trials.WorkerId.here(name)
        Worker(self.study, trainer, identity=identity, folders=folders, stopping=self.stopping, tell=self.tell).run(self.timing)

    def again(self) -> "WorkerRunner":
        """Return a runner with the same study and script whose worker is not asked to stop."""
        return WorkerRunner(study=self.study, folder=self.folder, script=self.script, limits=self.limits)

    def happened(self, what: EventKind) -> list[int | None]:
        """Return the trial of each event of a kind."""
        return [event.trial for event in self.events if event.what is what]

    def steps(self, number: int) -> list[int]:
        """Return the stored steps of a trial."""
        return [epoch.step for epoch in self.study.storage.read(lambda connection: epochs.read(connection, self.study.id, number))]

    def states(self) -> list[str]:
        """Return the state of each trial, by number."""
        return [trial.state.name for trial in self.study.optuna.get_trials(deepcopy=False)]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., WorkerRunner]:
    """Return a function that makes a runner; its keywords are sections of the study file."""

    def make(**sections: object) -> WorkerRunner:
        given = {"name": "study", "data": {"source": "digits"}, "budget": {"trials": 4}, "sampler": "random", "pruner": "none"} | sections
        storage = storages.open(databases.sqlite(tmp_path))
        return WorkerRunner(study=studies.join(StudySpec.model_validate(given), storage), folder=tmp_path)

    return make
