"""The trials of a study into those that a process has not read to their end yet: what is stored of an ended trial does not change."""

from collections.abc import Iterable
from dataclasses import dataclass

from optuna.trial import TrialState
from sqlalchemy import ColumnElement, or_

from tuner.search.tables import TRIALS


@dataclass
class Unread:
    """How far one process has read the trials of one study."""

    #: the highest id of a trial that was read; ids of a study's trials rise, for its row is locked while one is made
    last_id: int = -1
    #: the trials up to there that had not ended when they were read
    open_ids: frozenset[int] = frozenset()

    def among(self, study_id: int) -> ColumnElement[bool]:
        """The condition on Optuna's trials that picks these of the study."""
        is_unread = TRIALS.c.trial_id > self.last_id
        return (TRIALS.c.study_id == study_id) & (or_(is_unread, TRIALS.c.trial_id.in_(self.open_ids)) if self.open_ids else is_unread)

    def note(self, states: Iterable[tuple[int, TrialState]]) -> None:
        """Take as read what was found of all of them: id and state."""
        found = dict(states)
        self.last_id = max([self.last_id, *found])
        self.open_ids = frozenset(trial_id for trial_id, state in found.items() if not state.is_finished())
