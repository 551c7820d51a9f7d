"""Screening: which backbones a study leaves out at which image size, because their first probe is clearly worse than that of another.

The first trials after trial 0 are the screening: each has the rule's hyperparameters and another model, until every model has a probe.
A model is left out if another backbone with images of the same size beats its probe by more than

    2 × standard error of the difference  +  POINTS_A_DOUBLING × doublings of the cost, if the other backbone costs more

A study with a timeout screens only what its plan names (`studies.planning`): other backbones at the planned size.

- Sizes are never compared: a probe shows little of what a larger image gains in fine-tuning.
- A backbone that costs more must be better by what the same time would gain with larger images.
- The standard error of a share of images follows from the share. That of a mean over classes is the one of as many images as weigh the same
  (`kernels.scoring.weight`). That of the log loss does not follow from it, so a study of log loss leaves no model out.
- The standard error of an error of numbers follows from it as if the errors of the images had a Laplace distribution, with its heavy tails.
  POINTS_A_DOUBLING count as a share of the error of a model that always answers the mean; a study that does not know it leaves none out.

Everything is decided from stored trials, in the transaction that starts a trial, so any number of workers decide the same.
"""

import json
import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from pydantic import ValidationError
from sqlalchemy import Connection, and_, or_, select

from tuner import wording
from tuner.kernels.scoring import BALANCED
from tuner.protocol import messages
from tuner.sampling import samplers
from tuner.spec import space
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.model import TrialModel
from tuner.spec.objective import UNCERTAIN, Direction, ImageMetric, known_direction
from tuner.spec.study import StudySpec
from tuner.storage import optuna_private, queries, tables
from tuner.storage.attributes import HYPERPARAMETERS, LEFT_OUT, ORIGIN, PREPARED, PROBE_VALUE, REQUESTED
from tuner.storage.tables import STUDY_USER, TRIAL_SYSTEM, TRIAL_USER, TRIALS, VALUES
from tuner.studies.study import Study
from tuner.tasks.images.spec import recipe

#: `ORIGIN` of a trial of the screening
SCREENING = "screening"
#: standard errors by which a probe must be worse
STANDARD_ERRORS = 2.0
#: accuracy that twice the time must gain: 160 pixels instead of 96 cost 2.8 times as much, and gained 0.03 (docs/search-space.md)
POINTS_A_DOUBLING = 0.02
#: variance of an error of numbers on one image, as a multiple of its square, if errors have a Laplace distribution: that of their mean
#: size, of the root of their mean square, and of the mean square that `r2` compares with the variance of the labels
_ERRORS: Mapping[str, float] = {"mae": 1.0, "rmse": 1.25, "r2": 5.0}
#: backbone and image size
Key = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class ProbedModel:
    """A model, and its probe with the rule's hyperparameters."""

    model: TrialModel
    #: number of the trial
    trial: int
    #: value of the probe
    value: float


@dataclass(frozen=True, kw_only=True)
class ModelLeftOut:
    """A model that no further trial chooses."""

    backbone: str
    image_size: int
    reason: str


def models(spec: StudySpec, planned: Collection[Key] | None = None) -> tuple[TrialModel, ...]:
    """Return the models that a study screens after trial 0, those with the largest images first; none if it screens nothing.

    `planned` are those that the plan of the study names; None: all.
    """
    if not space.is_screened(spec):
        return ()
    first = recipe.chosen_model(spec)
    others = [model for model in spec.model.combinations() if (key(model) != key(first) if planned is None else key(model) in planned)]
    return tuple(sorted(others, key=lambda model: -model.image_size))


def key(model: TrialModel) -> Key:
    """Return what distinguishes the models of a study."""
    return model.backbone, model.image_size


def begin(connection: Connection, study: Study, planned: Collection[Key] | None) -> dict[str, Any]:
    """Store which models are left out by now, and return the parameters of the next trial of the screening; empty if there is none.

    The study must be locked. `planned`: see `models`.
    """
    spec = study.spec
    waiting = models(spec, planned) if isinstance(spec, StudySpec) else ()
    prepared = _prepared(connection, study) if waiting else None
    if prepared is None:
        return {}
    assert isinstance(spec, StudySpec)
    rows = _rows(connection, study)
    _store(connection, study, judge(_probed(rows), _measuring(study, prepared)))
    begun = {key(model) for _, model, _ in rows}  # with a plan, trial 0 may have the model of another trial of the screening
    following = next((model for model in waiting if key(model) not in begun), None)
    if following is None:
        return {}
    rule = recipe.parameters(prepared.num_train, len(prepared.classes), spec.space, fine_tunes=space.fine_tunes(spec))
    return rule | _parameters(spec, following)


