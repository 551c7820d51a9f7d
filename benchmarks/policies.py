"""Replay recorded trials with different policies, and compute what each policy would have saved and lost.

A policy decides which trials continue after their probe and which are pruned. Random trials do not depend on earlier trials, so a search
with another policy can be replayed: the recorded trials come in a random order, and the policy decides for each of them. The results are
means over many orders.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import Trial, TrialState

import tuner
from tuner.protocol.messages import Stage
from tuner.sampling import pruners
from tuner.spec.study import StudySpec
from tuner.storage import epochs
from tuner.storage.epochs import EpochRow
from tuner.studies import continuation

ORDERS = 200
SHARES = (0.5, 0.33, 0.25, 0.2, 0.15, 0.1)
KEPT = (1, 3, 5, 10)
#: fraction of the total training time at which searches are compared, too
DEADLINE = 1 / 4


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Which trials continue."""

    name: str
    #: fraction of probes that are promoted
    promote: float = 1.0
    pruner: dict[str, Any]

    def over(self, spec: StudySpec) -> StudySpec:
        """Return a study with this policy."""
        training = spec.training.model_dump() | {"promote": self.promote}
        return StudySpec.model_validate(spec.model_dump() | {"pruner": self.pruner, "training": training})


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a replayed search."""

    #: validation accuracy of its best trial
    best: float
    #: the same at the deadline
    best_by_deadline: float
    #: seconds of training
    seconds: float
    #: number of trials that were fine-tuned
    fine_tuned: int


def policies() -> list[Policy]:
    """Return the compared policies, first the one that loses nothing."""
    none, median = {"name": "none"}, {"name": "median"}
    best_three: dict[str, Any] = {"name": "top-k", "keep": 3}
    alone: dict[str, dict[str, Any]] = {
        **{f"the best {keep} after one epoch": {"name": "top-k", "keep": keep} for keep in KEPT},
        **{f"percentile {kept}": {"name": "percentile", "percentile": kept} for kept in (75, 50)},
        **{name: {"name": name} for name in ("median", "hyperband", "successive-halving", "wilcoxon", "patient")},
    }
    return [
        Policy(name="every trial probed and fine-tuned", pruner=none),
        *(Policy(name=f"probe, then promote {share:.0%}", promote=share, pruner=none) for share in SHARES),
        *(Policy(name=name, pruner=pruner) for name, pruner in alone.items()),
        *(Policy(name=f"promote {share:.0%}, median", promote=share, pruner=median) for share in (0.5, 0.25)),
        *(Policy(name=f"promote {share:.0%}, the best 3 after one epoch", promote=share, pruner=best_three) for share in (0.5, 0.25)),
    ]


def main() -> None:
    """Print a table for each recorded study and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--orders", type=int, default=ORDERS)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for database in sorted(given.folder.glob("*.db")):
        study = tuner.load(None, tuner.open_storage(f"sqlite:///{database.resolve()}"))
        trials = recorded(study)
        rows = compare(study.spec, trials, given.orders)
        print(f"\n{study.name}: {len(trials)} trials, best {rows[0]['best']:.4f}, {given.orders} orders\n")
        print(f"| policy | fine-tuned | best found (mean) | lost | training time | best found in {DEADLINE:.0%} of the time |")
        print("|---|---|---|---|---|---|")
        for row in rows:
            print("| {policy} | {fine_tuned:.1f} | {best:.4f} | {lost:.4f} | {part:.0%} | {best_by_deadline:.4f} |".format(**row))
        (given.folder / f"{study.name}-policies.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


def recorded(study: tuner.Study) -> list[list[EpochRow]]:
    """Return the curve of each completed trial."""
    numbers = [trial.number for trial in study.optuna.get_trials(states=(TrialState.COMPLETE,))]
    return study.storage.read(lambda connection: [list(epochs.read(connection, study.id, number)) for number in numbers])


def compare(spec: StudySpec, trials: list[list[EpochRow]], num_orders: int) -> list[dict[str, Any]]:
    """Return a row for each policy; all policies see the same orders."""
    random = np.random.default_rng(0)
    orders = [random.permutation(len(trials)) for _ in range(num_orders)]
    deadline = DEADLINE * sum(epoch.seconds or 0.0 for trial in trials for epoch in trial)
    rows: list[dict[str, Any]] = []
    for policy in policies():
        given = policy.over(spec)
        outcomes = [replay(given, [trials[index] for index in order], deadline) for order in orders]
        means = {name: float(np.mean([getattr(outcome, name) for outcome in outcomes])) for name in Outcome.__dataclass_fields__}
        everything = rows[0] if rows else means
        more = {"lost": everything["best"] - means["best"], "part": means["seconds"] / everything["seconds"]}
        rows.append({"policy": policy.name, "promote": policy.promote, "pruner": policy.pruner} | means | more)
    return rows


class _Search:
    """The state of a replayed search: promoted trials and the best result so far."""

    def __init__(self, spec: StudySpec, *, num_epochs: int, deadline: float) -> None:
        self.spec, self.deadline = spec, deadline
        pruner = pruners.build(spec, epochs=num_epochs)
        self.study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner)
        self.probes: list[float] = []
        self.promoted: list[float] = []
        self.seconds = self.best = self.best_by_deadline = 0.0

    def train(self, epochs: Sequence[EpochRow]) -> None:
        """Replay one trial as far as the policy allows."""
        trial, value, is_ended = self.study.ask(), 0.0, False
        for epoch in epochs:
            value = max(value, epoch.validation_accuracy or 0.0)
            self.seconds += epoch.seconds or 0.0
            if epoch.step >= self.spec.training.probe_epochs:
                is_ended = self._ends(trial, epoch, value) and epoch is not epochs[-1]
            if is_ended:
                break
        state = TrialState.PRUNED if is_ended else TrialState.COMPLETE
        if not is_ended:  # other trials have no saved weights
            self.best = max(self.best, value)
            if self.seconds <= self.deadline:
                self.best_by_deadline = self.best
        self.study.tell(trial, None if is_ended else value, state=state)

    def _ends(self, trial: Trial, epoch: EpochRow, value: float) -> bool:
        trial.report(value, epoch.step)
        if epoch.stage is Stage.FINE_TUNE:
            return trial.should_prune()
        share = self.spec.training.promote
        continues = trial.number == 0 or continuation.earns_fine_tuning(value, earlier=self.probes, promoted=self.promoted, share=share)
        self.probes.append(value)
        if continues:
            self.promoted.append(value)
        return not continues


def replay(spec: StudySpec, trials: list[list[EpochRow]], deadline: float) -> Outcome:
    """Replay one search over trials in the given order."""
    search = _Search(spec, num_epochs=len(trials[0]) - spec.training.probe_epochs, deadline=deadline)
    for curve in trials:
        search.train(curve)
    return Outcome(best=search.best, best_by_deadline=search.best_by_deadline, seconds=search.seconds, fine_tuned=len(search.promoted))


if __name__ == "__main__":
    main()
