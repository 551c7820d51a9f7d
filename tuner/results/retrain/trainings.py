"""Trainings: every config of a retraining with its results by seed, and the choice among them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection

from tuner import wording
from tuner.errors import StudyError
from tuner.results import statistics
from tuner.spec import hyperparameters as trial_values
from tuner.spec.hyperparameters import Hyperparameters, TrialValues
from tuner.spec.study import Retraining
from tuner.storage import queries, tables
from tuner.storage.attributes import BEST_EPOCH, BEST_EPOCHS, HYPERPARAMETERS, MESSAGE, REASON, STOPPED_BY, WEIGHTS
from tuner.storage.tables import TRIAL_SYSTEM, TRIAL_USER
from tuner.studies import endings
from tuner.studies.study import Study

_RESULT = (WEIGHTS, BEST_EPOCH, BEST_EPOCHS, REASON, MESSAGE, STOPPED_BY)


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """One training of a config with one seed."""

    #: trial of the retraining study
    trial: int
    seed: int
    #: best value; None if it did not complete
    value: float | None
    #: path or URL of the weights of its best epoch; None if they were not kept
    weights: str | None
    #: epoch of the best value, counted from 1 through both stages
    best_epoch: int | None
    #: why it did not complete; "" if it did
    failure: str = ""
    #: best epoch of each fold; (): the training has no folds
    best_epochs: tuple[int, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether it completed, and its weights were kept; a training with folds has none."""
        return self.value is not None and (self.weights is not None or bool(self.best_epochs))


@dataclass(frozen=True, kw_only=True)
class RetrainedConfig:
    """A config of the search that was trained again with each seed."""

    #: its trial in the search, and its value there; None if that trial did not complete
    trial: int
    search_value: float | None
    hyperparameters: TrialValues
    runs: tuple[TrainingRun, ...]
    #: whether a higher value is better
    maximizes: bool = True

    @property
    def values(self) -> list[float]:
        """Values by seed."""
        return [run.value for run in self.runs if run.value is not None]

    @property
    def of_images(self) -> Hyperparameters:
        """Hyperparameters of a config of an image study."""
        return trial_values.of_images(self.hyperparameters)

    @property
    def is_complete(self) -> bool:
        """Whether it completed with every seed and all weights were kept."""
        return all(run.is_complete for run in self.runs)

    @property
    def mean(self) -> float:
        """Mean value."""
        return sum(self.values) / len(self.values) if self.values else 0.0

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None with one seed."""
        return statistics.spread(self.values)

    @property
    def shown(self) -> str:
        """Text with the mean, its standard deviation and the number of seeds."""
        return f"{wording.with_spread(self.mean, self.spread)} over {wording.count(len(self.values), 'seed')}"

    @property
    def usual_epochs(self) -> int:
        """Mean of the best epochs of all folds and seeds, rounded: for how long the final model is trained."""
        known = [epoch for run in self.runs for epoch in run.best_epochs]
        return max(1, round(sum(known) / len(known)))

    @property
    def by_value(self) -> list[TrainingRun]:
        """The runs, best first; those without a value last."""
        sign = -1 if self.maximizes else 1
        return sorted(self.runs, key=lambda run: (run.value is None, sign * (run.value or 0.0), run.trial))


def read(study: Study) -> list[RetrainedConfig]:
    """Return the configs of a retraining: complete ones first, by mean value, equal ones in the order of the search."""
    again = study.spec.retraining
    assert again is not None, "the study is a retraining"
    found = study.storage.read(lambda connection: _read(connection, study, again))
    merit = study.spec.objective.merit
    return sorted(found, key=lambda config: (not config.is_complete, -merit(config.mean)))


def choose(configs: Sequence[RetrainedConfig]) -> RetrainedConfig:
    """Return the config with the best mean value.

    Raises:
        StudyError: no config completed with every seed.
    """
    if not configs or not configs[0].is_complete:
        failures = "; ".join(f"trial {config.trial}: {_failures(config)}" for config in configs)
        raise StudyError(f"no config completed with every seed, so none can be chosen: {failures}")
    return configs[0]


def choice_words(configs: Sequence[RetrainedConfig]) -> list[str]:
    """Return sentences on why the first config was chosen, and on how it compares with the next one."""
    first, *others = configs
    sentences = [f"Trial {first.trial} is chosen: validation accuracy {first.shown}."]
    second = next((config for config in others if config.is_complete), None)
    if second is not None:
        paired = statistics.paired(first.values, second.values)
        ahead = f"{wording.figure(paired.difference)} ahead of trial {second.trial} ({second.shown})"
        sentences.append(
            f"It is {ahead}, and better with {paired.num_better} of {wording.count(paired.num, 'seed')}: {_significance(paired)}."
        )
    sentences += [f"Trial {config.trial} could not be chosen: {_failures(config)}." for config in others if not config.is_complete]
    return sentences


def _significance(paired: statistics.Paired) -> str:
    if paired.difference == 0:
        return "the two are equal, and the order of the search decides"
    if paired.interval is None:
        return "one seed cannot show whether the difference is random" if paired.num == 1 else "the same difference with every seed"
    low, high = paired.interval
    if low > 0:
        return f"more than random seeds explain (95 % interval of the difference {low:.4f} to {high:.4f})"
    return f"random seeds may explain it (95 % interval of the difference {low:.4f} to {high:.4f})"


def _failures(config: RetrainedConfig) -> str:
    failed = [run for run in config.runs if not run.is_complete]
    return ", ".join(f"with seed {run.seed} {run.failure or 'its weights were not kept'}" for run in failed)


def _read(connection: Connection, study: Study, again: Retraining) -> list[RetrainedConfig]:
    values = queries.values(connection, study.id)
    runs: dict[int, list[TrainingRun]] = {index: [] for index in range(len(again.trials))}
    chosen: dict[int, TrialValues] = {}
    for number in range(again.num_trainings):
        index, seed = again.indices(number)
        state = tables.state_of(connection, study.id, number)
        assert state is not None, "all trials of a retraining are created at its start"
        stored = tables.get(connection, TRIAL_SYSTEM, state[0], HYPERPARAMETERS)
        if stored:
            chosen[index] = trial_values.parse(stored[HYPERPARAMETERS])
        known = tables.get(connection, TRIAL_USER, state[0], *_RESULT)
        runs[index].append(_run(number, again.seeds[seed], values.get(number), known, state[1]))
    return [
        RetrainedConfig(
            trial=again.trials[index],
            search_value=again.values[index],
            hyperparameters=chosen[index],
            runs=tuple(runs[index]),
            maximizes=study.spec.objective.maximizes,
        )
        for index in runs
        if index in chosen
    ]


def _run(number: int, seed: int, value: float | None, known: dict[str, Any], state: TrialState) -> TrainingRun:
    why = known.get(REASON) or known.get(MESSAGE) or (f"stopped by {known[STOPPED_BY]}" if STOPPED_BY in known else "")
    ended = endings.OUTCOMES.get(state, "it has not ended")
    return TrainingRun(
        trial=number,
        seed=seed,
        value=value,
        weights=known.get(WEIGHTS),
        best_epoch=known.get(BEST_EPOCH),
        best_epochs=tuple(known.get(BEST_EPOCHS) or ()),
        failure="" if value is not None else f"{ended}: {why}" if why else ended,
    )
