"""Tables: those of Optuna and of tuner in one database, and how to read and write them.

- tuner writes Optuna's tables itself, in one transaction per step of a trial, together with the check of the worker's lease: a worker that
  lost its lease changes nothing. Optuna writes every value in a transaction of its own.
- Optuna checks on opening that its tables have the schema that its version expects.
- Versions and their events are written once. The row of a deleted version stays, so that its number is never used again.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Double,
    Insert,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    delete,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite

from tuner.errors import StudyError
from tuner.storage import optuna_private

STUDIES = optuna_private.STUDIES
DIRECTIONS = optuna_private.DIRECTIONS
STUDY_USER = optuna_private.STUDY_USER
STUDY_SYSTEM = optuna_private.STUDY_SYSTEM
TRIALS = optuna_private.TRIALS
TRIAL_USER = optuna_private.TRIAL_USER
TRIAL_SYSTEM = optuna_private.TRIAL_SYSTEM
PARAMETERS = optuna_private.PARAMETERS
VALUES = optuna_private.VALUES
INTERMEDIATE = optuna_private.INTERMEDIATE

#: tuner's own tables
METADATA = MetaData()
#: one row per attempt at a trial; the worker of the highest attempt owns the trial
LEASES = Table(
    "tuner_leases",
    METADATA,
    Column("study_id", Integer, primary_key=True, autoincrement=False),
    Column("trial_number", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("trial_id", Integer, nullable=False),
    Column("worker_key", String(32), nullable=False),
    Column("worker", String(200), nullable=False),
    #: where `pid` is valid: boot and process namespace
    Column("namespace", String(200), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_started", Double, nullable=False),
    #: seconds since the epoch by the database's clock, as the columns that follow
    Column("started_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("ending", String(32), nullable=False, default=""),
    #: kind of the failure; "" if the attempt did not fail
    Column("error", String(200), nullable=False, default=""),
)
#: one row per epoch as it was measured; Optuna's intermediate values hold the best so far
EPOCHS = Table(
    "tuner_epochs",
    METADATA,
    Column("study_id", Integer, primary_key=True, autoincrement=False),
    Column("trial_number", Integer, primary_key=True, autoincrement=False),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("stage", String(32), nullable=False),
    Column("loss", Double),
    Column("accuracy", Double),
    Column("validation_loss", Double),
    Column("validation_accuracy", Double),
    Column("learning_rate", Double),
    Column("seconds", Double),
    #: the metric that the study optimizes; NULL: an earlier version of tuner wrote the row, and it is the validation accuracy
    Column("value", Double),
    #: all other metrics that were reported, as a JSON object; NULL: none
    Column("metrics", Text),
)
#: one row per changing request to the dashboard, and per sign-in
AUDIT = Table(
    "tuner_audit",
    METADATA,
    Column("id", Integer, primary_key=True),
    #: seconds since the epoch by the database's clock
    Column("at", Double, nullable=False, index=True),
    #: user or token
    Column("who", String(200), nullable=False),
    #: "" if the sign-in failed
    Column("role", String(16), nullable=False),
    Column("method", String(16), nullable=False),
    Column("path", String(500), nullable=False),
    Column("status", Integer, nullable=False),
    #: its name at the time; "" if the request concerns no study
    Column("study", String(512), nullable=False),
    Column("address", String(64), nullable=False),
)
#: one row per worker that is active or ended recently
WORKERS = Table(
    "tuner_workers",
    METADATA,
    Column("study_id", Integer, primary_key=True, autoincrement=False),
    Column("worker_key", String(32), primary_key=True),
    Column("worker", String(200), nullable=False),
    Column("host", String(200), nullable=False),
    #: where `pid` is valid, as in a lease
    Column("namespace", String(200), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_started", Double, nullable=False),
    Column("device", String(200), nullable=False, default=""),
    Column("threads", Integer),
    #: JSON object: version by package
    Column("versions", String(500), nullable=False, default="{}"),
    #: seconds since the epoch by the database's clock, as the columns that follow
    Column("started_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("ending", String(200), nullable=False, default=""),
    Column("memory_bytes", BigInteger),
    Column("trainer_memory_bytes", BigInteger),
    #: the trial that the worker had when it was last seen
    Column("trial_number", Integer),
    Column("stage", String(32), nullable=False, default=""),
    #: a request to the worker, and who made it
    Column("wish", String(32), nullable=False, default=""),
    Column("wished_by", String(200), nullable=False, default=""),
)


def create_study(connection: Connection, name: str, *, user: Mapping[str, Any], system: Mapping[str, Any], maximizes: bool = True) -> int:
    """Create a study of one objective, and return its id.

    Raises:
        IntegrityError: the name is taken.
    """
    study_id = _inserted(connection, STUDIES, study_name=name)
    connection.execute(
        insert(DIRECTIONS).values(
            study_id=study_id, direction=StudyDirection.MAXIMIZE if maximizes else StudyDirection.MINIMIZE, objective=0
        )
    )
    for ours in (LEASES, EPOCHS, WORKERS, QUEUE):  # databases reuse the id of a deleted study
        connection.execute(delete(ours).where(ours.c.study_id == study_id))
    put(connection, STUDY_USER, study_id, user)
    put(connection, STUDY_SYSTEM, study_id, system)
    return study_id


def maximizes(connection: Connection, study_id: int) -> bool:
    """Return whether a study maximizes its first objective."""
    query = select(DIRECTIONS.c.direction).where(DIRECTIONS.c.study_id == study_id, DIRECTIONS.c.objective == 0)
    return connection.execute(query).scalar() is not StudyDirection.MINIMIZE


def lock_study(connection: Connection, study_id: int, name: str) -> None:
    """Lock a study: until the transaction ends, no other worker starts or resumes one of its trials.

    Raises:
        StudyError: the study was deleted.
    """
    is_it = (STUDIES.c.study_id == study_id, STUDIES.c.study_name == name)
    # key_share (PostgreSQL): transactions that only add rows to the study do not wait, which would cause deadlocks
    if connection.execute(select(STUDIES.c.study_id).where(*is_it).with_for_update(key_share=True)).first() is None:
        raise StudyError(f"the study {name} was deleted while it was running; run it again to start it from the beginning")


def create_trial(connection: Connection, study_id: int, number: int) -> int:
    """Create a running trial, and return its id. The study must be locked, and `number` must be the number of its trials."""
    return _inserted(connection, TRIALS, study_id=study_id, number=number, state=TrialState.RUNNING, datetime_start=_now())


def enqueue_trial(connection: Connection, study_id: int, number: int) -> int:
    """Create a waiting trial, and return its id. The study must be locked, and `number` must be the number of its trials."""
    return _inserted(connection, TRIALS, study_id=study_id, number=number, state=TrialState.WAITING)


def first_enqueued(connection: Connection, study_id: int) -> tuple[int, int] | None:
    """Return id and number of the first waiting trial, or None. The study must be locked."""
    query = select(TRIALS.c.trial_id, TRIALS.c.number).where(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.WAITING)
    row = connection.execute(query.order_by(TRIALS.c.number).limit(1)).first()
    return None if row is None else (row[0], row[1])


def begin_trial(connection: Connection, trial_id: int) -> None:
    """Set a waiting trial to running. The study must be locked."""
    connection.execute(update(TRIALS).where(TRIALS.c.trial_id == trial_id).values(state=TrialState.RUNNING, datetime_start=_now()))


def state_of(connection: Connection, study_id: int, number: int) -> tuple[int, TrialState] | None:
    """Return id and state of a trial, or None if the study has no such trial."""
    query = select(TRIALS.c.trial_id, TRIALS.c.state).where(TRIALS.c.study_id == study_id, TRIALS.c.number == number)
    row = connection.execute(query).first()
    return None if row is None else (row[0], row[1])


def trial_id(connection: Connection, study_id: int, number: int) -> int:
    """Return the id of an existing trial."""
    query = select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id, TRIALS.c.number == number)
    return int(connection.execute(query).scalar_one())


def is_running(connection: Connection, study_id: int, trial_id: int) -> bool:
    """Return whether a trial of a study is running."""
    query = select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id, TRIALS.c.trial_id == trial_id)
    return connection.execute(query.where(TRIALS.c.state == TrialState.RUNNING)).first() is not None


def finish_trial(connection: Connection, trial_id: int, state: TrialState, value: float | None) -> bool:
    """Set a running trial to its final state, and return True; return False if it had ended already."""
    ended = update(TRIALS).where(TRIALS.c.trial_id == trial_id, TRIALS.c.state == TrialState.RUNNING)
    if connection.execute(ended.values(state=state, datetime_complete=_now())).rowcount != 1:
        return False
    if value is not None:
        connection.execute(insert(VALUES).values(trial_id=trial_id, objective=0, value=value, value_type=optuna_private.FINITE))
    return True


def put(connection: Connection, table: Table, owner_id: int, values: Mapping[str, Any], *, overwrites: bool = True) -> None:
    """Set attributes of a study or trial; existing ones are overwritten, or kept."""
    if values:
        owner = _owner(table)
        rows = [{owner.name: owner_id, "key": key, "value_json": json.dumps(value)} for key, value in values.items()]
        connection.execute(_upsert(connection, table, [owner.name, "key"], "value_json", overwrites=overwrites), rows)


def remove(connection: Connection, table: Table, owner_id: int, *keys: str) -> None:
    """Remove attributes of a study or trial."""
    connection.execute(delete(table).where(_owner(table) == owner_id, table.c.key.in_(keys)))


def get(connection: Connection, table: Table, owner_id: int, *keys: str) -> dict[str, Any]:
    """Return some attributes of a study or trial by name; an attribute that is not set is left out."""
    rows = connection.execute(select(table.c.key, table.c.value_json).where(_owner(table) == owner_id, table.c.key.in_(keys)))
    return {key: optuna_private.decoded(text) for key, text in rows}


def all_of(connection: Connection, table: Table, owner_id: int) -> dict[str, Any]:
    """Return all attributes of a study or trial by name."""
    rows = connection.execute(select(table.c.key, table.c.value_json).where(_owner(table) == owner_id))
    return {key: optuna_private.decoded(text) for key, text in rows}


def put_parameters(connection: Connection, trial_id: int, values: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> None:
    """Store the sampled parameters of a trial."""
    rows = [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": distributions[name].to_internal_repr(value),
            "distribution_json": distribution_to_json(distributions[name]),
        }
        for name, value in values.items()
    ]
    if rows:
        connection.execute(insert(PARAMETERS), rows)


def remove_parameters(connection: Connection, trial_id: int, *, besides: Sequence[str] = ()) -> None:
    """Remove the parameters of a trial, but for some."""
    query = delete(PARAMETERS).where(PARAMETERS.c.trial_id == trial_id)
    connection.execute(query.where(PARAMETERS.c.param_name.not_in(besides)) if besides else query)


def remove_parameter(connection: Connection, trial_id: int, name: str) -> None:
    """Remove one parameter of a trial."""
    connection.execute(delete(PARAMETERS).where(PARAMETERS.c.trial_id == trial_id, PARAMETERS.c.param_name == name))


def distributions(connection: Connection, trial_id: int) -> dict[str, BaseDistribution]:
    """Return the distributions of the parameters of a trial; those that Optuna cannot read are left out."""
    query = select(PARAMETERS.c.param_name, PARAMETERS.c.param_value, PARAMETERS.c.distribution_json)
    rows = connection.execute(query.where(PARAMETERS.c.trial_id == trial_id))
    found = optuna_private.readable_parameters((name, (value, distribution)) for name, value, distribution in rows)
    return {name: distribution for name, (_, distribution) in found.items()}


def earlier_distribution(connection: Connection, study_id: int, name: str, *, besides: int) -> BaseDistribution | None:
    """Return the distribution of a parameter in any other trial of a study; None if no other trial has the parameter."""
    query = select(PARAMETERS.c.distribution_json).join(TRIALS, TRIALS.c.trial_id == PARAMETERS.c.trial_id)
    query = query.where(TRIALS.c.study_id == study_id, PARAMETERS.c.param_name == name, TRIALS.c.trial_id != besides).limit(1)
    found = connection.execute(query).scalar()
    return None if found is None else json_to_distribution(found)


def parameters(connection: Connection, trial_id: int) -> dict[str, Any]:
    """Return the sampled parameters of a trial, in the order in which they were sampled; those that Optuna cannot read are left out."""
    query = select(PARAMETERS.c.param_name, PARAMETERS.c.param_value, PARAMETERS.c.distribution_json)
    rows = connection.execute(query.where(PARAMETERS.c.trial_id == trial_id).order_by(PARAMETERS.c.param_id))
    found = optuna_private.readable_parameters((name, (value, distribution)) for name, value, distribution in rows)
    return {name: distribution.to_external_repr(value) for name, (value, distribution) in found.items()}


def intermediate_values(connection: Connection, trial_id: int) -> dict[int, float]:
    """Return the values reported for a trial, by step."""
    rows = connection.execute(select(INTERMEDIATE.c.step, INTERMEDIATE.c.intermediate_value).where(INTERMEDIATE.c.trial_id == trial_id))
    return {step: value for step, value in rows if value is not None}


def put_intermediate_values(connection: Connection, trial_id: int, values: Mapping[int, float]) -> None:
    """Store values of steps that have none yet."""
    finite = optuna_private.FINITE_INTERMEDIATE
    rows = [
        {"trial_id": trial_id, "step": step, "intermediate_value": value, "intermediate_value_type": finite}
        for step, value in values.items()
    ]
    if rows:
        connection.execute(insert(INTERMEDIATE), rows)


def increase(connection: Connection, table: Table, key: Mapping[str, Any], amounts: Mapping[str, float]) -> None:
    """Add amounts to columns of the row with a key; the row is created if it is missing."""
    keys, row = list(key), {**key, **amounts}
    match connection.dialect.name:
        case "sqlite":
            lite = sqlite.insert(table)
            sums = {name: table.c[name] + lite.excluded[name] for name in amounts}
            connection.execute(lite.on_conflict_do_update(index_elements=keys, set_=sums), row)
        case "postgresql":
            post = postgresql.insert(table)
            sums = {name: table.c[name] + post.excluded[name] for name in amounts}
            connection.execute(post.on_conflict_do_update(index_elements=keys, set_=sums), row)
        case _:
            my = mysql.insert(table)
            connection.execute(my.on_duplicate_key_update({name: table.c[name] + my.inserted[name] for name in amounts}), row)


def add_missing(connection: Connection, table: Table, key: str, **row: Any) -> None:
    """Add a row unless there is one with the same value of the column `key`."""
    other = next(name for name in row if name != key)
    connection.execute(_upsert(connection, table, [key], other, overwrites=False), row)


def _owner(table: Table) -> Column[Any]:
    return table.c.trial_id if "trial_id" in table.c else table.c.study_id


def _upsert(connection: Connection, table: Table, keys: list[str], changed: str, *, overwrites: bool = True) -> Insert:
    """Return an insert that updates a column of existing rows, or keeps it, even of rows that another transaction has just inserted."""
    match connection.dialect.name:
        case "sqlite":
            lite = sqlite.insert(table)
            if not overwrites:
                return lite.on_conflict_do_nothing(index_elements=keys)
            return lite.on_conflict_do_update(index_elements=keys, set_={changed: lite.excluded[changed]})
        case "postgresql":
            post = postgresql.insert(table)
            if not overwrites:
                return post.on_conflict_do_nothing(index_elements=keys)
            return post.on_conflict_do_update(index_elements=keys, set_={changed: post.excluded[changed]})
        case _:
            my = mysql.insert(table)
            return my.on_duplicate_key_update({changed: my.inserted[changed] if overwrites else table.c[changed]})


def _inserted(connection: Connection, table: Table, **values: Any) -> int:
    key = connection.execute(insert(table).values(**values)).inserted_primary_key
    assert key is not None
    return int(key[0])


def _now() -> datetime:
    """Return the current time as Optuna 5 writes it: UTC without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


