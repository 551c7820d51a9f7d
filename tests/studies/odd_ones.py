"""Odd studies: what other programs and accidents leave in a database beside the studies of tuner."""

import json
from typing import Any, Literal

import optuna

from tests.studies import by_hand
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
    for name, attributes in _ATTRIBUTES.items():
        _add(storage, name, {"spec": plain} | attributes)
    with storage.engine.begin() as connection:
        change = "UPDATE study_user_attributes SET value_json = {} WHERE key = 'spec' AND study_id = {}"
        for name, value in (("cut", "substr(value_json, 1, 300)"), ("raw", "'{broken'")):
            connection.exec_driver_sql(change.format(value, f"(SELECT study_id FROM studies WHERE study_name = '{name}')"))
    study = studies.join(by_hand.spec(name=GOOD), storage)
    by_hand.finish(study, by_hand.must_claim(study), 0.5)
    return study


def _add(storage: Storage, name: str, attributes: dict[str, Any], *directions: Literal["maximize", "minimize"]) -> None:
    made = optuna.create_study(study_name=name, storage=storage.rdb, directions=directions or ("maximize",))
    for key, value in attributes.items():
        made.set_user_attr(key, value)
    made.add_trial(optuna.trial.create_trial(values=[0.25] * max(1, len(directions))))
