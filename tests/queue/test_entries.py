"""The queue: what is submitted, in which order it is served, and how it is moved, stopped and ended."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.studies import by_hand
from tuner.errors import RequestError, StudyError, TunerError
from tuner.queue import entries, limits
from tuner.queue.entries import Entry, QueueState, Submission
from tuner.queue.limits import Over
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.storage.engine import Storage
from tuner.studies import control, trials
from tuner.studies import study as studies
from tuner.views import status

Submit = Callable[..., Entry]


def names(storage: Storage, *states: QueueState) -> list[str]:
    return [one.name for one in entries.entries(storage, states)]


def test_a_submitted_study_is_in_the_storage_and_in_the_queue(storage: Storage, submit: Submit) -> None:
    found = submit("flowers", priority=5, num_wanted=4, needs=("gpu",), preempts=True)
    assert found == entries.entry(storage, "flowers")
    assert (found.state, found.priority, found.num_wanted, found.needs, found.preempts) == (QueueState.QUEUED, 5, 4, ("gpu",), True)
    assert studies.names(storage) == ["flowers"]


def test_a_second_submission_with_the_same_key_changes_nothing(storage: Storage, submit: Submit) -> None:
    first = submit("flowers", key="k1")
    assert submit("flowers", key="k1", priority=9) == first
    assert submit("other", key="k1") == first
    assert studies.names(storage) == ["flowers"]


def test_a_study_that_is_in_the_queue_is_refused_and_keeps_its_budget(storage: Storage, submit: Submit) -> None:
    submit("flowers", trials=3)
    with pytest.raises(StudyError, match="the study flowers is in the queue already, and it is queued"):
        submit("flowers", trials=8)
    assert studies.load("flowers", storage).spec.budget.trials == 3


def test_another_study_of_the_same_name_is_refused_in_words(storage: Storage) -> None:
    studies.join(by_hand.spec(name="flowers"), storage)
    with pytest.raises(StudyError, match="the study flowers was started with another file"):
        entries.submit(storage, by_hand.spec(name="flowers", seed=7), Submission(owner="ann"))
    assert names(storage) == []


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"priority": 1001}, "the priority is 1001; expected a number from -1000 to 1000"),
        ({"num_wanted": 0}, "the number of workers is 0; expected a number from 1 to 10000"),
        ({"owner": " "}, "the owner is ' '; expected 1 to 200 printable characters"),
        ({"needs": ("a\nb",)}, "the label is"),
        ({"needs": tuple(map(str, range(21)))}, "21 labels are given; expected at most 20"),
        ({"key": ""}, "the idempotency key has 0 characters"),
        ({"takes_winner": True}, "name the study with --after"),
        ({"after": ("roses",)}, "--after is roses, which is not in the queue; submit it first"),
    ],
)
def test_a_wrong_submission_is_refused_before_anything_is_written(
    storage: Storage, submit: Submit, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(TunerError) as refused:
        submit("flowers", **asked)
    assert words in str(refused.value)
    assert refused.value.exit_code == 2
    assert studies.names(storage) == []


def test_a_study_never_waits_for_itself(storage: Storage, submit: Submit) -> None:
    submit("a")
    submit("b", after=("a",))
    entries.cancel(storage, "a", by="ann")
    with pytest.raises(StudyError, match="the study a would wait for itself, because b waits for it"):
        submit("a", after=("b",))


def test_the_order_is_priority_then_place_then_age(storage: Storage, submit: Submit) -> None:
    for name, priority in (("low", -1), ("first", 0), ("second", 0), ("third", 0), ("high", 5)):
        submit(name, priority=priority)
    assert names(storage) == ["high", "first", "second", "third", "low"]
    entries.move(storage, "third", place=1)
    assert names(storage) == ["high", "third", "first", "second", "low"]
    submit("fourth")
    assert names(storage) == ["high", "third", "first", "second", "fourth", "low"]
    entries.move(storage, "low", priority=9)
    assert names(storage) == ["low", "high", "third", "first", "second", "fourth"]
    entries.move(storage, "high", priority=0)
    assert names(storage) == ["low", "third", "first", "second", "high", "fourth"]
    assert [one.name for one in entries.entries(storage, limit=2, offset=1)] == ["third", "first"]
    assert entries.count(storage) == 6


def test_what_has_ended_cannot_be_moved_or_ended_again(storage: Storage, submit: Submit) -> None:
    submit("flowers")
    assert entries.cancel(storage, "flowers", by="ann").state is QueueState.CANCELLED
    with pytest.raises(StudyError, match="the study flowers is cancelled already: cancelled by ann"):
        entries.move(storage, "flowers", priority=1)
    with pytest.raises(StudyError, match="the study flowers is cancelled already: cancelled by ann"):
        entries.cancel(storage, "flowers", by="eve")
    with pytest.raises(StudyError, match="there is no study roses in the queue. Known: flowers"):
        entries.cancel(storage, "roses", by="ann")


def test_a_cancelled_study_trains_no_trial_until_it_is_submitted_again(storage: Storage, submit: Submit) -> None:
    submit("flowers")
    study = studies.load("flowers", storage)
    entries.cancel(storage, "flowers", by="ann")
    assert by_hand.claim(study) is None
    assert status.snapshot(study).halted_by == "ann"
    again = submit("flowers", priority=3)
    assert (again.state, again.priority, again.message) == (QueueState.QUEUED, 3, "")
    assert by_hand.claim(study) is not None


def test_a_paused_study_can_be_resumed_from_the_queue_and_as_a_study(storage: Storage, submit: Submit) -> None:
    submit("flowers")
    study = studies.load("flowers", storage)
    assert entries.pause(storage, "flowers", by="ann").state is QueueState.PAUSED
    assert by_hand.claim(study) is None
    assert entries.resume(storage, "flowers").state is QueueState.QUEUED
    assert by_hand.claim(study) is not None
    with pytest.raises(StudyError, match="the study flowers is queued, so it cannot be resumed"):
        entries.resume(storage, "flowers")
    entries.pause(storage, "flowers", by="ann")
    control.resume(study)
    assert entries.entry(storage, "flowers").state is QueueState.QUEUED


def test_a_study_is_done_when_its_last_trial_has_ended(storage: Storage, submit: Submit) -> None:
    submit("flowers", trials=2)
    study = studies.load("flowers", storage)
    first, second = by_hand.must_claim(study), by_hand.must_claim(study)
    by_hand.finish(study, first, 0.5)
    assert entries.settle(study) is QueueState.QUEUED
    by_hand.finish(study, second, 0.75)
    assert entries.settle(study) is QueueState.DONE
    found = entries.entry(storage, "flowers")
    assert found.message == "the budget of 2 trials is spent"
    assert found.ended_at is not None
    assert entries.settle(study) is QueueState.DONE


def test_a_study_without_a_completed_trial_has_failed(storage: Storage, submit: Submit) -> None:
    submit("flowers")
    study = studies.load("flowers", storage)
    claimed = by_hand.must_claim(study)
    trials.fail(study, claimed, by_hand.failed(claimed))
    assert entries.settle(study) is QueueState.FAILED
    assert entries.entry(storage, "flowers").message == "no trial completed; the budget of 1 trials is spent"


def test_a_study_that_someone_stopped_is_paused(storage: Storage, submit: Submit) -> None:
    submit("flowers")
    study = studies.load("flowers", storage)
    control.stop(study, by="eve")
    assert entries.settle(study) is QueueState.PAUSED
    assert entries.entry(storage, "flowers").message == "paused by eve"


def test_an_owner_over_a_limit_is_refused_with_the_number_if_the_admin_wants_that(storage: Storage, submit: Submit) -> None:
    limits.set_limits(storage, "ann", workers=2, trials_a_day=5)
    assert submit("waits", num_wanted=3).state is QueueState.QUEUED
    limits.change(storage, lambda settings: settings.model_copy(update={"over": Over.REFUSE}))
    with pytest.raises(RequestError, match="ann may use at most 2 workers, and 3 are wanted"):
        submit("refused", num_wanted=3)
    storage.write(lambda connection: limits.count(connection, "ann", tables.clock(connection), seconds=1.0, num_trials=5))
    with pytest.raises(RequestError, match="the study is not queued: ann has used 5 of 5 trials a day"):
        submit("refused")
    assert submit("of-bob", owner="bob", num_wanted=3).state is QueueState.QUEUED


def test_stored_weights_count_for_the_owner(storage: Storage, submit: Submit) -> None:
    submit("flowers")
    study = studies.load("flowers", storage)
    claimed = by_hand.must_claim(study)
    finished = by_hand.finished(claimed, 0.5).model_copy(update={"weights_bytes": 3 * 2**30})
    trials.finish(study, claimed, finished, [], device="cpu")
    limits.set_limits(storage, None, artifact_bytes=2 * 2**30)
    limits.change(storage, lambda settings: settings.model_copy(update={"over": Over.REFUSE}))
    with pytest.raises(RequestError, match="ann stores 3.0 of 2 GB of artifacts"):
        submit("roses")


@pytest.mark.parametrize(("name", "value"), [("workers", -1), ("workers", "many"), ("trials_a_day", 1.5)])
def test_a_limit_that_is_no_number_is_refused(storage: Storage, name: str, value: object) -> None:
    with pytest.raises(RequestError, match=f"the limit {name} is .*; expected a number of at least 0"):
        limits.set_limits(storage, "ann", **{name: value})
    with pytest.raises(RequestError, match="wokers is not a limit of the pool"):
        limits.set_limits(storage, "ann", wokers=1)


def test_many_submissions_with_one_key_at_once_are_one(storage_url: str) -> None:
    storages.open(storage_url).close()
    found: list[Entry] = []
    barrier = threading.Barrier(8, timeout=120)

    def work() -> None:
        own = storages.open(storage_url)
        barrier.wait()
        found.append(entries.submit(own, by_hand.spec(name="flowers"), Submission(owner="ann", key="k")))
        own.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(one == found[0] for one in found)
