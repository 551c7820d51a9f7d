"""Pages of trials in every order, read from either end."""

import optuna
from sqlalchemy import Connection

from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.views import trials
from tuner.views.trials import SortOrder

VALUES = (0.3, None, 0.9, 0.1, 0.9, None, 0.5, 0.2, 0.8, 0.4, 0.6)


def numbers_of(opened: Storage, study_id: int, order: SortOrder, offset: int, limit: int, total: int = len(VALUES)) -> list[int]:
    def read(connection: Connection) -> list[trials.TrialRow]:
        return trials.page(connection, study_id, order=order, maximizes=True, offset=offset, limit=limit, total=total)

    return [row.number for row in opened.read(read)]


def test_the_pages_of_each_order_contain_all_trials_in_that_order(storage_url: str) -> None:
    opened = storages.open(storage_url)
    study = optuna.create_study(storage=opened.rdb, study_name="plain", direction="maximize")
    for value in VALUES:
        state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
        study.add_trial(optuna.trial.create_trial(state=state, value=value))
    none, numbers = [number for number, value in enumerate(VALUES) if value is None], range(len(VALUES))
    upwards = sorted(set(numbers) - set(none), key=lambda number: (VALUES[number] or 0.0, number))
    downwards = sorted(set(numbers) - set(none), key=lambda number: (-(VALUES[number] or 0.0), number))
    wanted = {
        SortOrder.OLDEST: list(numbers),
        SortOrder.NEWEST: list(numbers)[::-1],
        SortOrder.BEST: downwards + none,
        SortOrder.WORST: upwards + none,
    }
    for order, expected in wanted.items():
        for limit in (1, 4, 11, 25):
            pages = [numbers_of(opened, study._study_id, order, offset, limit) for offset in range(0, len(VALUES), limit)]
            assert [number for page in pages for number in page] == expected, (order, limit)
    opened.close()


def test_a_study_without_trials_has_an_empty_page(storage_url: str) -> None:
    opened = storages.open(storage_url)
    study = optuna.create_study(storage=opened.rdb, study_name="plain")
    assert [numbers_of(opened, study._study_id, order, 0, 25, total=0) for order in SortOrder] == [[]] * len(SortOrder)
    opened.close()