@dataclass(frozen=True, kw_only=True)
class ProbeMeasuring:
    """How the values of probes are measured."""

    metric: ImageMetric = "accuracy"
    #: number of images from which the standard error of a value follows
    num_images: float
    #: value of a model that always gives the same answer, for a metric of numbers; None: unknown
    constant: float | None = None

    @property
    def unit(self) -> float | None:
        """Difference of two values that counts as much as all points of an accuracy; None: no model is left out."""
        if self.metric in UNCERTAIN:
            return None
        if known_direction(self.metric) is Direction.MINIMIZE:
            return self.constant
        return 1.0

    def variance(self, value: float) -> float:
        """Return the square of the standard error of a value."""
        size = 1 - value if self.metric == "r2" else value
        of_one = _ERRORS[self.metric] * size**2 if self.metric in _ERRORS else value * (1 - value)
        return max(0.0, of_one) / max(1, self.num_images)


def judge(probed: Sequence[ProbedModel], measuring: ProbeMeasuring) -> list[ModelLeftOut]:
    """Return the models whose probes are clearly worse than that of another one of their size."""
    found: list[ModelLeftOut] = []
    unit = measuring.unit
    if unit is None:
        return found
    sign, which = (-1, "above") if known_direction(measuring.metric) is Direction.MINIMIZE else (1, "below")
    for loser in probed:
        alike = [other for other in probed if other.model.image_size == loser.model.image_size]
        margins = [(other, _margin(loser, other, measuring, unit)) for other in alike]
        winners = [(other, margin) for other, margin in margins if sign * (other.value - loser.value) > margin]
        if winners:
            best, margin = max(winners, key=lambda pair: (sign * pair[0].value, -pair[0].trial))
            lost, won, apart, least = (wording.figure(each) for each in (loser.value, best.value, abs(best.value - loser.value), margin))
            reason = (
                f"its probe of {lost} (trial {loser.trial}) is {apart} {which} the "
                f"{won} of {best.model.backbone} (trial {best.trial}), more than {least}"
            )
            found.append(ModelLeftOut(backbone=loser.model.backbone, image_size=loser.model.image_size, reason=reason))
    return found


def _margin(loser: ProbedModel, other: ProbedModel, measuring: ProbeMeasuring, unit: float) -> float:
    variance = measuring.variance(loser.value) + measuring.variance(other.value)
    cost_of = recipe.relative_cost
    doublings = math.log2(cost_of(other.model) / cost_of(loser.model))
    return STANDARD_ERRORS * math.sqrt(variance) + POINTS_A_DOUBLING * unit * max(0.0, doublings)


def winner(connection: Connection, study: Study, planned: Key) -> str | None:
    """Return the backbone with the best probe at a planned size, if the planned one is left out there; else None."""
    gone = _keys(left_out(connection, study))
    if planned not in gone:
        return None
    probed = [each for each in _probed(_rows(connection, study)) if key(each.model) not in gone and each.model.image_size == planned[1]]
    best = max(probed, key=lambda each: (study.spec.objective.merit(each.value), -each.trial), default=None)
    return None if best is None else best.model.backbone


def left_out(connection: Connection, study: Study) -> list[ModelLeftOut]:
    """Return the models that the study has left out so far."""
    if not study.searches_models:
        return []
    return read_left_out(tables.get(connection, STUDY_USER, study.id, LEFT_OUT).get(LEFT_OUT))


def read_left_out(stored: Any) -> list[ModelLeftOut]:
    """Return the models in the attribute of a study; what another program wrote there does not count."""
    rows = stored if isinstance(stored, list) else []
    fields = {"backbone", "image_size", "reason"}
    return [ModelLeftOut(**row) for row in rows if isinstance(row, dict) and row.keys() == fields]


def why_not(connection: Connection, study: Study, *, trial_id: int, number: int, value: float) -> str | None:
    """Return why a trial of the screening is not fine-tuned, given its probe: its model is left out; else None."""
    origin = tables.get(connection, TRIAL_USER, trial_id, ORIGIN).get(ORIGIN) if study.searches_models else None
    prepared = _prepared(connection, study) if origin == SCREENING else None
    if prepared is None:
        return None
    rows = [(each, model, value if each == number else known) for each, model, known in _rows(connection, study)]
    own = next(model for each, model, _ in rows if each == number)
    lost = {(each.backbone, each.image_size): each.reason for each in judge(_probed(rows), _measuring(study, prepared))}
    return lost.get(key(own))


