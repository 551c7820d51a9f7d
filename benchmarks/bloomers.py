"""Train some trials that a finished study ended early to their end, to measure what the study lost.

Each becomes a study of one trial with the same data, backbone, hyperparameters and seed, which nothing ends early. There are two groups:
trials that the pruner ended during fine-tuning, and trials whose probe was not promoted.
"""

import argparse
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

import tuner
from tuner.errors import TunerError
from tuner.protocol.messages import Stage
from tuner.results import best as bests
from tuner.results import export
from tuner.spec.strategies import NoPruner, Random
from tuner.spec.study import Budget, StudySpec
from tuner.storage import epochs
from tuner.studies import claims, trials
from tuner.studies.study import Study

TRIALS = 10


@dataclass(frozen=True, kw_only=True)
class Again:
    """A trial that ended early, and the same trial trained to its end."""

    trial: int
    #: what ended it: pruner or promotion
    ended_by: str
    #: number of epochs, of both stages, before it ended
    epochs: int
    #: best validation accuracy until then
    value: float
    #: best validation accuracy of the complete training
    final: float
    #: improvement over the best trial of the study; 0 if there is none
    lost: float


def main() -> None:
    """Print what each trial would have reached, and what the study lost with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", help="name of a finished study")
    parser.add_argument("--storage", required=True, help="URL of its database")
    parser.add_argument("--folder", type=Path, required=True, help="folder for the repeated trials; a second call resumes")
    parser.add_argument("--cache", type=Path, help="folder of the cache")
    parser.add_argument("--trials", type=int, default=TRIALS, help="number of trials, half of them from each group")
    given = parser.parse_args()
    study = tuner.load(given.study, tuner.open_storage(given.storage))
    winner = bests.best(study)
    print(f"{study.name}: best trial {winner.trial}, validation accuracy {winner.value:.4f}\n")
    print("| trial | ended by | after epochs | best until then | trained to its end | lost |\n|---|---|---|---|---|---|", flush=True)
    rows: list[Again] = []
    for trial, ended_by in chosen(study, given.trials):
        try:
            rows.append(again(study, trial, ended_by, winner=winner, folder=given.folder, cache=given.cache))
        except TunerError as error:
            print(f"| {trial.number} | {ended_by} | could not be trained again: {error} |", flush=True)
            continue
        print("| {trial} | {ended_by} | {epochs} | {value:.4f} | {final:.4f} | {lost:.4f} |".format(**asdict(rows[-1])), flush=True)
    for ended_by in ("pruner", "promotion"):
        finals = [row.final for row in rows if row.ended_by == ended_by]
        if finals:
            num_better = sum(final > winner.value for final in finals)
            print(
                f"\nended by the {ended_by}: {num_better} of {len(finals)} would have beaten the best; the best of them {max(finals):.4f}"
            )
    (given.folder / f"{study.name}-bloomers.json").write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")


def chosen(study: Study, num_trials: int) -> list[tuple[FrozenTrial, str]]:
    """Return a random selection of trials that ended early: half from each group, or more from one group if the other has too few."""
    ended = [trial for trial in study.optuna.get_trials(states=(TrialState.PRUNED,)) if _could_go_on(study, trial)]
    random.Random(0).shuffle(ended)
    pruned = [(trial, "pruner") for trial in ended if trial.user_attrs.get("stage") == Stage.FINE_TUNE.value]
    left = [(trial, "promotion") for trial in ended if trial.user_attrs.get("stage") == Stage.PROBE.value]
    num_pruned = min(len(pruned), max(num_trials // 2, num_trials - len(left)))
    return pruned[:num_pruned] + left[: num_trials - num_pruned]


def _could_go_on(study: Study, trial: FrozenTrial) -> bool:
    """Return whether a trial could be fine-tuned further: it was ended early, and its hyperparameters include fine-tuning."""
    curve = study.storage.read(lambda connection: epochs.read(connection, study.id, trial.number))
    hyperparameters = trials.hyperparameters(trial)
    return bool(curve) and curve[-1].loss is not None and hyperparameters is not None and hyperparameters.unfreeze > 0


def again(study: Study, trial: FrozenTrial, ended_by: str, *, winner: bests.Best, folder: Path, cache: Path | None) -> Again:
    """Train a trial to its end, or read the result if it exists."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = alone(study, trial, epochs=winner.prepared.epochs)
    found = tuner.run(spec, storage=f"sqlite:///{folder.resolve()}/bloomers.db", artifacts=folder / "artifacts", cache=cache)
    value = max(trial.intermediate_values.values())
    return Again(
        trial=trial.number,
        ended_by=ended_by,
        epochs=len(trial.intermediate_values),
        value=value,
        final=found.value,
        lost=max(0.0, found.value - winner.value),
    )


def alone(study: Study, trial: FrozenTrial, *, epochs: int) -> StudySpec:
    """Return a study whose only trial repeats the given one to its end; trial 0 of a study is always fine-tuned."""
    hyperparameters = trials.hyperparameters(trial)
    assert hyperparameters is not None, "only trials with hyperparameters are chosen"
    spec = study.spec
    return StudySpec(
        name=f"{spec.name[:80]}-trial-{trial.number}",
        model=spec.model,
        budget=Budget(trials=1),
        training=spec.training.model_copy(update={"epochs": epochs}),
        search=export.fixed(hyperparameters),
        sampler=Random(),
        pruner=NoPruner(),
        seed=spec.seed,
        result={"study": spec.name, "trial": trial.number, "trial_seed": claims.seed(study, trial.number)},
    )


if __name__ == "__main__":
    main()
