"""A study that trains configs again into what came of each of them, and which one is chosen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection, select

from tuner import wording
from tuner.errors import StudyError
from tuner.results import statistics
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.study import Retraining
from tuner.storage import tables
from tuner.storage.queries import VALUED
from tuner.storage.tables import TRIAL_SYSTEM, TRIAL_USER
from tuner.studies import claims, endings
from tuner.studies.study import Study


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """One training of a config."""

    #: trial of the study that trains configs again
    trial: int
    seed: int
    #: best validation accuracy; None: it did not complete
    value: float | None
    #: file or URL of the weights of its best epoch; None: none were kept
    weights: str | None
    #: epoch of the best validation accuracy, counted from 1 through both stages
    best_epoch: int | None
    #: how it ended if it did not complete, in words
    trouble: str = ""


@dataclass(frozen=True, kw_only=True)
class Retrained:
    """A config of the search, trained again with each seed."""

    #: its trial of the search, and that one's validation accuracy; None: it did not complete
    trial: int
    search_value: float | None
    hyperparameters: Hyperparameters
    runs: tuple[TrainingRun, ...]

    @property
    def values(self) -> list[float]:
        """Validation accuracies, by seed."""
        return [run.value for run in self.runs if run.value is not None]

    @property
    def is_whole(self) -> bool:
        """Whether it completed with every seed and its weights are there."""
        return all(run.value is not None and run.weights is not None for run in self.runs)

    @property
    def mean(self) -> float:
        """Mean validation accuracy."""
        return sum(self.values) / len(self.values) if self.values else 0.0

    @property
    def spread(self) -> float | None:
        """Its standard deviation over the seeds; None: there is one."""
        return statistics.spread(self.values)

    @property
    def shown(self) -> str:
        """The mean with its spread."""
        spread = "" if self.spread is None else f" ± {self.spread:.4f}"
        return f"{self.mean:.4f}{spread} over {wording.count(len(self.values), 'seed')}"

    @property
    def by_value(self) -> list[TrainingRun]:
        """The runs, the best first."""
        return sorted(self.runs, key=lambda run: (-(run.value or 0.0), run.trial))


def read(study: Study) -> list[Retrained]:
    """What came of each config, the best of those first that completed with every seed; among equals the better one of the search."""
    again = study.spec.retraining
    assert again is not None, "only a study that trains configs again is read so"
    found = study.storage.read(lambda connection: _read(connection, study, again))
    return sorted(found, key=lambda config: (not config.is_whole, -config.mean))


def choose(configs: Sequence[Retrained]) -> Retrained:
    """The config of the highest mean validation accuracy.

    Raises:
        StudyError: none completed with every seed.
    """
    if not configs or not configs[0].is_whole:
        troubles = "; ".join(f"trial {config.trial}: {_trouble(config)}" for config in configs)
        raise StudyError(f"no config completed with every seed, so that none can be chosen: {troubles}")
    return configs[0]


def words(configs: Sequence[Retrained]) -> list[str]:
    """Why the first config is chosen, and how it stands against the next, in sentences."""
    first, *others = configs
    said = [f"Trial {first.trial} is chosen: validation accuracy {first.shown}."]
    second = next((config for config in others if config.is_whole), None)
    if second is not None:
        paired = statistics.paired(first.values, second.values)
        ahead = f"{paired.difference:.4f} ahead of trial {second.trial} ({second.shown})"
        said.append(f"It is {ahead}, and better with {paired.num_better} of {wording.count(paired.num, 'seed')}: {_weighed(paired)}.")
    said += [f"Trial {config.trial} is out of the choice: {_trouble(config)}." for config in others if not config.is_whole]
    return said


def _weighed(paired: statistics.Paired) -> str:
    if paired.difference == 0:
        return "the two are equal, and the search's order decides"
    if paired.interval is None:
        return "one seed cannot tell luck from quality" if paired.num == 1 else "the same difference with every seed"
    low, high = paired.interval
    if low > 0:
        return f"more than the luck of seeds (95 % interval of the difference {low:.4f} to {high:.4f})"
    return f"no more than the luck of seeds may make (95 % interval of the difference {low:.4f} to {high:.4f})"


def _trouble(config: Retrained) -> str:
    failed = [run for run in config.runs if run.value is None or run.weights is None]
    return ", ".join(f"with seed {run.seed} {run.trouble or 'its weights were not kept'}" for run in failed)


def _read(connection: Connection, study: Study, again: Retraining) -> list[Retrained]:
    query = select(VALUED.c.number, VALUED.c.value).where(VALUED.c.study_id == study.id, VALUED.c.state == TrialState.COMPLETE)
    values: dict[int, float] = {row.number: row.value for row in connection.execute(query)}
    runs: dict[int, list[TrainingRun]] = {place: [] for place in range(len(again.trials))}
    chosen: dict[int, Hyperparameters] = {}
    for number in range(again.num_trainings):
        place, seed = again.place(number)
        state = tables.state_of(connection, study.id, number)
        assert state is not None, "the study was begun with all of its trials"
        stored = tables.get(connection, TRIAL_SYSTEM, state[0], claims.HYPERPARAMETERS)
        if stored:
            chosen[place] = Hyperparameters.model_validate(stored[claims.HYPERPARAMETERS])
        known = tables.get(connection, TRIAL_USER, state[0], "weights", "best_epoch", "reason", "message", "stopped_by")
        runs[place].append(_run(number, again.seeds[seed], values.get(number), known, state[1]))
    return [
        Retrained(trial=again.trials[place], search_value=again.values[place], hyperparameters=chosen[place], runs=tuple(runs[place]))
        for place in runs
        if place in chosen
    ]


def _run(number: int, seed: int, value: float | None, known: dict[str, Any], state: TrialState) -> TrainingRun:
    why = known.get("reason") or known.get("message") or (f"stopped by {known['stopped_by']}" if "stopped_by" in known else "")
    ended = endings.OUTCOMES.get(state, "it has not ended")
    return TrainingRun(
        trial=number,
        seed=seed,
        value=value,
        weights=known.get("weights"),
        best_epoch=known.get("best_epoch"),
        trouble="" if value is not None else f"{ended}: {why}" if why else ended,
    )
