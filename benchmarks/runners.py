"""Run trials that train nothing, one after another, as tuner does and as a plain Optuna script does."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import optuna
from optuna.storages import BaseStorage
from sqlalchemy import func, select

from benchmarks.copies import Copies
from benchmarks.idle import PROBE_EPOCHS, Idle, curve
from tuner.spec import space
from tuner.spec.study import StudySpec
from tuner.storage import tables
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.studies.trials import WorkerId
from tuner.workers.bucket.transfer import Folders
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.stopping import Stopping
from tuner.workers.worker.trainer import Limits, WarmTrainer
from tuner.workers.worker.worker import Worker

#: number of trials whose rows are copied for a large study
NUM_PATTERNS = 40
#: called at the end of each trial; returns whether to run another
GoOn = Callable[[], bool]


class Runner(Protocol):
    """An object that runs trials of one study, one after another."""

    study_id: int

    def run(self, go_on: GoOn) -> None:
        """Run trials until `go_on` returns False."""
        ...


class Ours:
    """A tuner worker with a trainer that trains nothing."""

    def __init__(self, storage: Storage, folder: Path, *, epochs: int, promote: float) -> None:
        training = {"probe_epochs": PROBE_EPOCHS, "epochs": epochs, "promote": promote}
        given = {"data": {"source": "digits"}, "training": training, "budget": {"trials": None, "timeout": 1e9}}
        spec = StudySpec.model_validate({"name": f"ours-{epochs}-{promote}", **given})
        self._study = studies.join(spec, storage)
        self._folders = Folders(cache=folder / "cache", artifacts=folder / "artifacts")
        self.study_id = self._study.id

    def run(self, go_on: GoOn) -> None:
        """Run trials until `go_on` returns False."""
        stopping = Stopping()
        trainer = WarmTrainer(lambda: Idle(self._study.images.training.epochs != 0), Limits(), stopping)

        def tell(event: Event) -> None:
            if event.what in (EventKind.COMPLETED, EventKind.PRUNED) and not go_on():
                stopping.ask()

        Worker(self._study, trainer, identity=WorkerId.here("idle"), folders=self._folders, stopping=stopping, tell=tell).run()


class Plain:
    """Optuna as in its examples: the default sampler, a report and a pruning check per epoch; the same search space and curves."""

    def __init__(self, storage: BaseStorage, epochs: int) -> None:
        self._epochs = epochs
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=epochs // 2)
        self._study = optuna.create_study(
            study_name=f"plain-{epochs}", storage=storage, direction="maximize", pruner=pruner, load_if_exists=True
        )
        self._space = StudySpec.model_validate({"name": "plain", "data": {"source": "digits"}}).search
        self.study_id = self._study._study_id

    def run(self, go_on: GoOn) -> None:
        """Run trials until `go_on` returns False."""

        def ended(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
            if not go_on():
                study.stop()

        self._study.optimize(self._objective, callbacks=[ended])

    def _objective(self, trial: optuna.Trial) -> float:
        space.suggest(trial, self._space, fine_tunes=True)
        best = 0.0
        for step, value in enumerate(curve(trial.number, self._epochs)):
            best = max(best, value)
            trial.report(best, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return best


def fill(storage: Storage, runner: Runner, size: int) -> None:
    """Fill a study with trials: run the first ones, and copy the rows of the others."""
    there = select(func.count()).select_from(tables.TRIALS).where(tables.TRIALS.c.study_id == runner.study_id)
    count = storage.read(lambda connection: connection.execute(there).scalar_one())
    missing = iter(range(min(size, NUM_PATTERNS) - count - 1, -1, -1))
    if count < min(size, NUM_PATTERNS):
        runner.run(lambda: next(missing) > 0)
    if count < size:
        storage.write(lambda connection: Copies(connection, runner.study_id).grow(size))
