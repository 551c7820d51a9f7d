"""Write a large study directly into a storage, to measure the pages with it."""

import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any

from optuna.distributions import FloatDistribution, distribution_to_json
from optuna.trial import TrialState
from sqlalchemy import Connection, insert

from tuner.protocol.messages import Prepared
from tuner.spec import file as study_file
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.study import images_of
from tuner.storage import optuna_private, tables
from tuner.storage.attributes import CONFUSION, HYPERPARAMETERS, PREPARED
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.studies.leases import LeaseEnding

PROBE_EPOCHS, EPOCHS = 12, 20
_CHUNK = 1000
_SECONDS_A_TRIAL = 30.0
_CLASSES = 10
_PREPARED = Prepared(
    device="cpu, 2 threads", classes=tuple(f"class {number}" for number in range(_CLASSES)), num_train=1000, num_validation=500,
    num_test=2000,
    epochs=EPOCHS - PROBE_EPOCHS, fingerprint="0" * 64, splits="0" * 64, versions={"tuner": "0"}, seconds=1.0,
)  # fmt: skip


def fill(storage: Storage, *, name: str, num_trials: int) -> int:
    """Create a study of ended trials with epochs, hyperparameters, notes and leases; return its id."""
    given = {
        "name": name,
        "data": {"source": "animals"},
        "budget": {"trials": num_trials + 100},
        "training": {"probe_epochs": PROBE_EPOCHS},
    }
    joined = studies.join(images_of(study_file.parse(given, "big_study.yaml")), storage)
    prepared = {PREPARED: _PREPARED.model_dump(mode="json")}
    storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, joined.id, prepared))
    for first in range(0, num_trials, _CHUNK):
        numbers = range(first, min(num_trials, first + _CHUNK))
        storage.write(lambda connection, numbers=numbers: _insert(connection, joined.id, numbers, num_trials))  # type: ignore[misc]
    return joined.id


def _insert(connection: Connection, study_id: int, numbers: range, num_trials: int) -> None:
    began = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=num_trials * _SECONDS_A_TRIAL / 2)
    trials = [_trial(number, began) for number in numbers]
    made = connection.execute(
        insert(tables.TRIALS).returning(tables.TRIALS.c.trial_id, tables.TRIALS.c.number),
        [
            {"number": t["number"], "study_id": study_id, "state": t["state"], "datetime_start": t["start"], "datetime_complete": t["end"]}
            for t in trials
        ],
    )
    ids = {number: trial_id for trial_id, number in made}
    rows: dict[Any, list[dict[str, Any]]] = {
        table: [] for table in (tables.VALUES, tables.PARAMETERS, tables.INTERMEDIATE, tables.EPOCHS, tables.LEASES)
    }
    for trial in trials:
        _rows_of(rows, study_id, ids[trial["number"]], trial)
        tables.put(connection, tables.TRIAL_USER, ids[trial["number"]], trial["attributes"])
        tables.put(connection, tables.TRIAL_SYSTEM, ids[trial["number"]], trial["system"])
    for table, given in rows.items():
        connection.execute(insert(table), given)


def _trial(number: int, began: datetime) -> dict[str, Any]:
    noise = random.Random(number)
    start = began + timedelta(seconds=number * _SECONDS_A_TRIAL / 2)
    state = TrialState.FAIL if number % 97 == 13 else TrialState.PRUNED if number % 5 else TrialState.COMPLETE
    level = 0.97 - 0.3 * noise.random() ** 0.5 * (1 + 1 / math.log(number + 3))
    curve = [level * (1 - 0.5 / (1 + step)) + noise.uniform(-0.01, 0.01) for step in range(EPOCHS)]
    chosen = Hyperparameters(dropout=noise.uniform(0, 0.5), probe_learning_rate=10 ** noise.uniform(-4, -2))
    failed = {"error": ("MemoryError", "OutOfMemory", "CrashError")[number % 3], "message": "it was too much\nof everything"}
    confusion = [[40 if row == column else noise.randrange(3) for column in range(_CLASSES)] for row in range(_CLASSES)]
    return {
        "number": number, "state": state, "start": start, "end": start + timedelta(seconds=_SECONDS_A_TRIAL), "curve": curve,
        "hyperparameters": chosen, "attributes": failed if state is TrialState.FAIL else {"device": "cpu, 2 threads",
        "seconds": 28.5, "best_epoch": EPOCHS},
        "system": {HYPERPARAMETERS: chosen.model_dump(mode="json"), CONFUSION: confusion},
    }  # fmt: skip


def _rows_of(rows: dict[Any, list[dict[str, Any]]], study_id: int, trial_id: int, trial: dict[str, Any]) -> None:
    number, curve = trial["number"], trial["curve"]
    best = [max(curve[: step + 1]) for step in range(len(curve))]
    finite = optuna_private.FINITE_INTERMEDIATE
    if trial["state"] is not TrialState.FAIL:
        kind = optuna_private.FINITE
        rows[tables.VALUES].append({"trial_id": trial_id, "objective": 0, "value": best[-1], "value_type": kind})
    for name, high in (("dropout", 0.5), ("probe_learning_rate.adamw", 0.01)):
        value = getattr(trial["hyperparameters"], name.partition(".")[0])
        distribution = distribution_to_json(FloatDistribution(0.0, high))
        rows[tables.PARAMETERS].append({"trial_id": trial_id, "param_name": name, "param_value": value, "distribution_json": distribution})
    for step, value in enumerate(curve, 1):
        rows[tables.INTERMEDIATE].append(
            {"trial_id": trial_id, "step": step, "intermediate_value": best[step - 1], "intermediate_value_type": finite}
        )
        rows[tables.EPOCHS].append(
            {
                "study_id": study_id, "trial_number": number, "step": step, "stage": "probe" if step <= PROBE_EPOCHS else "fine_tune",
                "loss": 1 - value, "accuracy": value, "validation_loss": 1 - value, "validation_accuracy": value, "learning_rate": 1e-3,
                "seconds": _SECONDS_A_TRIAL / EPOCHS,
            }
        )  # fmt: skip
    start, end = (trial[name].replace(tzinfo=UTC).timestamp() for name in ("start", "end"))
    ending = {TrialState.FAIL: LeaseEnding.FAILED, TrialState.PRUNED: LeaseEnding.PRUNED}.get(trial["state"], LeaseEnding.COMPLETED)
    rows[tables.LEASES].append(
        {
            "study_id": study_id, "trial_number": number, "attempt": 1, "trial_id": trial_id, "worker_key": f"{number % 2}",
            "worker": f"host/{number % 2 + 1}",
            "namespace": "nowhere", "pid": 1, "process_started": 0.0, "started_at": start, "seen_at": end, "ended_at": end,
            "ending": ending, "error": "",
        }
    )  # fmt: skip
