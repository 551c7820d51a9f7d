"""What a sampler and the budget see of a study that is read bit by bit."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from tests.studies import by_hand
from tuner.protocol.messages import Ending
from tuner.sampling import samplers, suggestion
from tuner.sampling.history import Memory, SamplerHistory
from tuner.spec import budget, space
from tuner.storage import tables
from tuner.studies import trials
from tuner.studies.study import Study
from tuner.views import status

Begin = Callable[..., Study]
ENDLESS = {"trials": None, "timeout": 1e6}


def train(study: Study, number: int, *, seed: int = 0) -> None:
    """Trials of every kind: completed, pruned by their probe or later, failed."""
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
    """What TPE proposes to a running trial on the strength of what it is shown."""
    reader = suggestion.open_study(study.name, study.storage.cached, known, samplers.build(study.spec, number))
    asked = suggestion.Suggestion(reader, next(trial for trial in known if trial.number == number), {})
    space.suggest(asked, study.spec.search, fine_tunes=True)
    return asked.values


def test_of_few_trials_tpe_proposes_what_it_would_if_optuna_showed_it_all(begin: Begin) -> None:
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
    for trial in (*shown, *everything):  # its own parameters are not chosen yet
        if trial.number == place.number:
            trial.params, trial.distributions = {}, {}
    assert propose(study, shown, place.number) == propose(study, everything, place.number)


def test_read_bit_by_bit_it_is_the_same_as_read_at_once(begin: Begin) -> None:
    study, seen = begin(sampler="random", budget=ENDLESS), SamplerHistory(most=12, num_best=4)
    for part in range(8):
        train(study, 4, seed=part)
        waiting = by_hand.must_claim(study, trials.WorkerId.here(f"slow {part}"))
        bit_by_bit = read(study, seen)
        assert bit_by_bit == read(study, SamplerHistory(most=12, num_best=4))
        assert bit_by_bit == read(study, seen)
        by_hand.finish(study, waiting, 0.1)


def test_of_many_trials_the_best_and_the_latest_are_seen(begin: Begin) -> None:
    study = begin(sampler="random", budget=ENDLESS)
    values = [0.5, 0.9, 0.8, 0.1, 0.2, 0.3, 0.7, 0.2, 0.1, 0.1]
    for value in values:
        by_hand.finish(study, by_hand.must_claim(study), value)
    assert [trial.number for trial in read(study, SamplerHistory(most=5, num_best=2))] == [1, 2, 7, 8, 9]
    assert [trial.number for trial in read(study, SamplerHistory(most=10, num_best=2))] == list(range(10))


def test_without_enough_completed_trials_those_that_came_furthest_are_the_best(begin: Begin) -> None:
    study = begin(sampler="random", budget=ENDLESS)
    for number, (steps, value) in enumerate([(2, 0.9), (4, 0.4), (4, 0.5), (2, 0.3), (2, 0.2), (2, 0.1)]):
        claimed = by_hand.must_claim(study)
        assert claimed.number == number
        trials.report(study, claimed, by_hand.epochs(claimed, [value] * steps))
        by_hand.finish(study, claimed, value, ending=Ending.STOPPED)
    assert [trial.number for trial in read(study, SamplerHistory(most=3, num_best=2))] == [1, 2, 5]


def test_the_time_at_work_is_the_union_of_all_attempts(begin: Begin) -> None:
    study, bit_by_bit = begin(sampler="random", budget=ENDLESS), Memory()
    for part in range(6):
        train(study, 2, seed=part)
        trials.release(study, by_hand.must_claim(study, trials.WorkerId.here("released")))
        train(study, 2, seed=part)  # the first of them takes it up
        by_hand.must_claim(study, trials.WorkerId.here(f"slow {part}"))
        attempts = schedule(study)
        found = study.storage.read(lambda connection: bit_by_bit.work.read(connection, study.id))
        assert found == pytest.approx(budget.busy_seconds(attempts))
        assert len(bit_by_bit.work._ended) <= 6
    late = begin(sampler="random", budget=ENDLESS)  # reads it at once
    assert status.snapshot(late).busy_seconds == pytest.approx(budget.busy_seconds(attempts))


def schedule(study: Study) -> list[tuple[float, float]]:
    """Give every attempt a time of its own, some beside each other and some apart."""
    times = tables.LEASES.c
    start = 100.0 * times.trial_number + 10 * times.attempt
    stop = start + 60 + 30 * (times.trial_number % 3)
    is_open = sqlalchemy.case((times.ended_at.is_(None), None), else_=stop)
    change = sqlalchemy.update(tables.LEASES).values(started_at=start, seen_at=stop, ended_at=is_open)
    study.storage.write(lambda connection: connection.execute(change))
    query = sqlalchemy.select(times.started_at, times.seen_at)
    return [(start, stop) for start, stop in study.storage.read(lambda connection: connection.execute(query).all())]
