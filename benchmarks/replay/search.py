"""Replayed searches: which recorded trials a study with a policy would have trained to their end within a budget."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from benchmarks.replay.laboratory import START_SECONDS, TRACE_SECONDS, Trial, World
from tuner.sampling import pruners
from tuner.sampling.pruners import ConfinedPruner
from tuner.spec.study import StudySpec
from tuner.studies import continuation


class Prior(StrEnum):
    """Where the trials after the recipe come from."""

    #: the recipe with other seeds: no search
    SEEDS = "seeds"
    NEAR = "near"
    SPACE = "space"
    #: half of them near the recipe, half from the whole space, in random order
    MIXED = "mixed"


_KINDS = {Prior.SEEDS: ("seed",), Prior.NEAR: ("near",), Prior.SPACE: ("space",), Prior.MIXED: ("near", "space")}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a study chooses, continues and ends its trials."""

    prior: Prior = Prior.NEAR
    #: fraction of the probes that are fine-tuned
    promote: float = 1.0
    #: `pruner` of a study file
    pruner: Any = "none"
    #: sizes of the images; trials of several sizes take turns, the smallest first
    sizes: tuple[int, ...] = (96,)
    #: length of the fine-tuning: full, half or continued
    length: str = "full"
    #: whether a trial begins only if it can end in time
    plans: bool = True


class Search:
    """One replayed study on one worker."""

    def __init__(self, policy: Policy, budget_seconds: float) -> None:
        self._policy, self._budget_seconds = policy, budget_seconds
        self.seconds = START_SECONDS
        #: trials that were trained to their end
        self.finished: list[Trial] = []
        self._probes: list[float] = []
        self._promoted: list[float] = []
        self._known_sizes: set[int] = set()
        self._seen = _Seen()
        self._pruner: ConfinedPruner | None = None

    def run(self, trials: Iterator[Trial]) -> list[Trial]:
        """Train the trials in their order until the budget is spent; return those that were trained to their end."""
        for trial in trials:
            if self.seconds >= self._budget_seconds:
                break
            self._train(trial)
        return self.finished

    def _train(self, trial: Trial) -> None:
        self.seconds += trial.probe_seconds + (0 if trial.image_size in self._known_sizes else trial.features_seconds)
        self._known_sizes.add(trial.image_size)
        is_first = not self._probes
        continues = is_first or continuation.earns_fine_tuning(
            trial.probe, earlier=self._probes, promoted=self._promoted, share=self._policy.promote
        )
        self._probes.append(trial.probe)
        if not continues or (self._policy.plans and self.seconds + trial.fine_tune_seconds > self._budget_seconds):
            return
        self._promoted.append(trial.probe)
        self.seconds += TRACE_SECONDS
        epochs = self._last_epoch(trial)
        self.seconds += epochs * trial.epoch_seconds
        if epochs == len(trial.curve) and trial.is_whole and self.seconds <= self._budget_seconds:
            self.finished.append(trial)

    def _last_epoch(self, trial: Trial) -> int:
        """Return the number of epochs until the pruner ends the trial."""
        if self._policy.pruner == "none":
            return len(trial.curve)
        pruner = self._pruner = self._pruner or _pruner(self._policy.pruner, len(trial.curve))
        running = self._seen.begin(trial.probe)
        for epoch, accuracy in enumerate(trial.curve, start=1):
            self._seen.report(running, accuracy)
            if pruner.prune(self._seen, running) and epoch < len(trial.curve):  # type: ignore[arg-type]
                running.state = TrialState.PRUNED
                return epoch
        running.state = TrialState.COMPLETE
        return len(trial.curve)


class _Seen:
    """The trials that a pruner sees, in memory: an Optuna study writes each report to a storage."""

    direction = optuna.study.StudyDirection.MAXIMIZE

    def __init__(self) -> None:
        self._trials: list[FrozenTrial] = []

    def begin(self, probe: float) -> FrozenTrial:
        trial = create_trial(state=TrialState.RUNNING)
        trial.number = len(self._trials)
        trial.intermediate_values = {StudySpec.model_fields["training"].default.probe_epochs: probe}
        self._trials.append(trial)
        return trial

    def report(self, trial: FrozenTrial, accuracy: float) -> None:
        step = max(trial.intermediate_values)
        trial.intermediate_values[step + 1] = max(accuracy, trial.intermediate_values[step])

    def get_trials(self, deepcopy: bool = True, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]


def _pruner(name: Any, epochs: int) -> ConfinedPruner:
    spec = StudySpec.model_validate({"name": "replay", "data": {"source": "digits"}, "pruner": name})
    return pruners.build(spec, epochs=epochs)


def order(world: World, policy: Policy, random: np.random.Generator) -> Iterator[Trial]:
    """Yield the trials of a world as a policy tries them: the recipe first, then others without replacement."""
    queues = [_queue(world, policy, size, random) for size in policy.sizes]
    while any(queues):
        for queue in queues:
            if queue:
                yield queue.pop(0)


def _queue(world: World, policy: Policy, size: int, random: np.random.Generator) -> list[Trial]:
    of_size = [trial for trial in world.trials if trial.image_size == size and trial.length == policy.length]
    others = [trial for trial in of_size if trial.kind in _KINDS[policy.prior]]
    shuffled = [others[index] for index in random.permutation(len(others))]
    return [trial for trial in of_size if trial.kind == "recipe"] + shuffled


def finished(world: World, policy: Policy, *, minutes: float, seed: int) -> list[Trial]:
    """Return the trials that a study with this policy would have trained to their end."""
    random = np.random.default_rng([seed, 1])
    return Search(policy, world.laboratory.budget_seconds(minutes)).run(order(world, policy, random))
