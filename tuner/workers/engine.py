"""What every engine promises: assignments into workers at work, and those into exit codes."""

from collections.abc import Callable, Sequence
from typing import Protocol

from tuner.workers.events import Tell
from tuner.workers.process import Assignment
from tuner.workers.stopping import Stopping


class Engine(Protocol):
    """Places workers somewhere, replaces those that crash, and ends them in order when it is asked to."""

    def __call__(
        self, assignments: Sequence[Assignment], *, stopping: Stopping, tell: Tell, tick: Callable[[], None] = lambda: None
    ) -> list[int]:
        """Be there until every worker has ended; their exit codes.

        `tell` gets every event of every worker, `tick` is called a few times a second.
        """
        ...
