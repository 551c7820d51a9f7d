"""Odd trials: attributes, values and states that other programs leave in a study, which every command and page must survive."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import databases
from tests.dashboard.clients import owner, users  # noqa: F401
from tests.studies import by_hand, odd_ones
from tuner.report import page
from tuner.results import best as bests
from tuner.results import export
from tuner.storage import engine as storages
from tuner.studies import copying, data_check, trials
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.views import status
from tuner.views import trial as views_trial

Begin = Callable[..., Study]


@pytest.fixture
def study(begin: Begin) -> Study:
    """A study with two completed trials; the second one is the best."""
    made = begin(name="odd", budget={"trials": 40}, pruner={"name": "patient", "patience": 2}, sampler="tpe")
    data_check.admit(made, by_hand.PREPARED)
    for value in (0.5, 0.6):
        claimed = by_hand.must_claim(made)
        trials.report(made, claimed, by_hand.epochs(claimed, [0.3, 0.4]))
        by_hand.finish(made, claimed, value)
    return made


def check(study: Study, folder: Path, users: Path, *others: str) -> None:  # noqa: F811
    """Read the study in every way, and copy it; `others` are addresses beside those of tuner."""
    reopened = storages.open(study.storage.url)
    study = studies.load("odd", reopened)
    assert status.snapshot(study).best_value == 0.6
    best = bests.best(study)
    assert best.value == 0.6
    assert json.loads(export.as_json(best))["search"]
    for kind in ("html", "md"):
        assert page.write(study, folder / f"report.{kind}", page.format_of(folder / f"report.{kind}", None)) > 1000
    numbers = [trial.number for trial in study.optuna.get_trials()]
    browser = owner(reopened, users)
    paths = [f"/tuner/studies/{study.id}/trials/{number}" for number in numbers]
    paths += [f"/tuner/studies/{study.id}{rest}" for rest in ("", "/best.yaml", "/best.json")]
    paths += [f"/tuner/api/v1/studies/{study.id}{rest}" for rest in ("", "/best", "/trials")]
    paths += ["/", "/metrics", "/tuner/workers", "/tuner/api/v1/studies", *others]
    assert [path for path in paths if browser.get(path).status_code != 200] == []
    target = storages.open(databases.sqlite(folder, "copy.db"))
    copying.copy(study, target, name="odd", by="ada")
    assert [trial.number for trial in studies.load("odd", target).optuna.get_trials()] == numbers
    target.close()
    reopened.close()


@pytest.mark.parametrize("text", odd_ones.TEXTS, ids=lambda text: text[:12])
def test_attributes_that_hold_anything_break_nothing(study: Study, tmp_path: Path, users: Path, text: str) -> None:  # noqa: F811
    odd_ones.spoil(study, text)
    check(study, tmp_path, users, "/api/studies", f"/api/studies/{study.id}")  # those of optuna-dashboard


def test_trials_in_odd_states_break_nothing_and_workers_go_on(study: Study, tmp_path: Path, users: Path) -> None:  # noqa: F811
    odd_ones.add_trials(study)
    check(study, tmp_path, users)
    again = studies.load("odd", study.storage)
    seen: set[int] = set()
    while (claimed := by_hand.claim(again)) is not None and len(seen) < 8:
        seen.add(claimed.number)
        by_hand.finish(again, claimed, 0.4)
    assert len(seen) == 8


def test_a_worker_prunes_and_samples_beside_attributes_that_are_not_json(study: Study) -> None:
    odd_ones.spoil(study, "{broken")
    with study.storage.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM study_user_attributes WHERE key = 'stopped'")
        connection.exec_driver_sql("DELETE FROM study_user_attributes WHERE key = 'halted'")
    again = studies.load("odd", storages.open(study.storage.url))
    claimed = by_hand.must_claim(again)
    trials.report(again, claimed, by_hand.epochs(claimed, [0.1, 0.1, 0.1, 0.1]))
    # what samplers and pruners read
    assert [trial.user_attrs.get("other") for trial in again.storage.cached.get_all_trials(again.id)] == ["{broken", "{broken", None]
    by_hand.finish(again, claimed, 0.4)
    assert views_trial.load(again, claimed.number).value == 0.4
    again.storage.close()
