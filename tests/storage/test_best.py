"""No reader of the best trial lets an infinite or missing value win."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.storages._rdb.models import TrialValueModel
from sqlalchemy import Connection, delete, insert, update

from tests.studies import by_hand
from tuner.report import content, facts
from tuner.results import best as bests
from tuner.sampling import history
from tuner.sampling.history import SamplerHistory
from tuner.storage import engine as storages
from tuner.storage import queries, tables
from tuner.storage.attributes import CONSTRAINED, INFEASIBLE, PICTURES
from tuner.storage.engine import Storage
from tuner.storage.tables import VALUES
from tuner.studies import data_check, migrate, pictures, progress, retention, retraining, warm_start
from tuner.studies import study as studies
from tuner.studies import trials as studies_trials
from tuner.studies.study import Study
from tuner.views import figures, status, trials
from tuner.views import studies as views_studies
from tuner.views.trials import SortOrder

KINDS = TrialValueModel.TrialValueType
#: of the trials in order; trial 3 is the best one, trial 7 is as good and later
FINITE_VALUES = {0: 0.5, 3: 0.75, 5: 0.25, 7: 0.75}
#: how Optuna stores infinite values, and what another program or a fault may leave
ODD_VALUES: dict[int, tuple[float | None, Any]] = {
    1: (None, KINDS.INF_POS),
    2: (None, KINDS.INF_NEG),
    4: (None, KINDS.FINITE),
    6: (math.inf, KINDS.FINITE),
    8: (-math.inf, KINDS.FINITE),
    9: (math.nan, KINDS.FINITE),
}
NUM_TRIALS = len(FINITE_VALUES) + len(ODD_VALUES) + 1
#: has no value at all
WITHOUT_VALUE = NUM_TRIALS - 1


@pytest.fixture
def opened(storage_url: str) -> Iterator[Storage]:
    found = storages.open(storage_url)
    yield found
    found.close()


@pytest.fixture
def study(opened: Storage) -> Study:
    joined = studies.join(by_hand.spec(budget={"trials": 50, "target": 0.9}, search={"dropout": [0.1, 0.5]}), opened)
    data_check.admit(joined, by_hand.PREPARED)
    for number in range(NUM_TRIALS):
        claimed = by_hand.must_claim(joined)
        assert claimed.number == number
        studies_trials.report(joined, claimed, by_hand.epochs(claimed, [0.1]))
        by_hand.finish(joined, claimed, FINITE_VALUES.get(number, 0.0))
    opened.write(lambda connection: spoil(connection, joined.id))
    return studies.load(joined.name, opened)


def spoil(connection: Connection, study_id: int) -> None:
    """Give some trials the values that must not win."""
    can_store = connection.dialect.name not in ("mysql", "mariadb")
    for number in (*ODD_VALUES, WITHOUT_VALUE):
        trial_id = tables.trial_id(connection, study_id, number)
        connection.execute(delete(VALUES).where(VALUES.c.trial_id == trial_id))
        if number in ODD_VALUES:
            value, kind = ODD_VALUES[number]
            stored = value if can_store else None
            connection.execute(insert(VALUES).values(trial_id=trial_id, objective=0, value=stored, value_type=kind))


def best_of_queries(study: Study) -> tuple[int, float]:
    found = study.storage.read(lambda connection: queries.best(connection, study.id))
    assert found is not None
    return found.number, found.value


def best_of_history(study: Study) -> tuple[int, float]:
    read = queries.best_so_far
    found = study.storage.read(lambda connection: read(connection, study.id, num_trials=NUM_TRIALS))
    assert found.best is not None
    assert found.top == (0.75, 0.75, 0.5, 0.25)
    return found.best.number, found.best.value


def best_of_results(study: Study) -> tuple[int, float]:
    found = bests.best(study)
    assert (found.rank, found.num_completed, found.rule_value) == (1, len(FINITE_VALUES), 0.5)
    return found.trial, found.value


def best_of_snapshot(study: Study) -> tuple[int, float]:
    found = status.snapshot(study)
    assert found.best_number is not None
    assert found.best_value is not None
    assert status.best_curve(study) == [0.5, 0.75, 0.75, 0.75]
    return found.best_number, found.best_value


def best_of_progress(study: Study) -> tuple[int, float]:
    _, found = study.storage.read(lambda connection: progress.read(connection, study))
    assert found.best_value is not None
    return 3, found.best_value


def best_of_figures(study: Study) -> tuple[int, float]:
    found = next(each for each in figures.of_all(study.storage) if each.id == study.id)
    assert found.best_trial is not None
    assert found.best_value is not None
    lines = figures.lines(study.storage, study.id, after=-1, limit=NUM_TRIALS)
    assert {line.number: line.value for line in lines if line.value is not None} == FINITE_VALUES
    assert len(lines) == NUM_TRIALS
    return found.best_trial, found.best_value


def best_of_look(study: Study) -> tuple[int, float]:
    def read(connection: Connection) -> views_studies.StudyView:
        listed = views_studies.one(connection, study.id)
        assert listed is not None
        return views_studies.StudyReader(storage=study.storage).at(connection, listed)

    found = study.storage.read(read)
    assert found.reason is None
    assert found.history.best is not None
    return found.history.best.number, found.history.best.value


def best_of_page(study: Study) -> tuple[int, float]:
    def read(connection: Connection, order: SortOrder) -> list[trials.TrialRow]:
        return trials.page(connection, study.id, order=order, maximizes=True, offset=0, limit=NUM_TRIALS, total=NUM_TRIALS)

    worst = study.storage.read(lambda connection: read(connection, SortOrder.WORST))
    assert [row.number for row in worst[: len(FINITE_VALUES)]] == [5, 0, 3, 7]
    found = study.storage.read(lambda connection: read(connection, SortOrder.BEST))
    assert [row.number for row in found[: len(FINITE_VALUES)]] == [3, 7, 0, 5]
    assert {row.value for row in found[len(FINITE_VALUES) :]} == {None}
    assert found[0].value is not None
    return found[0].number, found[0].value


def best_of_warm_start(study: Study) -> tuple[int, float]:
    found = warm_start.best_of(study, most=NUM_TRIALS)
    assert len(found) == len(FINITE_VALUES)
    assert found[0].origin == f"trial 3 of {study.name} (0.7500)"
    return 3, 0.75


def best_of_retraining(study: Study) -> tuple[int, float]:
    found = retraining.configs(study, NUM_TRIALS)
    assert [config.trial for config in found] == [3, 7, 0, 5]
    assert found[0].value is not None
    return found[0].trial, found[0].value


def best_of_sampler_history(study: Study) -> tuple[int, float]:
    found = study.storage.read(lambda connection: history.best_trials(connection, study.id, max_trials=NUM_TRIALS))
    assert [trial.number for trial in found] == [3, 7, 0, 5]
    seen = study.storage.read(lambda connection: SamplerHistory().read(connection, study.id))
    assert {trial.number: trial.value for trial in seen} == FINITE_VALUES
    few = study.storage.read(lambda connection: SamplerHistory(max_trials=3, num_best=2).read(connection, study.id))
    assert [trial.number for trial in few] == [3, 5, 7]
    assert found[0].value is not None
    return found[0].number, found[0].value


def best_of_report(study: Study) -> tuple[int, float]:
    # Optuna, which reads the trials of a report, refuses a missing value of the kind FINITE
    is_missing = (VALUES.c.value.is_(None), VALUES.c.value_type == KINDS.FINITE)
    study.storage.write(lambda connection: connection.execute(update(VALUES).where(*is_missing).values(value_type=KINDS.INF_POS)))
    material = content.read(study)
    assert {trial.number for trial in material.valued} == FINITE_VALUES.keys()
    assert material.best_trial is not None
    assert material.best_trial.number == 3
    first, *_ = facts.ranked(material)
    return first.number, first.value


READERS = [
    *(best_of_queries, best_of_history, best_of_results, best_of_snapshot, best_of_progress, best_of_figures, best_of_look),
    *(best_of_page, best_of_warm_start, best_of_retraining, best_of_sampler_history, best_of_report),
]


def test_every_reader_of_the_best_trial_ignores_values_that_are_not_finite(study: Study) -> None:
    readers: dict[str, Callable[[Study], tuple[int, float]]] = {reader.__name__: reader for reader in READERS}
    assert {name: reader(study) for name, reader in readers.items()} == dict.fromkeys(readers, (3, 0.75))


def test_every_reader_of_the_best_trial_ignores_trials_that_exceed_a_constraint(study: Study) -> None:
    claimed = by_hand.must_claim(study)
    by_hand.finish(study, claimed, 0.99)
    text = "size_mb is 20, above the constraint 10"

    def mark(connection: Connection) -> None:
        tables.put(connection, tables.TRIAL_USER, claimed.trial_id, {INFEASIBLE: text})
        tables.put(connection, tables.STUDY_SYSTEM, study.id, {CONSTRAINED: True})

    study.storage.write(mark)
    number = {
        "queries": best_of_queries(study)[0],
        "history": study.storage.read(lambda connection: queries.best_so_far(connection, study.id, num_trials=NUM_TRIALS))
        .records[-1]
        .number,
        "results": bests.best(study).trial,
        "snapshot": status.snapshot(study).best_number,
        "figures": next(each for each in figures.of_all(study.storage) if each.id == study.id).best_trial,
        "warm start": int(warm_start.best_of(study, most=1)[0].origin.split()[1]),
        "retraining": retraining.configs(study, 1)[0].trial,
        "retention": retention.stored(study)[0].number if retention.stored(study) else 3,
    }
    assert number == dict.fromkeys(number, 3)
    assert status.best_curve(study) == [0.5, 0.75, 0.75, 0.75]
    assert (bests.of(study, claimed.number).value, bests.best(study).num_completed) == (0.99, len(FINITE_VALUES))
    assert retention.is_among_best(study, 0.8, is_fine_tuned=False)


def test_a_trial_with_an_infinite_value_has_no_rank(study: Study) -> None:
    with pytest.raises(Exception, match="no completed trial 1;"):
        bests.of(study, 1)
    assert (bests.of(study, 7).rank, bests.of(study, 5).rank) == (2, 4)


def test_the_note_names_a_new_best_only_if_it_beats_the_best_finite_value(study: Study) -> None:
    for value, words in ((0.7, ""), (0.8, "Best so far: **0.8000** by trial 12")):
        by_hand.finish(study, by_hand.must_claim(study), value)
        notes = study.storage.read(lambda connection: tables.all_of(connection, tables.STUDY_SYSTEM, study.id))
        note = "".join(str(text) for key, text in notes.items() if key.startswith("dashboard:note_str:"))
        assert words in note
        assert "by trial 11" not in note


def test_the_note_of_a_migrated_study_names_the_best_finite_value(study: Study) -> None:
    spec = by_hand.spec(name=f"{study.name}-wider", budget={"trials": 50}, search={"dropout": [0.1, 0.6]})
    migrated = migrate.carry(migrate.decide(study, spec), by="ann")
    notes = migrated.storage.read(lambda connection: tables.all_of(connection, tables.STUDY_SYSTEM, migrated.id))
    assert any("Best so far: **0.7500**" in str(text) for text in notes.values())


def test_pictures_of_the_best_trials_with_a_finite_value_are_kept(study: Study, tmp_path: Path) -> None:
    store = pictures.store(tmp_path)

    def write(connection: Connection) -> None:
        for number in range(NUM_TRIALS):
            trial_id = tables.trial_id(connection, study.id, number)
            tables.put(connection, tables.TRIAL_SYSTEM, trial_id, {PICTURES: {"confusion": f"picture-{number}"}})

    study.storage.write(write)
    pictures.tidy(study, store)

    def kept(connection: Connection, number: int) -> bool:
        return bool(tables.get(connection, tables.TRIAL_SYSTEM, tables.trial_id(connection, study.id, number), PICTURES))

    assert all(study.storage.read(lambda connection, number=number: kept(connection, number)) for number in FINITE_VALUES)  # type: ignore[misc]
