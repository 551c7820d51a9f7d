"""Contests: results of replayed trainings, judged in the same worlds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.replay import laboratory, search
from benchmarks.replay.judging import Judge, Result
from benchmarks.replay.laboratory import Laboratory, Trial, World
from benchmarks.replay.search import Policy
from benchmarks.replay.tables import Figures

Draw = Callable[..., World]


class Source(Protocol):
    """Where the trained trials of a world come from."""

    def trials(self, world: World, seed: int) -> list[Trial]:
        """Return trials that were trained to their end."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Some trials at one size, in random order, without a search."""

    count: int
    #: None: all kinds
    kinds: tuple[str, ...] | None = None
    size: int
    length: str = "full"
    #: with fewer trials than this there is no result
    least: int

    def trials(self, world: World, seed: int) -> list[Trial]:
        """Return trials that were trained to their end."""
        found = [trial for trial in world.trials if trial.is_whole and (trial.image_size, trial.length) == (self.size, self.length)]
        found = [trial for trial in found if self.kinds is None or trial.kind in self.kinds]
        shuffled = [found[index] for index in np.random.default_rng([seed, 0]).permutation(len(found))]
        return shuffled[: self.count] if len(shuffled) >= self.least else []


@dataclass(frozen=True, kw_only=True)
class Study:
    """A whole search within a budget."""

    policy: Policy
    minutes: float

    def trials(self, world: World, seed: int) -> list[Trial]:
        """Return the trials that were trained to their end within the budget."""
        return search.finished(world, self.policy, minutes=self.minutes, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What competes: trials of some source, and what is made of them."""

    source: Source
    result: Result


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Means over the orders of each world, by the name of the entry and of the data set."""

    tests: Mapping[str, Figures]
    num_trials: Mapping[str, Figures]


@dataclass(frozen=True, kw_only=True)
class Arena:
    """The worlds in which all entries compete."""

    laboratories: Sequence[Laboratory]
    num_worlds: int
    #: orders of the trials in each world
    num_orders: int
    #: chance that a world lacks a recording
    left_out: float = laboratory.LEFT_OUT
    draw: Draw = laboratory.draw

    def worlds(self, of: Laboratory) -> Iterator[World]:
        """Yield the worlds of a data set."""
        return (self.draw(of, np.random.default_rng([number]), left_out=self.left_out) for number in range(self.num_worlds))

    def play(self, entries: Mapping[str, Entry]) -> Outcome:
        """Return the outcome of each entry; NaN where a source has no trials."""
        tests: dict[str, dict[str, np.ndarray]] = {name: {} for name in entries}
        numbers: dict[str, dict[str, np.ndarray]] = {name: {} for name in entries}
        for each in self.laboratories:
            rows = [_mean_of_orders(world, entries, number, self.num_orders) for number, world in enumerate(self.worlds(each))]
            for column, name in enumerate(entries):
                tests[name][each.data_set], numbers[name][each.data_set] = np.array(rows)[:, column].T
        return Outcome(tests=tests, num_trials=numbers)


def _mean_of_orders(world: World, entries: Mapping[str, Entry], number: int, num_orders: int) -> np.ndarray:
    """Return test accuracy and number of trials (entries, 2) of a world."""
    return np.asarray(np.mean([_one_order(world, entries, number * num_orders + order) for order in range(num_orders)], 0))


def _one_order(world: World, entries: Mapping[str, Entry], seed: int) -> list[tuple[float, int]]:
    trained: dict[str, tuple[Trial, ...]] = {}
    judges: dict[tuple[Trial, ...], Judge] = {}
    tests: dict[tuple[tuple[Trial, ...], Result], float] = {}
    found = []
    for entry in entries.values():
        source = repr(entry.source)
        if source not in trained:
            trained[source] = tuple(entry.source.trials(world, seed))
        trials = trained[source]
        if trials and (trials, entry.result) not in tests:
            judge = judges.setdefault(trials, Judge(world, trials, seed=seed))
            tests[trials, entry.result] = judge.judge(entry.result).test
        found.append((tests.get((trials, entry.result), float("nan")), len(trials)))
    return found
