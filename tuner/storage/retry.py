"""Retry: the one policy for work that a database, a bucket or another process may refuse for a while."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How often, and for how long, work is retried."""

    #: from the first try, after which no other try begins
    seconds: float
    #: upper bounds of the first and of the longest pause, in seconds; a pause is a random part of its bound, so that many processes do
    #: not retry at once, and the bound doubles from pause to pause
    pauses: tuple[float, float]
    #: number of tries even if they take longer than `seconds`, for work that may itself wait as long
    least_tries: int = 1


def call(
    work: Callable[[], T],
    *,
    may_pass: Callable[[BaseException], bool],
    schedule: Schedule,
    is_unwanted: Callable[[], bool] = lambda: False,
    before_pause: Callable[[BaseException], None] = lambda error: None,
    pause: Callable[[float], Any] = time.sleep,
) -> T:
    """Return the result of `work`, and retry it while it raises a transient error.

    Args:
        work: is called again after each such error, so it must be safe to repeat.
        may_pass: whether an error may be gone at the next try; any other error is raised at once.
        schedule: when to retry; after it the last error is raised.
        is_unwanted: whether to raise the last error instead of retrying.
        before_pause: is called with each error that is followed by a retry.
        pause: sleeps for so many seconds.
    """
    first, longest = schedule.pauses
    is_late = stop_after_delay(schedule.seconds)
    retrying = Retrying(
        retry=retry_if_exception(may_pass),
        stop=lambda state: is_unwanted() or (state.attempt_number >= schedule.least_tries and is_late(state)),
        wait=wait_random_exponential(multiplier=first, max=longest),
        before_sleep=lambda state: before_pause(_error(state)),
        sleep=pause,
        reraise=True,
    )
    return retrying(work)


def _error(state: RetryCallState) -> BaseException:
    error = None if state.outcome is None else state.outcome.exception()
    assert error is not None, "only a failed try is followed by a pause"
    return error
