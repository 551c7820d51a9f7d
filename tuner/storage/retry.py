"""Retry: the one policy for work that a database, a bucket or another process may refuse for a while."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

T = TypeVar("T")


def call(
    work: Callable[[], T],
    *,
    may_pass: Callable[[BaseException], bool],
    seconds: float,
    pauses: tuple[float, float],
    is_unwanted: Callable[[], bool] = lambda: False,
    before_pause: Callable[[BaseException], None] = lambda error: None,
    pause: Callable[[float], Any] = time.sleep,
) -> T:
    """Return the result of `work`, and retry it while it raises a transient error.

    Args:
        work: is called again after each such error, so it must be safe to repeat.
        may_pass: whether an error may be gone at the next try; any other error is raised at once.
        seconds: from the first try; after them the last error is raised.
        pauses: upper bounds of the first and of the longest pause, in seconds. A pause is a random part of its bound, so that many
            processes do not retry at once, and the bound doubles from pause to pause.
        is_unwanted: whether to raise the last error instead of retrying.
        before_pause: is called with each error that is followed by a retry.
        pause: sleeps for so many seconds.
    """
    first, longest = pauses
    is_late = stop_after_delay(seconds)
    retrying = Retrying(
        retry=retry_if_exception(may_pass),
        stop=lambda state: is_unwanted() or is_late(state),
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
