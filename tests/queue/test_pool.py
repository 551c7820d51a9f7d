"""The pool: which study a worker gets, what is counted, and that no race gives a study more workers than it wants."""

import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy

from tests.studies import by_hand
from tests.waiting import pass_seconds
from tuner.errors import StudyError
from tuner.queue import entries, limits, pool
from tuner.queue.entries import Entry, QueueState, Submission
from tuner.queue.pool import Abilities, Look, Place
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.studies import trials, warm_start
from tuner.studies.leases import WorkerId
from tuner.studies.workers import WorkerRequest

Submit = Callable[..., Entry]
Hire = Callable[..., WorkerId]


def looking(storage: Storage) -> pool.LookAt:
    """Look at a study as a worker does that can serve everything."""

    def look(entry: Entry) -> Look:
        study = studies.load(entry.name, storage)
        state = entries.settle(study)
        return Look(study=study, has_trial=state in entries.OPEN and trials.stop_reason(study) is None)

    return look


def decided(storage: Storage, worker: WorkerId, *, num_trials: int = 0) -> str | None:
    place = pool.decide(storage, worker, looking(storage), num_trials=num_trials)
    return None if place is None else place.entry.name


def test_each_worker_gets_a_place_until_all_are_taken(storage: Storage, submit: Submit, hire: Hire) -> None:
    submit("wide", trials=9, num_wanted=2)
    submit("narrow", trials=9, owner="bob")
    found = Counter(decided(storage, hire(f"w{number}")) for number in range(4))
    assert found == {"wide": 2, "narrow": 1, None: 1}
    assert {one.name: one.num_workers for one in entries.entries(storage)} == {"wide": 2, "narrow": 1}
    assert {one.state for one in entries.entries(storage)} == {QueueState.RUNNING}


def test_a_worker_keeps_its_place_over_a_trial_and_leaves_for_a_higher_priority(storage: Storage, submit: Submit, hire: Hire) -> None:
    submit("flowers", trials=9)
    worker = hire("w1")
    assert decided(storage, worker) == "flowers"
    assert decided(storage, worker, num_trials=1) == "flowers"
    submit("urgent", trials=9, priority=1)
    assert decided(storage, worker, num_trials=2) == "urgent"
    assert [(one.name, one.num_workers) for one in entries.entries(storage)] == [("urgent", 1), ("flowers", 0)]


def test_what_a_worker_refuses_is_passed_over_and_told_with_the_reason(storage: Storage, submit: Submit, hire: Hire) -> None:
    submit("flowers", priority=1)
    submit("gpus", priority=2, needs=("gpu",))
    submit("roses")
    worker = hire("w3")
    usual = looking(storage)

    def look(entry: Entry) -> Look:
        return Look(refusal="no folder /srv/data/flowers") if entry.name == "flowers" else usual(entry)

    place = pool.decide(storage, worker, look)
    assert place is not None
    assert place.entry.name == "roses"
    assert pool.beat(storage, worker, refusals={"flowers": "no folder /srv/data/flowers"})
    members = pool.members(storage)
    assert pool.reasons(entries.entry(storage, "flowers"), members) == {worker.name: "no folder /srv/data/flowers"}
    assert pool.reasons(entries.entry(storage, "gpus"), members) == {worker.name: "has no gpu"}
    assert pool.reasons(entries.entry(storage, "roses"), members) == {}


def test_reasons_are_bounded(storage: Storage, hire: Hire) -> None:
    worker = hire("w1")
    pool.beat(storage, worker, refusals={f"s{number}": "x" * 1000 for number in range(1000)})
    [member] = pool.members(storage)
    assert len(member.refusals) == 50
    assert {len(reason) for reason in member.refusals.values()} == {200}


def test_a_study_without_a_trial_for_one_more_worker_is_passed_over_and_ends_with_its_last_trial(
    storage: Storage, submit: Submit, hire: Hire
) -> None:
    submit("last", num_wanted=5, priority=1)
    submit("next", trials=9)
    first, second = hire("w1"), hire("w2")
    assert decided(storage, first) == "last"
    study = studies.load("last", storage)
    claimed = by_hand.must_claim(study, first)
    assert decided(storage, second) == "next"
    by_hand.finish(study, claimed, 0.5)
    assert decided(storage, first, num_trials=1) is None
    assert entries.entry(storage, "last").state is QueueState.DONE


