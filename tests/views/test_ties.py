"""What ended in the same second has an order, too: MariaDB stores the ends of trials in seconds."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import update

from tests.studies import by_hand
from tuner.storage.tables import TRIALS
from tuner.studies import trials
from tuner.studies.study import Study
from tuner.views import status


def end_at_once(study: Study) -> None:
    """Let all trials of a study have ended in the same second."""
    study.storage.write(lambda connection: connection.execute(update(TRIALS).values(datetime_complete=datetime(2026, 1, 1))))


def test_the_curve_of_the_best_value_is_in_the_order_of_numbers(begin: Callable[..., Study]) -> None:
    study = begin()
    first, second = by_hand.must_claim(study), by_hand.must_claim(study)
    by_hand.finish(study, second, 0.75)
    by_hand.finish(study, first, 0.25)
    assert status.best_curve(study) == [0.75, 0.75]
    end_at_once(study)
    assert status.best_curve(study) == [0.25, 0.75]


def test_of_two_equally_frequent_failures_the_latest_comes_first(begin: Callable[..., Study]) -> None:
    study = begin()
    for error in ("ValueError", "MemoryError", "OSError"):
        claimed = by_hand.must_claim(study)
        trials.fail(study, claimed, by_hand.failed(claimed, error))
    found = study.storage.read(lambda connection: status.failures(connection, study.id))
    assert [(each.error, each.num_trials) for each in found] == [("OSError", 1), ("MemoryError", 1), ("ValueError", 1)]
