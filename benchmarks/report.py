"""Measure the report of a large study: the time to write it, and its size in bytes."""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from sqlalchemy import Connection, delete, select

from benchmarks import big_study
from tuner.report import content, facts, page
from tuner.spec import space
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.storage.attributes import HYPERPARAMETERS
from tuner.studies import study as studies
from tuner.studies.study import Study


class Drawn:
    """A chooser that draws uniformly and records what it has drawn."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.values: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None) -> float:
        return float(self._keep(name, self._random.uniform(low, high), FloatDistribution(low, high, log=log)))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        return int(self._keep(name, self._random.randint(low, high), IntDistribution(low, high, log=log)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._keep(name, self._random.choice(choices), CategoricalDistribution(choices))

    def _keep(self, name: str, value: Any, distribution: BaseDistribution) -> Any:
        self.values[name], self.distributions[name] = value, distribution
        return value


def fill(storage: storages.Storage, num_trials: int) -> Study:
    """Create a study of ended trials with 20 epochs each, which differ in every hyperparameter of the default search."""
    study_id = big_study.fill(storage, name="many", num_trials=num_trials)
    study = studies.load("many", storage)
    storage.write(lambda connection: _widen(connection, study, study_id))
    return study


def _widen(connection: Connection, study: Study, study_id: int) -> None:
    """Give each trial a value for every parameter, not only for two."""
    trials = connection.execute(select(tables.TRIALS.c.trial_id, tables.TRIALS.c.number).where(tables.TRIALS.c.study_id == study_id)).all()
    connection.execute(delete(tables.PARAMETERS))
    for trial_id, number in trials:
        drawn = Drawn(number)
        chosen = space.suggest(drawn, study.images.search, fine_tunes=True)
        tables.put_parameters(connection, trial_id, drawn.values, drawn.distributions)
        tables.put(connection, tables.TRIAL_SYSTEM, trial_id, {HYPERPARAMETERS: chosen.model_dump(mode="json")})


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1_000)
    parser.add_argument("--to", type=Path, help="folder for the reports")
    given = parser.parse_args()
    figures: dict[str, Any] = {"trials": given.trials, "epochs": big_study.EPOCHS}
    with tempfile.TemporaryDirectory() as folder:
        storage = storages.open(f"sqlite:///{folder}/report.db")
        study = fill(storage, given.trials)
        facts.importances(study, content.read(study).valued)  # what is imported and read once is not counted
        began = time.perf_counter()
        read = content.read(study)
        figures["reading_seconds"] = round(time.perf_counter() - began, 2)
        began = time.perf_counter()
        facts.importances(study, read.valued)
        figures["importances_seconds"] = round(time.perf_counter() - began, 2)
        for form in ("html", "md"):
            target = (given.to or Path(folder)) / f"report.{form}"
            began = time.perf_counter()
            num_bytes = page.write(study, target, form)
            figures[form] = {"seconds": round(time.perf_counter() - began, 2), "bytes": num_bytes}
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
