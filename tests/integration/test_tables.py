"""tuner and Optuna write the same rows for the same study, in every table of Optuna."""

import secrets
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Table, select

from tests.integration.conftest import Begin
from tests.studies import by_hand
from tuner.protocol.messages import Ending
from tuner.storage import optuna_private, tables
from tuner.storage.engine import Storage
from tuner.studies import enqueue, trials
from tuner.studies.study import Study

#: every kind of parameter with a value
PARAMETERS: dict[str, tuple[Any, BaseDistribution]] = {
    "float": (0.125, FloatDistribution(0.0, 0.5)),
    "log": (3e-4, FloatDistribution(1e-6, 1e-2, log=True)),
    "step": (0.3, FloatDistribution(0.0, 1.0, step=0.1)),
    "int": (3, IntDistribution(1, 5)),
    "int_log": (64, IntDistribution(16, 1024, log=True)),
    "int_step": (96, IntDistribution(32, 256, step=32)),
    "categorical": ("adamw", CategoricalDistribution(("adamw", "sgd"))),
    "switch": (False, CategoricalDistribution((True, False))),
    "mixed": (None, CategoricalDistribution((None, 1, 0.5, "ä 🦊"))),
}
#: values that an attribute may have
ATTRIBUTES: dict[str, Any] = {"number": 1.5e-300, "text": "ä 🦊 \\ ' \" %s {}", "nested": {"b": [1, None, True], "a": {}}, "empty": ""}
#: tables that do not depend on a study
_NOT_OF_STUDIES = {"version_info"}
_TIMES = ("datetime_start", "datetime_complete")


class Replayed(optuna.samplers.BaseSampler):
    """A sampler that suggests given values."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        return self.values[param_name]


def begin_theirs(storage: Storage) -> tuple[optuna.Study, Replayed]:
    """Create a study through Optuna, with a sampler that suggests given values."""
    sampler = Replayed()
    name = f"theirs-{secrets.token_hex(4)}"
    return optuna.create_study(storage=storage.rdb, study_name=name, direction="maximize", sampler=sampler), sampler


def replay(study: Study) -> int:
    """Copy a study through Optuna, and return the id of the copy."""
    storage = study.storage
    mine = optuna.load_study(study_name=study.name, storage=storage.rdb)
    copy, sampler = begin_theirs(storage)
    for key, value in mine.user_attrs.items():
        copy.set_user_attr(key, value)
    copy.set_metric_names(mine.metric_names or [])
    for key, value in storage.rdb.get_study_system_attrs(study.id).items():
        storage.rdb.set_study_system_attr(copy._study_id, key, value)
    for trial in mine.get_trials():
        replay_trial(copy, sampler, trial)
    return copy._study_id


def replay_trial(copy: optuna.Study, sampler: Replayed, trial: FrozenTrial) -> None:
    """Write the next trial of a study through Optuna."""
    if "fixed_params" in trial.system_attrs:
        copy.enqueue_trial(trial.system_attrs["fixed_params"], user_attrs=trial.user_attrs)
    if trial.state is TrialState.WAITING:
        return
    sampler.values = trial.params
    asked = copy.ask(fixed_distributions=trial.distributions)
    assert asked.number == trial.number
    for key, value in trial.user_attrs.items():
        asked.set_user_attr(key, value)
    for key, value in trial.system_attrs.items():
        asked.storage.set_trial_system_attr(asked._trial_id, key, value)
    for step, value in trial.intermediate_values.items():
        asked.report(value, step)
    if trial.state is TrialState.COMPLETE:
        copy.tell(asked, trial.value)
    elif trial.state.is_finished():
        copy.tell(asked, state=trial.state)


def rows(storage: Storage, study_id: int) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a study in Optuna's tables, with numbers instead of ids, and True for every time."""

    def read(connection: Connection) -> dict[str, list[dict[str, Any]]]:
        of_study = tables.TRIALS.c.study_id == study_id
        query = select(tables.TRIALS.c.trial_id, tables.TRIALS.c.number).where(of_study)
        numbers = dict(connection.execute(query).all())
        found: dict[str, list[dict[str, Any]]] = {}
        for table in optuna_private.METADATA.sorted_tables:
            if table.name in _NOT_OF_STUDIES:
                continue
            mine = table.c.trial_id.in_(numbers) if "trial_id" in table.c else table.c.study_id == study_id
            read_rows = [dict(row) for row in connection.execute(select(table).where(mine)).mappings()]
            found[table.name] = sorted((plain(table, row, numbers) for row in read_rows), key=repr)
        return found

    return storage.read(read)


def plain(table: Table, row: dict[str, Any], numbers: dict[int, int]) -> dict[str, Any]:
    """Return a row without the parts that differ between any two studies."""
    if "trial_id" in row:
        row["trial_id"] = numbers[row["trial_id"]]
    for name in ("study_id", "study_name", *(column.name for column in table.primary_key)):
        if name != "trial_id" or table is tables.TRIALS:
            row.pop(name, None)
    return row | {name: row[name] is not None for name in _TIMES if name in row}


