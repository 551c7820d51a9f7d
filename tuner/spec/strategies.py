"""Strategies: the samplers and pruners that a study file may name, and their options."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema


class _Strategy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Tpe(_Strategy):
    """Tree-structured Parzen estimator (Bergstra 2011; multivariate: Falkner 2018)."""

    name: Literal["tpe"] = "tpe"
    startup_trials: int = Field(default=10, ge=0)
    """trials sampled at random before the model is used"""
    candidates: int = Field(default=24, ge=1)
    """candidates that the model rates for each trial"""


class Prior(_Strategy):
    """Around the rule of trial 0, around the best trial, or from the whole space (PriorBand, arXiv 2306.12370)."""

    name: Literal["prior"] = "prior"
    random: float = Field(default=0.2, ge=0, le=1)
    """fraction of the trials that are drawn from the whole space, once three are completed"""


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
    """trials per generation; the first generation is random"""


class Qmc(_Strategy):
    """Quasi-random sequences: an even spread over the space."""

    name: Literal["qmc"] = "qmc"
    sequence: Literal["sobol", "halton"] = "sobol"
    """kind of sequence"""


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
    """finished trials needed before pruning starts"""
    warmup: float = Field(default=0.5, ge=0, le=1)
    """fraction of the fine-tuning epochs without pruning; early epochs of a cosine schedule rank learning rates, not trials"""


class Median(_Comparing):
    """Prune what is below the median of earlier trials at the same epoch."""

    name: Literal["median"] = "median"


class Percentile(_Comparing):
    """Keep the given percentage of earlier trials at the same epoch."""

    name: Literal["percentile"] = "percentile"
    percentile: float = Field(default=75.0, ge=0, le=100)
    """percentage of trials that continue: the best ones"""


class TopK(_Strategy):
    """Keep only the best few trials after the first epochs of fine-tuning (arXiv 2307.15422)."""

    name: Literal["top-k"] = "top-k"
    keep: int = Field(default=5, ge=1)
    """a trial continues if fewer earlier trials than this were as good at that epoch"""
    epochs: int = Field(default=1, ge=1)
    """epochs of fine-tuning after which the pruner decides, once"""


class Patient(_Strategy):
    """Prune what has not improved for some epochs of fine-tuning."""

    name: Literal["patient"] = "patient"
    patience: int = Field(default=3, ge=0)
    """epochs without improvement before the trial is pruned"""
    min_delta: float = Field(default=0.0, ge=0)
    """smallest increase in accuracy that counts as an improvement"""


class Hyperband(_Strategy):
    """Brackets of successive halving (Li 2018)."""

    name: Literal["hyperband"] = "hyperband"
    reduction_factor: int = Field(default=3, ge=2)
    """at each rung, one of this many trials continues"""


class SuccessiveHalving(_Strategy):
    """Asynchronous successive halving (Li 2020)."""

    name: Literal["successive-halving"] = "successive-halving"
    reduction_factor: int = Field(default=3, ge=2)
    """at each rung, one of this many trials continues"""


class Wilcoxon(_Strategy):
    """Prune what a signed-rank test over the epochs finds worse than the best trial."""

    name: Literal["wilcoxon"] = "wilcoxon"
    p_threshold: float = Field(default=0.1, ge=0, le=1)
    """error probability below which a trial is pruned"""


class Threshold(_Strategy):
    """Prune trials whose best value so far is below or above a limit."""

    name: Literal["threshold"] = "threshold"
    lower: float | None = Field(default=None, examples=[0.5])
    """value below which a trial is pruned, such as the validation accuracy 0.5; null: no such limit"""
    upper: float | None = Field(default=None, examples=[2.0])
    """value above which a trial is pruned, such as the validation loss 2; null: no such limit"""

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if self.lower is None and self.upper is None:
            raise ValueError("has neither lower nor upper; expected for example `pruner: {name: threshold, lower: 0.5}`")
        return self


def _named(given: Any) -> Any:
    """Expand a name: `sampler: tpe` is short for `sampler: {name: tpe}`."""
    return {"name": given} if isinstance(given, str) else given


class _ShortForm:
    """Adds to the JSON Schema that a name alone is possible."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        long_form = handler(schema)
        return {"anyOf": [{"enum": list(long_form["discriminator"]["mapping"])}, long_form]}


Sampler = Annotated[
    Tpe | Gp | CmaEs | NsgaII | Qmc | Random | Grid | BruteForce | Prior,
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
