"""Regret: an upper bound for the distance from the best value to the best possible one, by Optuna's terminator (needs PyTorch).

`RegretBoundEvaluator` (Makarova et al., "Automatic Termination for Hyperparameter Optimization", 2022) fits a Gaussian process to the
parameters that all trials share. Parameters that act only in some trials are left out, and so are trials without parameters. If the bound
is below the standard error of the best value, a further gain could not be told from chance.
"""

import importlib.util
import math
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from optuna.search_space import intersection_search_space
from optuna.study import StudyDirection
from optuna.terminator import RegretBoundEvaluator
from optuna.trial import FrozenTrial

from tuner.errors import StorageError
from tuner.sampling import history
from tuner.storage.engine import Storage
from tuner.views.studies import Listed

#: minimum number of completed trials for Optuna's terminator
LEAST = 20
#: number of best trials that are evaluated; the evaluator uses the better half of them, and its time grows with their cube
MOST = 400
Evaluate = Callable[[Sequence[FrozenTrial], bool], float]
#: name of a study, and number of its completed trials
_Stamp = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Bound:
    """An upper bound for the gain over the best value, with 90 % confidence if the values follow a Gaussian process."""

    at_most: float
    #: the parameters that all trials share
    parameters: tuple[str, ...]
    num_trials: int

    def is_within(self, value: float, num_images: int) -> bool:
        """Return whether the bound is below the standard error of an accuracy measured on `num_images`."""
        return self.at_most < math.sqrt(max(0.0, value * (1 - value)) / num_images)


@dataclass(kw_only=True)
class RegretBounds:
    """The bounds of studies, computed in a thread: the first one takes seconds, later ones tenths of a second."""

    storage: Storage
    #: computes a bound; None if PyTorch is not installed
    evaluate: Evaluate | None = field(default_factory=lambda: _evaluate if importlib.util.find_spec("torch") else None)
    _worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "tuner-regret"))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _asked: dict[int, tuple[_Stamp, Future[Bound | None]]] = field(default_factory=dict)
    _known: dict[int, tuple[str, Bound | None]] = field(default_factory=dict)

    def at(self, listed: Listed, num_completed: int) -> Bound | None:
        """Return the latest known bound of a study, which may lack the newest trials, or None if there is none."""
        if self.evaluate is None or listed.maximizes is None or num_completed < LEAST:
            return None
        wanted = (listed.name, num_completed)
        with self._lock:
            stamp, asked = self._asked.get(listed.id, (None, None))
            if stamp is not None and asked is not None and asked.done():
                error = asked.exception()
                self._known[listed.id] = (stamp[0], asked.result() if error is None else None)
                if isinstance(error, StorageError):
                    stamp = None  # retry: the storage may be back
            if stamp != wanted and (asked is None or asked.done()):
                self._asked[listed.id] = (wanted, self._worker.submit(self._compute, self.evaluate, listed.id, listed.maximizes))
            name, bound = self._known.get(listed.id, ("", None))
        return bound if name == listed.name else None

    def _compute(self, evaluate: Evaluate, study_id: int, maximizes: bool) -> Bound | None:
        best = self.storage.read(lambda connection: history.best_trials(connection, study_id, max_trials=MOST))
        trials = [trial for trial in best if trial.params]
        parameters = intersection_search_space(trials)
        if len(trials) < LEAST or not parameters:
            return None
        at_most = evaluate(trials, maximizes)
        return Bound(at_most=max(0.0, at_most), parameters=tuple(sorted(parameters)), num_trials=len(trials))


def _evaluate(trials: Sequence[FrozenTrial], maximizes: bool) -> float:
    warnings.filterwarnings("ignore", "RegretBoundEvaluator is experimental")
    direction = StudyDirection.MAXIMIZE if maximizes else StudyDirection.MINIMIZE
    return float(RegretBoundEvaluator(seed=0).evaluate([*trials], direction))