def test_a_dependent_study_starts_once_with_the_winner_of_the_earlier_one(storage: Storage, submit: Submit, hire: Hire) -> None:
    submit("first")
    submit("second", after=("first",), takes_winner=True, trials=9, num_wanted=2)
    worker, other = hire("w1"), hire("w2")
    assert decided(storage, worker) == "first"
    study = studies.load("first", storage)
    by_hand.finish(study, by_hand.must_claim(study, worker), 0.5)
    winner = warm_start.best_of(study, most=1)
    usual = looking(storage)

    def look(entry: Entry) -> Look:
        return dataclasses.replace(usual(entry), earlier=winner if entry.name == "second" else ())

    for one in (worker, other):
        place = pool.decide(storage, one, look)
        assert place is not None
        assert place.entry.name == "second"
    waiting = [trial for trial in studies.load("second", storage).optuna.get_trials(deepcopy=False) if trial.state.name == "WAITING"]
    assert [trial.user_attrs.get("taken_from", "") for trial in waiting] == ["", "trial 0 of first (0.5000)"]


def test_a_study_that_preempts_takes_idle_workers_before_it_interrupts_trials(storage: Storage, submit: Submit, hire: Hire) -> None:
    submit("low", trials=99, num_wanted=2)
    busy = [hire("w1"), hire("w2")]
    assert [decided(storage, worker) for worker in busy] == ["low", "low"]
    idle = hire("w3")
    assert decided(storage, idle) is None
    submit("urgent", trials=9, priority=5, preempts=True)
    assert pool.signal(storage, busy[0]).is_preempted
    assert [pool.yield_to(storage, worker, looking(storage)) for worker in busy] == [None, None]
    assert decided(storage, idle) == "urgent"
    submit("worse", trials=9, priority=6, preempts=True, num_wanted=2)
    places = [pool.yield_to(storage, worker, looking(storage)) for worker in [*busy, idle]]
    assert [None if place is None else place.entry.name for place in places] == ["worse", "worse", None]


def test_a_stopped_pool_gives_no_place(storage: Storage, submit: Submit, hire: Hire) -> None:
    submit("flowers", trials=9)
    worker = hire("w1")
    limits.stop(storage, by="ann")
    assert decided(storage, worker) is None
    assert pool.signal(storage, worker).stopped_by == "ann"
    limits.start(storage)
    assert decided(storage, worker) == "flowers"


@pytest.mark.parametrize(("now", "request_"), [(False, WorkerRequest.LEAVE), (True, WorkerRequest.SUSPEND)])
def test_a_host_or_a_worker_is_drained(storage: Storage, submit: Submit, hire: Hire, now: bool, request_: WorkerRequest) -> None:
    submit("flowers", trials=9)
    worker, other = hire("w1"), hire("w2")
    assert pool.drain(storage, "w1", now=now, by="eve") == [worker.name]
    seen = pool.signal(storage, worker)
    assert (seen.request, seen.requested_by) == (request_, "eve")
    assert decided(storage, worker) is None
    assert pool.drain(storage, worker.name.rpartition("/")[0], now=now, by="eve") == [worker.name, other.name]
    with pytest.raises(StudyError, match="the pool has no host or worker w9"):
        pool.drain(storage, "w9", now=now, by="eve")
    pool.leave(storage, worker, "drained by eve")
    assert [(one.name, one.ending) for one in pool.members(storage)] == [(other.name, ""), (worker.name, "drained by eve")]
    assert not pool.signal(storage, worker).is_known


def test_a_lost_worker_frees_its_place(storage: Storage, submit: Submit, hire: Hire) -> None:
    submit("flowers", trials=9)
    lost = dataclasses.replace(WorkerId.here("lost"), namespace="another host")
    pool.register(storage, lost, Abilities())
    worker = hire("w1")
    assert decided(storage, lost) == "flowers"
    assert decided(storage, worker) is None
    aged = sqlalchemy.update(tables.POOL).where(tables.POOL.c.worker_key == lost.key).values(seen_at=tables.POOL.c.seen_at - 1000)
    storage.write(lambda connection: connection.execute(aged))
    assert decided(storage, worker) == "flowers"
    assert decided(storage, lost) is None


def test_time_and_trials_are_counted_for_the_owner_once(storage: Storage, submit: Submit, hire: Hire) -> None:
    submit("flowers", trials=9)
    worker = hire("w1")
    began = time.monotonic()
    decided(storage, worker)
    pass_seconds(0.2)
    pool.beat(storage, worker, refusals={})
    decided(storage, worker, num_trials=1)
    decided(storage, worker, num_trials=1)
    decided(storage, worker, num_trials=2)
    found = limits.usage(storage)
    assert found["ann"].num_trials == 2
    assert 0.2 <= found["ann"].seconds <= time.monotonic() - began + 0.01
    assert found[limits.IDLE].num_trials == 0


