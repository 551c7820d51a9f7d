"""The trials of a study into how much each hyperparameter decided: PED-ANOVA, as Optuna has it.

It asks how differently the best trials chose a parameter than all of them did, and knows parameters that act only sometimes
(arXiv 2304.10255, 2601.20800). A pruned trial counts with the value that it had reached: what was pruned was not among the best.
"""

import copy
import warnings
from collections.abc import Sequence

import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState

from tuner.report import columns
from tuner.search import suggestion
from tuner.search.study import Study

#: trials below which nothing is said
LEAST = 20
#: part of the trials that are called the best, and the fewest trials that they are
_BEST, _FEWEST_BEST = 0.1, 5


def num_best(num_valued: int) -> int:
    """How many trials are held against all."""
    return max(_FEWEST_BEST, -(-num_valued // round(1 / _BEST)))


def importances(study: Study, valued: Sequence[FrozenTrial]) -> list[tuple[str, float]]:
    """Each parameter with its part of the whole, the most important first; none while too few trials have ended with a value."""
    if len(valued) < LEAST:
        return []
    reader = suggestion.open_study(study.name, study.storage.cached, [_completed(trial) for trial in valued], RandomSampler(seed=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a parameter that hardly any trial had counts for nothing, which is right
        evaluator = PedAnovaImportanceEvaluator(target_quantile=num_best(len(valued)) / len(valued))
        found = optuna.importance.get_param_importances(reader, evaluator=evaluator)
    whole: dict[str, float] = {}
    for name, part in found.items():
        whole[columns.base(name)] = whole.get(columns.base(name), 0.0) + float(part)
    return sorted(whole.items(), key=lambda item: (-item[1], item[0]))


def _completed(trial: FrozenTrial) -> FrozenTrial:
    if trial.state is TrialState.COMPLETE:
        return trial
    shown = copy.copy(trial)
    shown.state = TrialState.COMPLETE
    return shown
