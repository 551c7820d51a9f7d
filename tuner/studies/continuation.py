"""Continuation: whether a trial continues, after its probe (promotion) and during fine-tuning (pruning)."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.pruners import PercentilePruner
from optuna.trial import FrozenTrial
from sqlalchemy import Connection

from tuner import wording
from tuner.protocol import messages
from tuner.sampling import history, suggestion
from tuner.sampling.pruners import ConfinedPruner
from tuner.spec import budget
from tuner.spec.budget import MARGIN
from tuner.spec.study import StudySpec
from tuner.storage import attributes, optuna_private, tables
from tuner.storage import epochs as epoch_rows
from tuner.storage.attributes import PLAN, PREPARED, PROBE_VALUE, PROMOTED, REASON, SHORTENED, SPEC
from tuner.storage.tables import STUDY_USER, TRIAL_USER
from tuner.studies import leases, planning, screening
from tuner.studies import study as studies
from tuner.studies.claims import Claim
from tuner.studies.planning import Duration
from tuner.studies.study import Study

#: time between two probes of a worker, besides the probe
_BETWEEN_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """Whether a trial is promoted from its probe to fine-tuning."""

    is_promoted: bool
    #: why it is not, or is shortened; "" if it is promoted for all its epochs
    reason: str = ""
    #: its epochs of fine-tuning, if there is no time for all; else None
    epochs: int | None = None


@dataclass(frozen=True, kw_only=True)
class Chances:
    """What a study can still do when a probe has ended."""

    #: trials that can still be fine-tuned, the one of this probe included
    num_places: int
    #: probes that come after this one
    num_to_come: int


def earns_fine_tuning(value: float, *, earlier: Sequence[float], promoted: Sequence[float], share: float) -> bool:
    """Return whether a probe is among the best `share` of all probes so far, itself included.

    `value` is the merit of the probe (`Objective.merit`), `earlier` are those of the other probes, `promoted` those of the promoted ones.
    The number of places is `share` of the probes so far, rounded up. A probe is promoted if fewer better probes, and fewer promoted ones
    that are at least as good, came before it. Among equal probes only as many are promoted as there are places.

    Rounding up promotes too many probes at first, and so does a search that improves steadily. From the second on, each surplus promotion
    takes a place away, down to one place: a probe that beats all others is always promoted. Of 100 probes in random order, `share` are
    promoted; of 20, up to a third more; in a search that improves steadily, less than twice as many.
    """
    fair = math.ceil(share * (len(earlier) + 1) - 1e-9)
    places = max(1, fair - max(0, len(promoted) - fair - 1))
    num_better = sum(other > value for other in earlier)
    num_before = sum(other >= value for other in promoted)
    return num_better < places and num_before < places


def earns_place(value: float, *, earlier: Sequence[float], chances: Chances) -> bool:
    """Return whether a probe gets one of the places that are left: if fewer better probes than places are expected to come.

    `value` and `earlier` are merits, as for `earns_fine_tuning`. The next probe is better than one that `num_better` of n earlier probes
    beat with a probability of (num_better + 1) / (n + 2). When no more probes come, every probe gets a place, so none is left over. A probe
    that no other beats gets one at once: trials with one head share an exact probe, so that waiting for a better one would be waiting for
    the same one. Without a place, only a probe that beats all others is promoted.
    """
    best = max(earlier, default=-math.inf)
    if chances.num_places <= 0:
        return value > best
    if value >= best:
        return True
    num_better = sum(other >= value for other in earlier)
    return chances.num_to_come * (num_better + 1) / (len(earlier) + 2) < chances.num_places


def decide(connection: Connection, study: Study, claim: Claim, *, value: float) -> Promotion:
    """Return whether a trial is promoted to fine-tuning. The first answer is stored, so a resumed trial gets the same answer.

    With a timeout, a trial is promoted only if it can end in time, by what trials took so far. If not all of its epochs fit, but at least
    half of them and four, it is shortened to those that fit. Trial 0 is always promoted, for all its epochs.
    """
    study.memory.measured.read(connection, study.id)
    known, trial_id, number = study.memory.measured.probes, claim.trial_id, claim.number
    if trial_id in known:
        told = tables.get(connection, TRIAL_USER, trial_id, REASON, SHORTENED)
        return Promotion(is_promoted=known[trial_id][1], reason=str(told.get(REASON, "")), epochs=attributes.shortened(told))
    found = Promotion(is_promoted=True) if number == 0 else _judge(connection, study, claim, value)
    lost = screening.why_not(connection, study, trial_id=trial_id, number=number, value=value)
    if lost is not None:
        found = _pruned(f"its backbone and image size are left out: {lost}")
    stored = {PROBE_VALUE: value, PROMOTED: found.is_promoted, REASON: found.reason or None, SHORTENED: found.epochs}
    tables.put(connection, TRIAL_USER, trial_id, {name: value for name, value in stored.items() if value is not None})
    return found


def _judge(connection: Connection, study: Study, claim: Claim, value: float) -> Promotion:
    stored = tables.get(connection, STUDY_USER, study.id, SPEC, PLAN, PREPARED)
    study, number = studies.with_stored(study, stored), claim.number
    spec, probes, merit = study.images, study.memory.measured.probes.values(), study.spec.objective.merit
    earlier, promoted = [merit(probe) for probe, _ in probes], [merit(probe) for probe, went_on in probes if went_on]
    expected, left, shortened = None, 0.0, Promotion(is_promoted=True)
    if spec.budget.timeout is not None:
        expected = planning.expected(connection, study, claim.of_images, stored, worker=claim.worker)
        left = max(0.0, spec.budget.timeout - study.memory.busy_time.read(connection, study.id))
    if expected is not None and left < MARGIN * expected.fine_tune_seconds:
        epochs, needed = planning.epochs_that_fit(spec, expected, left), wording.duration(MARGIN * expected.fine_tune_seconds)
        if epochs is None:
            return _pruned(f"the {wording.duration(left)} left are too few for its fine-tuning, which takes about {needed}")
        why = f"fine-tuned for {epochs} of {expected.epochs} epochs, for which the {wording.duration(left)} left are enough"
        expected, shortened = expected.of(epochs), Promotion(is_promoted=True, reason=why, epochs=epochs)
    if spec.training.promote == "auto" and expected is not None:
        num_busy = sum(lease.ended_at is None for lease in leases.of_running_trials(connection, study.id))
        spent = sum(trial.probe_seconds for trial in study.memory.measured.times.values())
        chances = chances_of(
            spec, expected, number=number, num_promoted=len(promoted), left_seconds=left, probed_seconds=spent, num_workers=num_busy
        )
        is_promoted = earns_place(merit(value), earlier=earlier, chances=chances)
    else:
        share = budget.share(spec.training, spec.budget)
        is_promoted = _is_needed(spec, number, num_promoted=len(promoted)) or earns_fine_tuning(
            merit(value), earlier=earlier, promoted=promoted, share=share
        )
    if is_promoted:
        return shortened
    if spec.training.promote == "auto" and expected is not None:
        return _pruned("its probe is not among the best, for which the time is kept")
    return _pruned(f"its probe is not among the best {share:.0%}")


def _pruned(reason: str) -> Promotion:
    return Promotion(is_promoted=False, reason=reason)


def _is_needed(spec: StudySpec, number: int, *, num_promoted: int) -> bool:
    """Return whether every trial from this one on must be fine-tuned, so that a study has WANTED_TRIALS of them."""
    if spec.training.promote != "auto" or spec.budget.trials is None:
        return False
    return budget.WANTED_TRIALS - num_promoted >= spec.budget.trials - number > 0


def chances_of(
    spec: StudySpec,
    expected: Duration,
    *,
    number: int,
    num_promoted: int,
    left_seconds: float,
    probed_seconds: float,
    num_workers: int = 1,
) -> Chances:
    """Return what a study with a timeout can still do when the probe of a trial has ended.

    As many trials are fine-tuned as fit into the time that is left, but no more than its number of trials allows. The probes to come take
    the time beside them, but no more than PROBE_SHARE of the timeout.
    """
    assert spec.budget.timeout is not None
    num_workers, trials = max(1, num_workers), spec.budget.trials
    one = MARGIN * max(expected.fine_tune_seconds, 1e-6)
    num_places = math.floor(left_seconds / one) * num_workers
    if trials is not None:
        num_places = min(num_places, budget.num_fine_tuned(spec.training, spec.budget, trials) - num_promoted)
    beside = num_workers * left_seconds - max(0, num_places) * one
    for_probes = planning.PROBE_SHARE * num_workers * spec.budget.timeout - probed_seconds
    num_to_come = max(0, math.floor(min(beside, for_probes) / (expected.probe_seconds + _BETWEEN_SECONDS)))
    return Chances(num_places=num_places, num_to_come=num_to_come if trials is None else max(0, min(num_to_come, trials - number - 1)))


def is_poor(study: Study, claim: Claim, epochs: Sequence[messages.Epoch], pruner: ConfinedPruner) -> bool:
    """Return whether a pruner stops a trial, based on the stored epochs and on epochs that are not stored yet.

    Raises:
        SQLAlchemyError: the storage does not answer; this function does not retry.
    """
    if isinstance(pruner.inner, PercentilePruner):  # MedianPruner is a subclass
        trial, others = study.storage.read_once(lambda connection: _at_last_step(connection, study, claim, epochs))
    else:
        others = study.storage.cached.get_all_trials(study.id, deepcopy=False)
        trial = copy.copy(next(other for other in others if optuna_private.trial_id(other) == claim.trial_id))
        trial.intermediate_values = trial.intermediate_values | epoch_rows.best_so_far(trial.intermediate_values, epochs, study.spec)
    return pruner.prune(suggestion.open_study(study.id, study.name, study.storage.cached, others, study.optuna.sampler), trial)


def _at_last_step(
    connection: Connection, study: Study, claim: Claim, epochs: Sequence[messages.Epoch]
) -> tuple[FrozenTrial, list[FrozenTrial]]:
    """Return a trial, and the completed trials with only their values at its last step, because a percentile needs no more."""
    trial = history.without_parameters(trial_id=claim.trial_id, number=claim.number)
    known = tables.intermediate_values(connection, claim.trial_id)
    trial.intermediate_values = known | epoch_rows.best_so_far(known, epochs, study.spec)
    return trial, history.completed_at_step(connection, study.id, trial.last_step or 0)
