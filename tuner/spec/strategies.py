"""The samplers and pruners that a study file may name, with their options."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema


class _Strategy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True, use_attribute_docstrings=True)


class Tpe(_Strategy):
    """Tree-structured Parzen estimator (Bergstra 2011; multivariate: Falkner 2018)."""

    name: Literal["tpe"] = "tpe"
    startup_trials: int = Field(default=10, ge=0)
    """trials sampled at random before the model is used"""
    candidates: int = Field(default=24, ge=1)
    """candidates drawn for each trial"""


class Gp(_Strategy):
    """Gaussian process with log expected improvement; needs the extra `gp`."""

    name: Literal["gp"] = "gp"
    startup_trials: int = Field(default=10, ge=0)
    """trials sampled at random before the model is used"""


class CmaEs(_Strategy):
    """Covariance matrix adaptation; conditional and categorical hyperparameters are sampled at random."""

    name: Literal["cma-es"] = "cma-es"
    startup_trials: int = Field(default=1, ge=0)
    """trials sampled at random before the model is used"""


class NsgaII(_Strategy):
    """Non-dominated sorting genetic algorithm (Deb 2002)."""

    name: Literal["nsga-ii"] = "nsga-ii"
    population: int = Field(default=10, ge=2)
    """trials a generation; the first one is random"""


class Qmc(_Strategy):
    """Quasi-random sequences: an even spread over the space."""

    name: Literal["qmc"] = "qmc"
    sequence: Literal["sobol", "halton"] = "sobol"
    """which sequence"""


class Random(_Strategy):
    """Independent random values."""

    name: Literal["random"] = "random"


class Grid(_Strategy):
    """Every combination of choices, once, in a random order; needs a space of choices only."""

    name: Literal["grid"] = "grid"


class BruteForce(_Strategy):
    """Every combination, conditional ones included, once; needs a space without continuous ranges."""

    name: Literal["brute-force"] = "brute-force"


class NoPruner(_Strategy):
    """Every promoted trial is trained to its end."""

    name: Literal["none"] = "none"


class _Comparing(_Strategy):
    startup_trials: int = Field(default=5, ge=0)
    """finished trials needed before any is pruned"""
    warmup: float = Field(default=0.5, ge=0, le=1)
    """part of the fine-tuning's epochs that is never pruned: with a cosine schedule, early epochs rank learning rates, not trials"""


class Median(_Comparing):
    """Prune what is below the median of earlier trials at the same epoch."""

    name: Literal["median"] = "median"


class Percentile(_Comparing):
    """Keep the given percentage of earlier trials at the same epoch."""

    name: Literal["percentile"] = "percentile"
    percentile: float = Field(default=75.0, ge=0, le=100)
    """best trials that are kept, per cent"""


class TopK(_Strategy):
    """Keep what is among the best few after the first epochs of fine-tuning (arXiv 2307.15422)."""

    name: Literal["top-k"] = "top-k"
    keep: int = Field(default=5, ge=1)
    """a trial goes on if fewer than so many before it were as good at that epoch"""
    epochs: int = Field(default=1, ge=1)
    """epochs of fine-tuning after which it is decided, once"""


class Patient(_Strategy):
    """Prune what has not improved for some epochs of fine-tuning."""

    name: Literal["patient"] = "patient"
    patience: int = Field(default=3, ge=0)
    """epochs without improvement that are borne"""
    min_delta: float = Field(default=0.0, ge=0)
    """improvement, in accuracy, that counts"""


class Hyperband(_Strategy):
    """Brackets of successive halving (Li 2018)."""

    name: Literal["hyperband"] = "hyperband"
    reduction_factor: int = Field(default=3, ge=2)
    """one in this many goes on at each rung"""


class SuccessiveHalving(_Strategy):
    """Asynchronous successive halving (Li 2020)."""

    name: Literal["successive-halving"] = "successive-halving"
    reduction_factor: int = Field(default=3, ge=2)
    """one in this many goes on at each rung"""


class Wilcoxon(_Strategy):
    """Prune what a signed-rank test over the epochs finds worse than the best trial."""

    name: Literal["wilcoxon"] = "wilcoxon"
    p_threshold: float = Field(default=0.1, ge=0, le=1)
    """probability of error below which a trial is pruned"""


class Threshold(_Strategy):
    """Prune what lies below an accuracy."""

    name: Literal["threshold"] = "threshold"
    lower: float = Field(ge=0, le=1, examples=[0.5])
    """validation accuracy, as a fraction"""


def _named(given: Any) -> Any:
    """`sampler: tpe` is short for `sampler: {name: tpe}`."""
    return {"name": given} if isinstance(given, str) else given


class _ShortForm:
    """Tells the JSON Schema that a name alone is possible."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        long_form = handler(schema)
        return {"anyOf": [{"enum": list(long_form["discriminator"]["mapping"])}, long_form]}


Sampler = Annotated[
    Tpe | Gp | CmaEs | NsgaII | Qmc | Random | Grid | BruteForce,
    Field(discriminator="name"),
    BeforeValidator(_named),
    _ShortForm(),
]
Pruner = Annotated[
    NoPruner | Median | Percentile | TopK | Patient | Hyperband | SuccessiveHalving | Wilcoxon | Threshold,
    Field(discriminator="name"),
    BeforeValidator(_named),
    _ShortForm(),
]