#: MySQL's own TEXT ends at 64 KiB
_LONG_TEXT = Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")

#: one row per version of a model
VERSIONS = Table(
    "tuner_versions",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    #: the name, not the id: a version outlives its study
    Column("study", String(200), nullable=False),
    Column("origin", String(32), nullable=False),
    #: trial of the search with the same hyperparameters
    Column("trial", Integer),
    #: the study file of fixed values, as JSON
    Column("config", _LONG_TEXT, nullable=False),
    #: as a JSON object
    Column("metrics", _LONG_TEXT, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("splits", String(64), nullable=False),
    #: path or URL of the weights
    Column("artifact", String(1000), nullable=False),
    #: SHA-256 of the weights
    Column("sha256", String(64), nullable=False),
    #: seconds since the epoch by the database's clock, as the columns that follow
    Column("created_at", Double, nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("deleted_at", Double),
    Column("deleted_by", String(200)),
)
#: one row per change of a stage; the last row of a stage holds its current version
STAGES = Table(
    "tuner_stages",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("stage", String(32), nullable=False),
    #: "promoted", "rolled back" or "withdrawn"
    Column("change", String(16), nullable=False),
    #: the version in the stage from then on; NULL if the stage is empty
    Column("version", Integer),
    Column("at", Double, nullable=False),
    Column("by", String(200), nullable=False),
)
#: one row per evaluation of a version on the test split
READINGS = Table(
    "tuner_test_readings",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("version", Integer, nullable=False),
    Column("splits", String(64), nullable=False),
    Column("at", Double, nullable=False),
    Column("by", String(200), nullable=False),
    Column("purpose", String(200), nullable=False),
    Column("accuracy", Double, nullable=False),
    Column("num_images", Integer, nullable=False),
)

#: one row per study that was submitted to the pool
QUEUE = Table(
    "tuner_queue",
    METADATA,
    Column("study_id", Integer, primary_key=True, autoincrement=False),
    #: its name when it was submitted; another program may have renamed the study since
    Column("name", String(200), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    #: a higher one comes first
    Column("priority", Integer, nullable=False),
    #: among studies of one owner and one priority, a lower one comes first
    Column("position", Integer, nullable=False),
    Column("owner", String(200), nullable=False),
    Column("num_wanted", Integer, nullable=False),
    #: JSON list of the labels that a worker must have
    Column("needs", Text, nullable=False),
    #: JSON list of the studies that must be done before
    Column("after", Text, nullable=False),
    Column("takes_winner", Boolean, nullable=False),
    Column("preempts", Boolean, nullable=False),
    #: the caller's idempotency key; NULL: none was given
    Column("request_key", String(200), unique=True),
    #: path of the images below a data root; "": unknown, or the study reads no files
    Column("data_path", String(1000), nullable=False),
    #: equal for studies with the same images and backbone
    Column("likeness", String(64), nullable=False),
    #: seconds since the epoch by the database's clock, as the columns that follow
    Column("submitted_at", Double, nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double),
    #: why it ended or waits
    Column("message", String(1000), nullable=False),
)
#: one row per pool worker that is active or ended recently
POOL = Table(
    "tuner_pool",
    METADATA,
    Column("worker_key", String(32), primary_key=True),
    Column("worker", String(200), nullable=False),
    Column("host", String(200), nullable=False),
    #: where `pid` is valid, as in a lease
    Column("namespace", String(200), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_started", Double, nullable=False),
    #: JSON list
    Column("labels", Text, nullable=False),
    #: JSON object: GPU memory, packages, data root and allowed code
    Column("abilities", Text, nullable=False),
    #: the study that it works on; NULL: it is idle
    Column("study_id", Integer),
    #: when it came to this study; seconds since the epoch by the database's clock, as all times here
    Column("since", Double, nullable=False),
    #: trials that it has ended since
    Column("num_trials", Integer, nullable=False),
    #: until when its time is in `tuner_pool_usage`
    Column("counted_at", Double, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("ending", String(200), nullable=False),
    #: JSON object: why it cannot serve a study, by the name of the study
    Column("refusals", Text, nullable=False),
    #: a request to the worker, and who made it
    Column("wish", String(32), nullable=False),
    Column("wished_by", String(200), nullable=False),
)
#: what the studies of an owner used of the pool, hour by hour; the owner "" stands for idle workers
USAGE = Table(
    "tuner_pool_usage",
    METADATA,
    Column("owner", String(200), primary_key=True),
    #: whole hours since the epoch
    Column("hour", Integer, primary_key=True, autoincrement=False),
    #: time of all workers together
    Column("seconds", Double, nullable=False),
    #: ended trials
    Column("trials", Integer, nullable=False),
)
#: the settings of the pool; every decision of the pool locks the one row
POOL_SETTINGS = Table(
    "tuner_pool_settings",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    #: JSON object
    Column("settings", Text, nullable=False),
)


#: not unix_timestamp(now()), which cannot tell the two hours apart in which the clock of a server's time zone is set back
_MYSQL_CLOCK = "timestampdiff(microsecond, '1970-01-01 00:00:00', utc_timestamp(6)) / 1000000e0"
#: the database's clock, in seconds since the epoch
_CLOCKS = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch from clock_timestamp())::double precision",
    "mysql": _MYSQL_CLOCK,
    "mariadb": _MYSQL_CLOCK,
}


def clock(connection: Connection) -> float:
    """Return the database's time in seconds since the epoch."""
    return float(connection.execute(select(now(connection))).scalar_one())


def now(connection: Connection) -> ColumnElement[float]:
    """Return the expression for the database's time, to be used in a statement."""
    return literal_column(_CLOCKS[connection.dialect.name], Double)
