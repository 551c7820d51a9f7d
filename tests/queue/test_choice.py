"""The choice of the next study, without a storage."""

from typing import Any

import pytest

from tuner.queue import choice
from tuner.queue.choice import STAY_SECONDS, STAY_TRIALS, Asker, OwnerShare
from tuner.queue.entries import Entry, QueueState
from tuner.queue.limits import OwnerLimits, OwnerUse

NOW = 10_000.0


def entry(study_id: int, **fields: Any) -> Entry:
    usual: dict[str, Any] = {
        "name": f"s{study_id}", "state": QueueState.QUEUED, "priority": 0, "position": 0, "owner": "ann", "num_wanted": 1, "needs": (),
        "after": (), "takes_winner": False, "preempts": False, "key": None, "data_path": "", "likeness": "",
        "submitted_at": NOW - 100 + study_id, "started_at": None, "ended_at": None, "message": "",
    }  # fmt: skip
    return Entry(study_id=study_id, **(usual | fields))


def share(**fields: Any) -> OwnerShare:
    of_use = {name: fields.pop(name) for name in ("seconds", "num_trials", "num_workers", "artifact_bytes") if name in fields}
    return OwnerShare(use=OwnerUse(**of_use), **fields)


def chosen(entries: list[Entry], asker: Asker | None = None, **how: Any) -> int | None:
    found = choice.choose(entries, asker or Asker(), how.pop("owners", {}), done=how.pop("done", ()), now=NOW)
    assert not how
    return None if found is None else found.study_id


def test_the_highest_priority_comes_first() -> None:
    assert chosen([entry(1), entry(2, priority=3), entry(3, priority=2)]) == 2


def test_the_owner_who_had_less_of_the_pool_comes_first() -> None:
    both = [entry(1), entry(2, owner="bob")]
    assert chosen(both, owners={"ann": share(seconds=100.0), "bob": share(seconds=50.0)}) == 2
    assert chosen(both, owners={"ann": share(seconds=100.0, weight=4.0), "bob": share(seconds=50.0)}) == 1
    assert chosen(both, owners={"ann": share(num_workers=1), "bob": share(seconds=STAY_SECONDS / 2)}) == 2


def test_then_the_place_then_the_warm_trainer_then_the_age() -> None:
    assert chosen([entry(1, position=2), entry(2, position=1)]) == 2
    warm = Asker(likeness="same", study_id=9, seconds=10 * STAY_SECONDS)
    assert chosen([entry(1), entry(2)]) == 1
    assert chosen([entry(1), entry(2, likeness="same")], warm) == 2
    assert chosen([entry(1, position=1), entry(2, position=2, likeness="same")], warm) == 1


def test_a_study_that_has_waited_for_long_is_not_overtaken_by_a_warm_one() -> None:
    warm = Asker(likeness="same", study_id=9, seconds=10 * STAY_SECONDS)
    old = entry(1, submitted_at=NOW - 2 * choice.PATIENCE_SECONDS)
    assert chosen([old, entry(2, likeness="same")], warm) == 1


def test_a_study_gets_at_most_the_workers_that_it_wants() -> None:
    assert chosen([entry(1, num_wanted=2, num_workers=2), entry(2)]) == 2
    assert chosen([entry(1, num_wanted=2, num_workers=2)]) is None


@pytest.mark.parametrize(
    ("needs", "labels", "memory", "serves"),
    [
        ((), (), 0, True),
        (("gpu",), ("gpu", "large"), 0, True),
        (("gpu", "large"), ("gpu",), 0, False),
        (("gpu:24GB",), ("gpu",), 16e9, False),
        (("gpu:24GB",), ("gpu",), 24e9, True),
    ],
)
def test_a_worker_needs_every_label_of_a_study(needs: tuple[str, ...], labels: tuple[str, ...], memory: float, serves: bool) -> None:
    asker = Asker(labels=frozenset(labels), gpu_memory_bytes=int(memory))
    assert (chosen([entry(1, needs=needs)], asker) == 1) is serves


def test_a_study_waits_for_the_studies_before_it() -> None:
    waiting = entry(1, after=("a", "b"))
    assert chosen([waiting], done={"a"}) is None
    assert choice.waits_because(waiting, share(), done={"a"}) == "waits for b"
    assert chosen([waiting], done={"a", "b"}) == 1


@pytest.mark.parametrize(
    ("limit", "use", "words"),
    [
        ({"workers": 2}, {"num_workers": 2}, "ann has 2 of at most 2 workers"),
        ({"trials_a_day": 9}, {"num_trials": 9}, "ann has used 9 of 9 trials a day"),
        ({"worker_hours_a_day": 2}, {"seconds": 7200.0}, "ann has used 2.0 of 2 worker hours a day"),
        ({"artifact_bytes": 2**30}, {"artifact_bytes": 2**30}, "ann stores 1.0 of 1 GB of artifacts"),
    ],
)
def test_an_owner_at_a_limit_waits(limit: dict[str, Any], use: dict[str, Any], words: str) -> None:
    ann = share(limits=OwnerLimits(**limit), **use)
    assert choice.waits_because(entry(1), ann) == words
    assert chosen([entry(1), entry(2, owner="bob")], owners={"ann": ann}) == 2


def test_a_worker_stays_for_a_while_unless_a_higher_priority_needs_it() -> None:
    both, poor = [entry(1), entry(2, owner="bob")], {"ann": share(seconds=1e6)}
    assert chosen(both, Asker(study_id=1, num_trials=1, seconds=1.0), owners=poor) == 1
    assert chosen(both, Asker(study_id=1, num_trials=STAY_TRIALS, seconds=1.0), owners=poor) == 2
    assert chosen(both, Asker(study_id=1, num_trials=1, seconds=STAY_SECONDS), owners=poor) == 2
    assert chosen([both[0], entry(3, priority=1)], Asker(study_id=1, num_trials=1, seconds=1.0)) == 3


def test_a_study_that_a_worker_cannot_serve_is_passed_over() -> None:
    assert chosen([entry(1), entry(2)], Asker(without={1})) == 2


def test_idle_workers_and_the_lowest_priorities_make_room_for_a_study_that_preempts() -> None:
    urgent = entry(1, priority=5, num_wanted=2, preempts=True)
    serving = {"a": (0, 10.0), "b": (1, 20.0), "c": (0, 30.0), "d": (7, 40.0)}

    def leaving(*, num_idle: int) -> list[str]:
        return [key for key in serving if choice.is_due_to_yield(urgent, key, serving, num_idle=num_idle)]

    assert leaving(num_idle=0) == ["a", "c"]
    assert leaving(num_idle=1) == ["c"]
    assert leaving(num_idle=2) == []