def replacement(
    study: Study, chosen: Hyperparameters, given: Mapping[str, Any], lost: Sequence[ModelLeftOut], *, number: int
) -> dict[str, Any]:
    """Return the parameters of another model for a trial whose chosen model is left out; empty if it keeps its own.

    What `given` fixes stays. The other model is drawn from those that are not left out, if possible at the same image size, the same on
    every machine.
    """
    spec, gone = study.images, _keys(lost)
    if not gone or key(spec.of_trial(chosen).model.of_trial()) not in gone:
        return {}
    others = [_parameters(spec, model) for model in spec.model.combinations() if key(model) not in gone]
    possible = [other for other in others if all(given.get(name, value) == value for name, value in other.items())]
    if not possible:
        return {}
    possible = [other for other in possible if other.get("image_size") == chosen.image_size] or possible
    return random.Random(samplers.derive_seed(spec.seed, "model", number)).choice(possible)


def _keys(lost: Sequence[ModelLeftOut]) -> set[Key]:
    return {(each.backbone, each.image_size) for each in lost}


def _parameters(spec: StudySpec, model: TrialModel) -> dict[str, Any]:
    """Return the parameters that choose a model."""
    chosen = {"backbone": model.backbone, "image_size": model.image_size}
    return {name: value for name, value in chosen.items() if len(spec.model.backbones if name == "backbone" else spec.model.sizes) > 1}


def _measuring(study: Study, prepared: messages.Prepared) -> ProbeMeasuring:
    metric = study.images.objective.metric
    balanced = prepared.balanced_validation if metric in BALANCED else None
    num_images = prepared.num_validation if balanced is None else balanced
    return ProbeMeasuring(metric=metric, num_images=num_images, constant=prepared.baseline_validation)


def _prepared(connection: Connection, study: Study) -> messages.Prepared | None:
    try:
        return messages.Prepared.model_validate(tables.get(connection, STUDY_USER, study.id, PREPARED).get(PREPARED))
    except ValidationError:
        return None


def _rows(connection: Connection, study: Study) -> list[tuple[int, TrialModel, float | None]]:
    """Return number, model and value of the probe of trial 0 and of each trial of the screening; None: it has not been probed."""
    origin, probed, known, requested = TRIAL_USER.alias(), TRIAL_USER.alias(), TRIAL_SYSTEM.alias(), TRIAL_SYSTEM.alias()
    query = (
        select(TRIALS.c.number, TRIALS.c.state, probed.c.value_json, VALUES.c.value, known.c.value_json, requested.c.value_json)
        .outerjoin(origin, and_(origin.c.trial_id == TRIALS.c.trial_id, origin.c.key == ORIGIN))
        .outerjoin(probed, and_(probed.c.trial_id == TRIALS.c.trial_id, probed.c.key == PROBE_VALUE))
        .outerjoin(VALUES, (VALUES.c.trial_id == TRIALS.c.trial_id) & queries.IS_FINITE)
        .outerjoin(known, and_(known.c.trial_id == TRIALS.c.trial_id, known.c.key == HYPERPARAMETERS))
        .outerjoin(requested, and_(requested.c.trial_id == TRIALS.c.trial_id, requested.c.key == REQUESTED))
        .where(TRIALS.c.study_id == study.id, or_(TRIALS.c.number == 0, origin.c.value_json == json.dumps(SCREENING)))
        .order_by(TRIALS.c.number)
    )
    found = []
    for number, state, probe, value, chosen, asked in connection.execute(query):
        # a trial without fine-tuning has no probe of its own: its value is that of the probe
        measured = optuna_private.decoded(probe) if probe is not None else value if state is TrialState.COMPLETE else None
        measured = float(measured) if isinstance(measured, int | float) else None
        stored = optuna_private.decoded(chosen or asked or "{}")
        if not isinstance(stored, dict):
            continue  # another program changed it
        model = study.images.model.fixed(stored.get("backbone"), stored.get("image_size"))
        if not model.is_searched:
            found.append((number, model.of_trial(), measured))
    return found


def _probed(rows: Sequence[tuple[int, TrialModel, float | None]]) -> list[ProbedModel]:
    return [ProbedModel(model=model, trial=number, value=value) for number, model, value in rows if value is not None]


def _store(connection: Connection, study: Study, found: Sequence[ModelLeftOut]) -> None:
    """Store the models that are left out; one that was left out before stays so, with its first reason."""
    before = left_out(connection, study)
    known = _keys(before)
    news = [each for each in found if (each.backbone, each.image_size) not in known]
    if news:
        rows = [{"backbone": each.backbone, "image_size": each.image_size, "reason": each.reason} for each in (*before, *news)]
        tables.put(connection, STUDY_USER, study.id, {LEFT_OUT: rows})
