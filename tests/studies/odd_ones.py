"""Odd studies: what other programs and accidents leave in a database beside the studies of tuner."""

import datetime as dt
import json
import math
from typing import Any, Literal

import optuna
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from tests.studies import by_hand
from tuner.storage import attributes
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.studies.study import Study

#: name of the one study that is as it should be
GOOD = "good"


def _specs() -> dict[str, Any]:
    """Return values of the attribute `spec` by the name of their study."""
    plain = by_hand.spec(name=GOOD).model_dump(mode="json")
    return {
        "null": None,
        "number": 3,
        "list": [],
        "object": {},
        "empty": "",
        "text": "text",
        "brace": "{",
        "other-list": "[]",
        "no-keys": "{}",
        "only-a-name": json.dumps({"name": "a"}),
        "no-budget": json.dumps(plain | {"budget": None}),
        "wrong-budget": json.dumps(plain | {"budget": {"trials": -1}}),
        "wrong-search": json.dumps(plain | {"search": "x"}),
        "future": json.dumps(plain | {"key_of_the_future": 1}),
        **dict.fromkeys(["a name", "../name", "löwe", "[red]name", "cut", "raw"], json.dumps(plain)),
    }


#: readable, with attributes of tuner that hold something else
_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "attributes-1": {"stopped": [1], "halted": "x", "migrated": "y", "prepared": [3], "given_budget": 4},
    "attributes-2": {"stopped": {"a": 1}, "halted": {"by": [1]}, "migrated": {"num_carried": "x"}, "prepared": "z"},
    "attributes-3": {"stopped": None, "halted": None, "migrated": None, "prepared": {"versions": 3}},
}


def add(storage: Storage) -> Study:
    """Add the odd studies, each with a completed trial of plain Optuna, and a good one; return that."""
    for name, spec in _specs().items():
        _add(storage, name, {"spec": spec})
    plain = by_hand.spec(name=GOOD).model_dump_json()
    _add(storage, "two", {"spec": plain}, "maximize", "maximize")
    _add(storage, "minimizes", {"spec": plain}, "minimize")
    _add(storage, "plain-optuna", {})
    for name, given in _ATTRIBUTES.items():
        _add(storage, name, {"spec": plain} | given)
    with storage.engine.begin() as connection:
        change = "UPDATE study_user_attributes SET value_json = {} WHERE key = 'spec' AND study_id = {}"
        for name, value in (("cut", "substr(value_json, 1, 300)"), ("raw", "'{broken'")):
            connection.exec_driver_sql(change.format(value, f"(SELECT study_id FROM studies WHERE study_name = '{name}')"))
    study = studies.join(by_hand.spec(name=GOOD), storage)
    by_hand.finish(study, by_hand.must_claim(study), 0.5)
    return study


#: values of attributes as another program or an accident may leave them, as stored
TEXTS = ["{broken", "", "null", "NaN", "1e400", '"text"', "[1]", '{"a": 1}', '"a\\ud800b"', '[[1, "x"], [2]]', "[" * 5000 + "]" * 5000]
_OF_TRIAL = (
    *("origin", "seed", "worker", "attempts", "stage", "epochs", "fine_tune_epochs", "best_epoch", "seconds", "device", "weights", "test"),
    "reason",
)


def spoil(study: Study, text: str) -> None:
    """Give the study, and all of its trials but the best one, attributes of tuner and of others that hold a text as it is."""
    ours = (attributes.CONFUSION, attributes.MISTAKES, attributes.LOG, attributes.PICTURES)
    with study.storage.engine.begin() as connection:
        ids = connection.exec_driver_sql("SELECT trial_id FROM trials WHERE study_id = ?", (study.id,)).scalars().all()
        best = connection.exec_driver_sql("SELECT trial_id FROM trial_values ORDER BY value DESC LIMIT 1").scalar_one()
        of_studies = ["other", "stopped", "halted", "migrated", "copied", "earlier_names"]
        rows = [("study_user", "study_id", study.id, key) for key in of_studies]
        rows += [
            ("trial_user", "trial_id", trial_id, key) for trial_id in ids for key in ("other", "probe_accuracy", "promoted", *_OF_TRIAL)
        ]
        rows += [("trial_system", "trial_id", trial_id, key) for trial_id in ids for key in ours]
        rows += [("trial_system", "trial_id", trial_id, attributes.HYPERPARAMETERS) for trial_id in ids if trial_id != best]
        for table, owner, owner_id, key in rows:
            change = f"INSERT OR REPLACE INTO {table}_attributes ({owner}, key, value_json) VALUES (?, ?, ?)"
            connection.exec_driver_sql(change, (owner_id, key, text))


def add_trials(study: Study) -> None:
    """Add trials that Optuna allows and tuner never makes, and rows that neither makes."""
    now = dt.datetime(2026, 1, 1)
    states: dict[TrialState, list[dict[str, Any]]] = {
        TrialState.RUNNING: [{}, {"datetime_start": None}, {"user_attrs": {"worker": "w"}}],
        TrialState.WAITING: [{"system_attrs": {"fixed_params": given}} for given in ({"nosuch": 1}, {"dropout": "a\ud800"}, "text", None)],
        TrialState.COMPLETE: [{"value": value} for value in (math.inf, -math.inf, 0.01)] + [{"params": {"x": 1}, "value": 0.0}],
        TrialState.PRUNED: [{}, {"value": math.inf, "intermediate_values": {1: math.nan, -3: 0.5}}],
        TrialState.FAIL: [{}, {"user_attrs": {"error": ["x"], "message": {"a": 1}}}],
    }
    for state, kinds in states.items():
        for kind in kinds:
            given = {"value": None, "datetime_start": now, "datetime_complete": now if state.is_finished() else None} | kind
            distributions = {name: IntDistribution(0, 9) for name in given.get("params", {})}
            fields: dict[str, Any] = (
                {"params": {}, "user_attrs": {}, "system_attrs": {}, "intermediate_values": {}} | given | {"distributions": distributions}
            )
            study.storage.rdb.create_new_trial(study.id, optuna.trial.FrozenTrial(number=-1, trial_id=-1, state=state, **fields))
    with study.storage.engine.begin() as connection:
        run = connection.exec_driver_sql
        last = run("SELECT max(number) FROM trials WHERE study_id = ?", (study.id,)).scalar_one()
        for number, values in enumerate([(), (0, None), (1, 0.5)], last + 1):
            run("INSERT INTO trials (number, study_id, state) VALUES (?, ?, 'COMPLETE')", (number, study.id))
            trial_id = run("SELECT max(trial_id) FROM trials").scalar_one()
            if values:
                run("INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?, ?, ?, 'FINITE')", (trial_id, *values))
            run("INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES (?, 'y', 1, '{')", (trial_id,))


def _add(storage: Storage, name: str, given: dict[str, Any], *directions: Literal["maximize", "minimize"]) -> None:
    made = optuna.create_study(study_name=name, storage=storage.rdb, directions=directions or ("maximize",))
    for key, value in given.items():
        made.set_user_attr(key, value)
    made.add_trial(optuna.trial.create_trial(values=[0.25] * max(1, len(directions))))