def test_every_kind_of_parameter_and_attribute_is_written_as_optuna_writes_it(storage: Storage) -> None:
    theirs, sampler = begin_theirs(storage)
    sampler.values = {name: value for name, (value, _) in PARAMETERS.items()}
    distributions = {name: distribution for name, (_, distribution) in PARAMETERS.items()}
    asked = theirs.ask(fixed_distributions=distributions)
    for key, value in ATTRIBUTES.items():
        theirs.set_user_attr(key, value)
        storage.rdb.set_study_system_attr(theirs._study_id, key, value)
        asked.set_user_attr(key, "before")
        asked.set_user_attr(key, value)
        storage.rdb.set_trial_system_attr(asked._trial_id, key, value)
    for step, value in enumerate((0.5, 1e-300, 0.1 + 0.2), start=1):
        asked.report(value, step)
    theirs.tell(asked, 0.1 + 0.2)
    theirs.enqueue_trial({"float": 0.25}, user_attrs=ATTRIBUTES)

    def write(connection: Connection) -> int:
        study_id = tables.create_study(connection, f"ours-{secrets.token_hex(4)}", user=ATTRIBUTES, system=ATTRIBUTES)
        trial_id = tables.create_trial(connection, study_id, 0)
        tables.put_parameters(connection, trial_id, sampler.values, distributions)
        tables.put(connection, tables.TRIAL_USER, trial_id, dict.fromkeys([*ATTRIBUTES, "removed"], "before"))
        tables.put(connection, tables.TRIAL_USER, trial_id, ATTRIBUTES)
        tables.remove(connection, tables.TRIAL_USER, trial_id, "removed")
        tables.put(connection, tables.TRIAL_SYSTEM, trial_id, ATTRIBUTES)
        tables.put_intermediate_values(connection, trial_id, dict(enumerate((0.5, 1e-300, 0.1 + 0.2), start=1)))
        assert tables.finish_trial(connection, trial_id, TrialState.COMPLETE, 0.1 + 0.2)
        waiting = tables.enqueue_trial(connection, study_id, 1)
        tables.put(connection, tables.TRIAL_SYSTEM, waiting, {"fixed_params": {"float": 0.25}})
        tables.put(connection, tables.TRIAL_USER, waiting, ATTRIBUTES)
        return study_id

    assert rows(storage, storage.write(write)) == rows(storage, theirs._study_id)


def work(study: Study, enqueue: Callable[[], object]) -> None:
    """Create trials of a study in every state."""
    for accuracies in ([0.4, 0.7, 0.6], [0.5, 0.8]):
        claimed = by_hand.must_claim(study)
        trials.report(study, claimed, by_hand.epochs(claimed, accuracies[:1]))
        curve = by_hand.epochs(claimed, accuracies)
        trials.finish(study, claimed, by_hand.finished(claimed, max(accuracies)), curve, device=by_hand.PREPARED.device)
    claimed = by_hand.must_claim(study)
    trials.report(study, claimed, by_hand.epochs(claimed, [0.3, 0.35]))
    by_hand.finish(study, claimed, 0.35, ending=Ending.STOPPED, reason="its probe was not among the best")
    by_hand.finish(study, by_hand.must_claim(study), None, ending=Ending.NOT_FINITE, reason="the loss is nan")
    claimed = by_hand.must_claim(study)
    trials.fail(study, claimed, by_hand.failed(claimed, log="one line\nand another: ä\n"))
    enqueue()
    by_hand.finish(study, by_hand.must_claim(study), 0.6)
    running = by_hand.must_claim(study)
    trials.report(study, running, by_hand.epochs(running, [0.55]))
    enqueue()


@pytest.mark.filterwarnings("ignore:optuna.study.study.Study.set_metric_names is experimental")
@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_study_is_written_row_by_row_as_optuna_writes_it(begin: Begin, sampler: str) -> None:
    study = begin(
        sampler=sampler,
        search={
            "dropout": [0.0, 0.5],
            "weight_decay": {"range": [1e-6, 1e-2], "log": True, "off": True},
            "optimizer": {"choices": ["adamw", "sgd"]},
            "head_units": {"layers": [0, 2], "units": {"range": [16, 256], "log": True}},
        },
        budget={"trials": 12},
    )
    work(study, lambda: enqueue.enqueue(study, {"dropout": 0.25, "optimizer": "sgd"}, by="ann"))
    ours = rows(study.storage, study.id)
    states = [row["state"] for row in sorted(ours["trials"], key=lambda row: int(row["number"]))]
    assert [state.name for state in states] == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED", "FAIL", "COMPLETE", "RUNNING", "WAITING"]
    kinds = {type(value) for trial in study.optuna.get_trials() for value in trial.distributions.values()}
    assert kinds == {FloatDistribution, IntDistribution, CategoricalDistribution}
    assert ours["study_directions"] == [{"direction": StudyDirection.MAXIMIZE, "objective": 0}]
    theirs = rows(study.storage, replay(study))
    for table, expected in theirs.items():
        assert ours[table] == expected, table
    assert [table for table, found in ours.items() if not found] == ["trial_heartbeats"]
