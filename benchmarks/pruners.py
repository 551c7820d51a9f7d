"""Recorded trials into what each pruner, and each share of promoted probes, would have saved and lost.

A trial does not depend on what became of those before it when it is sampled at random, so a search under another pruner is a replay: the
recorded trials come in a random order, and each is told to go on or stop as the pruner would have told it. Means over many orders.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState

import tuner
from tuner.messages import Epoch, Stage
from tuner.search import curves, promotion, pruners
from tuner.spec import StudySpec

ORDERS = 200
PRUNERS = ("none", "percentile", "median", "hyperband", "successive-halving", "wilcoxon", "patient")
SHARES = (1.0, 0.5, 0.33, 0.25, 0.2, 0.15, 0.1)


@dataclass(frozen=True)
class Outcome:
    """What a replayed search came to."""

    #: validation accuracy of its best trial
    best: float
    #: seconds of training that it needed
    seconds: float


def main() -> None:
    """Print a table for each recorded study and write it beside as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for database in sorted(folder.glob("*.db")):
        study = tuner.load(None, tuner.open_storage(f"sqlite:///{database.resolve()}"))
        trials = recorded(study)
        rows = [row(study.spec, trials, pruner="none", share=share) for share in SHARES]
        rows += [row(study.spec, trials, pruner=pruner, share=0.25) for pruner in PRUNERS[1:]]
        rows += [row(study.spec, trials, pruner=pruner, share=1.0) for pruner in PRUNERS[1:]]
        best = max(max(epoch.validation_accuracy for epoch in trial) for trial in trials)
        print(f"\n{study.name}: {len(trials)} trials, best {best:.4f}, {ORDERS} orders\n")
        print("| promoted | pruner | best found (mean) | lost | training seconds | of all |\n|---|---|---|---|---|---|")
        for given in rows:
            print("| {share} | {pruner} | {best:.4f} | {lost:.4f} | {seconds:.0f} | {part:.0%} |".format(**given))
        (folder / f"{study.name}-pruners.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


def recorded(study: tuner.Study) -> list[list[Epoch]]:
    """The curve of each completed trial."""
    numbers = [trial.number for trial in study.optuna.get_trials(states=(TrialState.COMPLETE,))]
    return [study.storage.read(lambda connection, number=number: curves.read(connection, study, number)) for number in numbers]


def row(spec: StudySpec, trials: list[list[Epoch]], *, pruner: str, share: float) -> dict[str, object]:
    """One line of the table."""
    given = StudySpec.model_validate(
        spec.model_dump() | {"pruner": {"name": pruner}, "training": spec.training.model_dump() | {"promote": share}}
    )
    random = np.random.default_rng(0)
    outcomes = [
        replay(given, [trials[index] for index in random.permutation(len(trials))])
        for _ in range(ORDERS if share < 1 or pruner != "none" else 1)
    ]
    best, seconds = (float(np.mean([getattr(outcome, name) for outcome in outcomes])) for name in ("best", "seconds"))
    everything = replay(StudySpec.model_validate(spec.model_dump() | {"pruner": {"name": "none"}}), trials)
    return {
        "share": share,
        "pruner": pruner,
        "best": best,
        "lost": everything.best - best,
        "seconds": seconds,
        "part": seconds / everything.seconds,
    }


def replay(spec: StudySpec, trials: list[list[Epoch]]) -> Outcome:
    """One search over trials in this order."""
    num_probe = spec.training.probe_epochs
    pruner = pruners.build(spec, epochs=len(trials[0]) - num_probe)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner)
    probes: list[float] = []
    gone_on: list[float] = []
    best = seconds = 0.0
    for number, epochs in enumerate(trials):
        trial, value, state = study.ask(), 0.0, TrialState.COMPLETE
        for epoch in epochs:
            value = max(value, epoch.validation_accuracy)
            seconds += epoch.seconds
            trial.report(value, epoch.step)
            if epoch.step == num_probe:
                goes_on = number == 0 or promotion.earns_fine_tuning(value, earlier=probes, promoted=gone_on, share=spec.training.promote)
                probes.append(value)
                if not goes_on:
                    state = TrialState.PRUNED
                    break
                gone_on.append(value)
            if epoch.stage is Stage.FINE_TUNE and epoch is not epochs[-1] and trial.should_prune():
                state = TrialState.PRUNED
                break
        study.tell(trial, value if state is TrialState.COMPLETE else None, state=state)
        best = max(best, value)
    return Outcome(best=best, seconds=seconds)


if __name__ == "__main__":
    main()
