"""Samplers: build the Optuna sampler that a study file names, with a seed for one trial."""

import hashlib
import warnings
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from tuner.sampling import enumeration, prior
from tuner.spec import strategies
from tuner.spec.study import AnyStudySpec
from tuner.storage import optuna_private


def _build_tpe(options: strategies.Tpe, seed: int, number: int) -> BaseSampler:
    # group: model conditional parameters together if they occur together, not one by one
    return TPESampler(
        n_startup_trials=options.startup_trials,
        n_ei_candidates=options.candidates,
        group=True,
        multivariate=True,
        constant_liar=True,
        seed=seed,
    )


def _build_gp(options: strategies.Gp, seed: int, number: int) -> BaseSampler:
    enumeration.require_torch()
    return GPSampler(n_startup_trials=options.startup_trials, seed=seed)


def _build_cma_es(options: strategies.CmaEs, seed: int, number: int) -> BaseSampler:
    return CmaEsSampler(n_startup_trials=options.startup_trials, warn_independent_sampling=False, seed=seed)


def _build_nsga(options: strategies.NsgaII, seed: int, number: int) -> BaseSampler:
    return NSGAIISampler(population_size=options.population, seed=seed)


def _build_qmc(options: strategies.Qmc, seed: int, number: int) -> BaseSampler:
    independent = RandomSampler(seed=seed)
    return optuna_private.NumberedQMCSampler(
        number, qmc_type=options.sequence, independent_sampler=independent, warn_independent_sampling=False, seed=0
    )


def _build_random(options: strategies.Random | strategies.Grid | strategies.BruteForce, seed: int, number: int) -> BaseSampler:
    return RandomSampler(seed=seed)


class SamplerInput(StrEnum):
    """Which earlier trials a sampler reads."""

    NOTHING = "nothing"
    #: parameters and values of the trials that `history.SamplerHistory` selects
    HISTORY = "history"
    #: all trials with all their stored data
    EVERYTHING = "everything"


_INPUTS = {
    "tpe": SamplerInput.HISTORY,
    "prior": SamplerInput.HISTORY,
    "random": SamplerInput.NOTHING,
    "grid": SamplerInput.NOTHING,
    "brute-force": SamplerInput.NOTHING,
}
_BUILDERS: dict[str, Callable[[Any, int, int], BaseSampler]] = {
    "tpe": _build_tpe,
    "gp": _build_gp,
    "cma-es": _build_cma_es,
    "nsga-ii": _build_nsga,
    "qmc": _build_qmc,
    "random": _build_random,
    # `enumeration` lists their trials beforehand
    "grid": _build_random,
    "brute-force": _build_random,
}


def build(spec: AnyStudySpec, number: int, rule: Mapping[str, Any], *, asked: str = "") -> BaseSampler:
    """Return the sampler for one trial of a study; samplers of different trials draw different values.

    Args:
        spec: the study.
        number: number of the trial.
        rule: the values of trial 0 by the names of the parameters.
        asked: the parameter for which a running trial asks, if there is one: its sampler draws other numbers than the one before.

    Raises:
        MissingPackage: the sampler needs a package that is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        seed = derive_seed(spec.seed, f"sampler/{asked}" if asked else "sampler", number)
        if isinstance(spec.sampler, strategies.Prior):
            return prior.PriorSampler(spec.sampler, rule, seed=seed)
        return _BUILDERS[spec.sampler.name](spec.sampler, seed, number)


def required_input(spec: AnyStudySpec) -> SamplerInput:
    """Return which earlier trials the sampler of a study reads."""
    return _INPUTS.get(spec.sampler.name, SamplerInput.EVERYTHING)


def derive_seed(seed: int, use: str, number: int) -> int:
    """Return a different seed for each use and trial, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{use}/{number}".encode()).digest()[:4], "big")