def test_an_owner_at_a_limit_waits_while_others_are_served(storage: Storage, submit: Submit, hire: Hire) -> None:
    limits.set_limits(storage, "ann", workers=1)
    submit("one", trials=9, num_wanted=4)
    submit("two", trials=9, owner="bob", num_wanted=4)
    found = Counter(decided(storage, hire(f"w{number}")) for number in range(5))
    assert found == {"one": 1, "two": 4}


def test_workers_are_placed_counted_and_drained_on_every_database(storage_url: str) -> None:
    storage = storages.open(storage_url)
    for name in ("a", "b"):
        entries.submit(storage, by_hand.spec(name=name, budget={"trials": 1}), Submission(owner=name, num_wanted=1))
    workers = [WorkerId.here(f"w{number}") for number in range(3)]
    for worker in workers:
        pool.register(storage, worker, Abilities())
        pool.register(storage, worker, Abilities())  # a retry changes nothing
    assert sorted(decided(storage, worker) or "" for worker in workers) == ["", "a", "b"]
    for name in ("a", "b"):
        study = studies.load(name, storage)
        by_hand.finish(study, by_hand.must_claim(study), 0.5)
        entries.settle(study)
    for worker in workers:
        assert pool.beat(storage, worker, refusals={"a": "no"})
        assert decided(storage, worker, num_trials=1) is None
    assert pool.drain(storage, "w1", now=False, by="eve") == [workers[1].name]
    for worker in workers:
        pool.leave(storage, worker, "over")
        assert not pool.beat(storage, worker, refusals={})
    assert {one.state for one in entries.entries(storage)} == {QueueState.DONE}
    used = limits.usage(storage)
    assert (used["a"].num_trials, used["b"].num_trials) == (1, 1)
    storage.close()


NUM_WORKERS = 32
STUDIES = {"a": (7, 3), "b": (12, 9), "c": (1, 32), "d": (20, 1), "e": (9, 40)}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("storage_url", ["sqlite", "postgresql"], indirect=True)
def test_32_workers_at_once_never_exceed_what_a_study_wants_and_train_each_budget_exactly(storage_url: str) -> None:
    storage = storages.open(storage_url)
    for number, (name, (num_trials, wanted)) in enumerate(STUDIES.items()):
        spec = by_hand.spec(name=name, budget={"trials": num_trials}, sampler="random", pruner="none")
        entries.submit(storage, spec, Submission(owner=f"o{number % 2}", num_wanted=wanted, priority=number % 2))
    barrier = threading.Barrier(NUM_WORKERS, timeout=300)
    errors: list[BaseException] = []
    trained: list[tuple[str, int]] = []

    def work(number: int) -> None:
        try:
            own = storages.open(storage_url)
            worker = WorkerId.here(f"w{number}")
            pool.register(own, worker, Abilities())
            barrier.wait()
            place, ended = pool.decide(own, worker, looking(own)), 0
            while place is not None:
                assert_no_more_than_wanted(own)
                ended = ended if place.is_same else 0
                ended += train(place, worker, trained)
                place = pool.decide(own, worker, looking(own), num_trials=ended)
            pool.leave(own, worker, "")
            own.close()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(NUM_WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert Counter(name for name, _ in trained) == {name: trials for name, (trials, _) in STUDIES.items()}
    assert max(Counter(trained).values()) == 1
    assert {one.name: one.state for one in entries.entries(storage)} == dict.fromkeys(STUDIES, QueueState.DONE)
    used = limits.usage(storage)
    assert sum(use.num_trials for use in used.values()) == len(trained)
    storage.close()


def train(place: Place, worker: WorkerId, trained: list[tuple[str, int]]) -> int:
    """Train a trial of the study; return how many there were: another worker may have taken the last one."""
    study = place.look.study
    assert study is not None
    claimed = by_hand.claim(study, dataclasses.replace(worker, key=worker.key))
    if claimed is None:
        entries.settle(study)
        return 0
    by_hand.finish(study, claimed, 0.5)
    trained.append((study.name, claimed.number))
    return 1


def assert_no_more_than_wanted(storage: Storage) -> None:
    def read(connection: Any) -> list[Any]:
        query = sqlalchemy.select(tables.POOL.c.study_id, sqlalchemy.func.count()).where(tables.POOL.c.ended_at.is_(None))
        counts = dict(connection.execute(query.group_by(tables.POOL.c.study_id)).all())
        wanted = connection.execute(sqlalchemy.select(tables.QUEUE.c.study_id, tables.QUEUE.c.num_wanted, tables.QUEUE.c.name)).all()
        return [name for study_id, num, name in wanted if counts.get(study_id, 0) > num]

    assert storage.read(read) == []
