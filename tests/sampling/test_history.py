"""History: what the sampler and the budget see of a study that is read incrementally."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from tests.studies import by_hand
from tuner.protocol.messages import Ending
from tuner.sampling import samplers, suggestion
from tuner.sampling.history import SamplerHistory, StudyMemory
from tuner.spec import budget, space
from tuner.storage import tables
from tuner.studies import trials
from tuner.studies.study import Study
from tuner.views import status

Begin = Callable[..., Study]
ENDLESS = {"trials": None, "timeout": 1e6}


def train(study: Study, number: int, *, seed: int = 0) -> None:
    """Create trials of every kind: completed, pruned after the probe or later, failed."""
    noise = random.Random(seed)
    for _ in range(number):
        claimed = by_hand.must_claim(study)
        value = round(noise.uniform(0.3, 0.9), 2)
        match noise.choice(["completed", "completed", "probe", "pruned", "failed"]):
            case "completed":
                trials.report(study, claimed, by_hand.epochs(claimed, [value] * 6))
                by_hand.finish(study, claimed, value)
            case "failed":
                trials.fail(study, claimed, by_hand.failed(claimed, error=f"Error{claimed.number}"))
            case kind:
                trials.report(study, claimed, by_hand.epochs(claimed, [value] * (2 if kind == "probe" else 4)))
                by_hand.finish(study, claimed, value, ending=Ending.STOPPED)


def read(study: Study, seen: SamplerHistory) -> list[FrozenTrial]:
    return study.storage.read(lambda connection: seen.read(connection, study.id))


def propose(study: Study, known: list[FrozenTrial], number: int) -> dict[str, Any]:
    """Return what TPE proposes for a running trial, given the known trials."""
    reader = suggestion.open_study(study.id, study.name, study.storage.cached, known, samplers.build(study.spec, number, {}))
    asked = suggestion.Suggestion(reader, next(trial for trial in known if trial.number == number), {})
    space.suggest(asked, study.images.search, fine_tunes=True)
    return asked.values


def test_tpe_proposes_the_same_as_with_all_trials_from_optuna(begin: Begin) -> None:
    study = begin(sampler={"name": "tpe", "startup_trials": 5}, budget=ENDLESS)
    train(study, 40)
    by_hand.must_claim(study, trials.WorkerId.here("another"))
    place = by_hand.must_claim(study)
    everything = study.storage.cached.get_all_trials(study.id, deepcopy=False)
    shown = read(study, SamplerHistory())
    alike = [trial for trial in everything if trial.state is not TrialState.FAIL]
    assert [(trial.number, trial.state, trial.params, trial.value) for trial in shown] == [
        (trial.number, trial.state, trial.params, trial.value) for trial in alike
    ]
    for trial in (*shown, *everything):  # the running trial has no parameters yet
        if trial.number == place.number:
            trial.params, trial.distributions = {}, {}
    assert propose(study, shown, place.number) == propose(study, everything, place.number)


def test_incremental_reads_give_the_same_history_as_one_read(begin: Begin) -> None:
    study, seen = begin(sampler="random", budget=ENDLESS), SamplerHistory(max_trials=12, num_best=4)
    for part in range(8):
        train(study, 4, seed=part)
        waiting = by_hand.must_claim(study, trials.WorkerId.here(f"slow {part}"))
        incremental = read(study, seen)
        assert incremental == read(study, SamplerHistory(max_trials=12, num_best=4))
        assert incremental == read(study, seen)
        by_hand.finish(study, waiting, 0.1)


def test_the_history_of_many_trials_has_the_best_and_the_latest(begin: Begin) -> None:
    study = begin(sampler="random", budget=ENDLESS)
    values = [0.5, 0.9, 0.8, 0.1, 0.2, 0.3, 0.7, 0.2, 0.1, 0.1]
    for value in values:
        by_hand.finish(study, by_hand.must_claim(study), value)
    assert [trial.number for trial in read(study, SamplerHistory(max_trials=5, num_best=2))] == [1, 2, 7, 8, 9]
    assert [trial.number for trial in read(study, SamplerHistory(max_trials=10, num_best=2))] == list(range(10))


def test_pruned_trials_that_trained_longest_count_as_best_if_few_trials_completed(begin: Begin) -> None:
    study = begin(sampler="random", budget=ENDLESS)
    for number, (steps, value) in enumerate([(2, 0.9), (4, 0.4), (4, 0.5), (2, 0.3), (2, 0.2), (2, 0.1)]):
        claimed = by_hand.must_claim(study)
        assert claimed.number == number
        trials.report(study, claimed, by_hand.epochs(claimed, [value] * steps))
        by_hand.finish(study, claimed, value, ending=Ending.STOPPED)
    assert [trial.number for trial in read(study, SamplerHistory(max_trials=3, num_best=2))] == [1, 2, 5]


def test_the_busy_time_is_the_union_of_all_attempts(begin: Begin) -> None:
    study, incremental = begin(sampler="random", budget=ENDLESS), StudyMemory()
    for part in range(6):
        train(study, 2, seed=part)
        trials.release(study, by_hand.must_claim(study, trials.WorkerId.here("released")))
        train(study, 2, seed=part)  # the first of them resumes the released trial
        by_hand.must_claim(study, trials.WorkerId.here(f"slow {part}"))
        attempts = schedule(study)
        found = study.storage.read(lambda connection: incremental.busy_time.read(connection, study.id))
        assert found == pytest.approx(budget.busy_seconds(attempts))
        assert len(incremental.busy_time._ended) <= 6
    late = begin(sampler="random", budget=ENDLESS)  # reads everything at once
    assert status.snapshot(late).busy_seconds == pytest.approx(budget.busy_seconds(attempts))


def schedule(study: Study) -> list[tuple[float, float]]:
    """Give every attempt a start and an end, some overlapping and some separate; return them."""
    times = tables.LEASES.c
    start = 100.0 * times.trial_number + 10 * times.attempt
    stop = start + 60 + 30 * (times.trial_number % 3)
    is_open = sqlalchemy.case((times.ended_at.is_(None), None), else_=stop)
    change = sqlalchemy.update(tables.LEASES).values(started_at=start, seen_at=stop, ended_at=is_open)
    study.storage.write(lambda connection: connection.execute(change))
    query = sqlalchemy.select(times.started_at, times.seen_at)
    return [(start, stop) for start, stop in study.storage.read(lambda connection: connection.execute(query).all())]
